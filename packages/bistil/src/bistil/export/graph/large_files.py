"""The files of a graph: its own, and the one beside it with weights that it cannot hold."""

from __future__ import annotations

from pathlib import Path

# Protocol buffers, which ONNX files are, end at 2 GiB; weights beyond that lie in a file beside the graph.
LARGEST_FILE = 2**31 - 2**24


def is_large(weights: int) -> bool:
    """Whether so many bytes of weights are more than an ONNX file holds."""
    return weights > LARGEST_FILE


def weights_beside(file: Path) -> Path:
    """Where an ONNX file's weights lie that it cannot hold, by the name under which the Hub's programs fetch them."""
    return file.with_name(f"{file.name}_data")


def files_of(file: Path) -> list[Path]:
    """A graph and, where it has one, the file of its weights."""
    beside = file.with_suffix(".bin") if file.suffix == ".xml" else weights_beside(file)
    return [part for part in (file, beside) if part.exists()]
