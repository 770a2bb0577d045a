"""A linear probe on vectors that stay: mteb's classification on the same texts, and the optimum of its own formula."""

import csv
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xeval.data.source import LocalFolder
from xeval.errors import XevalError
from xeval.evaluate.runner import run
from xeval.evaluate.score import score
from xeval.protocol import Protocol
from xeval.statistics.compare import compare
from xeval.statistics.items import Items
from xeval.statistics.mteb_results import read_mteb
from xeval.statistics.results_file import read_results
from xeval.tasks import task_of
from xeval.tasks.topic_probe import STRENGTHS, fit_logistic_regression

Models = Callable[[str], Path]

pytestmark = pytest.mark.filterwarnings("ignore")

NOUNS = {
    "tiere": ("hund", "katze"),
    "dinge": ("haus", "buch", "stein"),
    "natur": ("baum", "fluss", "berg"),
}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def rows_of(seed: int, size: int) -> list[tuple[str, str]]:
    """Labels and texts, a fifth of the labels drawn at random."""
    draw = random.Random(seed)
    rows = []
    for _ in range(size):
        topic = draw.choice(sorted(NOUNS))
        words = ["das", draw.choice(NOUNS[topic]), *draw.sample(["sieht", "ein", "alte", "."], 3)]
        label = draw.choice(sorted(NOUNS)) if draw.random() < 0.2 else topic
        rows.append((label, " ".join(words)))
    return rows


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("topics")
    sizes = {"xx": {"train": 90, "dev": 30, "test": 70}, "yy": {"test": 40}}
    for language, splits in sizes.items():
        for seed, (split, size) in enumerate(splits.items(), start=10 * len(splits)):
            lines = [f"{label}\t{text}" for label, text in rows_of(seed, size)]
            write(
                root / f"sib200/{language}/{split}.tsv",
                "\n".join(["category\ttext", *lines]) + "\n",
            )
    return root


def figures(model: Path, topics: Path, results: Path, **protocol: Any) -> dict[str, float]:
    """Accuracies by language."""
    scored = score(
        model, results, source=LocalFolder(topics), task="topic_probe", language="xx",
        protocol=Protocol(**protocol),
    )  # fmt: skip
    return {r.language: r.value for r in scored if r.metric == "accuracy" and r.value is not None}


def test_with_c_1_and_all_training_texts_it_is_the_main_score_of_mteb(
    sentence_encoder: Path, topics: Path, tmp_path: Path
) -> None:
    import mteb
    from datasets import Dataset, DatasetDict
    from mteb.abstasks import AbsTaskClassification
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.cache import ResultCache
    from sentence_transformers import SentenceTransformer

    labels = sorted(NOUNS)

    def split(name: str) -> Any:
        lines = (topics / f"sib200/xx/{name}.tsv").read_text().splitlines()[1:]
        rows = [line.split("\t") for line in lines]
        return Dataset.from_dict(
            {
                "text": [text for _, text in rows],
                "label": [labels.index(label) for label, _ in rows],
            }
        )

    class Made(AbsTaskClassification):
        samples_per_label = 90
        n_experiments = 1
        metadata = TaskMetadata(
            name="Made", description="made in a test", dataset={"path": "made", "revision": "1"}, type="Classification",
            category="t2c", modalities=["text"], eval_splits=["test"], eval_langs=["deu-Latn"], main_score="accuracy",
        )  # fmt: skip

        def load_data(self, *_args: object, **_kwargs: object) -> None:
            self.dataset = DatasetDict({"train": split("train"), "test": split("test")})
            self.data_loaded = True

    model = SentenceTransformer(str(sentence_encoder), device="cpu")
    mteb.evaluate(
        model, Made(), cache=ResultCache(tmp_path / "cache"), encode_kwargs={"batch_size": 8},
        show_progress_bar=False,
    )  # fmt: skip

    ours = figures(sentence_encoder, topics, tmp_path / "r.jsonl", inverse_regularisation=1.0)

    # The folder that mteb writes of an evaluation is read by what compares such folders.
    task = read_mteb(tmp_path / "cache/results").tasks["Made"]
    assert task.kind == "classification"
    assert 40 < ours["xx"] < 99
    assert ours["xx"] / 100 == pytest.approx(task.scores["test", "default"].main_score, abs=1e-4)


@pytest.mark.parametrize("c", [0.1, 10.0])
def test_the_classifier_is_the_optimum_of_its_formula(c: float) -> None:
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(60, 5)).astype(np.float32)
    gold = draw.integers(3, size=60)

    fitted = fit_logistic_regression(vectors, [f"label{g}" for g in gold], c)

    # Where ½‖W‖² + C Σ −log softmax(W v + b)[y] is smallest its gradient is zero, here up to 10⁻⁴ of C · n.
    wrong = fitted.predict_proba(vectors) - np.eye(3)[gold]
    np.testing.assert_allclose(fitted.coef_ + c * wrong.T @ vectors, 0, atol=1e-4 * c * 60)
    np.testing.assert_allclose(wrong.sum(axis=0), 0, atol=1e-4 * 60)


