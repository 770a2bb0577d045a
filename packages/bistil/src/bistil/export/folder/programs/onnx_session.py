"""Runs an ONNX graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnxruntime

GRAPHS = ("onnx/model_quantized.onnx", "onnx/model.onnx")


def open_session(
    folder: Path, file: str | None, threads: int | None
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """A function from arrays by the names of the graph's inputs to arrays by the names of its outputs."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    chosen = file or next(name for name in GRAPHS if (folder / name).is_file())
    session = onnxruntime.InferenceSession(
        str(folder / chosen), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return lambda arrays: dict(zip(names, session.run(None, arrays), strict=True))
