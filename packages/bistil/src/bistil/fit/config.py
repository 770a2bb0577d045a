"""What `fit` is asked for: a budget, and everything else that is not a model, a text or a folder."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from bistil.counted import counted
from bistil.errors import FitError
from bistil.extract.config import Extraction

_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a model may cost; one of three.

    Args:
        size: parameters at most, embeddings included.
        bytes: at most, of the graph with eight-bit tables and matrices that `bistil.export` writes.
        latency: milliseconds at most of one text of a usual length, at one thread of this machine.

    Raises:
        FitError: for none, or for several.

    Example:
        >>> Budget(size=20_000_000).measure, str(Budget(latency=5.0))
        ('parameters', '5 ms a text')
    """

    size: int | None = None
    bytes: int | None = None
    latency: float | None = None

    def __post_init__(self) -> None:
        given = [name for name, value in asdict(self).items() if value is not None]
        if len(given) != 1:
            raise FitError(
                f"A budget is one of size, bytes and latency, got {' and '.join(given) or 'none'}; give one of them."
            )
        if not self.limit > 0:
            raise FitError(f"{given[0]} must be greater than 0, got {self.limit!r}.")

    @property
    def measure(self) -> str:
        """The name of the cost that it bounds."""
        if self.size is not None:
            return "parameters"
        return "bytes" if self.bytes is not None else "latency_ms"

    @property
    def limit(self) -> float:
        """Of that cost."""
        return float(next(value for value in asdict(self).values() if value is not None))

    def __str__(self) -> str:
        if self.size is not None:
            return counted(self.size, "parameter")
        return (
            counted(self.bytes, "byte") if self.bytes is not None else f"{self.latency:g} ms a text"
        )


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """How the search goes, and how the chosen one is trained; the defaults are for an hour or two on two processor cores.

    Args:
        candidates: shapes that are trained for a while.
        trial_steps: of the first round; each next round has half of the shapes and twice the steps.
        steps: of the chosen one.
        lines: of each language at most so many.
        judged_lines: of these, how many are kept out of training, to judge by.
        layers: "last", "bottom", "even", "outer", "alternate" or "last-k", where only such choices of layers are wanted, or their
            numbers, where they are settled; the usual choice for the kind of model, and the layers of most worth, unless given.
        width: of hidden states, where it is settled.
        feed_forward: units of feed-forward layers, where they are.
        pieces: of the vocabulary, where their number is.
        by: whether text ranks shapes by the "mean" of all lines, or by the "worst" twentieth of them, which tells what single lines
            bear better: of vectors the worst unless given, else the mean.
        units: by which measure of importance the units of narrower shapes are chosen: "reconstruction", "taylor" or "bottleneck".
        batch: rows of text in a batch.
        length: tokens in a row.
        learning_rate: at its peak; unless given, what `Extraction` has for the kind, times the share of the whole model's worth that
            the untrained cut has lost.
        prompts: put in front of the lines of a sentence encoder, in turn; its folder's own unless given.
        precision: of training's forward passes: "auto", "float32" or "bfloat16".
        seed: of order and masks.

    Raises:
        FitError: for a value that makes no sense.

    Example:
        >>> Fitting(candidates=6, trial_steps=50).rounds()
        ((6, 50), (3, 100))
    """

    candidates: int = 6
    trial_steps: int = 50
    steps: int = 1_000
    lines: int = 20_000
    judged_lines: int = 200
    layers: str | tuple[int, ...] | None = None
    width: int | None = None
    feed_forward: int | None = None
    pieces: int | None = None
    by: str | None = None
    units: str = "reconstruction"
    batch: int = 16
    length: int = 64
    learning_rate: float | None = None
    prompts: tuple[str, ...] = ()
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"candidates": 2, "judged_lines": 2, "length": 8, "trial_steps": 1, "batch": 1, "width": 1, "feed_forward": 1, "pieces": 1, "steps": 0}  # fmt: skip
        for name, value in least.items():
            if getattr(self, name) is not None and getattr(self, name) < value:
                raise FitError(f"{name} must be at least {value}, got {getattr(self, name)!r}.")
        if self.by not in (None, "mean", "worst"):
            raise FitError(f"by must be mean or worst, got {self.by!r}.")
        if self.lines < 2 * self.judged_lines:
            raise FitError(
                f"{self.judged_lines:,} lines of {self.lines:,} are kept out of training, which leaves too few; ask for more lines."
            )

    def rounds(self) -> tuple[tuple[int, int], ...]:
        """Of each round the number of shapes and of steps: successive halving (Jamieson and Talwalkar 2016)."""
        count, steps, rounds = self.candidates, self.trial_steps, list[tuple[int, int]]()
        while count > 1:
            rounds.append((count, steps))
            count, steps = count // 2, 2 * steps
        return tuple(rounds)

    def extraction(self, **options: Any) -> Extraction:
        """How a student is extracted: as is asked for, with what a shape needs besides.

        Raises:
            ExtractError: for a value that makes no sense.
        """
        asked: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("batch", "length", "learning_rate", "prompts", "precision", "seed")
        }
        return Extraction(**{**asked, **options})

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def parse_bytes(text: str) -> int:
    """Bytes as people write them.

    Raises:
        FitError: for anything else.

    Example:
        >>> parse_bytes("25MB"), parse_bytes("1.5 MiB")
        (25000000, 1572864)
    """
    return round(_parsed(text, _BYTES, "--bytes must be a number of bytes such as 25MB or 24MiB"))


def parse_latency(text: str) -> float:
    """A time as people write it, in milliseconds.

    Raises:
        FitError: for anything else.

    Example:
        >>> parse_latency("5ms"), parse_latency("0.02s")
        (5.0, 20.0)
    """
    return _parsed(text, _SECONDS, "--latency must be a time such as 5ms")


def _parsed(text: str, units: dict[str, Any], expected: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)", text.strip())
    if match is None or match[2] not in units or not float(match[1]):
        raise FitError(f"{expected}, got {text!r}.")
    return float(match[1]) * float(units[match[2]])
