"""Main scores are mteb's own on the same inputs, to 1e-4: bitext mining, STS, retrieval and reranking by both kinds of model."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from xeval.data.source import LocalFolder
from xeval.evaluate.score import score

pytestmark = pytest.mark.filterwarnings("ignore")

TOLERANCE = 1e-4
OTHER = {"hund": "perro", "katze": "gato", "haus": "casa", "buch": "libro", "sieht": "mira"}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def by_mteb(
    made: type[Any], kind: str, main_score: str, dataset: Any, model: Any
) -> dict[str, float]:
    """Scores of a task of mteb whose data is given and not loaded."""
    from mteb.abstasks.task_metadata import TaskMetadata

    class Task(made):  # type: ignore[misc]
        metadata = TaskMetadata(
            name="Made", description="made in a test", dataset={"path": "made", "revision": "1"}, type=kind,
            category="t2t", modalities=["text"], eval_splits=["test"], eval_langs=["deu-Latn"], main_score=main_score,
        )  # fmt: skip

        def load_data(self, *_args: object, **_kwargs: object) -> None:
            self.dataset = dataset
            self.data_loaded = True

    task = Task()
    task.load_data()
    (scores,) = task.evaluate(model, "test", encode_kwargs={"batch_size": 8}).values()
    assert scores["main_score"] == scores[main_score]
    return scores


@pytest.fixture(scope="module")
def sentences(text: list[str]) -> list[str]:
    return list(dict.fromkeys(text))[:90]


@pytest.fixture(scope="module")
def of_mteb(sentence_encoder: Path) -> Any:
    from mteb.models import SentenceTransformerEncoderWrapper
    from sentence_transformers import SentenceTransformer

    return SentenceTransformerEncoderWrapper(
        SentenceTransformer(str(sentence_encoder), device="cpu")
    )


def by_xeval(model: Path, folder: Path, task: str) -> dict[str, float]:
    figures = score(model, folder / "r.jsonl", source=LocalFolder(folder), task=task)
    return {f.metric: f.value / 100 for f in figures if f.value is not None}


def test_bitext(sentence_encoder: Path, of_mteb: Any, sentences: list[str], tmp_path: Path) -> None:
    from datasets import Dataset
    from mteb.abstasks import AbsTaskBitextMining

    translations = [" ".join(OTHER.get(w, w) for w in line.split()[::-1]) for line in sentences]
    # Of a sentence that stands twice one is found.
    sentences, translations = [*sentences, *sentences[:30]], [*translations, *translations[:30]]
    write(
        tmp_path / "tatoeba/de.tsv",
        "\n".join("\t".join(pair) for pair in zip(sentences, translations, strict=True)),
    )
    data = {"sentence1": sentences, "sentence2": translations}
    turned = {"sentence1": translations, "sentence2": sentences}

    ours = by_xeval(sentence_encoder, tmp_path, "bitext")
    there, back = (
        by_mteb(
            AbsTaskBitextMining, "BitextMining", "accuracy", {"test": Dataset.from_dict(d)}, of_mteb
        )
        for d in (data, turned)
    )

    assert 0.05 < ours["bitext_to_source"] < 0.99
    assert ours["bitext_to_source"] == pytest.approx(there["accuracy"], abs=TOLERANCE)
    assert ours["bitext_from_source"] == pytest.approx(back["accuracy"], abs=TOLERANCE)


def test_sts(sentence_encoder: Path, of_mteb: Any, sentences: list[str], tmp_path: Path) -> None:
    from datasets import Dataset
    from mteb.abstasks import AbsTaskSTS

    draw = random.Random(6)
    pairs = [draw.sample(sentences, 2) for _ in range(80)]
    gold = [float(len(set(a.split()) & set(b.split()))) for a, b in pairs]
    rows = [f"{a}\t{b}\t{score}" for (a, b), score in zip(pairs, gold, strict=True)]
    write(tmp_path / "sts/de.tsv", "sentence1\tsentence2\tscore\n" + "\n".join(rows))
    data = {"sentence1": [a for a, _ in pairs], "sentence2": [b for _, b in pairs], "score": gold}

    ours = by_xeval(sentence_encoder, tmp_path, "sts")["cosine_spearman"]
    theirs = by_mteb(
        AbsTaskSTS, "STS", "cosine_spearman", {"test": Dataset.from_dict(data)}, of_mteb
    )

    assert 0.1 < ours < 0.99
    assert ours == pytest.approx(theirs["cosine_spearman"], abs=TOLERANCE)


def retrieval_by_both(
    corpus: list[dict[str, str]],
    queries: list[dict[str, str]],
    judged: dict[str, dict[str, int]],
    *,
    ours: Path,
    theirs: Any,
    folder: Path,
    ignore_identical_ids: bool = False,
) -> tuple[dict[str, float], dict[str, float]]:
    """Scores of a retrieval that is written in BEIR's layout for xeval and given to mteb."""
    from datasets import Dataset
    from mteb.abstasks import AbsTaskRetrieval

    class Made(AbsTaskRetrieval):
        pass

    Made.ignore_identical_ids = ignore_identical_ids
    place = folder / "retrieval/de"
    for name, rows in (("corpus", corpus), ("queries", queries)):
        write(
            place / f"{name}.jsonl",
            "\n".join(json.dumps({"_id": row["id"], **row}) for row in rows),
        )
    lines = [f"{q}\t{d}\t{score}" for q, scores in judged.items() for d, score in scores.items()]
    write(place / "qrels/test.tsv", "\n".join(["query-id\tcorpus-id\tscore", *lines]))
    split = {
        "corpus": Dataset.from_list(corpus), "queries": Dataset.from_list(queries), "relevant_docs": judged,
        "top_ranked": None,
    }  # fmt: skip
    scores = by_mteb(Made, "Retrieval", "ndcg_at_10", {"default": {"test": split}}, theirs)
    return by_xeval(ours, folder, "retrieval"), scores


