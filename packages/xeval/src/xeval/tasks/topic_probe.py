"""Topic classification by a linear probe: how far a model's vectors hold the topic, the model staying as it is.

A text is a vector v: of a sentence encoder by its own pooling, prompts and normalisation, of any other encoder the mean of
hidden states. On the training texts of the source language, multinomial logistic regression

    min over W, b of  ½ ‖W‖² + C · Σ_i −log softmax(W v_i + b)[y_i]

is convex, so there is nothing to draw and one seed tells all (Alain and Bengio 2017). C is `inverse_regularisation`; where it is None,
the power of ten from 0.01 to 10,000 with the best accuracy on the development set, the smallest of equals. With C = 1 it is what mteb
does on the same training texts. The test sets of all languages are then classified as they are.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from xeval.errors import XevalError
from xeval.progress import ProgressCallback
from xeval.protocol import Protocol
from xeval.sentences.vectors import VECTOR_SETTINGS, TextVectors, Vectors, open_vectors, told_cut
from xeval.statistics.items import Items
from xeval.task_templates.task import ProbeTask, number_of
from xeval.task_templates.text_labels import Labelled, label_items, labels_of
from xeval.tasks import classification

STRENGTHS = tuple(10.0**exponent for exponent in range(-2, 5))
_STEPS = 1000

_TOPIC = next(task for task in classification.TASKS if task.name == "topic")


@dataclass(frozen=True)
class Probe:
    """A model with a fitted classifier.

    Args:
        vectors: the model.
        predict: from vectors `[n, D]` to n label names.
        words: what the classifier is.
        labels: names of the labels, sorted.
    """

    vectors: TextVectors
    predict: Callable[[Vectors], list[str]]
    words: str
    labels: tuple[str, ...]

    @property
    def method(self) -> str:
        """How, in words."""
        return f"{self.vectors.method}; {self.words}"


def fit_logistic_regression(vectors: Vectors, labels: Sequence[str], c: float) -> Any:
    """scikit-learn's multinomial logistic regression with an L2 penalty, by L-BFGS.

    Args:
        vectors: `[n, D]`.
        labels: n names.
        c: inverse strength of the penalty.

    Raises:
        XevalError: scikit-learn is not installed.
    """
    try:
        linear_model = importlib.import_module("sklearn.linear_model")
    except ModuleNotFoundError as error:
        raise XevalError(
            f"the probe is scikit-learn's logistic regression, and {error.name} is not installed; "
            "pip install 'distillery-xeval[sentences]'"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of steps that did not suffice the notes tell
        return linear_model.LogisticRegression(C=c, max_iter=_STEPS).fit(vectors, list(labels))


def _fit(
    model: str,
    protocol: Protocol,
    train: Sequence[Labelled],
    dev: Sequence[Labelled],
    watch: ProgressCallback,
) -> tuple[Probe, list[str]]:
    names = labels_of(train)
    opened = open_vectors(model, protocol)
    vectors, cut = opened.encode([e.text for e in train], "text", watch, "encoding train")
    labels = [e.label for e in train]
    notes = told_cut(cut, len(train))
    c = protocol.inverse_regularisation
    if c is None:
        tested, _ = opened.encode([e.text for e in dev], "text", watch, "encoding dev")
        gold = [names[number_of(e.label, names, e.where)] for e in dev]
        accuracies = {}
        for number, candidate in enumerate(STRENGTHS, start=1):
            fitted = fit_logistic_regression(vectors, labels, candidate)
            accuracies[candidate] = 100 * float(fitted.score(tested, gold))
            watch(number, len(STRENGTHS), "choosing C")
        c = max(accuracies, key=lambda candidate: (accuracies[candidate], -candidate))
        notes.append(f"C {c:g} has the best accuracy on the dev set, {accuracies[c]:.2f}")
    classifier = fit_logistic_regression(vectors, labels, c)
    if int(max(classifier.n_iter_)) >= _STEPS:
        notes.append(f"{_STEPS} steps did not bring logistic regression with C {c:g} to its end")

    def predict(vectors: Vectors) -> list[str]:
        return list(map(str, classifier.predict(vectors)))

    return Probe(opened, predict, f"logistic regression, C {c:g}", names), notes


def measure(
    probe: Probe, examples: Sequence[Labelled], _protocol: Protocol, watch: ProgressCallback
) -> tuple[list[Items], list[str]]:
    """Per-item statistics of a probe on examples, and notes."""
    for example in examples:
        number_of(example.label, probe.labels, example.where)
    vectors, cut = probe.vectors.encode([e.text for e in examples], "text", watch, "encoding test")
    return label_items(examples, probe.predict(vectors), probe.labels, ""), told_cut(
        cut, len(examples)
    )


TASK = ProbeTask(
    name="topic_probe",
    title="topic classification by a linear probe",
    folder=_TOPIC.folder,
    suffix=_TOPIC.suffix,
    metrics=_TOPIC.metrics,
    read=_TOPIC.read,
    hub=_TOPIC.hub,
    fit=_fit,
    measure=measure,
    own_settings=(*VECTOR_SETTINGS, "text_prompt", "inverse_regularisation"),
)
