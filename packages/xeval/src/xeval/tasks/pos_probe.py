"""Part-of-speech tagging by a linear probe: how far a model's states of words hold the tags, the model staying as it is.

Ridge regression (`xeval.probes.ridge`) learns the words of the source language's training set from their hidden states, and tags the
test sets of all languages as they are. It is solved in closed form. A tuned head moves by points with its random start, most of all
in languages that it did not learn on; here nothing is drawn, and one fit tells all. `layer` and C, which is `inverse_regularisation`,
are those with the best accuracy on the source's development set where they are None: of equals the first layer and the smallest C of
the powers of ten. Tags are read best from lower and middle layers (Tenney et al. 2019); the last serve what a model was trained for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from xeval.probes.ridge import Batch, RidgeClassifier, fit_ridge
from xeval.probes.word_states import WORD_SETTINGS, WordStates
from xeval.progress import ProgressCallback
from xeval.protocol import Protocol
from xeval.statistics.items import Items
from xeval.task_templates.task import ProbeTask
from xeval.task_templates.treebank import UPOS
from xeval.task_templates.word_labels import Tagged, split_note
from xeval.tasks import pos


@dataclass(frozen=True)
class Probe:
    """A model with a fitted classifier.

    Args:
        states: the model.
        classifier: from states of words to places in `UPOS`.
        layer: whose states.
    """

    states: WordStates
    classifier: RidgeClassifier
    layer: int

    @property
    def method(self) -> str:
        """How, in words."""
        return f"{self.states.method(self.layer)}; ridge regression, C {self.classifier.strength:g}"


def _fit(
    model: str,
    protocol: Protocol,
    train: Sequence[Tagged],
    dev: Sequence[Tagged],
    watch: ProgressCallback,
) -> tuple[Probe, list[str]]:
    opened = WordStates(model, protocol)

    def batches(examples: Sequence[Tagged], what: str) -> Iterator[Batch]:
        encoded = opened.encode([example.words for example in examples])
        for indices, states in opened.batches(encoded, opened.layers, watch, what):
            tags = [UPOS.index(tag) for i in indices for tag in examples[i].labels]
            yield states, np.array(tags)

    classifier, place, notes = fit_ridge(
        batches(train, "reading train"), batches(dev, "choosing on dev"),
        len(UPOS), protocol.inverse_regularisation,
    )  # fmt: skip
    layer = opened.layers[place]
    return Probe(opened, classifier, layer), [f"layer {layer}, {note}" for note in notes]


def _measure(
    probe: Probe, examples: Sequence[Tagged], _protocol: Protocol, watch: ProgressCallback
) -> tuple[list[Items], list[str]]:
    encoded = probe.states.encode([example.words for example in examples])
    predictions: list[tuple[str, ...]] = [()] * len(examples)
    for indices, (vectors,) in probe.states.batches(encoded, [probe.layer], watch, "tagging test"):
        tags = iter(probe.classifier.predict(vectors).tolist())
        for i in indices:
            predictions[i] = tuple(UPOS[next(tags)] for _ in examples[i].words)
    return pos.TASK.items(examples, predictions, UPOS, ""), split_note(encoded)


TASK = ProbeTask(
    name="pos_probe",
    title="part-of-speech tagging by a linear probe",
    folder=pos.TASK.folder,
    suffix=pos.TASK.suffix,
    metrics=pos.TASK.metrics,
    read=pos.TASK.read,
    hub=pos.TASK.hub,
    fit=_fit,
    measure=_measure,
    own_settings=(*WORD_SETTINGS, "inverse_regularisation"),
)
