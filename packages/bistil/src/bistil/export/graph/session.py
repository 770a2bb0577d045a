"""Opens an exported graph, of ONNX or of OpenVINO, as a function from named arrays to named arrays."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bistil.errors import ExportError

Arrays = Mapping[str, np.ndarray[Any, Any]]
Session = Callable[[Arrays], dict[str, np.ndarray[Any, Any]]]


def open_session(file: Path, *, threads: int | None = None, exact: bool = True) -> Session:
    """Open a graph on the CPU.

    Args:
        file: a graph: `.onnx`, or `.xml` with its `.bin` beside it.
        threads: that a pass uses; the library's own choice by default.
        exact: compute in float32 what is not in eight bits; otherwise as the library chooses, which for OpenVINO on a
            processor with instructions for half precision (AMX, AVX-512 BF16) means bfloat16.

    Returns:
        A function from arrays by the names of the graph's inputs to arrays by the names of its outputs. It takes of the
        arrays those that the graph reads; types that are not given are zeros.

    Raises:
        ExportError: for a missing library.
    """
    return (_openvino if file.suffix == ".xml" else _onnx)(file, threads, exact)


def missing_library(error: ImportError, *, needed_by: str, extra: str) -> ExportError:
    """What to say of a library that is not installed."""
    return ExportError(f"{needed_by} needs {error.name}, which is not installed; pip install 'bistil[{extra}]'.")  # fmt: skip


def import_openvino(*, needed_by: str) -> Any:
    """OpenVINO, which reports its use to its makers from import on, except where its package for that is absent."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None is how an import is barred
    try:
        import openvino
    except ImportError as error:
        raise missing_library(error, needed_by=needed_by, extra="openvino") from error
    return openvino


def _onnx(file: Path, threads: int | None, _exact: bool) -> Session:
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_library(error, needed_by=file.name, extra="export") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    session = onnxruntime.InferenceSession(
        str(file), sess_options=options, providers=["CPUExecutionProvider"]
    )
    inputs = [given.name for given in session.get_inputs()]
    outputs = [answer.name for answer in session.get_outputs()]

    def run(arrays: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        return dict(zip(outputs, session.run(None, columns_for(inputs, arrays)), strict=True))

    return run


def _openvino(file: Path, threads: int | None, exact: bool) -> Session:
    openvino = import_openvino(needed_by=file.name)
    settings: dict[str, str | int] = {"INFERENCE_PRECISION_HINT": "f32"} if exact else {}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    model = openvino.Core().compile_model(str(file), "CPU", settings)
    inputs = [given.any_name for given in model.inputs]

    def run(arrays: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        answers = model(columns_for(inputs, arrays))
        return {output.any_name: np.array(answers[output]) for output in model.outputs}

    return run


def columns_for(inputs: Sequence[str], arrays: Arrays) -> dict[str, np.ndarray[Any, Any]]:
    """Of named arrays those that a graph reads; types that are not there are zeros."""
    return {
        name: np.zeros_like(arrays["input_ids"])
        if name == "token_type_ids" and name not in arrays
        else arrays[name]
        for name in inputs
    }
