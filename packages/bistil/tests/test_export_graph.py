"""What goes into an exported graph: folders that their own libraries wrote, beside what these libraries compute of them."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.sentence_transformer import modules
from sentence_transformers.sparse_encoder.modules import SpladePooling
from torch import Tensor, nn
from transformers import (
    AutoModelForQuestionAnswering,
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
)

from bistil.errors import ExportError
from bistil.export.graph.compare import compare, largest_difference
from bistil.export.graph.float32 import write_float
from bistil.export.graph.graph import Graph, open_graph
from vocabmerge import Kind

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

LIMIT = 40
# Short, empty, and one that is cut at the limit.
TEXTS = ["abc def mnop", "a", "", "hh gg ff ee dd cc bb aa . . " * 9]
PAIRS = [("abc", "def mnop"), ("", ""), ("a", "hh gg ff ee dd cc bb aa . . " * 9)]
PROMPTS = {"query": "abc: ", "passage": "abc: def ", "none": ""}


@dataclass(frozen=True, kw_only=True)
class Written:
    """A folder, its graph and the file of that."""

    folder: Path
    graph: Graph
    file: Path

    def answers(self, texts: Any) -> dict[str, Any]:
        """The outputs of all texts or pairs as one padded batch."""
        session = onnxruntime.InferenceSession(str(self.file), providers=["CPUExecutionProvider"])
        columns = zip(*texts, strict=True) if isinstance(texts[0], tuple) else [texts]
        batch = self.graph.tokenizer(
            *map(list, columns), padding=True, truncation=True, max_length=self.graph.longest, return_tensors="np"
        )  # fmt: skip
        outputs = session.run(None, {name: batch[name] for name in self.graph.inputs})
        return dict(zip(self.graph.outputs, outputs, strict=True))

    def require_near(
        self, oracle: Callable[[Any], Any], texts: Any, output: str, *, prompt: str = ""
    ) -> None:
        """One output is the oracle's for all texts in a batch, and for each alone, which is not padded."""
        for batch in (texts, *([text] for text in texts)):
            asked = [prompt + text for text in batch] if prompt else batch
            np.testing.assert_allclose(self.answers(asked)[output], oracle(batch), atol=1e-4)


@pytest.fixture(scope="module")
def shape(tokenizer: PreTrainedTokenizerFast) -> BertConfig:
    return BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48, max_position_embeddings=80, initializer_range=0.4,
    )  # fmt: skip


@pytest.fixture(scope="module")
def transformer(
    tmp_path_factory: pytest.TempPathFactory, make_masked_lm: Callable[..., Any], tokenizer: PreTrainedTokenizerFast
) -> Callable[..., Any]:  # fmt: skip
    """Of sentence-transformers, with an encoder of two layers."""
    folder = tmp_path_factory.mktemp("encoder")
    make_masked_lm("bert", pieces=len(tokenizer), layers=2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return functools.partial(modules.Transformer, str(folder), max_seq_length=LIMIT)


@pytest.fixture(scope="module")
def sentence_folder(
    tmp_path_factory: pytest.TempPathFactory, transformer: Callable[..., Any]
) -> Callable[..., Path]:
    """A sentence encoder with some modules behind its encoder, saved."""

    def save(*behind: nn.Module, padding_side: str = "right", **options: Any) -> Path:
        folder = tmp_path_factory.mktemp("sentences")
        first = transformer(processor_kwargs={"padding_side": padding_side})
        model = SentenceTransformer(modules=[first, *behind], device="cpu", **options)
        model.save(str(folder))
        return folder

    return save


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Written]:
    def write_graph(folder: Path) -> Written:
        graph, file = open_graph(str(folder)), tmp_path_factory.mktemp("graph") / "model.onnx"
        write_float(graph, file)
        return Written(folder=folder, graph=graph, file=file)

    return write_graph


@pytest.fixture(scope="module")
def pooled(sentence_folder: Callable[..., Path], write: Callable[[Path], Written]) -> Written:
    """All modes of pooling behind each other, a Dense, a layer norm, a norm."""
    torch.manual_seed(0)
    modes = modules.Pooling.POOLING_MODES
    dense = modules.Dense(32 * len(modes), 24, activation_function=nn.GELU(), use_residual=True)
    behind = modules.Pooling(32, modes), dense, modules.LayerNorm(24), modules.Normalize()
    return write(sentence_folder(*behind))


def test_a_sentence_encoders_graph_pools_and_norms_as_sentence_transformers(
    pooled: Written,
) -> None:
    assert pooled.graph.kind is Kind.SENTENCE
    assert pooled.graph.longest == LIMIT
    assert [module.name for module in pooled.graph.modules[1:]] == ["Pooling", "Dense", "LayerNorm", "Normalize"]  # fmt: skip
    model = SentenceTransformer(str(pooled.folder), device="cpu")
    pooled.require_near(model.encode, TEXTS, "sentence_embedding")
    assert pooled.answers(TEXTS)["last_hidden_state"].shape == (len(TEXTS), LIMIT, 32)
    assert compare(pooled.graph, pooled.file) <= 1e-4


