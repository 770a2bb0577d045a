"""`make`: from a model to a small one in some languages, with figures and a page."""

import importlib
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from huggingface_hub import metadata_load
from scipy.sparse import csr_array
from scipy.stats import kendalltau
from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from sentence_transformers.sparse_encoder.modules import SpladePooling
from transformers import BertConfig, PreTrainedTokenizerFast
from typer.testing import CliRunner

from bistil import Budget, Fitting, MakeError, Making, fit, make
from bistil.cli.app import app
from bistil.encoders.closeness import (
    compare_labels,
    compare_rankings,
    compare_scores,
    compare_sparse_vectors,
    compare_vectors,
    compare_word_labels,
)
from bistil.errors import BistilError
from bistil.make.answers import SparseVectors, label_logits
from bistil.make.closeness import measures_of
from bistil.make.config import QUICK
from bistil.make.page import page as report
from bistil.make.page import verdict
from bistil.make.plan import plan
from bistil.make.scores import languages_needed
from bistil.make.texts import require_one_form, split_text
from teacherzoo.progress import no_progress
from vocabmerge import read_layout, trim
from xeval import open_source

SIZES = {
    "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 64,
    "initializer_range": 0.2, "pad_token_id": 0,
}  # fmt: skip
TINY = Making(
    steps=2, batch=4, length=24, judged_lines=20, lines=300, coverage=1.0, multiple=8, precision="float32"
)  # fmt: skip
LABELS = {"id2label": {0: "sport", 1: "health", 2: "travel"}, "label2id": {"sport": 0, "health": 1, "travel": 2}}  # fmt: skip
CLASSES = {
    "sentence": ("BertModel", {}, SentenceTransformer),
    "sparse": ("BertForMaskedLM", {}, SparseEncoder),
    "headless": ("BertModel", {}, transformers.BertModel.from_pretrained),
    "masked_lm": ("BertForMaskedLM", {}, transformers.BertForMaskedLM.from_pretrained),
    "reranker": ("BertForSequenceClassification", {"num_labels": 1}, CrossEncoder),
    "scorer": ("BertForSequenceClassification", {"num_labels": 1, "problem_type": "regression"}, transformers.BertForSequenceClassification.from_pretrained),
    "classifier": ("BertForSequenceClassification", LABELS, transformers.BertForSequenceClassification.from_pretrained),
    "token_classifier": ("BertForTokenClassification", LABELS, transformers.BertForTokenClassification.from_pretrained),
}  # fmt: skip


@pytest.fixture(scope="module")
def save(
    tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """A folder of a kind, written by the library of its users."""

    def save_as(kind: str) -> Path:
        architecture, options, _ = CLASSES[kind]
        folder = tmp_path_factory.mktemp(kind)
        torch.manual_seed(0)
        config = BertConfig(vocab_size=len(tokenizer), **SIZES, **options)
        built = {"add_pooling_layer": False} if architecture == "BertModel" else {}
        getattr(transformers, architecture)(config, **built).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if kind == "sentence":
            around = tmp_path_factory.mktemp(kind)
            modules = [Transformer(str(folder)), Pooling(16), Normalize()]
            SentenceTransformer(modules=modules).save(str(around))
            shutil.rmtree(around / "2_Normalize")  # as on the Hub, which keeps no empty folders
            return around
        if kind == "sparse":
            around = tmp_path_factory.mktemp(kind)
            masked_lm = Transformer(str(folder), transformer_task="fill-mask")
            SparseEncoder(modules=[masked_lm, SpladePooling("max")], device="cpu").save(str(around))
            return around
        return folder

    return save_as


@pytest.fixture(scope="module")
def given(texts: dict[str, Path]) -> dict[str, list[str]]:
    """The files of two languages, as `make` and `fit` take them."""
    return {language: [str(texts[language])] for language in ("en", "sw")}


@pytest.fixture
def no_text_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for command in ("make", "fit"):
        monkeypatch.setattr(sys.modules[f"bistil.{command}.run"], "split_text", lambda *_, **__: pytest.fail("text was read"))  # fmt: skip


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, texts: dict[str, Path]) -> Path:
    """Test sets as the judge reads them: made-up translations."""
    root = tmp_path_factory.mktemp("data")
    (root / "tatoeba" / "sw").mkdir(parents=True)
    sides = [texts[language].read_text().splitlines()[:30] for language in ("sw", "en")]
    rows = ["\t".join(pair) for pair in zip(*sides, strict=True)]
    (root / "tatoeba" / "sw" / "test.tsv").write_text("\n".join(["sentence\ttranslation", *rows]) + "\n")  # fmt: skip
    return root


