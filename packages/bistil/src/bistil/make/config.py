"""What `make` is asked for: everything that is not a model, a text or a folder."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from bistil.errors import MakeError

QUICK = {"steps": 100, "batch": 16, "lines": 2_000, "judged_lines": 100}
"""Little text and few steps: to see that all goes through."""

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9}


@dataclass(frozen=True, kw_only=True)
class Making:
    """How a small model is made; the defaults are for an hour on two processor cores.

    Args:
        layers: of the student; half the model's unless `size` is given.
        size: or: its parameters at most, from which the number of layers follows.
        coverage: share of each language's tokens whose pieces the vocabulary keeps.
        multiple: the number of pieces is rounded up to a multiple of this.
        lines: of each language at most so many, for vocabulary and training alike.
        judged_lines: of these, how many are kept out of training, for the figures.
        steps: of training.
        batch: rows of text in a batch.
        length: tokens in a row.
        learning_rate: at its peak; what `Extraction` has for the kind unless given.
        prompts: put in front of texts in turn, where the model expects one; its folder's own unless given. The judge puts the
            first in front of texts and queries, and the last in front of documents.
        precision: of training's forward passes: "auto", "float32" or "bfloat16".
        seed: of order and masks.

    Raises:
        MakeError: for a value that makes no sense.

    Example:
        >>> Making(layers=4).steps, Making(**QUICK).steps
        (1000, 100)
    """

    layers: int | None = None
    size: int | None = None
    coverage: float = 0.999
    multiple: int = 64
    lines: int = 20_000
    judged_lines: int = 500
    steps: int = 1_000
    batch: int = 64
    length: int = 64
    learning_rate: float | None = None
    prompts: tuple[str, ...] = ()
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.layers is not None and self.size is not None:
            raise MakeError("Of layers and size one decides the depth; leave the other out.")
        for name in ("layers", "size", "multiple", "judged_lines", "steps", "batch"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise MakeError(f"{name} must be at least 1, got {getattr(self, name)!r}.")
        if not 0 < self.coverage <= 1:
            raise MakeError(f"coverage must be a share above 0 and at most 1, got {self.coverage!r}.")  # fmt: skip
        if self.lines < 2 * self.judged_lines:
            raise MakeError(
                f"{self.judged_lines:,} lines of {self.lines:,} are kept for the figures, which leaves too few; "
                "ask for more lines."
            )

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def parse_size(text: str) -> int:
    """Parameters as people write them.

    Raises:
        MakeError: for anything else.

    Example:
        >>> parse_size("30M"), parse_size("1.5B"), parse_size("500000")
        (30000000, 1500000000, 500000)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kMB]?)", text.strip())
    if match is None or not float(match[1]):
        raise MakeError(f"--size must be a number of parameters such as 30M, got {text!r}.")
    return round(float(match[1]) * _UNITS[match[2]])
