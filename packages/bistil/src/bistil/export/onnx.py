"""A model for production: ONNX with dynamic axes, and a smaller one in eight bits; outputs compared with torch."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from bistil.errors import ExportError
from bistil.export.folder import FLOAT, INT8, name_weights_as_the_hub_does, write_folder
from bistil.export.graph import PLACES_OF_WORDS, Graph, example_inputs, open_graph
from teacherzoo.atomic_write import written_whole
from teacherzoo.cache import refuse_what_exists
from teacherzoo.progress import ProgressCallback, no_progress

TOLERANCE = 1e-4  # of logits in float32: beyond it an export is refused
# Protocol buffers, which ONNX files are, end at 2 GiB; weights beyond that lie in a file beside the graph.
_LARGEST_FILE = 2**31 - 2**24


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
        folder: as the Hub lays one out: `onnx/model.onnx`, `onnx/model_quantized.onnx`, tokenizer, `export.json` and README.
        inputs: names of the graph's inputs.
        outputs: names of its outputs, and what the axes of each are.
        labels: of an axis of that name.
        opset: of the graph.
        float32_difference: largest absolute difference of an output from torch's.
        int8_difference: the same of the graph in eight bits.
        bytes: of each graph, with the file of its weights, `….onnx_data`, where it is too large to hold them.
    """

    folder: str
    inputs: tuple[str, ...]
    outputs: dict[str, tuple[str, ...]]
    labels: tuple[str, ...]
    opset: int
    float32_difference: float
    int8_difference: float
    bytes: dict[str, int]


def export(model: str | Path, out: Path, *, watch: ProgressCallback = no_progress) -> Exported:
    """Write a model as ONNX, and once more with its matrix products in eight bits.

    A weight W becomes whole numbers round(W / s) from -127 to 127 with one scale s for a tensor, once; activations become
    eight bits as they come (onnxruntime's dynamic quantisation; the scheme of Jacob et al. 2018, section 2.1).

    Both graphs take `input_ids`, `attention_mask` and, where model and tokenizer tell first texts from second,
    `token_type_ids`, all [batch, tokens], of any size up to the model's limit; a parser's also `word_start` and `word_size`
    [sentences, words], as xeval's heads do: where in all rows, one behind the other, a word's sub-words begin, and how many
    they are. The float32 graph is refused where an output differs from torch's by more than 1e-4; what eight bits cost in
    score `int8_scores` measures.

    Args:
        model: a folder with a masked-LM, token- or sequence-classification head, a bare encoder, or one that `xeval tune` or
            `adapt` wrote, for any task.
        out: the folder to write; it must not exist.
        watch: told (done, total, what).

    Returns:
        What was written, and how far the graphs' outputs are from torch's.

    Raises:
        ExportError: for a missing library, a folder in the way, a head of another kind, or outputs that differ.

    Example:
        >>> export("tuned", Path("served")).bytes["onnx/model_quantized.onnx"]  # doctest: +SKIP
        31457280
    """
    libraries, out = _libraries(), Path(out)
    refuse_what_exists(out, ExportError)
    watch(0, 1, "opening the model")
    graph = open_graph(str(model))
    out.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(out) as folder:
        (folder / FLOAT).parent.mkdir(parents=True)
        watch(0, 1, "exporting the graph")
        opset = _write_float(graph, folder / FLOAT)
        watch(0, 1, "comparing the graph with torch")
        difference = _compare(graph, folder / FLOAT, libraries)
        if not difference <= TOLERANCE:
            raise ExportError(
                f"{model}: the exported graph differs from torch by {difference:.2g}, more than {TOLERANCE:g}; it was not "
                "written, for it would not answer as the model does."
            )
        watch(0, 1, "quantising the graph")
        _write_int8(folder, libraries, large=_is_large(graph))
        watch(0, 1, "comparing the quantised graph with torch")
        exported = Exported(
            folder=str(out),
            inputs=graph.inputs,
            outputs=dict(graph.outputs),
            labels=graph.labels,
            opset=opset,
            float32_difference=difference,
            int8_difference=_compare(graph, folder / INT8, libraries),
            bytes={
                name: sum(file.stat().st_size for file in folder.glob(f"{name}*"))
                for name in (FLOAT, INT8)
            },
        )
        _describe(exported, str(model), graph, folder)
    watch(1, 1, "exported")
    return exported