def test_a_reranker_is_judged_as_far_as_it_reads(
    save: Callable[[str], Path], given: dict[str, list[str]], tmp_path: Path
) -> None:
    """Its `max_length` stands in the tokenizer's settings, as sentence-transformers writes it."""
    opened = CrossEncoder(str(save("reranker")), device="cpu", max_length=12, activation_fn=torch.nn.Identity())  # fmt: skip
    opened.save_pretrained(str(tmp_path / "model"))
    lines = Path(given["en"][0]).read_text(encoding="utf-8").splitlines()[:20]
    rows = list(zip(lines, reversed(lines), strict=True))

    logits = label_logits(tmp_path / "model", rows)

    assert np.allclose(logits[:, 0], opened.predict(rows), atol=1e-6)


@pytest.mark.parametrize(
    "kind",
    ["sentence", *(pytest.param(kind, marks=pytest.mark.slow) for kind in CLASSES if kind not in ("sentence", "sparse"))],
)  # fmt: skip
def test_a_model_of_every_kind_becomes_a_trim_and_a_student_of_its_kind(
    kind: str,
    save: Callable[[str], Path],
    given: dict[str, list[str]],
    tmp_path: Path,
    files_with_places: Callable[[Path], list[str]],
) -> None:
    out = tmp_path / "out"
    record = make(save(kind), ["en", "sw"], out, texts=given, making=TINY)
    assert files_with_places(out) == []
    opened = CLASSES[kind][2]
    for name in ("student", "trimmed"):
        opened(str(out / name))
    sizes = [record["costs"][name]["parameters"] for name in ("whole", "trimmed", "student")]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3
    assert record["plan"]["student"] == sizes[2]
    assert {row["language"] for row in record["closeness"]} == {"en", "sw"}
    # The trim's answers are the model's but for lines that are segmented otherwise; the cut student's are not.
    assert all(row["mean"]["trimmed"] > 95 for row in record["closeness"])
    assert any(row["mean"]["student"] < row["mean"]["trimmed"] for row in record["closeness"])
    assert sorted(path.name for path in out.iterdir()) == ["make.json", "report.html", "student", "trimmed"]  # fmt: skip


def test_the_judge_scores_all_three_and_the_page_has_every_figure(
    save: Callable[[str], Path], given: dict[str, list[str]], pairs: Path, tmp_path: Path
) -> None:
    record = make(save("sentence"), ["en", "sw"], tmp_path / "out", texts=given, data=str(pairs), making=TINY)  # fmt: skip
    assert {(row["task"], row["language"]) for row in record["scores"]} == {("bitext", "sw")}
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    HTMLParser().feed(page)
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    for row in record["closeness"]:
        assert f"{row['mean']['student']:.2f}" in page
    for row in record["scores"]:
        assert f"{row['student']:.2f}" in page
        assert row["student_verdict"] in page
    assert (tmp_path / "out" / "scores" / "results.jsonl").is_file()
    assert "-en-sw`" in (tmp_path / "out" / "student" / "README.md").read_text()
    row = {**record["scores"][0], "student_verdict": "no difference shown"}
    assert verdict(record | {"scores": [row]})[-1].startswith("On no test set is the student shown")
    row["student_verdict"] = "whole better by 21.28 points"
    said = verdict(record | {"scores": [row]})[-1]
    assert f"worse than the model at bitext in sw ({row['metric']})" in said
    row["needs"] = "needs the language of its translations"
    said = verdict(record | {"scores": [row]})
    assert "whole better" not in " ".join(said)
    assert said[-1] == "Not counted, for their translations are in a language that was not kept: bitext in sw."  # fmt: skip
    unfair = report(record | {"scores": [row]}, None)
    assert row["needs"] in unfair
    assert row["student_verdict"] not in unfair


def test_translations_into_a_language_that_was_not_kept_are_named(
    teacher: Path, texts: dict[str, Path], pairs: Path, tmp_path: Path
) -> None:
    source = open_source(str(pairs))
    for languages in (["sw"], ["en", "sw"]):
        out = tmp_path / "-".join(languages)
        trim(teacher, {language: [texts[language]] for language in languages}, out)
        needed = languages_needed(teacher, out, source, ["sw"])
        assert bool(needed) == ("en" not in languages)
    said = languages_needed(teacher, tmp_path / "sw", source, ["sw"])[("sw", "tatoeba/sw")]
    assert "was not kept: the trim segments 0 % of them as the model does, of the sentences 100 %" in said  # fmt: skip


