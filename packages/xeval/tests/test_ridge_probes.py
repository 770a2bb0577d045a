"""Ridge probes of states that stay: the optimum of their formula, scikit-learn's classifier, one fit for all languages."""

import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xeval.data.source import LocalFolder
from xeval.errors import XevalError
from xeval.evaluate.score import score
from xeval.probes.ridge import STRENGTHS, Batch, RidgeClassifier, fit_ridge
from xeval.protocol import Protocol
from xeval.sentences.vectors import open_vectors
from xeval.statistics.compare import compare
from xeval.statistics.results_file import read_results
from xeval.tasks import task_of

Models = Callable[[str], Path]

pytestmark = pytest.mark.filterwarnings("ignore")


def made(classes: int, rows: int = 90, width: int = 7) -> tuple[Any, Any]:
    """Vectors far from zero, of unequal spread, and labels that hang on them; the last label does not occur."""
    draw = np.random.default_rng(classes)
    vectors = draw.normal(size=(rows, width)) * np.logspace(0, 2, width) + 30
    labels = (vectors @ draw.normal(size=(width, classes - 1))).argmax(axis=1)
    return vectors.astype(np.float32), labels


def batches(vectors: Any, labels: Any, size: int) -> Iterator[Batch]:
    for start in range(0, len(labels), size):
        yield [vectors[start : start + size]], labels[start : start + size]


def fitted_by(vectors: Any, labels: Any, size: int, classes: int, c: float) -> RidgeClassifier:
    classifier, place, notes = fit_ridge(batches(vectors, labels, size), [], classes, c)
    assert (place, notes) == (0, [])
    return classifier


@pytest.mark.parametrize("strength", [1e-4, 1.0])
def test_the_solution_is_that_of_least_squares_with_a_row_for_each_penalty(strength: float) -> None:
    vectors, labels = made(classes=4)

    fitted = fitted_by(vectors, labels, 13, 4, strength)

    # ‖W‖² + C ‖X W + b − Y‖² as one system of equations: √C (X W + b) = √C Y, and W = 0.
    root, width = np.sqrt(strength), vectors.shape[1]
    data = root * np.hstack([vectors.astype(np.float64), np.ones((len(vectors), 1))])
    penalty = np.hstack([np.eye(width), np.zeros((width, 1))])
    aims = np.vstack([root * np.eye(4)[labels], np.zeros((width, 4))])
    expected, *_ = np.linalg.lstsq(np.vstack([data, penalty]), aims, rcond=None)
    np.testing.assert_allclose(fitted.weights, expected[:-1], atol=1e-10)
    np.testing.assert_allclose(fitted.intercept, expected[-1], atol=1e-8)


@pytest.mark.parametrize("classes", [3, 4])
def test_labels_are_those_of_scikit_learn(classes: int) -> None:
    from sklearn.linear_model import RidgeClassifier

    vectors, labels = made(classes)
    others = np.random.default_rng(0).normal(size=(200, 7)).astype(np.float32) * 50 + 30

    fitted = fitted_by(vectors, labels, 40, classes, 0.01)

    theirs = RidgeClassifier(alpha=100.0).fit(vectors.astype(np.float64), labels)
    guesses = fitted.predict(others)
    assert guesses.tolist() == theirs.predict(others.astype(np.float64)).tolist()
    assert set(guesses) == set(range(classes - 1))


def test_the_first_layer_and_the_smallest_strength_of_the_best_are_chosen() -> None:
    vectors, labels = made(classes=4)
    draw = np.random.default_rng(1)
    unseen = vectors[::-1] + draw.normal(size=vectors.shape).astype(np.float32) * 9
    aims = labels[::-1]
    noise = draw.normal(size=vectors.shape).astype(np.float32)

    chosen, place, (note,) = fit_ridge(
        [([noise, vectors, vectors], labels)], [([noise, unseen, unseen], aims)], 4, None
    )

    guesses = [fitted_by(vectors, labels, 20, 4, c).predict(unseen) for c in STRENGTHS]
    shares = [100 * float((guess == aims).mean()) for guess in guesses]
    best = STRENGTHS[shares.index(max(shares))]
    assert shares.count(max(shares)) < len(STRENGTHS)
    assert (place, chosen.strength) == (1, best)
    assert note == f"C {best:g} has the best accuracy on the dev set, {max(shares):.2f}"


