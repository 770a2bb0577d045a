"""A model for production: ONNX with dynamic axes, and a smaller one in eight bits; outputs compared with torch."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bistil.errors import ExportError
from bistil.export.heads import Part, part_of
from bistil.export.readme import readme
from xeval.encoder import longest_row, open_tokenizer, quiet
from xeval.finetune.checkpoint import read_finetuned

Watch = Callable[[int, int, str], None]
TOLERANCE = 1e-4  # of logits in float32: beyond it an export is refused
# Protocol buffers, which ONNX files are, end at 2 GiB; weights beyond that lie in a file beside the graph.
_LARGEST_FILE = 2**31 - 2**24
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_WORDS = ("word_start", "word_size")
_HEADS = ("ForMaskedLM", "ForTokenClassification", "ForSequenceClassification")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
        folder: with `model.onnx`, `model.int8.onnx`, tokenizer, `export.json` and README.
        inputs: names of the graph's inputs.
        outputs: names of its outputs, and what the axes of each are.
        labels: of an axis of that name.
        opset: of the graph.
        float32_difference: largest absolute difference of an output from torch's.
        int8_difference: the same of the graph in eight bits.
        bytes: of each graph, with the file of its weights, `….onnx.data`, where it is too large to hold them.
    """

    folder: str
    inputs: tuple[str, ...]
    outputs: dict[str, tuple[str, ...]]
    labels: tuple[str, ...]
    opset: int
    float32_difference: float
    int8_difference: float
    bytes: dict[str, int]


