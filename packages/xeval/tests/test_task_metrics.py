"""A model that copies the gold labels scores 100 everywhere, a constant one the known baseline; sklearn agrees."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from xeval.statistics.items import Items
from xeval.task_templates.task import FineTunedTask
from xeval.task_templates.text_labels import Labelled
from xeval.task_templates.word_labels import Tagged
from xeval.tasks import TASKS, task_of
from xeval.tasks.choice import Choice
from xeval.tasks.dp import Parsed
from xeval.tasks.qa import Question

EXAMPLES: dict[str, list[Any]] = {
    "pos": [Tagged(("a", "b"), ("NOUN", "VERB")), Tagged(("c", "d"), ("NOUN", "NOUN"))],
    "dp": [
        Parsed(("a", "b", "c"), (2, 0, 2), ("nsubj", "root", "punct")),
        Parsed(("d",), (0,), ("root",)),
    ],
    "ner": [Tagged(("a", "b"), ("B-PER", "I-PER")), Tagged(("c",), ("O",))],
    "nli": [Labelled(text="a", second="b", label=x) for x in ("yes", "no", "maybe", "yes")],
    "paraphrase": [Labelled(text="a", second="b", label=x) for x in ("1", "0", "1", "1")],
    "topic": [Labelled(text="a", label=x) for x in ("sport", "news", "sport", "sport")],
    "choice": [Choice("p", "q", ("a", "b"), answer) for answer in (0, 1, 1, 1)],
    "qa": [Question("q", "the red cat", (("red", 4), ("red cat", 4)))],
}
GOLD: dict[str, Callable[[Any], Any]] = {
    "pos": lambda e: e.labels,
    "dp": lambda e: (e.heads, e.relations),
    "ner": lambda e: e.labels,
    "nli": lambda e: e.label,
    "paraphrase": lambda e: e.label,
    "topic": lambda e: e.label,
    "choice": lambda e: e.answer,
    "qa": lambda e: e.answers[0][0],
}


def values(name: str, predictions: list[Any]) -> dict[str, float]:
    task = task_of(name)
    assert isinstance(task, FineTunedTask)
    made: list[Items] = task.items(EXAMPLES[name], predictions, task.labels(EXAMPLES[name]), "en")
    return {items.metric: items.value() for items in made}


def test_every_tuned_task_is_judged_here() -> None:
    assert set(EXAMPLES) == {
        name for name, task in TASKS.items() if isinstance(task, FineTunedTask)
    }


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_model_that_copies_the_gold_scores_one_hundred(name: str) -> None:
    found = values(name, [GOLD[name](example) for example in EXAMPLES[name]])

    assert found == dict.fromkeys(TASKS[name].metrics, 100.0)


@pytest.mark.parametrize(
    ("name", "constant", "expected"),
    [
        ("pos", ("NOUN", "NOUN"), {"accuracy": 75}),
        # The root word alone is right: 2 of 4 words; content words: 3 in gold, 4 guessed, 2 right.
        ("dp", None, {"uas": 50, "las": 50, "clas": 400 / 7}),
        ("ner", None, {"f1": 0}),
        ("nli", "yes", {"accuracy": 50, "macro_f1": 100 * (2 * 2 / (4 + 2)) / 3}),
        ("paraphrase", "1", {"accuracy": 75, "macro_f1": 100 * (6 / 7) / 2}),
        ("topic", "sport", {"accuracy": 75, "macro_f1": 100 * (6 / 7) / 2}),
        ("choice", 1, {"accuracy": 75}),
        ("qa", "", dict.fromkeys(TASKS["qa"].metrics, 0)),
    ],
)
def test_a_constant_model_scores_the_known_baseline(
    name: str, constant: Any, expected: dict[str, float]
) -> None:
    predictions = [constant] * len(EXAMPLES[name])
    if name == "ner":
        predictions = [("O", "O"), ("O",)]
    if name == "dp":
        # Every word on the next, the last the root: 2→3 and 1→2 of the first sentence.
        predictions = [((2, 3, 0), ("nsubj", "obj", "root")), ((0,), ("root",))]

    assert values(name, predictions) == pytest.approx(expected)


def test_accuracy_and_macro_f1_are_those_of_sklearn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    draw = random.Random(0)
    gold = [draw.choice("abcd") for _ in range(200)]
    guess = [draw.choice("abcd") if draw.random() < 0.5 else label for label in gold]
    task = task_of("topic")
    assert isinstance(task, FineTunedTask)

    accuracy, macro = task.items(
        [Labelled(text="t", label=label) for label in gold], guess, ("a", "b", "c", "d"), "en"
    )

    assert accuracy.value() == pytest.approx(100 * metrics.accuracy_score(gold, guess))
    assert macro.value() == pytest.approx(100 * metrics.f1_score(gold, guess, average="macro"))


def test_a_predicted_tree_with_two_roots_is_refused_as_the_conll_script_does() -> None:
    with pytest.raises(ValueError, match="2 roots"):
        values("dp", [((0, 0, 2), ("root", "root", "punct")), ((0,), ("root",))])