def test_a_sparse_encoder_is_judged_by_what_its_vectors_find(
    save: Callable[[str], Path], texts: dict[str, Path], given: dict[str, list[str]], tmp_path: Path
) -> None:
    lines = texts["sw"].read_text().splitlines()[:24]
    folder = tmp_path / "data" / "retrieval" / "sw"
    (folder / "qrels").mkdir(parents=True)
    for name, rows in (
        ("corpus", lines),
        ("queries", [line.partition(" ")[2] for line in lines[:12]]),
    ):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"_id": str(i), "text": text}) + "\n" for i, text in enumerate(rows)))  # fmt: skip
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(f"{i}\t{i}\t1\n" for i in range(12)))  # fmt: skip
    model, out = save("sparse"), tmp_path / "out"

    record = make(model, ["en", "sw"], out, texts=given, data=str(tmp_path / "data"), making=TINY)

    rows = {row["metric"]: row for row in record["scores"]}
    assert {row["task"] for row in rows.values()} == {"retrieval"}
    pieces = {}
    for name, place in (
        ("whole", model),
        ("trimmed", out / "trimmed"),
        ("student", out / "student"),
    ):
        encoder = SparseEncoder(str(place), device="cpu")
        queries = encoder.encode_query([line.partition(" ")[2] for line in lines[:12]])
        order = encoder.similarity(queries, encoder.encode_document(lines)).argsort(descending=True).tolist()  # fmt: skip
        ranks = [ranked.index(number) + 1 for number, ranked in enumerate(order)]
        gains = [1 / np.log2(rank + 1) if rank <= 10 else 0 for rank in ranks]
        assert rows["ndcg_at_10"][name] == pytest.approx(100 * np.mean(gains), abs=1e-4)
        pieces[name] = queries.shape[1]
    assert pieces["student"] == pieces["trimmed"] < pieces["whole"]
    head = 2 * TINY.length * (pieces["whole"] - pieces["trimmed"])
    assert record["costs"]["whole"]["flops"] - record["costs"]["trimmed"]["flops"] == 16 * head
    assert record["plan"]["student"] == record["costs"]["student"]["parameters"]
    # The trim loses the weights of the pieces that went, which a sparse encoder that was never trained has for every text.
    assert all(row["mean"]["student"] < row["mean"]["trimmed"] < 100 for row in record["closeness"])
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "A sparse encoder, made small" in page
    assert "from sentence_transformers import SparseEncoder" in page


def test_weights_of_pieces_are_compared_under_their_names() -> None:
    expected = SparseVectors(rows=csr_array(np.array([[0, 3, 0, 4.0], [1, 0, 2, 0], [0, 5, 1, 0]])), pieces=("a", "b", "c", "d"))  # fmt: skip
    given = SparseVectors(rows=csr_array(np.array([[4, 3.0, 0], [0, 0, 2], [0, 5, 1]])), pieces=("d", "b", "c"))  # fmt: skip
    near = compare_sparse_vectors(expected.rows, given.over(expected.pieces), neighbours=1)
    assert near["cosine"].tolist() == [pytest.approx(x) for x in (1, 2 / 5**0.5, 1)]
    assert near["same 1 nearest"].tolist() == [1, 1, 1]
    assert given.over(("c", "x")).toarray().tolist() == [[0, 0], [2, 0], [1, 0]]


