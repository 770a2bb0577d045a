"""Sentence encoders and rerankers, judged by what their own folders say."""

import json
import lzma
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from xeval.cli.app import app
from xeval.cost.measure import cost
from xeval.data.source import LocalFolder
from xeval.encoder import model_digest, model_name
from xeval.errors import XevalError
from xeval.evaluate.score import score
from xeval.protocol import Protocol
from xeval.report import markdown, page
from xeval.sentences.kinds import kind_of
from xeval.sentences.rankings import average_precision, ndcg, ranked, recall, reciprocal_rank
from xeval.sentences.reranker import open_reranker
from xeval.sentences.vectors import open_vectors
from xeval.statistics.compare import compare
from xeval.statistics.results_file import read_results
from xeval.task_templates.masked import open_masked

Models = Callable[[str], Path]
RERANK = '{"query": "das haus", "positive": ["ein haus"], "negative": ["ein hund"]}\n'


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.compress(text.encode()) if path.suffix == ".xz" else text.encode())
    return path


def silent(_done: int, _total: int, _what: str) -> None:
    """No progress."""


@pytest.mark.parametrize("role", ["text", "query", "document"])
def test_vectors_are_those_of_the_library_in_the_order_of_the_texts(
    role: Any, sentence_encoder: Path, text: list[str]
) -> None:
    from sentence_transformers import SentenceTransformer

    library = SentenceTransformer(str(sentence_encoder), device="cpu")
    ask = {
        "text": library.encode, "query": library.encode_query, "document": library.encode_document
    }[role]  # fmt: skip
    vectors, cut = open_vectors(str(sentence_encoder), Protocol()).encode(
        text[:40], role, silent, ""
    )

    np.testing.assert_allclose(vectors, ask(text[:40]), atol=1e-6)
    assert vectors.shape == (40, 16)
    assert cut == 0


def test_a_prompt_that_is_given_replaces_the_folders_own(
    sentence_encoder: Path, text: list[str]
) -> None:
    from sentence_transformers import SentenceTransformer

    library = SentenceTransformer(str(sentence_encoder), device="cpu")
    given = open_vectors(str(sentence_encoder), Protocol(query_prompt="ein ", text_prompt=""))

    asked, _ = given.encode(text[:5], "query", silent, "")
    plain, _ = given.encode(text[:5], "text", silent, "")

    np.testing.assert_allclose(asked, library.encode(text[:5], prompt="ein "), atol=1e-6)
    np.testing.assert_allclose(plain, library.encode(text[:5], prompt=""), atol=1e-6)
    assert not np.allclose(asked, library.encode_query(text[:5]), atol=1e-6)
    assert given.method == (
        "sentence encoder (Transformer, Pooling, Dense, Normalize), cosine, prompts: query 'ein '"
    )


def test_a_prompt_stands_before_the_texts_of_a_plain_encoder(models: Models) -> None:
    bare = open_vectors(str(models("bert")), Protocol())
    prompted = open_vectors(str(models("bert")), Protocol(document_prompt="das "))

    expected, _ = bare.encode(["das haus", "das hund"], "document", silent, "")
    vectors, _ = prompted.encode(["haus", "hund"], "document", silent, "")

    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert bare.method == "mean of hidden states, layer 1 of 2"


def test_texts_beyond_the_limit_are_cut_and_counted(sentence_encoder: Path) -> None:
    vectors = open_vectors(str(sentence_encoder), Protocol(max_length=8))
    texts = ["das haus", "das haus " + "sieht " * 20]

    (short, long), cut = vectors.encode(texts, "text", silent, "")

    assert cut == 1
    again, _ = vectors.encode(["das haus " + "sieht " * 30], "text", silent, "")
    np.testing.assert_allclose(long, again[0], atol=1e-6)
    assert not np.allclose(short, long, atol=1e-6)