def test_names_axes_and_versions_are_those_that_the_hubs_programs_read(pooled: Written) -> None:
    model = onnx.load(pooled.file)

    def axes(values: Any) -> dict[str, list[Any]]:
        dims = {value.name: value.type.tensor_type.shape.dim for value in values}
        return {name: [dim.dim_param or dim.dim_value for dim in dims[name]] for name in dims}

    rows = ["batch", "sequence"]
    assert axes(model.graph.input) == {"input_ids": rows, "attention_mask": rows}
    # In this order: some programs pool the first output, others read the second by its name.
    assert axes(model.graph.output) == {"last_hidden_state": [*rows, 32], "sentence_embedding": ["batch", 24]}  # fmt: skip
    assert ([opset.version for opset in model.opset_import], model.ir_version) == ([20], 10)


def test_every_inner_value_of_a_graph_has_the_shape_that_follows_from_its_weights(
    pooled: Written,
) -> None:
    """What a quantiser asks a graph for, and what the exporter alone leaves contradictory."""
    model = onnx.load(pooled.file)

    onnx.shape_inference.infer_shapes(model, strict_mode=True, check_type=True)

    typed = {value.name for value in (*model.graph.value_info, *model.graph.output)}
    assert {name for node in model.graph.node for name in node.output if name} <= typed


def test_prompts_that_pooling_leaves_out_are_told_by_their_ids(
    sentence_folder: Callable[..., Path], write: Callable[[Path], Written]
) -> None:
    modes = ("mean", "cls", "lasttoken", "max")
    folder = sentence_folder(
        modules.Pooling(32, modes, include_prompt=False), padding_side="left", prompts=PROMPTS
    )

    written = write(folder)

    model = SentenceTransformer(str(folder), device="cpu")
    for name, prompt in PROMPTS.items():
        oracle = functools.partial(model.encode, prompt_name=name)
        written.require_near(oracle, TEXTS, "sentence_embedding", prompt=prompt)
    without = model.encode(["abc: def mnop"])
    assert np.abs(written.answers(["abc: def mnop"])["sentence_embedding"] - without).max() > 0.1
    assert PROMPTS.items() <= written.graph.prompts.items()


@pytest.mark.slow
def test_states_of_inner_layers_are_weighted_in_the_graph(
    tmp_path: Path, transformer: Callable[..., Any], write: Callable[[Path], Written]
) -> None:
    first = transformer(config_kwargs={"output_hidden_states": True})
    weighted = modules.WeightedLayerPooling(32, num_hidden_layers=2, layer_start=1)
    SentenceTransformer(modules=[first, weighted, modules.Pooling(32)], device="cpu").save(str(tmp_path))  # fmt: skip

    model = SentenceTransformer(str(tmp_path), device="cpu")

    write(tmp_path).require_near(model.encode, TEXTS, "sentence_embedding")


@pytest.mark.parametrize(
    ("strategy", "activation"),
    [("max", "relu"), pytest.param("sum", "log1p_relu", marks=pytest.mark.slow)],
)
def test_a_sparse_encoders_graph_weighs_the_vocabulary_as_sentence_transformers(
    tmp_path: Path, transformer: Callable[..., Any], write: Callable[[Path], Written], strategy: Any, activation: Any
) -> None:  # fmt: skip
    behind = SpladePooling(strategy, activation_function=activation)
    masked_lm = transformer(transformer_task="fill-mask")
    SparseEncoder(modules=[masked_lm, behind], device="cpu").save(str(tmp_path))
    model = SparseEncoder(str(tmp_path), device="cpu")

    written = write(tmp_path)

    oracle = functools.partial(model.encode, convert_to_sparse_tensor=False)
    written.require_near(oracle, TEXTS, "sentence_embedding")
    assert list(written.graph.outputs) == ["logits", "sentence_embedding"]


def test_a_rerankers_graph_scores_pairs_as_its_configuration_says(
    tmp_path: Path, shape: BertConfig, tokenizer: PreTrainedTokenizerFast, write: Callable[[Path], Written]
) -> None:  # fmt: skip
    config = BertConfig.from_dict({**shape.to_dict(), "id2label": {0: "LABEL_0"}})
    BertForSequenceClassification(config).save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    opened = CrossEncoder(str(tmp_path / "plain"), device="cpu", activation_fn=nn.Tanh(), max_length=LIMIT)  # fmt: skip
    opened.save_pretrained(str(tmp_path / "reranker"))
    model = CrossEncoder(str(tmp_path / "reranker"), device="cpu")

    written = write(tmp_path / "reranker")

    assert written.graph.pairs
    assert written.graph.outputs == {"logits": ("batch", "labels"), "score": ("batch",)}
    written.require_near(model.predict, PAIRS, "score")
    logits = model.predict(PAIRS, activation_fn=nn.Identity())
    np.testing.assert_allclose(written.answers(PAIRS)["logits"][:, 0], logits, atol=1e-4)
    # A folder of transformers alone gets the activation that sentence-transformers takes for one label.
    graph = open_graph(str(tmp_path / "plain"))
    assert isinstance(graph.module.activation, nn.Sigmoid)


