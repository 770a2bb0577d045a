"""A model for production: ONNX with dynamic axes, and a smaller one in eight bits; outputs compared with torch."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bistil.errors import ExportError
from bistil.serving import readme
from xeval.encoder import longest_row, open_tokenizer, quiet
from xeval.heads import TextHead, WordHead
from xeval.tuned import read_tuned

TOLERANCE = 1e-4  # of logits in float32: beyond it an export is refused
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_HEADS = ("ForMaskedLM", "ForTokenClassification", "ForSequenceClassification")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
        folder: with `model.onnx`, `model.int8.onnx`, tokenizer, `export.json` and README.
        inputs: names of the graph's inputs.
        output: name of its output.
        axes: what its axes are.
        labels: of the last axis, where it has names.
        opset: of the graph.
        float32_difference: largest absolute difference of an output from torch's.
        int8_difference: the same of the graph in eight bits.
        bytes: of each graph.
    """

    folder: str
    inputs: tuple[str, ...]
    output: str
    axes: tuple[str, ...]
    labels: tuple[str, ...]
    opset: int
    float32_difference: float
    int8_difference: float
    bytes: dict[str, int]


def export(model: str | Path, out: Path) -> Exported:
    """Write a model as ONNX, and once more with its matrix products in eight bits.

    Both graphs take `input_ids`, `attention_mask` and, where the model tells first texts from second, `token_type_ids`, all
    [batch, tokens], of any size up to the model's limit. Weights are quantised once, activations as they come (onnxruntime's dynamic quantisation). The float32 graph is refused where an
    output differs from torch's by more than 1e-4; what eight bits cost in score `int8_scores` measures.

    Args:
        model: a folder with a masked-LM, token- or sequence-classification head, a bare encoder, or one that `xeval tune`
            wrote for a task with a label per word or per text.
        out: the folder to write; it must not exist.

    Raises:
        ExportError: for a missing library, a folder in the way, a head of another kind, or outputs that differ.

    Example:
        >>> export("tuned", Path("served")).bytes["model.int8.onnx"]  # doctest: +SKIP
        31457280
    """
    onnx, runtime, quantization = _libraries()
    out = Path(out)
    if out.exists():
        raise ExportError(f"{out} exists already; remove it, or choose another folder.")
    graph = open_graph(str(model))
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".part"))
    try:
        _write_float(graph, work / "model.onnx")
        written = onnx.load(work / "model.onnx")
        difference = _compare(graph, runtime, work / "model.onnx")
        if not difference <= TOLERANCE:
            raise ExportError(
                f"{model}: the exported graph differs from torch by {difference:.2g}, more than {TOLERANCE:g}; it was not "
                "written, for it would not answer as the model does."
            )
        with _silence():
            quantization.quantize_dynamic(
                _without_shapes(written),
                work / "model.int8.onnx",
                weight_type=quantization.QuantType.QInt8,
            )
        exported = Exported(
            folder=str(out),
            inputs=graph.inputs,
            output=graph.output,
            axes=graph.axes,
            labels=graph.labels,
            opset=_opset(written),
            float32_difference=difference,
            int8_difference=_compare(graph, runtime, work / "model.int8.onnx"),
            bytes={
                name: (work / name).stat().st_size for name in ("model.onnx", "model.int8.onnx")
            },
        )
        graph.tokenizer.save_pretrained(work)
        _describe(exported, str(model), graph, work)
        work.chmod(0o755)
        work.replace(out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return exported


@dataclass(frozen=True, kw_only=True)
class Graph:
    """What is exported.

    Attributes:
        module: the inputs to one tensor.
        inputs: their names.
        output: its name.
        axes: what its axes are.
        labels: names of the last axis; empty where it has none.
        tokenizer: of the model.
        longest: tokens that it reads at most.
        pieces: rows of its embedding.
        task: the task it was tuned on by xeval, or None.
        pooling: how the judge makes words of sub-words, for such a model.
    """

    module: nn.Module
    inputs: tuple[str, ...]
    output: str
    axes: tuple[str, ...]
    labels: tuple[str, ...]
    tokenizer: Any
    longest: int
    pieces: int
    task: str | None = None
    pooling: str | None = None


def open_graph(model: str) -> Graph:
    """Open a folder as what will be exported.

    Raises:
        ExportError: for a head that is none of those.
        XevalError: for a folder that is no model.
    """
    if (Path(model) / "xeval.json").is_file():
        return _tuned_graph(Path(model))
    from transformers import AutoConfig, AutoModel
    from transformers.models.auto import modeling_auto

    tokenizer = open_tokenizer(model)
    config = AutoConfig.from_pretrained(model)
    saved = (getattr(config, "architectures", None) or [""])[0]
    head = next((one for one in _HEADS if saved.endswith(one)), None)
    if head is None and "For" in saved:
        raise ExportError(
            f"{model}: it was saved as {saved}; exported are {', '.join(_HEADS)}, encoders, and folders of xeval tune."
        )
    kind = AutoModel if head is None else getattr(modeling_auto, f"AutoModel{head}")
    with quiet():
        opened = kind.from_pretrained(
            model, dtype=torch.float32, attn_implementation="eager"
        ).eval()
    axes = {
        None: ("batch", "tokens", "width"),
        "ForMaskedLM": ("batch", "tokens", "pieces"),
        "ForTokenClassification": ("batch", "tokens", "labels"),
        "ForSequenceClassification": ("batch", "labels"),
    }[head]
    names = tuple(config.id2label[number] for number in range(config.num_labels))
    return Graph(
        module=_Stock(opened, "last_hidden_state" if head is None else "logits"),
        inputs=_input_names(config),
        output="hidden" if head is None else "logits",
        axes=axes,
        labels=names if axes[-1] == "labels" else (),
        tokenizer=tokenizer,
        longest=longest_row(opened),
        pieces=opened.get_input_embeddings().num_embeddings,
    )


def _tuned_graph(folder: Path) -> Graph:
    tuned = read_tuned(folder)
    head: Any = tuned.model.head
    if not isinstance(head, WordHead | TextHead):
        raise ExportError(
            f"{folder}: it was tuned for {tuned.task!r}, whose head is more than labels of words or texts; exported are "
            "such as pos, ner, nli and topic."
        )
    words = isinstance(head, WordHead)
    encoder: Any = tuned.model.encoder.cpu()
    encoder.config._attn_implementation = "eager"
    return Graph(
        module=_Tuned(encoder, head.cpu()).eval(),
        inputs=_input_names(encoder.config),
        output="logits",
        axes=("batch", "tokens", "labels") if words else ("batch", "labels"),
        labels=tuned.labels,
        tokenizer=tuned.pieces.tokenizer,
        longest=tuned.pieces.limit,
        pieces=encoder.get_input_embeddings().num_embeddings,
        task=tuned.task,
        pooling=head.pooling,
    )


def _input_names(config: Any) -> tuple[str, ...]:
    return _INPUTS if (getattr(config, "type_vocab_size", 0) or 0) > 1 else _INPUTS[:2]


class _Stock(nn.Module):
    """A model of transformers, to one of its outputs."""

    def __init__(self, model: nn.Module, output: str) -> None:
        super().__init__()
        self.model = model
        self._output = output

    def forward(self, *inputs: Tensor) -> Tensor:
        found: Tensor = self.model(**dict(zip(_INPUTS, inputs, strict=False)))[self._output]
        return found


class _Tuned(nn.Module):
    """A model of xeval. Labels of words come out for each sub-word.

    The judge's head reads the first sub-word of a word or their mean; it is linear, so the first or the mean of what comes
    out here is the same.
    """

    def __init__(self, encoder: nn.Module, head: Any) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, *inputs: Tensor) -> Tensor:
        hidden = self.encoder(**dict(zip(_INPUTS, inputs, strict=False))).last_hidden_state
        if isinstance(self.head, WordHead):
            labels: Tensor = self.head.out(hidden)
            return labels
        outputs: dict[str, Tensor] = self.head(hidden, {"attention_mask": inputs[1]})
        return outputs["labels"]


