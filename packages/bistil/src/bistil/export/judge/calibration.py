"""Text that eight bits are calibrated on: which lines, and as a graph is fed with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bistil.export.graph.graph import Graph
from bistil.export.judge.graph_reader import Arrays, GraphReader
from bistil.export.judge.text_answers import TextAnswers
from teacherzoo.progress import ProgressCallback

LINES = 300
"""Of all languages together at most."""

Lines = dict[str, list[str]]


def calibration_lines(texts: Mapping[str, list[str]]) -> tuple[Lines, Lines]:
    """Take every third line of each language, as many as are needed, away from those that are judged.

    Args:
        texts: per language the lines.

    Returns:
        The lines that are judged, and those that are calibrated on.

    Example:
        >>> calibration_lines({"sw": ["a", "b", "c", "d"]})
        ({'sw': ['a', 'b', 'd']}, {'sw': ['c']})
    """
    most = max(1, LINES // len(texts))
    judged, calibrated = {}, {}
    for language, lines in texts.items():
        taken = set(range(2, len(lines), 3)[:most])
        calibrated[language] = [line for number, line in enumerate(lines) if number in taken]
        judged[language] = [line for number, line in enumerate(lines) if number not in taken]
    return judged, calibrated


def calibration_batches(
    graph: Graph,
    float32: Path,
    how: TextAnswers,
    lines: Mapping[str, Sequence[str]],
    watch: ProgressCallback,
) -> list[Arrays]:
    """What a graph is fed with for lines, a row at a time and without padding.

    Args:
        graph: that was exported.
        float32: its ONNX file.
        how: it is asked.
        lines: per language.
        watch: told (done, total, what).
    """
    reader = GraphReader(graph, float32)
    fed = reader.keep_fed()
    for language, listed in lines.items():
        how.ask(reader, how.rows(listed, language), language, watch)
    return [row for batch in fed for row in _unpadded(batch)]


def _unpadded(batch: Arrays) -> Iterator[Arrays]:
    for number, mask in enumerate(batch["attention_mask"].astype(bool)):
        yield {name: values[number : number + 1, mask] for name, values in batch.items()}
