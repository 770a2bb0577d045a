"""The questions about trims of encoders, on a made model of one layer and made sentences."""

import argparse
import json
import lzma
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).parent.parent))

import vocabmerge_curve
import vocabmerge_folder
import vocabmerge_languages
import vocabmerge_tuned
from pictures import draw
from record import Recorder
from trimmed_encoders import (  # fmt: skip
    bitext_accuracy,
    segmented,
    segmented_alike,
    texts_to_choose_by,
)
from tuned_encoders import Examples, Reranking, Topics, entities, parts_of_speech, topics

LANGUAGES = ("en", "sw", "de", "tr", "hi", "ar", "fi")
Question = Callable[..., list[dict[str, Any]]]


def _sentences(language: str, count: int) -> list[str]:
    """Of words that languages share and words of its own."""
    chance = random.Random(language)
    syllables = ["ba", "ko", "ri", "mu", "te", language]
    words = ["".join(chance.choices(syllables, k=chance.randint(1, 4))) for _ in range(60)]
    return [" ".join(chance.choices(words, k=chance.randint(3, 8))) for _ in range(count)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the layout that the questions read."""
    folder = tmp_path_factory.mktemp("data")

    def write(name: str, text: str) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(lzma.compress(text.encode()))

    for language in LANGUAGES:
        sentences = _sentences(language, 120)
        write(f"corpora/{language}.txt.xz", "\n".join(sentences[:90]))
        pairs = zip(sentences[90:], _sentences("en" + language, 30), strict=True)
        write(f"tatoeba/{language}.tsv.xz", "\n".join(map("\t".join, pairs)))
        rows = [f"{i}\t{'ab'[i % 2]}\t{text}" for i, text in enumerate(sentences[90:])]
        tagged = [f"{sentence.replace(' ', ' O|')} B-PERSON".replace("|", "\n") for sentence in sentences[90:]]  # fmt: skip
        for split in ("train", "test"):
            write(f"sib200/{language}/{split}.tsv.xz", "\n".join(["index_id\tcategory\ttext", *rows]))  # fmt: skip
            write(f"ner/{language}/{split}.txt.xz", "\n\n".join(tagged))
        articles = [
            {"paragraphs": [{"context": text, "qas": [{"question": text[:9]}]} for text in part]}
            for part in (sentences[:15], sentences[15:30])
        ]
        write(f"xquad/{language}.json.xz", json.dumps({"data": articles}))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence encoder that sentence-transformers wrote, with a Unigram vocabulary."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    folder = tmp_path_factory.mktemp("model")
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=specials, unk_token="<unk>", show_progress=False
    )
    text = [line for language in LANGUAGES for line in _sentences(language, 120)]
    tokenizer.train_from_iterator([*text, "query: passage: "], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )  # fmt: skip
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", cls_token="<s>", pad_token="<pad>", eos_token="</s>",
        sep_token="</s>", unk_token="<unk>", model_max_length=64,
    )  # fmt: skip
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=64, pad_token_id=1,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(folder / "body")
    wrapped.save_pretrained(folder / "body")
    body = Transformer(str(folder / "body"), max_seq_length=64)
    SentenceTransformer(modules=[body, Pooling(16), Normalize()]).save(str(folder / "encoder"))
    return folder / "encoder"


@pytest.fixture
def ask(model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Question:
    """Runs a question at its quick size; returns its records."""

    def run(question: Any, *arguments: str) -> list[dict[str, Any]]:
        out = tmp_path / "records.jsonl"
        given = ["--quick", "--model", str(model), "--data", str(data), "--out", str(out)]
        monkeypatch.setattr(sys, "argv", ["question", *given, *arguments])
        question.main()
        return [json.loads(line) for line in out.read_text().splitlines()]

    return run


def test_a_trim_to_languages_is_measured(ask: Question, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabmerge_languages, "TOP", 150)

    records = ask(vocabmerge_languages)

    equal = [r for r in records if r["what"].startswith("texts with bit-equal vectors")]
    assert [r["shape"]["languages"] for r in equal] == ["en sw", "en de tr hi sw ar"]
    assert all(r["median"] == 100.0 for r in equal)
    accuracies = {r["what"] for r in records if r["what"].startswith("bitext accuracy")}
    assert len(accuracies) == 5
    pieces = [r for r in records if r["what"] == "pieces" and r["contender"] == "trimmed"]
    assert [r["shape"].get("top") for r in pieces] == [None, None, 150]
    assert all(r["ratio"]["median"] < 1 for r in pieces)


def test_the_curve_is_recorded_point_by_point_and_drawn(
    ask: Question, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(vocabmerge_curve, "SIZES", (5, 120, 200))

    records = ask(vocabmerge_curve)

    scores = [r for r in records if r["what"].startswith("bitext accuracy")]
    assert {r["shape"]["rule"] for r in scores} == {"budget"}
    points = {r["shape"]["pieces"] for r in scores}
    assert points >= {120, 200}, "and the whole model"
    assert 5 not in points, "no trim can be so small"
    assert len(points) == 3
    (picture,) = draw(records, tmp_path)
    assert picture.name == "vocabmerge_curve.png"


def test_tuned_models_answer_before_and_after(ask: Question) -> None:
    records = ask(vocabmerge_tuned)

    equal = [r for r in records if "bit-equal" in r["what"]]
    assert [r["what"].partition(",")[0] for r in equal] == ["topics", "entities", "reranking"]
    alike = [int(r["contender"].split()[-1]) for r in equal]
    assert min(alike) > 0
    assert all(r["median"] == 100.0 for r in equal)


def test_what_is_neither_imports_nor_the_tokenizers_library_is_ours(
    tmp_path: Path, model: Path
) -> None:
    out = tmp_path / "records.jsonl"
    said = {
        vocabmerge_folder.TRIM: {"seconds": 20.0, "peak": 3 * 2**20, "modules": []},
        vocabmerge_folder.IMPORTS: {"seconds": 6.0, "peak": 2**20},
        vocabmerge_folder.TOKENIZER: {"spent": 11.0},
    }
    task = {"model": str(model), "texts": {"en": []}, "out": "", "lines": 9, "coverage": 0.9}
    recorder = Recorder("question", argparse.Namespace(out=out, quick=True))

    vocabmerge_folder.record_folder(recorder, task, lambda program, _: said[program])

    records = {
        (r["what"], r["contender"]): r for r in map(json.loads, out.read_text().splitlines())
    }
    spent = "processor time of trimming a folder"
    assert records[spent, "ours"]["median"] == 3.0
    assert records[spent, "ours"]["met"]
    weights = (model / "model.safetensors").stat().st_size
    beyond = records["peak memory beyond imports, of the bytes of the weights", "trim"]
    assert beyond["median"] == 2 * 2**20 / weights


def test_the_three_processes_trim_import_and_segment(
    tmp_path: Path, model: Path, data: Path
) -> None:
    """A vocabulary without weights, for which nobody imports torch."""
    source = tmp_path / "tokenizer"
    source.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (source / name).write_bytes((model / name).read_bytes())
    text = str(data / "corpora" / "en.txt.xz")
    task = {"model": str(source), "texts": {"en": [text]}, "out": str(tmp_path / "out"), "lines": 50, "coverage": 0.9}  # fmt: skip

    whole = vocabmerge_folder.in_process(vocabmerge_folder.TRIM, task)
    imports = vocabmerge_folder.in_process(vocabmerge_folder.IMPORTS, {"modules": whole["modules"]})
    tokenizer = vocabmerge_folder.in_process(vocabmerge_folder.TOKENIZER, task)

    assert (tmp_path / "out" / "tokenizer.json").exists()
    assert "vocabmerge.trim.folder" in whole["modules"]
    assert 0 < tokenizer["spent"] < tokenizer["seconds"]
    assert imports["peak"] > 0


def test_no_test_sentence_chooses_pieces(tmp_path: Path) -> None:
    (tmp_path / "corpora").mkdir()
    lines = [f"line {number}" for number in range(10)]
    (tmp_path / "corpora" / "en.txt.xz").write_bytes(lzma.compress("\n".join(lines).encode()))

    files = texts_to_choose_by(tmp_path, ["en"], 4, tmp_path / "texts", ["Line  0", "line 9"])

    assert files["en"][0].read_text().split("\n") == ["line 1", "line 3", "line 6", "line 8"]


def test_a_piece_that_became_unknown_is_no_likeness(model: Path, tmp_path: Path) -> None:
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] = [
        entry for entry in tokenizer["model"]["vocab"] if "q" not in entry[0]
    ]
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    texts = ["ba ko", "query ba"]

    alike = segmented_alike(segmented(model, texts), segmented(tmp_path, texts))

    assert alike.tolist() == [True, False]


def test_bitext_accuracy_is_of_the_nearest_both_ways() -> None:
    left = np.array([[1, 0], [0, 1], [1, 1]], dtype=np.float32)
    right = np.array([[2, 0.1], [0.1, 1], [0, 3]], dtype=np.float32)

    assert bitext_accuracy(left, right) == pytest.approx((100 / 3, 200 / 3))


def test_topics_entities_and_rankings_are_scored(data: Path) -> None:
    topic = topics(data, ["en"], length=64, limit=4)
    assert topic.score([label for _, label in topic.examples.test]) == 100.0
    assert topic.score(["a"] * 4) == 50.0

    tagger = entities(data, ["en"], length=64, limit=4)
    gold = [tags for _, tags in tagger.examples.test]
    assert {tag for tags in gold for tag in tags} == {"O", "B-PER"}
    assert tagger.score(gold) == 100.0
    assert tagger.score([["O"] * len(tags) for tags in gold]) == 0.0

    ranking = Reranking(examples=Examples(train=[], test=[]), length=64, candidates=3)
    assert ranking.score([3.0, 2.0, 1.0, 2.0, 3.0, 2.0]) == pytest.approx(100 * (1 + 1 / 3) / 2)
    assert isinstance(topic, Topics)


def test_words_and_tags_of_a_treebank_leave_out_what_spans_words(tmp_path: Path) -> None:
    file = tmp_path / "test.conllu.xz"
    rows = [
        "# text = zum",
        "1-2\tzum\t_\t_",
        "1\tzu\t_\tADP",
        "2\tdem\t_\tDET",
        "",
        "1\tja\t_\tINTJ",
    ]
    file.write_bytes(lzma.compress("\n".join(rows).encode()))

    assert parts_of_speech(file) == [(["zu", "dem"], ["ADP", "DET"]), (["ja"], ["INTJ"])]