def figures(model: Path, task: str, data: Path, results: Path, **protocol: Any) -> dict[str, float]:
    """Accuracies by language."""
    scored = score(
        model, results, source=LocalFolder(data), task=task, language="xx", languages=["xx", "yy"],
        protocol=Protocol(**protocol),
    )  # fmt: skip
    return {r.language: r.value for r in scored if r.metric == "accuracy" and r.value is not None}


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_tags_are_those_of_scikit_learn_on_states_that_transformers_gives_sentence_by_sentence(
    models: Models, data: Path, tmp_path: Path, pooling: str
) -> None:
    import torch
    from sklearn.linear_model import RidgeClassifier
    from transformers import AutoModel, AutoTokenizer

    encoder = AutoModel.from_pretrained(models("bert")).eval()
    tokenizer = AutoTokenizer.from_pretrained(models("bert"))

    def states(name: str, split: str) -> tuple[Any, list[str]]:
        source, task = LocalFolder(data), task_of("pos")
        data_set = next(s for s in source.data_sets(task) if s.short == name)
        rows, tags = [], []
        for sentence in source.read(task, data_set, split):
            encoded = tokenizer(list(sentence.words), is_split_into_words=True, return_tensors="pt")
            with torch.no_grad():
                (hidden,) = encoder(**encoded).last_hidden_state
            words = np.array([-1 if word is None else word for word in encoded.word_ids()])
            for number in range(len(sentence.words)):
                pieces = hidden[words == number]
                rows.append(pieces[0] if pooling == "first" else pieces.mean(dim=0))
            tags += sentence.labels
        return torch.stack(rows).double().numpy(), tags

    theirs = RidgeClassifier(alpha=10.0).fit(*states("xx_made", "train"))

    ours = figures(
        models("bert"), "pos_probe", data, tmp_path / "r.jsonl", inverse_regularisation=0.1,
        pooling=pooling, layer=-1,
    )  # fmt: skip

    for language in ("xx", "yy"):
        expected = 100 * theirs.score(*states(f"{language}_made", "test"))
        assert ours[language] == pytest.approx(expected), language
    assert ours["yy"] < ours["xx"] < 100.1


def test_a_sentence_encoder_s_words_are_those_of_its_transformer(
    models: Models, sentence_encoder: Path, data: Path, tmp_path: Path
) -> None:
    whole = figures(sentence_encoder, "pos_probe", data, tmp_path / "a.jsonl")

    assert whole == figures(models("bert"), "pos_probe", data, tmp_path / "b.jsonl")


def test_one_fit_serves_all_languages_and_a_second_run_has_the_same_bytes(
    models: Models, data: Path, tmp_path: Path
) -> None:
    told: list[str] = []
    written = []
    for name in ("first", "second"):
        results = tmp_path / name / "r.jsonl"
        for kind in ("bert", "modern"):
            score(
                models(kind), results, source=LocalFolder(data), task="pos_probe", language="xx", languages=["xx", "yy"],
                watch=lambda _done, _total, what: told.append(what), bootstraps=2,
            )  # fmt: skip
        written.append({f.relative_to(results.parent): f.read_bytes() for f in results.parent.rglob("*") if f.is_file()})  # fmt: skip

    read = read_results(tmp_path / "first/r.jsonl")
    (tags,) = compare(read, "bert", "modern")
    assert written[0] == written[1]
    assert sum("has the best accuracy on the dev set" in what for what in told) == 4
    assert all(r.method and r.method.startswith("hidden states of words, first sub-word, layer") for r in read)  # fmt: skip
    assert [r.value for r in read if r.bootstrap is None] == [
        r.load_items().value() for r in read if r.bootstrap is None
    ]
    assert [(row.place, row.n) for row in tags.languages] == [("xx", 40), ("yy", 25)]