def test_an_encoder_of_two_routes_is_asked_by_the_right_one(
    models: Models, text: list[str], tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Router, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding

    encoder = Transformer(str(models("bert")))
    static = StaticEmbedding(encoder.tokenizer.backend_tokenizer, embedding_dim=32)
    router = Router.for_query_document([static], [encoder, Pooling(32, "cls")])
    SentenceTransformer(modules=[router], device="cpu").save(str(tmp_path / "router"))
    library = SentenceTransformer(str(tmp_path / "router"), device="cpu")
    vectors = open_vectors(str(tmp_path / "router"), Protocol())

    queries, _ = vectors.encode(text[:5], "query", silent, "")
    documents, _ = vectors.encode(text[:5], "document", silent, "")

    np.testing.assert_allclose(queries, library.encode_query(text[:5]), atol=1e-6)
    np.testing.assert_allclose(documents, library.encode_document(text[:5]), atol=1e-6)
    with pytest.raises(XevalError, match="reads texts whole, so that max_length 8 cannot be kept"):
        open_vectors(str(tmp_path / "router"), Protocol(max_length=8))


def test_a_layer_of_a_sentence_encoder_is_refused(sentence_encoder: Path) -> None:
    with pytest.raises(XevalError, match="judged by its own pooling, but layer is 3; leave"):
        open_vectors(str(sentence_encoder), Protocol(layer=3))


def test_the_digest_of_a_sentence_encoder_covers_its_modules(
    sentence_encoder: Path, tmp_path: Path
) -> None:
    before = model_digest(str(sentence_encoder))
    for name, find, put in (
        ("1_Pooling/config.json", "mean", "cls"),
        ("config_sentence_transformers.json", '"das "', '"ein "'),
    ):
        folder = shutil.copytree(sentence_encoder, tmp_path / name.partition("/")[0])
        content = (folder / name).read_text()
        assert find in content
        (folder / name).write_text(content.replace(find, put))
        assert model_digest(str(folder)) != before
    assert model_digest(str(shutil.copytree(sentence_encoder, tmp_path / "copy"))) == before


def test_the_digest_of_a_plain_encoder_covers_all_files_of_its_tokenizer(
    models: Models, tmp_path: Path
) -> None:
    from transformers import BertTokenizer, RobertaTokenizer

    folder = tmp_path / "model"
    shutil.copytree(models("bert"), folder)
    pieces = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "Haus": 5, "haus": 6}
    digests = [model_digest(str(folder))]
    for lower in (True, False):
        BertTokenizer(vocab=pieces, do_lower_case=lower).save_pretrained(tmp_path / str(lower))
        settings = (tmp_path / str(lower) / "tokenizer_config.json").read_text()
        (folder / "tokenizer_config.json").write_text(settings)
        digests.append(model_digest(str(folder)))
    for file in RobertaTokenizer.vocab_files_names.values():
        (folder / file).write_text("another")
        digests.append(model_digest(str(folder)))

    assert len(digests) == len(set(digests))


def test_kinds_are_told_by_their_files(
    sentence_encoder: Path, reranker: Path, models: Models, tmp_path: Path
) -> None:
    (tmp_path / "modules.json").write_text("[]")
    (tmp_path / "config_sentence_transformers.json").write_text(
        '{"model_type": "MultiVectorEncoder"}'
    )

    assert kind_of(str(sentence_encoder)) == "SentenceTransformer"
    assert kind_of(str(reranker)) == "CrossEncoder"
    assert kind_of(str(models("bert"))) is None
    with pytest.raises(XevalError, match="got a MultiVectorEncoder"):
        kind_of(str(tmp_path))


