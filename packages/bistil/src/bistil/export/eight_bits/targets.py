"""What an eight-bit graph is made for, and the variant that was measured to be best there."""

from __future__ import annotations

from dataclasses import dataclass

from bistil.export.eight_bits.openvino_ir import OpenVinoVariant
from bistil.export.eight_bits.variants import Variant


@dataclass(frozen=True, kw_only=True)
class Target:
    """A kind of processor or runtime.

    Attributes:
        variant: its default.
        reason: why, with measured figures.
        then: variants that are tried next, where that loses too much.
    """

    variant: Variant
    reason: str
    then: tuple[Variant, ...] = ()


_MEASURED = (
    "multilingual-e5-small with embeddings by row and weights per column has a mean cosine to float32 of 0.9966 to 0.9974 in six languages "
    "(first percentiles 0.994 and 0.995), where one scale for a tensor has 0.988 to 0.990 (from 0.977 on), at a quarter of the bytes "
    "(benchmarks/results/bistil_export.md)"
)

TARGETS = {
    "cpu": Target(
        variant=Variant(reduce_range=True),
        reason="Any x86 processor: weights have seven bits, since without VNNI sums of two products of eight bits may leave sixteen; that "
        f"costs 0.0003 in cosine and no time. {_MEASURED}.",
    ),
    "cpu-vnni": Target(
        variant=Variant(),
        reason="x86 processors with AVX-512 VNNI or AVX-VNNI: 2.7 times as fast as float32 at one thread, one text of 32 tokens. "
        f"{_MEASURED}.",
    ),
    "arm": Target(
        variant=Variant(),
        reason=f"ARM processors do not saturate sums of two products; nothing was measured on one. On x86 {_MEASURED}.",
    ),
    "openvino": Target(
        variant=OpenVinoVariant(),
        reason="OpenVINO on a CPU: activations have scales that your text calibrated. multilingual-e5-small has a cosine of 0.9988 to "
        "float32 (first percentile 0.9977, five languages) at a quarter of the bytes, and takes 0.42 of the time at one thread, one text of 32 tokens.",
        then=(OpenVinoVariant(weights="int8 blocks"),),
    ),
}
