"""Development sets: text or labelled rows by which mixtures of models are compared, row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mergedistill.errors import FuseError
from teacherzoo import Corpus, Masking, Teacher
from teacherzoo.encoders.inference import MaskedBlock, PlainEngine, batches, predict_blocks
from teacherzoo.encoders.kinds import allows_several
from teacherzoo.text.blocks import blocks_of
from teacherzoo.text.masking import masked_positions
from vocabmerge import Kind
from vocabmerge.corpora import numbered_lines, parsed_record, text_of_record

JUDGED = {
    Kind.MASKED_LM: "mean log-probability of masked pieces",
    Kind.CLASSIFIER: "accuracy",
    Kind.TOKEN_CLASSIFIER: "accuracy of words",
}
"""Kinds of models that a development set can judge, and by what."""
_LENGTH, _BATCH = 128, 4096
_KEYS = {Kind.CLASSIFIER: ("text", "label"), Kind.TOKEN_CLASSIFIER: ("words", "labels")}

Outcome = NDArray[np.float64]
"""[R, 2]: of each row what it adds to the score, and by how much it counts."""


@dataclass(frozen=True)
class Example:
    """A row as a model reads it.

    Attributes:
        input_ids: [T].
        positions: [N], where answers are read; of a classifier none.
        gold: [N], the pieces or labels that belong there; of a classifier [1], or where several labels may hold [L], which do.
    """

    input_ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    gold: NDArray[np.int64]


def read_examples(teacher: Teacher, file: Path) -> list[Example]:
    """The rows of a development set, as a model of this kind reads them.

    Text for a masked LM, 15 % of its pieces masked; JSON Lines with `text` (and `text_pair`) and `label` for a classifier,
    with `words` and `labels` for a tagger, labels by name. A word's answer is read at its first piece. Where several labels
    may hold of a text, `label` is a list of them.

    Raises:
        FuseError: for a row that lacks a key or has a label that the model does not know.
        CorpusError, VocabularyError: for text that cannot be read, or is none.
    """
    if teacher.kind is Kind.MASKED_LM:
        return _masked_blocks(teacher, file)
    labels = {name: number for number, name in teacher.model.config.id2label.items()}
    # A longer text is cut as transformers cuts it, its last special token kept.
    teacher.backend.enable_truncation(teacher.max_length)
    examples = [
        _example(teacher, parsed_record(line, where), labels, where)
        for number, line in numbered_lines(file)
        for where in (f"{file}, line {number}",)
    ]
    teacher.backend.no_truncation()
    return [example for example in examples if len(example.gold)]


def outcome(teacher: Teacher, examples: Sequence[Example]) -> Outcome:
    """What a model makes of each row: hits (or log-probability, in nats), and words (or pieces).

    Where several labels may hold, those of a probability above one half do, and a text is a hit where all of them are right.
    """
    if teacher.kind is Kind.MASKED_LM:
        return _log_probabilities(teacher, examples)
    several = allows_several(teacher.model.config.problem_type)
    results = np.zeros((len(examples), 2))
    for batch in batches([len(example.input_ids) for example in examples], _BATCH):
        rows = [examples[index] for index in batch]
        width = max(len(row.input_ids) for row in rows)
        input_ids = torch.full((len(rows), width), teacher.space.pad, dtype=torch.int64)
        mask = torch.zeros(len(rows), width, dtype=torch.int64)
        for place, row in enumerate(rows):
            input_ids[place, : len(row.input_ids)] = torch.from_numpy(row.input_ids)
            mask[place, : len(row.input_ids)] = 1
        with torch.inference_mode():
            logits = teacher.model(input_ids=input_ids, attention_mask=mask).logits
        answers = ((logits > 0).long() if several else logits.argmax(dim=-1)).numpy()
        for index, row, answer in zip(batch, rows, answers, strict=True):
            if several:
                results[index] = (answer == row.gold).all(), 1
                continue
            given = answer[row.positions] if answer.ndim else answer
            results[index] = (given == row.gold).sum(), len(row.gold)
    return results


def score(results: Mapping[str, Outcome]) -> float:
    """The mean over the sets of what each gives, a row counting by its words; higher is better."""
    return float(np.mean([part[:, 0].sum() / part[:, 1].sum() for part in results.values()]))


def gain_interval(
    better: Mapping[str, Outcome],
    start: Mapping[str, Outcome],
    *,
    seed: int,
    resamples: int = 2000,
) -> tuple[float, float]:
    """95 % interval of the gain in score, by a bootstrap over the rows, which both have in common (Efron 1979)."""
    generator = np.random.default_rng(seed)
    gains = np.zeros(resamples)
    for name, first in start.items():
        pairs = np.concatenate([better[name], first], axis=1)  # [R, 4]
        for resample in range(resamples):
            drawn = pairs[generator.integers(0, len(pairs), len(pairs))].sum(axis=0)
            gains[resample] += (drawn[0] / drawn[1] - drawn[2] / drawn[3]) / len(start)
    low, high = np.quantile(gains, [0.025, 0.975])
    return float(low), float(high)


def _masked_blocks(teacher: Teacher, file: Path) -> list[Example]:
    masking = Masking()
    examples = []
    length = min(_LENGTH, teacher.max_length)
    for block in blocks_of(Corpus("dev", file).documents(), teacher.backend, length=length):
        positions = masked_positions(block, masking, space=teacher.space, draw=0)
        if len(positions):
            ids = block.token_ids.astype(np.int64)
            masked = ids.copy()
            masked[positions] = teacher.space.mask
            examples.append(Example(masked, positions, ids[positions]))
    return examples


def _log_probabilities(teacher: Teacher, examples: Sequence[Example]) -> Outcome:
    blocks = [
        MaskedBlock(row.input_ids.astype(np.uint32), row.positions, row.gold[:, None], "development set")
        for row in examples
    ]  # fmt: skip
    predictions = predict_blocks(
        PlainEngine(teacher, device=torch.device("cpu")),
        blocks,
        pad=teacher.space.pad,
        token_budget=_BATCH,
        k=1,
        temperatures=(),
    )
    counts = np.array([len(row.positions) for row in examples])
    gold = predictions.wanted_logprobs[:, 0].double().numpy()
    return np.stack([np.add.reduceat(gold, np.cumsum(counts) - counts), counts], axis=1)


def _example(
    teacher: Teacher, row: Mapping[str, Any], labels: Mapping[str, int], where: str
) -> Example:
    text_key, label_key = _KEYS[teacher.kind]
    for key in (text_key, label_key):
        if key not in row:
            raise FuseError(f"{where}: expected the keys {text_key!r} and {label_key!r}, found {', '.join(row) or 'none'}; add {key!r}.")  # fmt: skip
    text, wanted = row[text_key], row[label_key]
    names = wanted if isinstance(wanted, list) else [wanted]
    for name in names:
        if not isinstance(name, str) or name not in labels:
            raise FuseError(f"{where}: the models know no label {name!r}; they know {', '.join(labels)}; mend the row, or leave it out.")  # fmt: skip
    if teacher.kind is Kind.CLASSIFIER:
        pair = None if row.get("text_pair") is None else text_of_record(row, "text_pair", where)
        encoding = teacher.backend.encode(text_of_record(row, text_key, where), pair)
        ids = np.array(encoding.ids, dtype=np.int64)
        gold = np.array([labels[name] for name in names])
        if allows_several(teacher.model.config.problem_type):
            gold = np.isin(np.arange(len(labels)), gold).astype(np.int64)
        elif len(gold) != 1:
            raise FuseError(f"{where}: expected one label, for those of the models exclude one another, found {len(gold)}; mend the row, or leave it out.")  # fmt: skip
        return Example(ids, np.zeros(0, dtype=np.int64), gold)
    if not isinstance(text, list):
        raise FuseError(f"{where}: expected a list of words, found {text!r}.")
    if len(text) != len(names):
        raise FuseError(f"{where}: expected a label for each word, found {len(names)} for {len(text)}.")  # fmt: skip
    for word in text:
        text_of_record({text_key: word}, text_key, where)
    encoding = teacher.backend.encode(text, is_pretokenized=True)
    first: dict[int, int] = {}
    for place, word in enumerate(encoding.word_ids):
        if word is not None:
            first.setdefault(word, place)
    return Example(
        np.array(encoding.ids, dtype=np.int64),
        np.array([*first.values()], dtype=np.int64),
        np.array([labels[names[word]] for word in first], dtype=np.int64),
    )