def test_a_sparse_encoder_of_other_modules_is_left_to_the_trim(
    save: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(save("sparse"), tmp_path / "model")
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"})  # fmt: skip
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(MakeError, match=r"of Transformer, SpladePooling, Normalize; a student .* Trim this one with"):  # fmt: skip
        make(folder, ["en"], tmp_path / "out", making=TINY)


def test_of_a_model_on_the_hub_in_one_language_both_cards_name_it(
    save: Callable[[str], Path],
    texts: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    commit, repository = "5" * 40, tmp_path / "cache" / "models--someone--encoder"
    shutil.copytree(save("headless"), repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)

    given = {"sw": [str(texts["sw"])]}
    record = make("someone/encoder", ["sw"], tmp_path / "out", texts=given, making=TINY)

    assert record["languages"] == ["sw"]
    assert record["trim"]["base"] == {"hub": "someone/encoder", "commit": commit}
    assert {row["language"] for row in record["closeness"]} == {"sw"}
    for name in ("trimmed", "student"):
        transformers.BertModel.from_pretrained(tmp_path / "out" / name)
        facts = metadata_load(tmp_path / "out" / name / "README.md")
        assert facts["base_model"] == "someone/encoder"
        assert facts["base_model_relation"] == "finetune"
        assert facts["language"] in ("sw", ["sw"])
    page = (tmp_path / "out" / "student" / "README.md").read_text()
    assert "A small encoder for sw, extracted from `encoder-sw`" in page
    assert (
        "itself made of [someone/encoder](https://huggingface.co/someone/encoder), licence" in page
    )
    assert str(tmp_path) not in page


def test_an_interrupted_run_goes_on_and_ends_the_same(
    save: Callable[[str], Path],
    given: dict[str, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = save("sentence")
    make(model, ["en", "sw"], tmp_path / "once", texts=given, making=TINY)

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(sys.modules["bistil.make.run"], "closeness", stop)
        with pytest.raises(KeyboardInterrupt):
            make(model, ["en", "sw"], tmp_path / "twice", texts=given, making=TINY)
    assert not (tmp_path / "twice").exists()
    monkeypatch.setattr(sys.modules["bistil.extract.run"], "extract", stop)  # the student is there
    make(model, ["en", "sw"], tmp_path / "twice", texts=given, making=TINY)
    for name in ("student", "trimmed"):
        weights = [(tmp_path / run / name / "model.safetensors").read_bytes() for run in ("once", "twice")]  # fmt: skip
        assert weights[0] == weights[1]


def test_a_run_killed_between_its_last_renames_goes_on_with_its_student(
    save: Callable[[str], Path],
    given: dict[str, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, out, move = save("headless"), tmp_path / "out", shutil.move
    moved: list[str] = []

    def killed(source: Path, place: Path) -> None:
        if moved:
            raise KeyboardInterrupt
        moved.append(move(source, place))

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "move", killed)
        with pytest.raises(KeyboardInterrupt):
            make(model, ["en", "sw"], out, texts=given, making=TINY)
    monkeypatch.setattr(sys.modules["bistil.extract.run"], "extract", None)  # the student is there
    make(model, ["en", "sw"], out, texts=given, making=TINY)
    assert sorted(path.name for path in out.iterdir()) == ["make.json", "report.html", "student", "trimmed"]  # fmt: skip


def test_a_size_that_was_too_small_is_asked_for_again_and_a_half_made_student_stays_that_of_its_call(
    save: Callable[[str], Path],
    given: dict[str, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, out = save("headless"), tmp_path / "out"
    with pytest.raises(MakeError, match="size 100: with one layer"):
        make(model, ["en", "sw"], out, texts=given, making=replace(TINY, size=100, layers=None))
    assert list(tmp_path.iterdir()) == []

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(sys.modules["bistil.make.run"], "closeness", stop)
        with pytest.raises(KeyboardInterrupt):
            make(model, ["en", "sw"], out, texts=given, making=TINY)
    with pytest.raises(MakeError, match="left from a run with other arguments"):
        make(model, ["en", "sw"], out, texts=given, making=replace(TINY, seed=1))
    make(model, ["en", "sw"], out, texts=given, making=TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("lines", "refusal"),
    [
        (["one", "two"], "2 different lines, and 40 are the least"),
        ([], "expected a coverage that can be met, got 1"),
    ],
)
def test_text_that_is_too_little_or_unknown_to_the_model_leaves_nothing(
    save: Callable[[str], Path],
    given: dict[str, list[str]],
    tmp_path: Path,
    lines: list[str],
    refusal: str,
) -> None:
    file = tmp_path / "sw.txt"
    file.write_text("\n".join(lines or (f"\U0001f40d{chr(0x1F600 + n)}" for n in range(60))))

    with pytest.raises(ValueError, match=refusal):
        make(save("headless"), ["en", "sw"], tmp_path / "out", texts={**given, "sw": [str(file)]}, making=TINY)  # fmt: skip

    assert [path.name for path in tmp_path.iterdir()] == ["sw.txt"]


def test_lines_for_the_figures_are_in_no_training_text(tmp_path: Path) -> None:
    file = tmp_path / "en.txt"
    file.write_text("".join(f"line {n % 150}\twith a tabulator\n" for n in range(200)))
    split = split_text("en", [str(file)], tmp_path / "work", lines=100, judged=5, watch=no_progress)
    judged, training = split.judged_lines(), split.training.read_text().splitlines()
    assert len(judged) == 5
    assert not set(judged) & set(training)
    assert len(training) == len(set(training))
    assert not any("\t" in line for line in training)


def test_a_line_is_one_whatever_other_signs_end_lines_elsewhere(tmp_path: Path) -> None:
    lines = [f"before {n}{sign}behind" for n in range(10) for sign in "\r\v\f\x1c\x85\u2028"]
    file = tmp_path / "en.txt"
    file.write_bytes("\r\n".join(lines).encode())
    split = split_text("en", [str(file)], tmp_path / "work", lines=100, judged=6, watch=no_progress)
    assert len(split.judged_lines()) == 6
    assert {*split.judged_lines(), *split.training.read_bytes().decode().split("\n")} == {*lines, ""}  # fmt: skip


@pytest.mark.parametrize("command", ["make", "fit"])
@pytest.mark.usefixtures("no_text_is_read")
def test_rows_that_the_model_cannot_read_or_pad_are_refused_before_text_is_read(
    command: str,
    save: Callable[[str], Path],
    given: dict[str, list[str]],
    tmp_path: Path,
) -> None:
    folder = save("classifier")

    def run(length: int) -> None:
        if command == "make":
            make(folder, list(given), tmp_path / "out", texts=given, making=replace(TINY, length=length))  # fmt: skip
        else:
            fit(folder, given, tmp_path / "out", budget=Budget(size=5_000), fitting=Fitting(length=length))  # fmt: skip

    with pytest.raises(MakeError, match="length 65 is beyond the 64 tokens"):
        run(65)
    backend = PreTrainedTokenizerFast.from_pretrained(folder).backend_tokenizer
    backend.no_padding()  # a tokenizer that padded before it was saved says with which token
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]").save_pretrained(folder)  # fmt: skip
    with pytest.raises(MakeError, match="names no padding token"):
        run(24)
    assert not list(tmp_path.iterdir())


def test_lines_of_two_texts_stay_so_for_a_model_that_reads_pairs(tmp_path: Path) -> None:
    file = tmp_path / "en.txt"
    file.write_text("".join(f"query {n}\tpassage {n}\n" for n in range(100)))

    def split() -> set[str]:
        made = split_text("en", [str(file)], tmp_path / "work", lines=100, judged=5, columns=True, watch=no_progress)  # fmt: skip
        return {*made.judged_lines(), *made.training.read_text().splitlines()}

    assert split() == set(file.read_text().splitlines())
    file.write_text(file.read_text() + "one text alone\n")
    with pytest.raises(MakeError, match=r"begins with a line `first TAB second`, and 'one text alone' is none"):  # fmt: skip
        split()
    file.write_text("".join(f"line {n}\n" for n in range(100)) + "a stray\ttabulator\n")
    assert "a stray tabulator" in split()


@pytest.mark.parametrize("command", ["make", "fit"])
@pytest.mark.parametrize("paired", ["en", "sw"])
def test_pairs_in_one_language_alone_are_refused_before_text_is_read(
    command: str,
    paired: str,
    save: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = {}
    for language in ("en", "sw"):
        between = "\t" if language == paired else " "
        file = tmp_path / f"{language}.txt"
        file.write_text("".join(f"a line{between}number {n}\n" for n in range(100)))
        given[language] = [str(file)]
    single = "sw" if paired == "en" else "en"
    run = importlib.import_module(f"bistil.{command}.run")
    monkeypatch.setattr(run, "trim", Mock(side_effect=AssertionError("trimmed")))

    def called(kind: str) -> None:
        if command == "make":
            make(save(kind), ["en", "sw"], tmp_path / "out", texts=given, making=TINY)
        else:
            fit(save(kind), given, tmp_path / "out", budget=Budget(size=10**6), fitting=Fitting(lines=300, judged_lines=20))  # fmt: skip

    with pytest.raises(MakeError, match=f"{single}: its text has one column and that of {paired} two"):  # fmt: skip
        called("classifier")
    assert not list(tmp_path.glob(".out*"))  # which would be in the way of the mended text
    # Of a reranker's lines pairs are made, and it goes on to the trim.
    with pytest.raises(AssertionError, match="trimmed"):
        called("reranker")


def test_pairs_beside_a_data_set_of_single_texts_are_refused(
    save: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "en.txt").write_text("first\tsecond\n")
    (tmp_path / "singles.txt").write_text("one\n")
    asked: list[str] = []

    def hub_lines(name: str) -> Iterator[str]:
        asked.append(name)
        yield "first\tsecond" if name.endswith("pairs") else "one"

    monkeypatch.setattr("vocabmerge.language_texts.hub_lines", hub_lines)
    layout = read_layout(save("classifier"))

    require_one_form({"en": [str(tmp_path / "singles.txt")], "sw": ["hub:some/singles"]}, layout)
    assert asked == []
    require_one_form({"en": [str(tmp_path / "en.txt")], "sw": ["hub:some/pairs"]}, layout)
    with pytest.raises(MakeError, match="sw: its text has one column and that of en two"):
        require_one_form({"en": [str(tmp_path / "en.txt")], "sw": ["hub:some/singles"]}, layout)


@pytest.mark.parametrize("kind", ["classifier", "reranker"])
def test_what_is_asked_of_lines_of_two_texts_is_what_transformers_says_of_the_pairs(
    kind: str, save: Callable[[str], Path]
) -> None:
    folder = save(kind)
    lines = [f"{'ab cd ef gh'[: 3 * n + 2]}\t{'mn op qr st'[n:]}" for n in range(4)]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    read = transformers.AutoTokenizer.from_pretrained(folder)

    def logits(first: str, second: str) -> Any:
        with torch.no_grad():
            return model(**read(first, second, return_tensors="pt")).logits[0].numpy()

    answers = measures_of(read_layout(folder)).ask(folder, lines, None)

    firsts, seconds = zip(*(line.split("\t") for line in lines), strict=True)
    if kind == "classifier":
        expected = [logits(*pair) for pair in zip(firsts, seconds, strict=True)]
    else:  # its own passage, and those of the lines behind it
        expected = [[logits(first, seconds[(n + k) % 4])[0] for k in range(4)] for n, first in enumerate(firsts)]  # fmt: skip
    assert np.allclose(answers, expected, atol=1e-5)


def test_a_scorer_of_texts_is_asked_each_text_alone(save: Callable[[str], Path]) -> None:
    folder = save("scorer")
    lines = ["ab cd ef", "mn", "op qr st gh", "ab"]
    scored = transformers.pipeline("text-classification", model=str(folder), device="cpu")(lines)

    measures = measures_of(read_layout(folder))
    answers = measures.ask(folder, lines, None)

    assert np.allclose(answers[:, 0], [one["score"] for one in scored], atol=1e-5)
    assert set(measures.compare(answers, answers)) == {"pairs in the same order", "nearness of scores"}  # fmt: skip
    planned = plan(folder, folder, Making(layers=2))
    assert planned.lines()[0].startswith("a scorer of texts of ")
    assert plan(save("reranker"), folder, Making(layers=2)).lines()[0].startswith("Taken for a reranker")  # fmt: skip


@pytest.mark.parametrize("several", [False, True])
def test_whether_several_labels_may_hold_is_read_from_the_configuration(
    several: bool, save: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(save("classifier"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    kind = "multi_label_classification" if several else "single_label_classification"
    (folder / "config.json").write_text(json.dumps(config | {"problem_type": kind}))

    logits = np.array([[3, 1, -2]], "f4"), np.array([[3, -1, -2]], "f4")
    compared = measures_of(read_layout(folder)).compare(*logits)

    assert compared["same label"].tolist() == [0 if several else 1]


@pytest.mark.parametrize(
    ("changes", "translations", "said"),
    [
        ({"prompts": ("query: ",)}, None, "prompts stand before the lines of a sentence encoder, and this is a teacher of kind 'classifier'"),
        ({"precision": "fp16"}, None, "precision must be one of auto, float32, bfloat16, got 'fp16'"),
        ({}, "none.tsv", "sw: expected a text file"),
        ({"layers": 5}, None, "5 layers are asked for, and the model has 4"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("no_text_is_read")
def test_what_the_extraction_would_refuse_is_refused_before_text_is_read(
    changes: dict[str, Any],
    translations: str | None,
    said: str,
    save: Callable[[str], Path],
    given: dict[str, list[str]],
    tmp_path: Path,
) -> None:
    parallel = {"sw": tmp_path / translations} if translations else None
    with pytest.raises(BistilError, match=said):
        make(
            save("sentence" if translations else "classifier"), ["en", "sw"], tmp_path / "out", texts=given, parallel=parallel,
            making=replace(TINY, **changes),
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_a_size_decides_the_depth(save: Callable[[str], Path]) -> None:
    model = save("headless")
    sizes = {layers: plan(model, model, Making(layers=layers)).student for layers in (1, 2, 3, 4)}
    assert plan(model, model, Making(size=sizes[3])).layers == (0, 1, 3)
    assert len(plan(model, model, Making(size=sizes[3] - 1)).layers) == 2
    sentences = save("sentence")
    assert plan(sentences, sentences, Making(layers=3)).layers == (0, 2, 3)
    with pytest.raises(MakeError, match=f"has {sizes[1]:,} parameters already"):
        plan(model, model, Making(size=sizes[1] - 1))
    with pytest.raises(MakeError, match="5 layers are asked for, and the model has 4"):
        plan(model, model, Making(layers=5))


def test_where_nothing_can_be_learnt_the_plan_says_so(save: Callable[[str], Path]) -> None:
    def said(kind: str, layers: int) -> bool:
        model = save(kind)
        planned = plan(model, model, Making(layers=layers))
        assert planned.idle is planned.lines()[-1].startswith("nothing to learn: the layers are")
        return planned.idle

    # A classifier's answers are compared, too.
    cases = {("masked_lm", 4): True, ("masked_lm", 2): False, ("headless", 4): True, ("classifier", 4): False}  # fmt: skip
    assert {case: said(*case) for case in cases} == cases


def test_a_dense_is_part_of_the_size(sentence_teacher: Path) -> None:
    whole = SentenceTransformer(str(sentence_teacher), device="cpu")
    expected = sum(parameter.numel() for parameter in whole.parameters())
    planned = plan(sentence_teacher, sentence_teacher, Making(layers=4))
    assert planned.whole == planned.trimmed == planned.student == expected
    assert len(plan(sentence_teacher, sentence_teacher, Making(size=expected)).layers) == 4
    assert len(plan(sentence_teacher, sentence_teacher, Making(size=expected - 1)).layers) == 3


def test_closeness_of_vectors_is_that_of_an_exhaustive_search() -> None:
    draws = np.random.default_rng(0)
    a = draws.normal(size=(13, 5)).astype(np.float32)
    b = (a + draws.normal(size=a.shape) / 3).astype(np.float32)
    given = compare_vectors(a, b, neighbours=4)

    def cosine(x: Any, y: Any) -> float:
        return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))

    def nearest(vectors: Any, number: int) -> set[int]:
        others = [n for n in range(len(vectors)) if n != number]
        return set(sorted(others, key=lambda n: -cosine(vectors[number], vectors[n]))[:4])

    assert np.allclose(given["cosine"], [cosine(x, y) for x, y in zip(a, b, strict=True)], atol=1e-5)  # fmt: skip
    same = [len(nearest(a, n) & nearest(b, n)) / 4 for n in range(len(a))]
    assert given["same 4 nearest"].tolist() == same
    assert 0 < np.mean(same) < 1


def test_closeness_of_labels_rankings_and_words() -> None:
    a, b = np.array([[0.0, 9, 0], [5, 0, 0]], "f4"), np.array([[0.0, 9, 0], [0, 0, 9]], "f4")
    labels = compare_labels(a, b)
    assert labels["same label"].tolist() == [1, 0]
    softmax = torch.tensor(a).softmax(-1), torch.tensor(b).softmax(-1)
    assert np.allclose(labels["shared probability"], torch.minimum(*softmax).sum(-1).numpy(), atol=1e-6)  # fmt: skip
    rankings = compare_rankings(np.array([[3.0, 2, 1]], "f4"), np.array([[3.0, 1, 2]], "f4"))
    assert rankings["same first candidate"].tolist() == [1]
    assert rankings["pairs in the same order"].tolist() == [pytest.approx(2 / 3)]
    coins = compare_labels(a - 1, b - 1, several=True)
    assert coins["same label"].tolist() == [1, 0]
    sigmoid = torch.tensor(a - 1).sigmoid(), torch.tensor(b - 1).sigmoid()
    assert np.allclose(coins["shared probability"], 1 - (sigmoid[0] - sigmoid[1]).abs().mean(-1).numpy(), atol=1e-6)  # fmt: skip
    draws = np.random.default_rng(0)
    scores = draws.normal(size=(2, 9, 1)).astype("f4")
    compared = compare_scores(*scores)
    tau = kendalltau(*scores[:, :, 0]).statistic
    assert compared["pairs in the same order"].mean() == pytest.approx((tau + 1) / 2)
    assert np.allclose(compared["nearness of scores"], np.clip(1 - np.abs(scores[0] - scores[1]) / scores[0].std(), 0, 1)[:, 0])  # fmt: skip
    alike = np.zeros((3, 1), "f4")
    assert compare_scores(alike, alike)["nearness of scores"].tolist() == [1, 1, 1]
    words = compare_word_labels([np.array([1, 2, 0])], [np.array([1, 0, 0])])
    assert words["same label of a word"].tolist() == [pytest.approx(2 / 3)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--languages", "en,en"], "--languages must name one language or more, each once, such as en,sw; got 'en,en'"),
        (["--languages", "en,sw", "--text", "de=x.txt"], "--text de: the languages are en, sw"),
        (["--languages", "en,sw", "--text", "en"], "--text must be LANGUAGE=FILE, a folder or hub:NAME, got 'en'"),
        (["--languages", "en,sw", "--size", "3Q"], "--size must be a number of parameters such as 30M, got '3Q'"),
        (["--languages", "en,sw", "--size", "3M", "--layers", "2"], "Of --size and --layers one decides the depth"),
        (["--languages", "en,sw", "--steps", "0"], "steps must be at least 1, got 0"),
        (["--languages", "en,sw", "--lines", "600"], "500 lines of 600 are kept for the figures"),
        (["--languages", "en,sw", "--coverage", "99"], "coverage must be a share above 0 and at most 1, got 99.0"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_a_sentence(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    result = CliRunner().invoke(app, ["make", "nowhere", "-o", str(tmp_path / "out"), *arguments])
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
    assert not list(tmp_path.iterdir())


def test_too_little_text_and_data_without_a_test_set_are_refused(
    save: Callable[[str], Path], pairs: Path, tmp_path: Path
) -> None:
    (tmp_path / "en.txt").write_text("one line\n")
    given = {language: [str(tmp_path / "en.txt")] for language in ("en", "ha")}
    with pytest.raises(MakeError, match="has 1 different line, and 40 are the least"):
        make(save("headless"), ["en", "ha"], tmp_path / "out", texts=given, making=TINY)  # fmt: skip
    with pytest.raises(MakeError, match="there is no test set of the tasks bitext"):
        make(save("headless"), ["en", "ha"], tmp_path / "out", texts=given, data=str(pairs), making=TINY)  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["en.txt"]


@pytest.mark.parametrize("more", [[], ["--batch=4", "--steps=2", "--lines=1000"]])
def test_a_quick_run_takes_what_is_typed_beside_it(
    save: Callable[[str], Path], more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def make(*_: Any, making: Making, **__: Any) -> None:
        asked.update(making.to_json())
        raise MakeError("That is all.")

    monkeypatch.setattr(importlib.import_module("bistil.make.run"), "make", make)
    (tmp_path / "en.txt").write_text("a line\n")
    arguments = ["make", str(save("sentence")), "--languages=en", f"--text=en={tmp_path / 'en.txt'}", "--quick"]  # fmt: skip
    result = CliRunner().invoke(app, [*arguments, f"-o{tmp_path / 'out'}", *more])
    assert result.exit_code == 2, result.output
    typed = {"batch": 4, "steps": 2, "lines": 1000} if more else {}
    assert {name: asked[name] for name in QUICK} == QUICK | typed


def test_the_command_prints_the_verdict_and_json(
    save: Callable[[str], Path], texts: dict[str, Path], tmp_path: Path
) -> None:
    arguments = ["make", str(save("sentence")), "--languages", "en,sw", "-o", str(tmp_path / "out"), "--json", "--quiet"]  # fmt: skip
    arguments += [f"--text={language}={texts[language]}" for language in ("en", "sw")]
    arguments += ["--steps=2", "--batch=4", "--length=24", "--layers=1", "--coverage=0.9", "--lines=1000"]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["plan"]["layers"] == [3]