def test_retrieval(
    sentence_encoder: Path, of_mteb: Any, sentences: list[str], tmp_path: Path
) -> None:
    draw = random.Random(7)
    corpus = [
        {"id": f"d{i}", "title": "das" if i % 3 else "", "text": line}
        for i, line in enumerate(sentences)
    ]
    queries = [
        {"id": f"q{i}", "text": " ".join(draw.sample(row["text"].split(), 3))}
        for i, row in enumerate(corpus[:30])
    ]
    judged = {f"q{i}": {f"d{i}": 2, f"d{i + 30}": 1, f"d{i + 45}": 0} for i in range(30) if i != 4}

    ours, theirs = retrieval_by_both(
        corpus, queries, judged, ours=sentence_encoder, theirs=of_mteb, folder=tmp_path
    )

    assert 0.1 < ours["ndcg_at_10"] < 0.99
    for metric in ("ndcg_at_10", "mrr_at_10", "recall_at_100"):
        assert ours[metric] == pytest.approx(theirs[metric], abs=TOLERANCE)


def test_retrieval_where_queries_lie_in_the_corpus(
    sentence_encoder: Path, of_mteb: Any, sentences: list[str], tmp_path: Path
) -> None:
    """As in ArguAna and Quora: the query itself is not found, and one judged document is not in the corpus."""
    corpus = [{"id": f"d{i}", "title": "", "text": line} for i, line in enumerate(sentences)]
    queries = [{"id": row["id"], "text": row["text"]} for row in corpus[:30]]
    # Any model finds some: the query's words in reverse.
    reversed_words = [" ".join(reversed(row["text"].split())) for row in queries]
    corpus += [{"id": f"r{i}", "title": "", "text": text} for i, text in enumerate(reversed_words)]
    judged = {f"d{i}": {f"r{i}": 1, f"d{i + 45}": 1} for i in range(29)}
    judged["d29"] = {"gone": 1, "d30": 1}

    ours, theirs = retrieval_by_both(
        corpus, queries, judged, ours=sentence_encoder, theirs=of_mteb, folder=tmp_path,
        ignore_identical_ids=True,
    )  # fmt: skip

    assert 0.1 < ours["ndcg_at_10"] < 0.99
    for metric in ("ndcg_at_10", "mrr_at_10", "recall_at_100"):
        assert ours[metric] == pytest.approx(theirs[metric], abs=TOLERANCE)


@pytest.mark.parametrize("kind", ["sentence encoder", "cross-encoder"])
def test_rerank(
    kind: str,
    sentence_encoder: Path,
    reranker: Path,
    of_mteb: Any,
    sentences: list[str],
    tmp_path: Path,
) -> None:
    from datasets import Dataset
    from mteb.abstasks import AbsTaskRetrieval

    draw = random.Random(8)
    corpus, queries, judged, top, rows = [], [], {}, {}, []
    for i, query in enumerate(sentences[:25]):
        positive, negative = draw.sample(sentences, 2), draw.sample(sentences, 9)
        rows.append(json.dumps({"query": query, "positive": positive, "negative": negative}))
        queries.append({"id": f"q{i}", "text": query})
        listed = [(f"apositive_{i}_{k}", text) for k, text in enumerate(positive)]
        listed += [(f"negative_{i}_{k}", text) for k, text in enumerate(negative)]
        corpus += [{"id": key, "title": "", "text": text} for key, text in listed]
        judged[f"q{i}"] = {key: int(key.startswith("apositive")) for key, _ in listed}
        top[f"q{i}"] = [key for key, _ in listed]
    write(tmp_path / "rerank/de.jsonl", "\n".join(rows))
    split = {
        "corpus": Dataset.from_list(corpus), "queries": Dataset.from_list(queries), "relevant_docs": judged,
        "top_ranked": top,
    }  # fmt: skip
    model, theirs = sentence_encoder, of_mteb
    if kind == "cross-encoder":
        from mteb.models import CrossEncoderWrapper
        from sentence_transformers import CrossEncoder

        model, theirs = reranker, CrossEncoderWrapper(CrossEncoder(str(reranker), device="cpu"))

    ours = by_xeval(model, tmp_path, "rerank")
    scores = by_mteb(
        AbsTaskRetrieval, "Reranking", "map_at_1000", {"default": {"test": split}}, theirs
    )

    assert 0.1 < ours["map"] < 0.99
    assert ours["map"] == pytest.approx(scores["map_at_1000"], abs=TOLERANCE)
    for metric in ("ndcg_at_10", "mrr_at_10"):
        assert ours[metric] == pytest.approx(scores[metric], abs=TOLERANCE)
