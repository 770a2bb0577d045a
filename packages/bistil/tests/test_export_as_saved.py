"""What sentence-transformers saves of how a model is asked holds of its export, too: prompts, lengths, sizes, activations."""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from torch import nn
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    PreTrainedTokenizerFast,
)

from bistil.errors import ExportError
from bistil.export.folder.folder import FLOAT, write_folder
from bistil.export.graph.float32 import write_float
from bistil.export.graph.graph import open_graph
from bistil.export.run import export
from xeval.data.source import LocalFolder
from xeval.evaluate.score import score

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

LABELS = {"id2label": {0: "a", 1: "b", 2: "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
LONG = "abc dead mnop sort uvw. " * 30
TEXTS = ["abc def mnop", LONG, "", "gh", "ab mn ab mn qrst gh."]
PROMPTS: dict[str, Any] = {"prompts": {"task": "mnop: ", "other": "dead "}, "default_prompt_name": "task"}  # fmt: skip


@pytest.fixture(scope="module")
def encoder(
    tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., str]:
    """A folder of transformers with a small BERT that reads 40 tokens."""

    def save(architecture: Any, **options: Any) -> str:
        folder = tmp_path_factory.mktemp("encoder")
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
            max_position_embeddings=40, initializer_range=0.4, pad_token_id=0, **options,
        )  # fmt: skip
        architecture(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)

    return save


def _served(folder: Path, name: str) -> Any:
    """What the program of a folder serves, of the float32 graph, so that answers are torch's."""
    spec = importlib.util.spec_from_file_location(f"serve_{folder.parent.name}", folder / "serve.py")  # fmt: skip
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)(file=FLOAT)


def _written(model: Path, folder: Path) -> Path:
    """The float32 graph of a folder with what lies beside it."""
    graph = open_graph(str(model))
    (folder / FLOAT).parent.mkdir(parents=True)
    facts = {"folder": "out", "model": str(model), "opset": write_float(graph, folder / FLOAT), "bytes": {FLOAT: 1}, "float32_difference": 0}  # fmt: skip
    write_folder(graph, folder, facts)
    return folder


