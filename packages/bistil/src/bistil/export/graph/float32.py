"""A graph as an ONNX file in float32, any number of rows of any length, fit to be read by onnxruntime and by quantisers."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import torch

from bistil.errors import ExportError
from bistil.export.graph.graph import PLACES_OF_WORDS, Graph
from bistil.export.graph.large_files import is_large, weights_beside
from bistil.export.graph.layer_names import name_nodes
from bistil.export.graph.sample_rows import sample_rows
from bistil.export.silence import silence

# Since 20 GELU is one operation; onnxruntime reads it, in a file of IR version 10, since 1.18.
OPSET = 20
_OPERATION = re.compile(r"No ONNX function found for <OpOverload\(op='([^']+)'")


def write_float(graph: Graph, file: Path) -> int:
    """Write a graph; weights of more than 2 GiB lie beside it, in a file of its name and `_data`.

    Args:
        graph: what to write.
        file: the file to write; its folder exists.

    Returns:
        The opset.

    Raises:
        ExportError: for a library that is missing, or a model that cannot be traced, with the operation.
    """
    require_libraries()
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence")
    sentences, words = torch.export.Dim("sentences"), torch.export.Dim("words")
    with silence(), torch.no_grad():
        try:
            program = torch.onnx.export(
                graph.module,
                sample_rows(graph, [min(length, graph.longest) for length in (17, 8, 17)]),
                dynamo=True,
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
                dynamic_shapes=(
                    tuple(
                        {0: sentences, 1: words}
                        if name in PLACES_OF_WORDS
                        else {0: batch, 1: sequence}
                        for name in graph.inputs
                    ),
                ),
                opset_version=OPSET,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ExportError(f"{graph.folder}: {_reason(error)}") from error
        assert program is not None
        name_nodes(program.model)
        _strip_metadata(program.model)
        _infer_shapes(program.model)
        _save(program.model, file, large=_is_large(graph))
    return int(program.model.opset_imports[""])


def _reason(error: Exception) -> str:
    """Why the exporter gave up, of which it tells on many lines."""
    operation = _OPERATION.search(str(error))
    if operation:
        return (
            f"its operation {operation[1]} has no counterpart in ONNX, so the model cannot be exported; export a model that "
            "computes without it."
        )
    lines = str(error.__cause__ or error).strip().splitlines()
    return f"it cannot be traced for rows of any length ({lines[0]}); export a model of another architecture."


def _is_large(graph: Graph) -> bool:
    tensors = (*graph.module.parameters(), *graph.module.buffers())
    return is_large(sum(tensor.nbytes for tensor in tensors))


def _save(model: Any, file: Path, *, large: bool) -> None:
    import onnx_ir

    weights = weights_beside(file)
    onnx_ir.save(model, file, external_data=weights.name if large else None)
    if large:
        weights.chmod(0o644)  # it was made for this user alone


def _strip_metadata(model: Any) -> None:
    """Take out what the exporter notes of the code that a graph was made from, and where on this machine that lies."""
    for graph in (model.graph, *model.functions.values()):
        nodes = list(graph.all_nodes())
        inner = [value for node in nodes for value in node.outputs]
        weights = model.graph.initializers.values()
        for part in (graph, *graph.inputs, *weights, *nodes, *inner):
            part.metadata_props.clear()


def _infer_shapes(model: Any) -> None:
    """Infer shapes and types of inner values anew: some of the exporter's contradict its own folded weights."""
    from onnx_ir.passes.common import ShapeInferencePass

    outputs = set(model.graph.outputs)
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if value not in outputs:
                value.shape = value.type = None
    ShapeInferencePass()(model)


def require_libraries() -> None:
    """Refuse to go on without what an export needs.

    Raises:
        ExportError: naming the library.
    """
    for library in ("onnx", "onnxruntime", "onnxscript"):  # the exporter of torch imports the last
        try:
            importlib.import_module(library)
        except ImportError as error:
            raise ExportError(
                f"An export needs {error.name}, which is not installed; pip install 'bistil[export]'."
            ) from error
