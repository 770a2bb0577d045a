"""Students of every kind of teacher, whose folders the writers' own libraries wrote and whose users' classes open."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from transformers import BertConfig, PreTrainedTokenizerFast

from bistil.extract.config import Extraction
from bistil.extract.run import extract

SHORT = Extraction(
    steps=3, batch=4, length=32, learning_rate=1e-3, held_out_share=0.1, checkpoint_every=3, precision="float32"
)  # fmt: skip
SIZES = {
    "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 64,
    "initializer_range": 0.2, "pad_token_id": 0,
}  # fmt: skip
LABELS = {"id2label": {0: "sport", 1: "health", 2: "travel"}, "label2id": {"sport": 0, "health": 1, "travel": 2}}  # fmt: skip


@pytest.fixture(scope="module")
def save(
    tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Writes a BERT of a class by transformers, and around it a folder of sentence-transformers where one is asked for."""

    def save_as(kind: str) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        architecture, options, built = {
            "headless": ("BertModel", {}, {"add_pooling_layer": False}),
            "pooled": ("BertModel", {}, {}),
            "sentence": ("BertModel", {}, {"add_pooling_layer": False}),
            "dense": ("BertModel", {}, {"add_pooling_layer": False}),
            "reranker": ("BertForSequenceClassification", {"num_labels": 1}, {}),
            "sparse": ("BertForMaskedLM", {}, {}),
            "classifier": ("BertForSequenceClassification", LABELS, {}),
            "token_classifier": ("BertForTokenClassification", LABELS, {}),
            "question_answering": ("BertForQuestionAnswering", {}, {}),
        }[kind]
        torch.manual_seed(0)
        config = BertConfig(vocab_size=len(tokenizer), **SIZES, **options)
        getattr(transformers, architecture)(config, **built).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        around, prompts = tmp_path_factory.mktemp(kind), {"query": "bad "}
        if kind in ("sentence", "dense"):
            behind = [Dense(16, 8)] if kind == "dense" else []
            modules = [Transformer(str(folder)), Pooling(16), *behind, Normalize()]
            SentenceTransformer(modules=modules, prompts=prompts).save(str(around))
        elif kind == "reranker":
            CrossEncoder(str(folder)).save_pretrained(str(around))
        elif kind == "sparse":
            SparseEncoder(str(folder)).save(str(around))
        else:
            return folder
        return around

    return save_as


def _extract(
    teacher: Path, texts: dict[str, Path], out: Path, extraction: Extraction = SHORT
) -> Path:
    languages = {language: texts[language] for language in ("en", "sw")}
    return extract(teacher, languages, out, source="en", targets=["sw"], extraction=extraction)


OPENED_BY = {
    "headless": transformers.AutoModel,
    "pooled": transformers.AutoModel,
    "sentence": SentenceTransformer,
    "dense": SentenceTransformer,
    "reranker": CrossEncoder,
    "sparse": SparseEncoder,
    "classifier": transformers.AutoModelForSequenceClassification,
    "token_classifier": transformers.AutoModelForTokenClassification,
    "question_answering": transformers.AutoModelForQuestionAnswering,
}
WITH_ANSWERS = ("reranker", "classifier", "token_classifier", "question_answering")


@pytest.mark.parametrize("kind", OPENED_BY)
def test_a_student_is_of_its_teachers_kind_and_layout(
    kind: str, save: Callable[..., Path], texts: dict[str, Path], tmp_path: Path
) -> None:
    teacher = save(kind)

    out = _extract(teacher, texts, tmp_path / "student")

    run = json.loads((out / "run.json").read_text())
    expected = {"pooled": "headless", "dense": "sentence"}.get(kind, kind)
    assert run["plan"]["kind"] == expected
    assert ("answers_mse" in run["plan"]["terms"]) == (kind in WITH_ANSWERS)
    assert run["plan"]["pieces"][1] < run["plan"]["pieces"][0]
    # The same files lie at the same places, and the same class opens them.
    parts = {str(file.relative_to(teacher)) for file in teacher.rglob("*.json")}
    assert parts <= {str(file.relative_to(out)) for file in out.rglob("*.json")}
    opened = {name: OPENED_BY[kind].from_pretrained(str(folder)) if hasattr(OPENED_BY[kind], "from_pretrained") else OPENED_BY[kind](str(folder), device="cpu") for name, folder in (("teacher", teacher), ("student", out))}  # fmt: skip
    before, after = ({name: tensor.shape for name, tensor in model.state_dict().items()} for model in opened.values())  # fmt: skip
    layers = {name for name in before if ".layer.2." in name or ".layer.3." in name}
    assert before.keys() - layers == after.keys()
    line = texts["sw"].read_text().splitlines()[0]
    if kind in ("sentence", "dense"):
        vectors = [model.encode([line], prompt_name="query") for model in opened.values()]
        assert vectors[0].shape == vectors[1].shape == (1, 8 if kind == "dense" else 16)
    elif kind == "reranker":
        assert opened["student"].predict([(line, line)]).shape == (1,)
    elif kind in ("classifier", "token_classifier"):
        assert opened["student"].config.id2label == LABELS["id2label"]
    elif kind == "sparse":
        assert opened["student"].encode([line]).shape == (1, run["plan"]["pieces"][1])