def test_c_is_chosen_on_the_development_set_and_told(
    models: Models, topics: Path, tmp_path: Path
) -> None:
    told: list[str] = []
    chosen = score(
        models("bert"), tmp_path / "chosen.jsonl", source=LocalFolder(topics), task="topic_probe",
        language="xx", watch=lambda _done, _total, what: told.append(what),
    )  # fmt: skip
    dev = tmp_path / "dev/sib200/xx"
    for split in ("train", "dev", "test"):
        file = topics / f"sib200/xx/{'dev' if split == 'test' else split}.tsv"
        write(dev / f"{split}.tsv", file.read_text())

    by_c = {
        c: figures(
            models("bert"), tmp_path / "dev", tmp_path / "r.jsonl", inverse_regularisation=c
        )["xx"]
        for c in STRENGTHS
    }

    best = max(by_c, key=lambda c: (by_c[c], -c))
    assert len(set(by_c.values())) > 1
    assert f"xx: C {best:g} has the best accuracy on the dev set, {by_c[best]:.2f}" in told
    stated = figures(models("bert"), topics, tmp_path / "s.jsonl", inverse_regularisation=best)
    assert {r.language: r.value for r in chosen if r.metric == "accuracy"} == stated


def test_every_language_is_scored_by_item_once_and_two_models_are_compared(
    models: Models, topics: Path, tmp_path: Path
) -> None:
    results, names = tmp_path / "r.jsonl", [models("bert"), models("modern")]

    def once() -> Any:
        return run(
            names,
            results,
            tasks=["topic_probe"],
            source=LocalFolder(topics),
            language="xx",
            seeds=3,
        )

    first = once()
    lines = results.read_text()
    again = once()

    assert [(r.model, r.language, r.source_language, r.n) for r in first if r.metric == "accuracy"] == [
        (model, language, "xx", n) for model in ("bert", "modern") for language, n in (("xx", 70), ("yy", 40))
    ]  # fmt: skip
    assert all(r.train_digest is not None for r in first)
    assert results.read_text() == lines
    assert [r.value for r in again] == [r.value for r in first]
    items: list[Items] = [r.load_items() for r in read_results(results)]
    assert [i.value() for i in items] == pytest.approx([r.value for r in first])
    accuracy = next(
        c for c in compare(read_results(results), "bert", "modern") if c.metric == "accuracy"
    )
    assert [(row.place, row.n) for row in accuracy.languages] == [("xx", 70), ("yy", 40)]


def test_training_data_that_changed_is_fitted_anew(
    models: Models, topics: Path, tmp_path: Path
) -> None:
    for split in ("train", "dev", "test"):
        text = (topics / f"sib200/xx/{split}.tsv").read_text()
        write(tmp_path / f"data/sib200/xx/{split}.tsv", text)
    before = figures(models("bert"), tmp_path / "data", tmp_path / "r.jsonl")
    train = tmp_path / "data/sib200/xx/train.tsv"
    train.write_text(train.read_text().replace("tiere\t", "natur\t"))

    with pytest.raises(XevalError, match="the label 'tiere' is not among those of the source"):
        figures(models("bert"), tmp_path / "data", tmp_path / "r.jsonl")
    assert set(before) == {"xx"}


def test_a_label_that_training_lacks_is_refused_in_the_development_set_as_in_a_test_set(
    models: Models, topics: Path, tmp_path: Path
) -> None:
    shutil.copytree(topics, tmp_path / "data")
    with (tmp_path / "data/sib200/xx/dev.tsv").open("a") as file:
        file.write("sport\tdas Haus\n")

    with pytest.raises(XevalError, match=r"dev\.tsv:32: the label 'sport' is not among those of the source"):  # fmt: skip
        figures(models("bert"), tmp_path / "data", tmp_path / "r.jsonl")


def test_what_it_cannot_do_is_refused_by_name(
    models: Models, topics: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(XevalError, match="inverse_regularisation must be positive, got 0"):
        Protocol(inverse_regularisation=0.0)
    with pytest.raises(XevalError, match="expected a data set with the splits train and dev"):
        score(
            models("bert"), tmp_path / "r.jsonl", source=LocalFolder(topics), task="topic_probe",
            language="yy",
        )  # fmt: skip
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(XevalError, match=r"pip install 'distillery-xeval\[sentences\]'"):
        figures(models("bert"), topics, tmp_path / "r.jsonl")


@pytest.mark.parametrize(
    "text",
    [
        '"Es ist ein ""Archipel""."',  # a German text of SIB-200, as pandas reads the authors' file
        '"Apart from the fever, I feel well.',  # an English one
        '"Tim" sieht "das Haus"',
    ],
)
def test_a_quotation_mark_is_part_of_the_text(tmp_path: Path, text: str) -> None:
    file = tmp_path / "test.tsv"
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None)
        writer.writerows([("category", "text"), ("geography", text), ("travel", "das Haus")])

    examples = task_of("topic").read(file, None)

    assert [(e.label, e.text) for e in examples] == [("geography", text), ("travel", "das Haus")]