def test_a_classifier_with_one_score_is_a_reranker_by_statement_or_by_assumption_that_is_told(
    reranker: Path, models: Models, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import AutoTokenizer, BertForSequenceClassification

    plain = tmp_path / "plain"
    BertForSequenceClassification.from_pretrained(models("bert"), num_labels=1).save_pretrained(
        plain
    )
    AutoTokenizer.from_pretrained(models("bert")).save_pretrained(plain)
    write(tmp_path / "data/rerank/xx.jsonl", RERANK)
    source = LocalFolder(tmp_path / "data")

    def method(folder: Path) -> str | None:
        return score(folder, tmp_path / "r.jsonl", task="rerank", source=source)[0].method

    assert method(reranker) == "cross-encoder (Sigmoid)"
    assert "taken for a reranker" not in caplog.text
    assert method(plain) == "cross-encoder (Sigmoid), assumed to score pairs"
    assert f"{plain}: taken for a reranker, which scores pairs of texts" in caplog.text

    config = json.loads((plain / "config.json").read_text())
    named = {**config, "num_labels": 1}
    del named["id2label"], named["label2id"]
    (plain / "config.json").write_text(json.dumps(named))
    assert kind_of(str(plain)) == "CrossEncoder"
    (plain / "config.json").write_text(json.dumps({**config, "problem_type": "regression"}))
    with pytest.raises(
        XevalError, match=r"that of a text \(problem_type 'regression'\); if it scores"
    ):
        open_reranker(str(plain), Protocol())


def test_a_missing_library_is_named_with_its_extra(
    sentence_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sentence_transformers", None)

    with pytest.raises(XevalError, match=r"pip install 'distillery-xeval\[sentences\]'"):
        open_vectors(str(sentence_encoder), Protocol())


def test_a_sentence_encoder_with_a_broken_module_is_refused_in_a_sentence(
    sentence_encoder: Path, tmp_path: Path
) -> None:
    import shutil

    folder = shutil.copytree(sentence_encoder, tmp_path / "broken")
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "strange.library.Pooling"
    (folder / "modules.json").write_text(json.dumps(modules))

    with pytest.raises(XevalError, match="no sentence encoder could be opened there"):
        open_vectors(str(folder), Protocol())


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_weights_that_are_cut_short_and_files_for_folders_are_refused_in_a_sentence(
    name: str, models: Models, tmp_path: Path
) -> None:
    folder = shutil.copytree(models("bert"), tmp_path / "cut")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(content[:1000])

    with pytest.raises(XevalError, match="cut: no model could be opened there"):
        open_vectors(str(folder), Protocol())
    with pytest.raises(XevalError, match=r"json: is a file; give the model's folder, .*cut"):
        model_digest(str(folder / "config.json"))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"model_type": ["bert"]}, r"json: model_type: expected a name such as \"bert\", got \['bert'\]"),
        ({"architectures": 3}, "json: architectures: expected a list of classes such as .*, got 3"),
        ({"architectures": [3]}, r"architectures: expected a list of classes such as .*, got \[3\]"),
        ({"vocab_size": "30"}, r"config\.json: .* Field 'vocab_size' expected int, got str"),
    ],
)  # fmt: skip
def test_a_setting_of_another_kind_is_refused_in_a_sentence(
    setting: dict[str, object], message: str, models: Models, tmp_path: Path
) -> None:
    folder = shutil.copytree(models("bert"), tmp_path / "model")
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | setting))

    for opened in (open_vectors, lambda name, _: open_masked(name), lambda name, _: cost(name)):
        with pytest.raises(XevalError, match=message) as refusal:
            opened(str(folder), Protocol())
        assert "\n" not in str(refusal.value)