def _write_float(graph: Graph, file: Path) -> int:
    """Write the graph and return its opset."""
    batch, tokens = torch.export.Dim("batch"), torch.export.Dim("tokens")
    sentences, words = torch.export.Dim("sentences"), torch.export.Dim("words")
    with _silence(), torch.no_grad():
        program = torch.onnx.export(
            graph.module,
            example_inputs(graph, rows=3, tokens=17),
            dynamo=True,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_shapes=(
                tuple(
                    {0: sentences, 1: words} if name in PLACES_OF_WORDS else {0: batch, 1: tokens}
                    for name in graph.inputs
                ),
            ),
            verbose=False,
        )
        assert program is not None
        _strip_metadata(program.model)
        program.save(str(file), external_data=_is_large(graph))
    name_weights_as_the_hub_does(file)
    return int(program.model.opset_imports[""])


def _strip_metadata(model: Any) -> None:
    """Take out what the exporter notes of the code that a graph was made from, and where on this machine that lies."""
    for graph in (model.graph, *model.functions.values()):
        nodes = list(graph.all_nodes())
        inner = [value for node in nodes for value in node.outputs]
        weights = model.graph.initializers.values()
        for part in (graph, *graph.inputs, *weights, *nodes, *inner):
            part.metadata_props.clear()


def _write_int8(folder: Path, libraries: _Libraries, *, large: bool) -> None:
    onnx, quantization = libraries.onnx, libraries.quantization
    plain = onnx.load(folder / FLOAT, load_external_data=not large)
    # The exporter's notes of inner shapes go: some of them contradict its own folded weights.
    del plain.graph.value_info[:]
    copy = (folder / FLOAT).with_name("plain.onnx")
    if large:  # then it is read from beside its weights, which a copy in memory could not hold
        onnx.save(plain, copy)
        plain = copy
    with _silence():
        quantization.quantize_dynamic(
            plain,
            folder / INT8,
            weight_type=quantization.QuantType.QInt8,
            use_external_data_format=large,
        )
    copy.unlink(missing_ok=True)
    name_weights_as_the_hub_does(folder / INT8)


def _is_large(graph: Graph) -> bool:
    tensors = (*graph.module.parameters(), *graph.module.buffers())
    return sum(tensor.nbytes for tensor in tensors) > _LARGEST_FILE


@torch.no_grad()
def _compare(graph: Graph, file: Path, libraries: _Libraries) -> float:
    """The largest difference from torch at real tokens, over a few shapes, padded and not."""
    session = libraries.runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    worst = 0.0
    for rows, tokens in ((1, 5), (2, 17), (3, min(40, graph.longest))):
        inputs = example_inputs(graph, rows=rows, tokens=tokens)
        fed = zip(graph.inputs, (tensor.numpy() for tensor in inputs), strict=True)
        answers = [torch.from_numpy(array) for array in session.run(None, dict(fed))]
        expected = graph.module(*inputs)
        for axes, answer, output in zip(graph.outputs.values(), answers, expected, strict=True):
            # What is not allowed is minus infinity on both sides.
            difference = torch.where(answer == output, 0, answer - output).abs()
            if axes[:2] == ("batch", "tokens"):
                difference = difference[inputs[1].bool()]
            if axes[:2] == ("sentences", "words"):
                difference = difference[inputs[-1] > 0]
            worst = max(worst, float(difference.max()))
    return worst


def _describe(exported: Exported, model: str, graph: Graph, folder: Path) -> None:
    facts = {
        **asdict(exported),
        "model": model,
        **graph.about,
        "longest": graph.longest,
        "pad": graph.tokenizer.pad_token_id or 0,
        "versions": {name: version(name) for name in ("bistil", "onnx", "onnxruntime", "torch")},
    }
    write_folder(graph, folder, facts)


@dataclass(frozen=True)
class _Libraries:
    onnx: Any
    runtime: Any
    quantization: Any


def _libraries() -> _Libraries:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  # the exporter of torch imports it
        from onnxruntime import quantization
    except ImportError as error:
        raise ExportError(
            f"An export needs {error.name}, which is not installed; pip install 'bistil[export]'."
        ) from error
    return _Libraries(onnx, onnxruntime, quantization)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """What exporters tell on the way is of no use to a user: the outcome is compared."""
    logging.disable(logging.WARNING)
    with (
        warnings.catch_warnings(),
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