def test_a_rerankers_prompts_and_length_are_its_cross_encoders(
    encoder: Callable[..., str], tmp_path: Path
) -> None:
    plain = encoder(BertForSequenceClassification, num_labels=1)
    opened = CrossEncoder(plain, device="cpu", max_length=20, activation_fn=nn.Identity(), **PROMPTS)  # fmt: skip
    opened.save_pretrained(str(tmp_path / "model"))
    texts = [text for text in TEXTS if text]
    rows = [{"query": text[:9], "positive": [text], "negative": [t for t in texts if t != text]} for text in texts]  # fmt: skip
    (tmp_path / "data/rerank").mkdir(parents=True)
    (tmp_path / "data/rerank/en.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    source = LocalFolder(tmp_path / "data", tmp_path / "cache")

    exported = export(tmp_path / "model", tmp_path / "out", source=source, bound=100)

    reranker = _served(tmp_path / "out", "Reranker")
    reference = CrossEncoder(str(tmp_path / "model"), device="cpu")
    options: list[dict[str, str]] = [{}, {"prompt_name": "other"}, {"prompt": "sort "}, {"prompt": ""}]  # fmt: skip
    for query in ("ab dead", "", LONG):
        for asked in options:
            scores = reranker.score(query, TEXTS, batch_size=2, **asked)
            expected = reference.predict([(query, text) for text in TEXTS], **asked)
            np.testing.assert_allclose(scores, expected, atol=1e-4)
    with pytest.raises(ValueError, match=r"prompt_name 'query': the model has \['other', 'task'\]"):
        reranker.score("ab", TEXTS, prompt_name="query")
    judged = score(str(tmp_path / "model"), tmp_path / "results.jsonl", task="rerank", source=source)  # fmt: skip
    assert [drop.float32 for drop in exported.drops] == pytest.approx([figure.value for figure in judged])  # fmt: skip
    command = [sys.executable, "serve.py", "--file", FLOAT, "ab dead", *texts]
    printed = subprocess.run(command, cwd=tmp_path / "out", capture_output=True, text=True, check=True).stdout  # fmt: skip
    best = max(reference.predict([("ab dead", text) for text in texts]))
    assert printed.startswith(f"{best:.3f}\t")
    page = (tmp_path / "out/README.md").read_text()
    assert 'In front of every query stands "mnop: " unless another is stated.' in page


@pytest.mark.slow
@pytest.mark.parametrize("activation", [nn.Sigmoid(), nn.Identity()])
def test_a_cross_encoder_of_several_labels_is_asked_as_it_was_saved(
    activation: nn.Module, encoder: Callable[..., str], tmp_path: Path
) -> None:
    plain = encoder(BertForSequenceClassification, **LABELS)
    opened = CrossEncoder(plain, device="cpu", max_length=20, activation_fn=activation, **PROMPTS)  # fmt: skip
    opened.save_pretrained(str(tmp_path / "model"))
    pairs = [("ab dead", text) for text in TEXTS]

    classified = _served(_written(tmp_path / "model", tmp_path / "out"), "Classifier").classify(pairs, batch_size=2)  # fmt: skip

    model = CrossEncoder(str(tmp_path / "model"), device="cpu")
    alone = isinstance(activation, nn.Identity)
    expected = model.predict(pairs, apply_softmax=alone)
    answers = [[labels[name] for name in "abc"] for labels in classified]
    np.testing.assert_allclose(answers, expected, atol=1e-4)
    assert '[("This is one sentence.", "There is a sentence.")' in (tmp_path / "out/README.md").read_text()  # fmt: skip


def test_vectors_leave_prompts_out_and_are_cut_as_was_saved(
    encoder: Callable[..., str], tmp_path: Path
) -> None:
    modules: list[Any] = [Transformer(encoder(BertModel)), Pooling(32, include_prompt=False), Normalize()]  # fmt: skip
    opened = SentenceTransformer(modules=modules, truncate_dim=8, prompts={"task": "mnop: "}, device="cpu")  # fmt: skip
    opened.save(str(tmp_path / "model"))

    served = _served(_written(tmp_path / "model", tmp_path / "out"), "SentenceEncoder")

    reference = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    options: list[dict[str, str]] = [{}, {"prompt_name": "task"}, {"prompt": "mnop: "}]
    for asked in options:
        expected = reference.encode(TEXTS, **asked)
        np.testing.assert_allclose(served.encode(TEXTS, **asked), expected, atol=1e-4)
    assert served.encode([]).shape == (0, 8)
    with pytest.raises(ValueError, match=r"prompt 'sort ': the model leaves prompts out of its vectors, and the graph knows only \['mnop: '\]"):  # fmt: skip
        served.encode(TEXTS, prompt="sort ")
    (tmp_path / "en.txt").write_text("".join(f"{'ab ' * number}\n" for number in range(1, 31)))
    with pytest.raises(ExportError, match="--prompt 'sort ': the model leaves prompts out of its vectors"):  # fmt: skip
        export(tmp_path / "model", tmp_path / "judged", texts={"en": [str(tmp_path / "en.txt")]}, prompts=["sort "])  # fmt: skip
    with pytest.raises(ValueError, match="expected a list of texts, got one text, 'abc'; put it into a list"):  # fmt: skip
        served.encode("abc")
    with pytest.raises(ValueError, match="batch_size must be 1 or more, got 0"):
        served.encode(TEXTS, batch_size=0)


@pytest.mark.slow
def test_a_sparse_vector_has_as_many_entries_as_were_saved(
    encoder: Callable[..., str], tmp_path: Path
) -> None:
    opened = SparseEncoder(encoder(BertForMaskedLM), device="cpu", max_active_dims=5, **PROMPTS)
    opened.save(str(tmp_path / "model"))

    served = _served(_written(tmp_path / "model", tmp_path / "out"), "SparseEncoder")

    model = SparseEncoder(str(tmp_path / "model"), device="cpu")
    options: list[dict[str, str]] = [{}, {"prompt_name": "other"}, {"prompt": "sort "}]
    for asked in options:
        expected = model.encode(TEXTS, convert_to_sparse_tensor=False, **asked)
        np.testing.assert_allclose(np.stack(served.encode(TEXTS, **asked)), expected, atol=1e-4)


def test_a_model_whose_texts_are_not_read_plainly_is_refused(
    encoder: Callable[..., str], tmp_path: Path
) -> None:
    plain = encoder(BertModel)
    settings: dict[str, dict[str, Any]] = {
        "processing_kwargs": {"processing_kwargs": {"text": {"max_length": 8}}},
        "query_length": {"query_length": 8},
        "a chat template": {"processor_kwargs": {"chat_template": "{{ messages[0].content }}"}},
    }
    for number, (said, options) in enumerate(settings.items()):
        folder = tmp_path / str(number)
        modules: list[Any] = [Transformer(plain, **options), Pooling(32)]
        SentenceTransformer(modules=modules, device="cpu").save(str(folder))
        with pytest.raises(ExportError, match=f"{number}: its texts are read with {said}, and the programs"):  # fmt: skip
            open_graph(str(folder))


def test_no_more_of_a_text_is_read_than_its_tokenizer_leaves(
    encoder: Callable[..., str], tokenizer: PreTrainedTokenizerFast
) -> None:
    """Pipelines of transformers cut there, too."""
    folder = Path(encoder(BertForSequenceClassification, **LABELS))
    assert open_graph(str(folder)).longest == 40
    settings = json.loads((folder / "tokenizer_config.json").read_text())

    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 20}))

    assert len(AutoTokenizer.from_pretrained(folder)(LONG, truncation=True)["input_ids"]) == 20
    assert open_graph(str(folder)).longest == 20
