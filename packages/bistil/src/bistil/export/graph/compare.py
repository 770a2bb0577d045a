"""An exported file beside torch: the largest difference of an output over rows short and long, padded and not."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from bistil.errors import ExportError
from bistil.export.graph.graph import PLACES_OF_WORDS, Graph
from bistil.export.graph.sample_rows import sample_rows
from bistil.export.graph.session import open_session

TOLERANCE = 1e-4  # of outputs in float32: beyond it an export is refused
# The longest row compared, and how many numbers an output of it may have: a vocabulary is long.
_LONGEST, _LARGEST_OUTPUT = 512, 2**26


def compare(graph: Graph, file: Path, *, tolerance: float | None = None) -> float:
    """Compare a float32 file with torch at real tokens: rows unpadded and padded, the shortest and the longest.

    Args:
        graph: what was written.
        file: to compare.
        tolerance: largest difference that is taken, `TOLERANCE` by default.

    Returns:
        The largest absolute difference of an output from torch's.

    Raises:
        ExportError: where it is larger.
    """
    difference = largest_difference(graph, file)
    bound = TOLERANCE if tolerance is None else tolerance
    if not difference <= bound:
        raise ExportError(
            f"{graph.folder}: the exported graph differs from torch by {difference:.2g}, more than {bound:g}; it was not "
            "written, for it would not answer as the model does."
        )
    return difference


@torch.no_grad()
def largest_difference(graph: Graph, file: Path) -> float:
    """The largest absolute difference of a file's outputs from torch's, of any precision."""
    run = open_session(file)
    worst = 0.0
    for lengths in _lengths(graph):
        inputs = sample_rows(graph, lengths)
        fed = zip(graph.inputs, (tensor.numpy() for tensor in inputs), strict=True)
        named = run(dict(fed))
        answers = [torch.from_numpy(named[name]) for name in graph.outputs]
        expected = graph.module(*inputs)
        for axes, answer, output in zip(graph.outputs.values(), answers, expected, strict=True):
            worst = max(worst, _difference(answer, output, axes, inputs))
    return worst


def _difference(answer: Tensor, output: Tensor, axes: tuple[str, ...], inputs: tuple[Tensor, ...]) -> float:  # fmt: skip
    """The largest difference, outside of padding."""
    # What is not allowed is minus infinity on both sides.
    difference = torch.where(answer == output, 0, answer - output).abs()
    if axes[:2] == ("batch", "sequence"):
        difference = difference[inputs[1].bool()]
    if axes[:2] == ("sentences", "words"):
        difference = difference[inputs[-1] > 0]
    return float(difference.max())


def _lengths(graph: Graph) -> list[tuple[int, ...]]:
    """One row, rows of several lengths, a row of specials alone, where no words are asked for, and the longest."""
    wide = any("vocabulary" in axes for axes in graph.outputs.values())
    longest = min(graph.longest, _LONGEST, _LARGEST_OUTPUT // (graph.pieces if wide else 1))
    shortest = len(graph.tokenizer("")["input_ids"])
    batches = [(5,), (17, 8), (40, 9, 21), (longest,)]
    if shortest and not {*PLACES_OF_WORDS} & {*graph.inputs}:
        batches += [(shortest,), (shortest, 12)]
    return [tuple(min(length, longest) for length in batch) for batch in batches]
