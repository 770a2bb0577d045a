"""What an eight-bit graph is made for, and the variant that was measured to be best there."""

from __future__ import annotations

from dataclasses import dataclass

from bistil.export.variants import Variant


@dataclass(frozen=True, kw_only=True)
class Target:
    """A kind of processor or runtime.

    Attributes:
        variant: its default.
        reason: why, with measured figures.
    """

    variant: Variant
    reason: str


_MEASURED = (
    "multilingual-e5-small with embeddings by row and weights per column has a cosine of 0.997 to float32 "
    "(first percentile 0.994, six languages), where one scale for a tensor has 0.989 (0.978), at a quarter of the bytes"
)

TARGETS = {
    "cpu": Target(
        variant=Variant(reduce_range=True),
        reason="Any x86 processor: weights have seven bits, since without VNNI sums of two products of eight bits leave sixteen; that "
        f"costs 0.0003 in cosine. {_MEASURED}.",
    ),
    "cpu-vnni": Target(
        variant=Variant(),
        reason=f"x86 processors with AVX-512 VNNI or AVX-VNNI. {_MEASURED}.",
    ),
    "arm": Target(
        variant=Variant(),
        reason=f"ARM processors add products of eight bits in 32. {_MEASURED}.",
    ),
}