def export(
    model: str | Path, out: Path, *, watch: Watch = lambda done, total, what: None
) -> Exported:
    """Write a model as ONNX, and once more with its matrix products in eight bits.

    Both graphs take `input_ids`, `attention_mask` and, where model and tokenizer tell first texts from second,
    `token_type_ids`, all [batch, tokens], of any size up to the model's limit; a parser's also `word_start` and `word_size`
    [sentences, words], as xeval's heads do: where in all rows, one behind the other, a word's sub-words begin, and how many
    they are. Weights are quantised once, activations as they come (onnxruntime's dynamic quantisation). The float32 graph is
    refused where an output differs from torch's by more than 1e-4; what eight bits cost in score `int8_scores` measures.

    Args:
        model: a folder with a masked-LM, token- or sequence-classification head, a bare encoder, or one that `xeval tune` or
            `adapt` wrote, for any task.
        out: the folder to write; it must not exist.
        watch: told (done, total, what).

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
    watch(0, 1, "opening the model")
    graph = open_graph(str(model))
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".part"))
    try:
        watch(0, 1, "exporting the graph")
        _write_float(graph, work / "model.onnx")
        large = _is_large(graph)
        written = onnx.load(work / "model.onnx", load_external_data=not large)
        watch(0, 1, "comparing the graph with torch")
        difference = _compare(graph, runtime, work / "model.onnx")
        if not difference <= TOLERANCE:
            raise ExportError(
                f"{model}: the exported graph differs from torch by {difference:.2g}, more than {TOLERANCE:g}; it was not "
                "written, for it would not answer as the model does."
            )
        watch(0, 1, "quantising the graph")
        plain = _without_shapes(written)
        if large:  # then it is read from beside its weights, which a copy in memory could not hold
            onnx.save(plain, work / "plain.onnx")
            plain = work / "plain.onnx"
        with _silence():
            quantization.quantize_dynamic(
                plain,
                work / "model.int8.onnx",
                weight_type=quantization.QuantType.QInt8,
                use_external_data_format=large,
            )
        (work / "plain.onnx").unlink(missing_ok=True)
        watch(0, 1, "comparing the quantised graph with torch")
        exported = Exported(
            folder=str(out),
            inputs=graph.inputs,
            outputs=dict(graph.outputs),
            labels=graph.labels,
            opset=_opset(written),
            float32_difference=difference,
            int8_difference=_compare(graph, runtime, work / "model.int8.onnx"),
            bytes={
                name: sum(file.stat().st_size for file in work.glob(f"{name}*"))
                for name in ("model.onnx", "model.int8.onnx")
            },
        )
        graph.tokenizer.save_pretrained(work)
        _describe(exported, str(model), graph, work)
        work.chmod(0o755)
        for weights in work.glob("*.data"):  # made as temporary files are, for this user alone
            weights.chmod(0o644)
        work.replace(out)
        watch(1, 1, "exported")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return exported


@dataclass(frozen=True, kw_only=True)
class Graph:
    """What is exported.

    Attributes:
        module: the inputs to a tuple of tensors.
        inputs: their names.
        outputs: names of these, and what the axes of each are.
        labels: names of the last axis; empty where it has none.
        tokenizer: of the model.
        longest: tokens that it reads at most.
        pieces: rows of its embedding.
        about: of a model tuned by xeval, what one who serves it must know.
    """

    module: nn.Module
    inputs: tuple[str, ...]
    outputs: Mapping[str, tuple[str, ...]]
    labels: tuple[str, ...]
    tokenizer: Any
    longest: int
    pieces: int
    about: Mapping[str, Any] = field(default_factory=lambda: {"task": None, "pooling": None})


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
        inputs=_input_names(config, tokenizer),
        outputs={"hidden" if head is None else "logits": axes},
        labels=names if axes[-1] == "labels" else (),
        tokenizer=tokenizer,
        longest=longest_row(opened),
        pieces=opened.get_input_embeddings().num_embeddings,
    )


def _tuned_graph(folder: Path) -> Graph:
    tuned = read_finetuned(folder)
    part = part_of(tuned.model.head)
    if part is None:
        raise ExportError(f"{folder}: it was tuned for {tuned.task!r}, whose head cannot be exported.")  # fmt: skip
    encoder: Any = tuned.model.encoder.cpu()
    encoder.config._attn_implementation = "eager"
    pieces = tuned.pieces
    return Graph(
        module=_Tuned(encoder, tuned.model.head.cpu(), part).eval(),
        inputs=(*_input_names(encoder.config, pieces.tokenizer), *(_WORDS if part.words else ())),
        outputs=part.outputs,
        labels=tuned.labels if any("labels" in axes for axes in part.outputs.values()) else (),
        tokenizer=pieces.tokenizer,
        longest=pieces.limit,
        pieces=encoder.get_input_embeddings().num_embeddings,
        about={
            "task": tuned.task,
            "pooling": tuned.protocol.pooling,
            "before": pieces.before,
            "after": pieces.after,
            "unknown": pieces.tokenizer.unk_token_id,
        },
    )


def _input_names(config: Any, tokenizer: Any) -> tuple[str, ...]:
    """Types only where model and tokenizer tell first texts from second: a model that never saw a second type must not be given one."""
    typed = (getattr(config, "type_vocab_size", 0) or 0) > 1
    return _INPUTS if typed and _INPUTS[2] in tokenizer.model_input_names else _INPUTS[:2]


class _Stock(nn.Module):
    """A model of transformers, to one of its outputs."""

    def __init__(self, model: nn.Module, output: str) -> None:
        super().__init__()
        self.model = model
        self._output = output

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return (self.model(**dict(zip(_INPUTS, inputs, strict=False)))[self._output],)


class _Tuned(nn.Module):
    """A model of xeval, to what of its head goes into the graph."""

    def __init__(self, encoder: nn.Module, head: nn.Module, part: Part) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head
        self._part = part

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        read, places = (inputs[:-2], inputs[-2:]) if self._part.words else (inputs, ())
        hidden = self.encoder(**dict(zip(_INPUTS, read, strict=False))).last_hidden_state
        return self._part.learnt(self.head, hidden, read[1], *places)


def _write_float(graph: Graph, file: Path) -> None:
    batch, tokens = torch.export.Dim("batch"), torch.export.Dim("tokens")
    sentences, words = torch.export.Dim("sentences"), torch.export.Dim("words")
    with _silence(), torch.no_grad():
        program = torch.onnx.export(
            graph.module,
            _inputs(graph, rows=3, tokens=17),
            dynamo=True,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_shapes=(
                tuple(
                    {0: sentences, 1: words} if name in _WORDS else {0: batch, 1: tokens}
                    for name in graph.inputs
                ),
            ),
            verbose=False,
        )
        assert program is not None
        program.save(str(file), external_data=_is_large(graph))


def _is_large(graph: Graph) -> bool:
    tensors = (*graph.module.parameters(), *graph.module.buffers())
    return sum(tensor.nbytes for tensor in tensors) > _LARGEST_FILE


@torch.no_grad()
def _compare(graph: Graph, runtime: Any, file: Path) -> float:
    """The largest difference from torch at real tokens, over a few shapes, padded and not."""
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    worst = 0.0
    for rows, tokens in ((1, 5), (2, 17), (3, min(40, graph.longest))):
        inputs = _inputs(graph, rows=rows, tokens=tokens)
        expected = graph.module(*inputs)
        fed = zip(graph.inputs, (one.numpy() for one in inputs), strict=True)
        found = session.run(None, dict(fed))
        for axes, mine, its in zip(graph.outputs.values(), found, expected, strict=True):
            # What is not allowed is minus infinity on both sides.
            difference = torch.where(
                torch.from_numpy(mine) == its, 0, torch.from_numpy(mine) - its
            ).abs()
            if axes[:2] == ("batch", "tokens"):
                difference = difference[inputs[1].bool()]
            if axes[:2] == ("sentences", "words"):
                difference = difference[inputs[-1] > 0]
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
    named = {**dict(zip(_INPUTS, (ids, mask, types), strict=True)), **_places(mask)}
    return tuple(named[name] for name in graph.inputs)


def _places(mask: Tensor) -> dict[str, Tensor]:
    """Words of two sub-words behind each row's first; the last row goes on with the sentence of the one before."""
    rows, tokens = mask.shape
    sentences = max(1, rows - 1)
    start = torch.arange(1, tokens - 1, 2) + tokens * torch.arange(sentences)[:, None]
    size = 1 + mask[:sentences, 2::2][:, : start.shape[1]]
    size[mask[:sentences, 1:-1:2] == 0] = 0
    if rows > 1:
        start[-1, -1] = (rows - 1) * tokens + 1
        size[-1, -1] = 2
    return {"word_start": start, "word_size": size}


def _describe(exported: Exported, model: str, graph: Graph, folder: Path) -> None:
    facts = {
        **asdict(exported),
        "model": model,
        **graph.about,
        "longest": graph.longest,
        "pad": graph.tokenizer.pad_token_id or 0,
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