def test_the_layer_is_the_one_with_the_best_accuracy_on_the_development_set(
    models: Models, data: Path, tmp_path: Path
) -> None:
    """Where a word's tag is that of the word before it, embeddings cannot know it; the development set is the test set too."""
    from transformers import AutoModel, AutoTokenizer

    encoder = AutoModel.from_pretrained(models("modern"))
    for parameter in encoder.parameters():
        if parameter.dim() > 1:
            parameter.data *= 6  # untrained attention that looks at something
    encoder.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(models("modern")).save_pretrained(tmp_path / "model")
    told: list[str] = []
    for split in ("train", "dev", "test"):
        source = data / f"ud/xx_made/{'dev' if split == 'test' else split}.conllu.xz"
        sentences = lzma.decompress(source.read_bytes()).decode().strip().split("\n\n")
        rows = [[line.split("\t") for line in sentence.split("\n")] for sentence in sentences]
        for sentence in rows:
            tags = [row[3] for row in sentence]
            for row, tag in zip(sentence, [tags[-1], *tags[:-1]], strict=True):
                row[3] = tag
        text = "\n\n".join("\n".join("\t".join(row) for row in sentence) for sentence in rows)
        place = tmp_path / f"ud/xx_made/{split}.conllu"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text + "\n\n")

    def tagged(**protocol: Any) -> float:
        (figure,) = score(
            tmp_path / "model", tmp_path / f"{len(told)}.jsonl", source=LocalFolder(tmp_path), task="pos_probe",
            language="xx", protocol=Protocol(inverse_regularisation=1.0, **protocol),
            watch=lambda _done, _total, what: told.append(what),
        )  # fmt: skip
        assert figure.value is not None
        return figure.value

    by_layer = [tagged(layer=layer) for layer in (0, 1, 2)]

    assert by_layer[0] < max(by_layer)
    assert tagged() == max(by_layer)
    best = by_layer.index(max(by_layer))
    assert (
        f"xx_made: layer {best}, C 1 has the best accuracy on the dev set, {max(by_layer):.2f}"
        in told
    )
    assert tagged(layer=-1) == by_layer[2]
    with pytest.raises(XevalError, match="layer must lie between -3 and 2"):
        tagged(layer=3)


def test_topics_are_those_of_scikit_learn_on_the_same_vectors(
    sentence_encoder: Path, more_data: Path, tmp_path: Path
) -> None:
    from sklearn.linear_model import RidgeClassifier

    opened = open_vectors(str(sentence_encoder), Protocol())

    def vectors(language: str, split: str) -> tuple[Any, list[str]]:
        lines = (more_data / f"sib200/{language}/{split}.tsv").read_text().splitlines()[1:]
        _, labels, texts = zip(*(line.split("\t") for line in lines), strict=True)
        encoded, _ = opened.encode(texts, "text", lambda *_: None, "")
        return encoded.astype(np.float64), list(labels)

    theirs = RidgeClassifier(alpha=0.5).fit(*vectors("xx", "train"))

    ours = figures(
        sentence_encoder, "topic_ridge", more_data, tmp_path / "r.jsonl", inverse_regularisation=2.0
    )

    assert ours == {
        language: pytest.approx(100 * theirs.score(*vectors(language, "test")))
        for language in ("xx", "yy")
    }
    chosen = figures(sentence_encoder, "topic_ridge", more_data, tmp_path / "r.jsonl")
    assert chosen.keys() == ours.keys()


def test_a_sparse_encoder_s_topics_are_left_to_logistic_regression(
    sparse_encoder: Path, more_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(XevalError, match="as wide as its vocabulary; judge it by topic_probe"):
        figures(sparse_encoder, "topic_ridge", more_data, tmp_path / "r.jsonl")

    probed = figures(sparse_encoder, "topic_probe", more_data, tmp_path / "r.jsonl")
    assert probed.keys() == {"xx", "yy"}
