"""Topic classification by ridge regression: as `topic_probe`, by a classifier in closed form (`xeval.probes.ridge`) that needs no library.

A text is a vector as there. C is `inverse_regularisation`; where that is None, the power of ten with the best accuracy on the
development set, the smallest of equals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from xeval.errors import XevalError
from xeval.probes.ridge import Batch, Vectors, fit_ridge
from xeval.progress import ProgressCallback
from xeval.protocol import Protocol
from xeval.sentences.kinds import SPARSE_ENCODER, kind_of
from xeval.sentences.vectors import open_vectors, told_cut
from xeval.task_templates.task import ProbeTask, number_of
from xeval.task_templates.text_labels import Labelled, labels_of
from xeval.tasks import topic_probe


def _fit(
    model: str,
    protocol: Protocol,
    train: Sequence[Labelled],
    dev: Sequence[Labelled],
    watch: ProgressCallback,
) -> tuple[topic_probe.Probe, list[str]]:
    names = labels_of(train)
    if kind_of(model) == SPARSE_ENCODER:
        raise XevalError(
            f"{model}: expected vectors of a few hundred to a few thousand numbers, got a sparse encoder's, as wide as its "
            "vocabulary; judge it by topic_probe"
        )
    opened = open_vectors(model, protocol)
    notes: list[str] = []

    def batch(examples: Sequence[Labelled], what: str) -> Iterator[Batch]:
        vectors, cut = opened.encode([e.text for e in examples], "text", watch, what)
        notes.extend(told_cut(cut, len(examples)))
        yield [vectors], np.array([number_of(e.label, names, e.where) for e in examples])

    classifier, _, chosen = fit_ridge(
        batch(train, "encoding train"), batch(dev, "encoding dev"),
        len(names), protocol.inverse_regularisation,
    )  # fmt: skip

    def predict(vectors: Vectors) -> list[str]:
        return [names[number] for number in classifier.predict(vectors).tolist()]

    words = f"ridge regression, C {classifier.strength:g}"
    return topic_probe.Probe(opened, predict, words, names), [*notes, *chosen]


TASK = ProbeTask(
    name="topic_ridge",
    title="topic classification by ridge regression",
    folder=topic_probe.TASK.folder,
    suffix=topic_probe.TASK.suffix,
    metrics=topic_probe.TASK.metrics,
    read=topic_probe.TASK.read,
    hub=topic_probe.TASK.hub,
    fit=_fit,
    measure=topic_probe.measure,
    own_settings=topic_probe.TASK.own_settings,
)
