"""How long one text takes: measured for a few shapes, fitted between them, and measured again for what is tried and made."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from bistil.student.shape import Shape, ShapeSizes
from teacherzoo.encoders.kinds import same_class
from teacherzoo.progress import ProgressCallback
from xeval.cost.measure import torch_threads

_TURNS, _REPEATS = 3, 5


@dataclass(frozen=True, kw_only=True)
class LatencyModel:
    """t = d + L · (c₀ + c₁ H² + c₂ H F) milliseconds for L layers of width H and F feed-forward units, no part below 0.

    A layer's products with its four square matrices take time by H², those of its feed-forward layer by H F; attention, norms and
    calls, at one length of text, are much the same for all shapes. The number of pieces takes no time.

    Attributes:
        length: of the text in pieces.
        outside: d.
        layer: c₀, c₁, c₂.
        error: the mean over measured shapes of |predicted - measured| / measured.
    """

    length: int
    outside: float
    layer: tuple[float, float, float]
    error: float

    def predicted(self, shape: Shape) -> float:
        """Milliseconds."""
        return float(_terms(shape) @ np.array([self.outside, *self.layer]))

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def shapes_to_measure(most: Shape, least: Shape) -> list[Shape]:
    """Corners and edges of what may be made; the number of pieces is that of `most`."""
    half, quarter = (most.layers[: -(-len(most.layers) // part)] for part in (2, 4))
    narrow: dict[str, Any] = {"width": least.width, "heads": least.heads}
    thin: dict[str, Any] = {"feed_forward": least.feed_forward}
    shapes = [
        most,
        replace(most, layers=half),
        replace(most, layers=quarter),
        replace(most, **thin),
        replace(most, layers=half, **thin),
        replace(most, **narrow),
        replace(most, layers=half, **narrow, **thin),
    ]
    return list(dict.fromkeys(shapes))


def fit_latency(shapes: Sequence[Shape], times: Sequence[float], *, length: int) -> LatencyModel:
    """The model that comes nearest to measured times, relative to them.

    Args:
        shapes: that were measured.
        times: milliseconds.
        length: of the text.
    """
    rows = np.stack([_terms(shape) for shape in shapes]) / np.array(times)[:, None]
    scale = np.maximum(np.abs(rows).max(axis=0), 1e-30)
    kept = list(range(rows.shape[1]))
    solution = np.zeros(rows.shape[1])
    while kept:
        answer = np.linalg.lstsq(rows[:, kept] / scale[kept], np.ones(len(rows)), rcond=None)[0]
        if (answer >= 0).all():
            solution[kept] = answer / scale[kept]
            break
        kept.pop(int(answer.argmin()))
    error = float(np.abs(rows @ solution - 1).mean())
    outside, *layer = solution.tolist()
    return LatencyModel(
        length=length, outside=outside, layer=(layer[0], layer[1], layer[2]), error=error
    )


def measure_latency(
    sizes: ShapeSizes, shapes: Sequence[Shape], *, length: int, watch: ProgressCallback
) -> list[float]:
    """Milliseconds of a pass of the encoder over one text, at one thread, with random weights of each shape.

    The shapes take turns, and of each the turn with the least median of its passes counts: on a machine that others use, the quietest.

    Args:
        sizes: of the model; its pieces are those of the timed ones.
        shapes: to measure.
        length: of the text in pieces.
        watch: told (done, total, what).
    """
    encoders = [_encoder(sizes, shape) for shape in shapes]
    rows = sizes.shape.pieces
    text = torch.randint(rows, (1, length), generator=torch.Generator().manual_seed(0))
    best = [float("inf")] * len(encoders)
    with torch.inference_mode(), torch_threads(1):
        for turn in range(_TURNS):
            for number, encoder in enumerate(encoders):
                watch(turn * len(encoders) + number, _TURNS * len(encoders), "measuring latency")
                times = [_seconds(encoder, text) for _ in range(_REPEATS + 2)][2:]
                best[number] = min(best[number], 1000 * statistics.median(times))
    return best


def _terms(shape: Shape) -> Any:
    depth, width = len(shape.layers), shape.width
    return np.array([1.0, depth, depth * width**2, depth * width * shape.feed_forward])


def _encoder(sizes: ShapeSizes, shape: Shape) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return same_class(sizes.shell, sizes.config(shape)).base_model.float().eval()


def _seconds(encoder: Any, text: torch.Tensor) -> float:
    start = time.perf_counter()
    encoder(input_ids=text, attention_mask=torch.ones_like(text))
    return time.perf_counter() - start