def _write_float(graph: Graph, file: Path) -> None:
    batch, tokens = torch.export.Dim("batch"), torch.export.Dim("tokens")
    inputs = _inputs(graph, rows=2, tokens=17)
    with _silence(), torch.no_grad():
        program = torch.onnx.export(
            graph.module,
            inputs,
            dynamo=True,
            input_names=list(graph.inputs),
            output_names=[graph.output],
            dynamic_shapes=(tuple({0: batch, 1: tokens} for _ in inputs),),
            verbose=False,
        )
        assert program is not None
        program.save(str(file))


@torch.no_grad()
def _compare(graph: Graph, runtime: Any, file: Path) -> float:
    """The largest difference from torch at real tokens, over a few shapes, padded and not."""
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    worst = 0.0
    for rows, tokens in ((1, 5), (2, 17), (3, min(40, graph.longest))):
        inputs = _inputs(graph, rows=rows, tokens=tokens)
        expected = graph.module(*inputs)
        fed = zip(graph.inputs, (one.numpy() for one in inputs), strict=True)
        (found,) = session.run(None, dict(fed))
        difference = (torch.from_numpy(found) - expected).abs()
        if len(graph.axes) == 3:
            difference = difference[inputs[1].bool()]
        worst = max(worst, float(difference.max()))
    return worst


def _inputs(graph: Graph, *, rows: int, tokens: int) -> tuple[Tensor, ...]:
    random = torch.Generator().manual_seed(rows)
    ids = torch.randint(graph.pieces, (rows, tokens), generator=random)
    mask = torch.ones_like(ids)
    if rows > 1:
        mask[1, tokens // 2 :] = 0
    # The RoBERTa family counts positions from what is not padding.
    pad = graph.tokenizer.pad_token_id or 0
    ids[ids == pad] = (pad + 1) % graph.pieces
    ids[mask == 0] = pad
    types = torch.zeros_like(ids)
    types[:, tokens // 2 :] = 1
    return (ids, mask, types)[: len(graph.inputs)]


def _describe(exported: Exported, model: str, graph: Graph, folder: Path) -> None:
    facts = {
        **asdict(exported),
        "model": model,
        "task": graph.task,
        "pooling": graph.pooling,
        "longest": graph.longest,
        "versions": {name: version(name) for name in ("bistil", "onnx", "onnxruntime", "torch")},
    }
    (folder / "export.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(readme(exported.folder, facts), encoding="utf-8")


def _without_shapes(graph: Any) -> Any:
    """The same graph without the exporter's notes of inner shapes, some of which contradict its own folded weights."""
    del graph.graph.value_info[:]
    return graph


def _opset(graph: Any) -> int:
    return int(next(one.version for one in graph.opset_import if one.domain in ("", "ai.onnx")))


def _libraries() -> tuple[Any, Any, Any]:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  # the exporter of torch imports it
        from onnxruntime import quantization
    except ImportError as error:
        raise ExportError(
            f"An export needs {error.name}, which is not installed; pip install 'bistil[export]'."
        ) from error
    return onnx, onnxruntime, quantization


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