def test_a_question_answerers_graph_says_where_answers_begin_and_end(
    tmp_path: Path, shape: BertConfig, tokenizer: PreTrainedTokenizerFast, write: Callable[[Path], Written]
) -> None:  # fmt: skip
    BertForQuestionAnswering(shape).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    batch = tokenizer(*map(list, zip(*PAIRS[:2], strict=True)), padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = AutoModelForQuestionAnswering.from_pretrained(tmp_path).eval()(**batch)

    written = write(tmp_path)

    answers = written.answers(PAIRS[:2])
    assert list(answers) == ["start_logits", "end_logits"]
    real = batch["attention_mask"].bool().numpy()
    for name, scores in answers.items():
        np.testing.assert_allclose(scores[real], expected[name].numpy()[real], atol=1e-4)
    assert compare(written.graph, written.file) <= 1e-4


class _WrongWhere(nn.Module):
    """A model, whose outputs are wrong for some batches."""

    def __init__(self, model: nn.Module, wrong: Callable[[Tensor, Tensor], bool]) -> None:
        super().__init__()
        self.model, self._wrong = model, wrong

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        states, vectors = self.model(*inputs)
        return states, vectors + 0.01 * self._wrong(*inputs)


@pytest.mark.parametrize(
    "wrong",
    {
        "padded": lambda ids, mask: bool((mask == 0).any()),
        "unpadded": lambda ids, mask: bool((mask == 1).all()),
        "specials alone": lambda ids, mask: ids.shape[1] == 2,
        "the longest": lambda ids, mask: ids.shape[1] == LIMIT and len(ids) == 1,
        "the last id": lambda ids, mask: bool((ids > 0.95 * 300).any()),
    }.items(),
    ids=lambda item: item[0],
)
def test_a_graph_that_is_wrong_for_some_rows_alone_is_refused(
    pooled: Written, wrong: tuple[str, Any]
) -> None:
    planted = replace(pooled.graph, module=_WrongWhere(pooled.graph.module, wrong[1]))

    assert largest_difference(planted, pooled.file) == pytest.approx(0.01, rel=0.01)
    with pytest.raises(ExportError, match=r"differs from torch by 0\.01, more than 0\.0001; it was not written"):  # fmt: skip
        compare(planted, pooled.file)


def test_an_operation_that_onnx_lacks_is_named(
    sentence_folder: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dense = modules.Dense(32, 8, activation_function=nn.RReLU())
    graph = open_graph(str(sentence_folder(modules.Pooling(32), dense)))
    capfd.readouterr()

    with pytest.raises(ExportError, match=r"its operation aten\.rrelu\S* has no counterpart in ONNX") as refusal:  # fmt: skip
        write_float(graph, tmp_path / "model.onnx")

    assert "\n" not in str(refusal.value)
    assert capfd.readouterr() == ("", "")
    assert not [*tmp_path.iterdir()]


class _Branching(nn.Module):
    """Goes another way for some texts, which no graph of one way can."""

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        states = ids[..., None].float()
        return (states, states[:, 0] if ids.sum() > 99 else states[:, 1])


def test_a_model_that_cannot_be_traced_is_refused_in_one_sentence(
    pooled: Written, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ExportError, match=r"cannot be traced for rows of any length \(.+\); export") as refusal:  # fmt: skip
        write_float(replace(pooled.graph, module=_Branching()), tmp_path / "model.onnx")

    assert "\n" not in str(refusal.value)
    assert capfd.readouterr() == ("", "")


def test_a_folder_without_tokenizer_is_refused(
    tmp_path: Path, shape: BertConfig, sentence_folder: Callable[..., Path]
) -> None:
    BertForQuestionAnswering(shape).save_pretrained(tmp_path)
    with pytest.raises(ExportError, match=r"there is no tokenizer \(tokenizer.json\)"):
        open_graph(str(tmp_path))

    folder = sentence_folder(modules.Pooling(32))
    for name in ("tokenizer.json", "vocab.txt"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(ExportError, match=r"there is no tokenizer \(tokenizer.json\)"):
        open_graph(str(folder))


def test_modules_that_cannot_be_in_a_graph_are_named(
    sentence_folder: Callable[..., Path], transformer: Callable[..., Any], tmp_path: Path
) -> None:
    recurrent = sentence_folder(modules.LSTM(32, 16), modules.Pooling(32))
    with pytest.raises(ExportError, match="its module LSTM cannot be part of a graph"):
        open_graph(str(recurrent))

    weighted = modules.Pooling(32, "weightedmean", include_prompt=False)
    with pytest.raises(ExportError, match="a weighted mean that leaves the prompt out"):
        open_graph(str(sentence_folder(weighted)))

    from sentence_transformers.base.modules import Router

    router = Router.for_query_document(
        query_modules=[transformer(), modules.Pooling(32)],
        document_modules=[transformer(), modules.Pooling(32)],
    )
    SentenceTransformer(modules=[router], device="cpu").save(str(tmp_path / "router"))
    with pytest.raises(ExportError, match="begins with Router of 2 towers"):
        open_graph(str(tmp_path / "router"))
