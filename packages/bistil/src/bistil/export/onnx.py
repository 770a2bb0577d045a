"""A model for production: ONNX with dynamic axes, and a smaller one in eight bits; outputs compared with torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from bistil.errors import ExportError
from bistil.export.compare import compare, largest_difference
from bistil.export.float32 import require_libraries, silence, write_float
from bistil.export.folder import FLOAT, INT8, name_weights_as_the_hub_does, write_folder
from bistil.export.graph import Graph, open_graph
from teacherzoo.atomic_write import written_whole
from teacherzoo.cache import refuse_what_exists
from teacherzoo.progress import ProgressCallback, no_progress


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
    `token_type_ids`, all [batch, sequence], of any size up to the model's limit; a parser's also `word_start` and `word_size`
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
    require_libraries()
    out = Path(out)
    refuse_what_exists(out, ExportError)
    watch(0, 1, "opening the model")
    graph = open_graph(str(model))
    out.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(out) as folder:
        (folder / FLOAT).parent.mkdir(parents=True)
        watch(0, 1, "exporting the graph")
        opset = write_float(graph, folder / FLOAT)
        watch(0, 1, "comparing the graph with torch")
        difference = compare(graph, folder / FLOAT)
        watch(0, 1, "quantising the graph")
        _write_int8(folder)
        watch(0, 1, "comparing the quantised graph with torch")
        exported = Exported(
            folder=str(out),
            inputs=graph.inputs,
            outputs=dict(graph.outputs),
            labels=graph.labels,
            opset=opset,
            float32_difference=difference,
            int8_difference=largest_difference(graph, folder / INT8),
            bytes={
                name: sum(file.stat().st_size for file in folder.glob(f"{name}*"))
                for name in (FLOAT, INT8)
            },
        )
        _describe(exported, str(model), graph, folder)
    watch(1, 1, "exported")
    return exported


def _write_int8(folder: Path) -> None:
    from onnxruntime import quantization

    with silence():
        quantization.quantize_dynamic(
            folder / FLOAT,
            folder / INT8,
            weight_type=quantization.QuantType.QInt8,
            use_external_data_format=(folder / f"{FLOAT}_data").exists(),
        )
    name_weights_as_the_hub_does(folder / INT8)


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
