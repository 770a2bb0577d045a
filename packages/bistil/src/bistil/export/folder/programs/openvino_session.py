"""Runs a graph of OpenVINO."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino

GRAPHS = ("openvino/openvino_model_qint8_quantized.xml", "openvino/openvino_model.xml")


def open_session(
    folder: Path, file: str | None, threads: int | None
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """A function from arrays by the names of the graph's inputs to arrays by the names of its outputs."""
    chosen = file or next(name for name in GRAPHS if (folder / name).is_file())
    # Left to itself OpenVINO computes in bfloat16 what is not in eight bits, where the processor can (AMX, AVX-512 BF16).
    settings: dict[str, str | int] = {"INFERENCE_PRECISION_HINT": "f32"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    model = openvino.Core().compile_model(str(folder / chosen), "CPU", settings)

    def run(arrays: Mapping[str, Any]) -> dict[str, Any]:
        answers = model(dict(arrays))
        return {output.any_name: np.array(answers[output]) for output in model.outputs}

    return run
