"""Sentence retrieval: does a sentence find its translation among all of them? Accuracy@1 both ways, nothing tuned.

A sentence is the mean of the hidden states of its sub-words, special tokens left out, at the protocol's `layer`. A
neighbour is the one of the highest cosine or, with `csls` k, of the highest 2·cos(x, y) − r(x) − r(y), where r is the
mean cosine to the k nearest on the other side (Conneau et al. 2018). What is found counts when its text is the right
one, so that a repeated sentence may stand for its twin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xeval.encoder import longest_row, open_encoder, open_tokenizer
from xeval.errors import XevalError
from xeval.progress import ProgressCallback
from xeval.protocol import Protocol
from xeval.statistics.items import Items, digest_of_examples
from xeval.task_templates.batches import by_length, pad_rows
from xeval.task_templates.files import read_columns
from xeval.task_templates.hub import HubSet, LabelNames, Row
from xeval.task_templates.task import ZeroShotTask
from xeval.task_templates.word_tokenization import Pieces

_TOKENS = 4096

States = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Pair:
    """A sentence and its translation into the pivot language."""

    text: str
    translation: str


def _read(path: Path, _cache: Path | None) -> list[Pair]:
    return [Pair(*fields) for _, fields in read_columns(path, ("sentence", "translation"))]


def _open(model: str, protocol: Protocol) -> tuple[Any, Pieces]:
    import torch

    encoder: Any = open_encoder(model)
    if torch.cuda.is_available():
        encoder.to("cuda")
    return encoder.eval(), Pieces(
        open_tokenizer(model), min(protocol.max_length, longest_row(encoder))
    )


def _measure(
    opened: tuple[Any, Pieces],
    examples: Sequence[Pair],
    protocol: Protocol,
    watch: ProgressCallback,
) -> tuple[list[Items], list[str]]:
    texts, translations = [e.text for e in examples], [e.translation for e in examples]
    foreign, cut_foreign = mean_states(*opened, texts, protocol.layer, watch)
    pivot, cut_pivot = mean_states(*opened, translations, protocol.layer, watch)
    nearness = near(foreign, pivot, protocol.csls)
    digest = digest_of_examples(examples)
    items = [
        Items(metric=metric, rows=_right(table, wanted), test_digest=digest)
        for metric, table, wanted in (
            ("retrieval_to_source", nearness, translations),
            ("retrieval_from_source", nearness.T, texts),
        )
    ]
    cut = cut_foreign + cut_pivot
    note = f"{cut} of {2 * len(examples)} sentences were longer than a row and were cut"
    return items, [note] * (cut > 0)


def _right(nearness: States, wanted: Sequence[str]) -> NDArray[np.int64]:
    nearest = nearness.argmax(axis=1)
    return np.array([(wanted[at] == right, 1) for at, right in zip(nearest, wanted, strict=True)])


def near(a: States, b: States, csls: int) -> States:
    """Nearness `[n, m]` of rows of unit length: cosine, or CSLS over `csls` neighbours."""
    cosine = a @ b.T
    if not csls:
        return cosine
    k = min(csls, *cosine.shape)
    of_a = np.partition(cosine, -k, axis=1)[:, -k:].mean(axis=1, keepdims=True)
    of_b = np.partition(cosine, -k, axis=0)[-k:].mean(axis=0, keepdims=True)
    return np.asarray(2 * cosine - of_a - of_b)


def mean_states(
    encoder: Any, pieces: Pieces, texts: Sequence[str], layer: int | None, watch: ProgressCallback
) -> tuple[States, int]:
    """Mean hidden state of each text, of unit length `[n, H]`, and how many texts were cut."""
    import torch

    encoded, cut = pieces.encode_texts(texts)
    layers = encoder.config.num_hidden_layers
    chosen = (layers + 1) // 2 if layer is None else layer
    if not -layers - 1 <= chosen <= layers:
        raise XevalError(
            f"layer must lie between {-layers - 1} and {layers}, the last, for this model; got {layer!r}"
        )
    means = np.zeros((len(texts), encoder.config.hidden_size), dtype=np.float32)
    before, after = len(pieces.before), len(pieces.after)
    done = 0
    with torch.inference_mode():
        for indices in by_length(encoded, tokens=_TOKENS):
            rows = pad_rows([encoded[i] for i in indices], pieces.pad_id)
            batch = {name: tensor.to(encoder.device) for name, tensor in rows.items()}
            states = encoder(**batch, output_hidden_states=True).hidden_states[chosen]
            # A text of special tokens alone keeps them.
            inside = batch["attention_mask"].clone()
            for row, i in enumerate(indices):
                length = len(encoded[i].rows[0])
                if length > before + after:
                    inside[row, :before] = 0
                    inside[row, length - after : length] = 0
            weights = inside[..., None].to(states.dtype)
            mean = (states * weights).sum(dim=1) / weights.sum(dim=1)
            means[indices] = torch.nn.functional.normalize(mean, dim=-1).cpu().numpy()
            done += len(indices)
            watch(done, len(texts), "retrieval")
    return means, cut


def _hub_example(row: Row, _names: LabelNames, _where: str) -> Pair:
    return Pair(row["sentence1"], row["sentence2"])


TASK = ZeroShotTask(
    name="retrieval",
    title="sentence retrieval",
    folder="tatoeba",
    suffix="tsv",
    metrics=("retrieval_to_source", "retrieval_from_source"),
    read=_read,
    open=_open,
    measure=_measure,
    own_settings=("layer", "csls"),
    hub=(
        HubSet(
            name="tatoeba",
            repository="mteb/tatoeba-bitext-mining",
            configurations=r"([a-z]{3})-eng",
            splits={"test": "test"},
            example=_hub_example,
            languages="112, each with its translation into English",
            licence="CC BY 2.0",
            citation="Artetxe, Schwenk 2019: Massively Multilingual Sentence Embeddings for Zero-Shot Cross-Lingual Transfer and Beyond",
        ),
    ),
)