def damaged(folder: Path, target: Path) -> Path:
    """A copy whose weights hold a number that is none in every file."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, target)
    for path in target.rglob("*.safetensors"):
        weights = load_file(path)
        for tensor in weights.values():
            tensor.view(-1)[0] = float("nan")
        save_file(weights, path, metadata={"format": "pt"})
    return target


@pytest.mark.parametrize("task", ["bitext", "pos_probe"])
@pytest.mark.parametrize("kind", ["encoder", "plain"])
def test_vectors_that_are_no_numbers_give_no_figure(
    task: str, kind: str, sentence_encoder: Path, models: Models, more_data: Path, tmp_path: Path
) -> None:
    folder = damaged(models("bert") if kind == "plain" else sentence_encoder, tmp_path / "damaged")

    with pytest.raises(
        XevalError, match=r"damaged: gives vectors or scores that are no finite numbers"
    ):
        score(
            folder, tmp_path / "r.jsonl", source=LocalFolder(more_data), languages=["yy"], task=task,
            language="xx",
        )  # fmt: skip


def test_scores_that_are_no_numbers_give_no_figure(reranker: Path, tmp_path: Path) -> None:
    opened = open_reranker(str(damaged(reranker, tmp_path / "damaged")), Protocol())

    with pytest.raises(XevalError, match="damaged: gives vectors or scores"):
        opened.score(["das hund"], [["das haus", "das buch"]], silent, "rerank")


# Rankings


def test_a_ranking_is_worth_what_its_formulas_say() -> None:
    gains, possible = [0.0, 2.0, 0.0, 1.0], [2.0, 1.0, 1.0, 0.0]

    best = 2 + 1 / np.log2(3) + 1 / np.log2(4)
    assert ndcg(gains, possible, 10) == pytest.approx((2 / np.log2(3) + 1 / np.log2(5)) / best)
    assert ndcg(gains, possible, 1) == 0
    assert reciprocal_rank(gains, 10) == 0.5
    assert reciprocal_rank(gains, 1) == 0
    assert average_precision(gains, possible) == pytest.approx((1 / 2 + 2 / 4) / 3)
    assert recall(gains, possible, 2) == pytest.approx(1 / 3)
    assert ndcg([0.0], [0.0], 10) == average_precision([0.0], [0.0]) == recall([], [0.0], 5) == 0


def test_equal_scores_fall_by_id_also_where_the_ranking_ends() -> None:
    scores = np.array([0.5, 0.7, 0.5, 0.5, 0.1])

    assert ranked(scores, ["a", "b", "c", "d", "e"]) == [1, 3, 2, 0, 4]
    assert ranked(scores, ["a", "b", "c", "d", "e"], most=2) == [1, 3]


# Data


def test_questions_find_their_paragraphs(
    sentence_encoder: Path, more_data: Path, tmp_path: Path
) -> None:
    figures = score(
        sentence_encoder, tmp_path / "r.jsonl", source=LocalFolder(more_data), languages=["xx"], task="retrieval"
    )  # fmt: skip

    assert {f.dataset for f in figures} == {"xquad/xx"}
    assert {f.metric for f in figures} == {"ndcg_at_10", "mrr_at_10", "recall_at_100"}
    # Every paragraph is asked the same question, which therefore has all of them as answers.
    assert {f.n for f in figures} == {1}
    assert figures[0].value == pytest.approx(100)


def beir(folder: Path, *, qrels: str = "query-id\tcorpus-id\tscore\nq1\td1\t1\n") -> Path:
    write(
        folder / "corpus.jsonl.xz",
        '{"_id": "d1", "title": "das", "text": "haus "}\n{"_id": "d2", "text": "hund"}\n',
    )
    write(folder / "queries.jsonl", '{"_id": "q1", "text": "haus"}\n{"_id": "q2", "text": "x"}\n')
    return write(folder / "qrels/test.tsv", qrels)


def test_folders_of_beir_are_read(tmp_path: Path) -> None:
    from xeval.tasks.retrieval import TASK, Document, Query

    beir(tmp_path / "retrieval/de")
    (data_set,) = LocalFolder(tmp_path).data_sets(TASK)

    assert (data_set.name, data_set.language, data_set.splits) == ("retrieval/de", "de", ("test",))
    assert LocalFolder(tmp_path).read(TASK, data_set, "test") == [
        Document("d1", "das haus"), Document("d2", "hund"), Query("haus", (("d1", 1),), "q1")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("qrels", "message"),
    [
        (
            "q1\td9\t1\n",
            "test.tsv: none of the judged documents is in .*corpus.jsonl; put the corpus there",
        ),
        ("q9\td1\t1\n", r"test.tsv:1: the query 'q9' is not in .*queries.jsonl"),
        ("q1\td1\tgood\n", "expected a whole number as score, got 'good'"),
        ("q1 0 d1 1\n", "expected 3 fields separated by tabs"),
        (
            "q1\td1\t1\nq1\td1\t1\nq1\td1\t0\n",
            "test.tsv:3: the document 'd1' was judged 1 for the query 'q1' before, and here 0",
        ),
    ],
)
def test_judgements_that_fit_nothing_are_refused(qrels: str, message: str, tmp_path: Path) -> None:
    from xeval.tasks.retrieval import TASK

    path = beir(tmp_path / "retrieval/de", qrels=qrels)
    with pytest.raises(XevalError, match=message):
        TASK.read(path, None)


def test_a_judged_document_that_is_not_in_the_corpus_is_told(tmp_path: Path) -> None:
    from xeval.tasks.retrieval import TASK

    path = beir(tmp_path / "retrieval/de", qrels="q1\td1\t1\nq1\td9\t1\n")
    _, notes = TASK.view(TASK.read(path, None), Protocol())

    assert notes == [
        "1 of 2 judged documents are not in the corpus and cannot be found, such as 'd9'"
    ]


def squad(answers: list[dict[str, Any]] | None) -> str:
    """A file of one question."""
    asked = {"id": "7", "question": "q", "answers": answers}
    return json.dumps({"data": [{"paragraphs": [{"context": "a b", "qas": [asked]}]}]})


@pytest.mark.parametrize(
    ("task", "content", "message"),
    [
        ("sts", "a\tb\tgood\n", "tsv:1: expected a number as score, got 'good'"),
        ("sts", "a\tb\tnan\n", "expected a number as score, got 'nan'"),
        ("rerank", '{"query": "q", "positive": ["a"], "negative": []}', "jsonl:1: expected an object with query"),
        ("rerank", '{"query": "q", "positive": "a", "negative": ["b"]}', "expected an object with query"),
        ("choice", '{"passage": "p", "question": "q", "options": "ab", "answer": 0}', "jsonl:1: expected an object with passage"),
        ("choice", '{"passage": null, "question": "q", "options": ["a", "b"], "answer": 0}', "expected an object with passage"),
        ("choice", '{"passage": "p", "question": "q", "options": ["a", "b"], "answer": 0.9}', "expected an object with passage"),
        ("choice", '{"passage": "p", "question": "q", "options": ["a", "b"], "answer": 2}', "got answer 2 of 2"),
        ("rerank", "[1]", "expected an object of JSON, got"),
        ("sts", "a\tb\t4\n", r"sts\.tsv: expected pairs of different scores, got 4 for all 1; .* is not defined"),
        ("sts", "a\tb\t4\nc\td\t4.0\n", "expected pairs of different scores, got 4 for all 2"),
        ("qa", squad(None), r"qa\.json: question '7': has no answer, as SQuAD 2\.0 has such questions, .*; take it out of the file"),
        ("qa", squad([]), "question '7': has no answer"),
        ("qa", squad([{"text": "", "answer_start": 0}]), "question '7': has no answer"),
        ("qa", squad([{"text": None, "answer_start": None}]), "question '7': expected answers with text and answer_start, got "),
        ("qa", squad([{"text": "a"}]), "question '7': expected answers with text and answer_start, got "),
    ],
)  # fmt: skip
def test_rows_that_are_not_of_the_task_are_refused(
    task: str, content: str, message: str, tmp_path: Path
) -> None:
    from xeval.tasks import task_of

    chosen = task_of(task)
    path = write(tmp_path / f"{task}.{chosen.suffix}", content)
    with pytest.raises(XevalError, match=message):
        chosen.read(path, None)


def test_hidden_files_and_folders_are_no_data_sets(tmp_path: Path) -> None:
    from xeval.data.folder import find_data_sets

    for name in ("de.tsv", "._de.tsv", "fr/test.tsv", ".ipynb_checkpoints/test.tsv", ".git/x"):
        write(tmp_path / "sts" / name, "a\tb\t1\n")

    assert [s.name for s in find_data_sets(tmp_path, "sts", "tsv")] == ["sts/de", "sts/fr"]


def test_an_empty_data_folder_says_what_retrieval_reads(tmp_path: Path) -> None:
    from xeval.tasks.retrieval import TASK

    with pytest.raises(XevalError, match=r"retrieval/<name>/qrels/<split>.tsv\[.xz|.gz\]$"):
        LocalFolder(tmp_path).data_sets(TASK)


# Results


def test_two_sentence_encoders_are_compared_on_their_pairs(
    sentence_encoder: Path, models: Models, tmp_path: Path
) -> None:
    rows = [f"das {a} .\tdas {b} .\t{5 if a == b else i % 3}" for i, (a, b) in enumerate(
        (a, b) for a in ("hund", "haus", "baum", "berg") for b in ("hund", "haus", "baum", "stein")
    )]  # fmt: skip
    write(tmp_path / "sts/xx.tsv", "\n".join(rows))
    file = tmp_path / "r.jsonl"
    for model in (sentence_encoder, models("bert")):
        score(model, file, source=LocalFolder(tmp_path), task="sts", bootstraps=1)

    own, plain = (r for r in read_results(file) if r.bootstrap is None)
    assert own.method == (
        "sentence encoder (Transformer, Pooling, Dense, Normalize), cosine, prompts: query 'das '"
    )
    assert plain.method == "mean of hidden states, layer 1 of 2"
    assert own.protocol == plain.protocol == {
        "max_length": None, "layer": None, "text_prompt": None
    }  # fmt: skip
    assert f"{own.model}: {own.method}" in markdown([own, plain]).replace("\\", "")
    assert "layer 1 of 2</li>" in page([own, plain])
    (task,) = compare([own, plain], own.model, plain.model, resamples=200)
    assert task.languages[0].difference == pytest.approx(own.value - plain.value)  # type: ignore[operator]
    assert task.languages[0].n == 16


def test_a_prompt_of_the_command_line_reaches_model_and_record(
    sentence_encoder: Path, tmp_path: Path
) -> None:
    beir(tmp_path / "retrieval/de")
    file = tmp_path / "r.jsonl"
    arguments = ["score", str(sentence_encoder), "--task", "retrieval", "--data", str(tmp_path)]

    done = CliRunner().invoke(
        app, [*arguments, "--results", str(file), "--prompt", "query=ein ", "--prompt", "document="]
    )

    assert done.exit_code == 0, done.output
    for result in read_results(file):
        assert result.protocol["query_prompt"] == "ein "
        assert result.protocol["document_prompt"] == ""
        assert result.method is not None
        assert result.method.endswith("cosine, prompts: query 'ein '")


def test_prompts_of_a_cross_encoder_are_refused(reranker: Path) -> None:
    with pytest.raises(XevalError, match="reads query and document as one, but query_prompt is"):
        open_reranker(str(reranker), Protocol(query_prompt="a "))


def test_prompts_are_part_of_the_protocol_of_the_tasks_they_bear_on() -> None:
    from xeval.tasks import task_of

    protocol = Protocol(text_prompt="a ", query_prompt="b ")

    assert task_of("bitext").settings(protocol)["text_prompt"] == "a "
    assert "query_prompt" not in task_of("bitext").settings(protocol)
    assert task_of("rerank").settings(protocol)["query_prompt"] == "b "
    assert task_of("bpb").settings(protocol) == task_of("bpb").settings(Protocol())
    assert task_of("bpb").settings(Protocol())["max_length"] == 256


def test_a_folder_is_called_the_same_from_within(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small/deeper").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "small")
    (tmp_path / "link").symlink_to("small")

    assert [model_name(n) for n in (".", "../small/", "deeper/..", "../link")] == [
        *("small",) * 3, "link",
    ]  # fmt: skip
    assert model_name("org/name") == "org/name"
