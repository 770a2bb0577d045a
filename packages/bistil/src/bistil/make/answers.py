"""What a model of any kind answers to lines of text, as its users ask it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bistil.encoders.prompts import default_prompt
from teacherzoo.encoders.teachers import longest_text
from teacherzoo.progress import no_progress
from vocabmerge import Kind, read_layout, read_vocabulary
from xeval import Protocol
from xeval.encoder import quiet
from xeval.sentences.kinds import device
from xeval.sentences.vectors import open_vectors

_ROWS = 32
_LENGTH = 128

Vectors = NDArray[np.float32]


def text_vectors(folder: Path, texts: Sequence[str], prompt: str | None) -> Vectors:
    """[N, D] as the judge asks for them: by a sentence encoder's own modules, else the mean of the last hidden states.

    Args:
        folder: of the model.
        texts: N of them.
        prompt: put in front of each; None for the folder's own.
    """
    layer = None if read_layout(folder).kind in (Kind.SENTENCE, Kind.SPARSE) else -1
    opened = open_vectors(str(folder), Protocol(text_prompt=prompt, layer=layer))
    return opened.encode(texts, "text", no_progress, "")[0]


@dataclass(frozen=True, kw_only=True)
class SparseVectors:
    """Vectors over a vocabulary.

    Attributes:
        rows: SciPy's `csr_array` [N, V]; entry i of a row is the weight of piece i.
        pieces: V of them.
    """

    rows: Any
    pieces: tuple[str, ...]

    def over(self, pieces: Sequence[str]) -> Any:
        """The same rows over another vocabulary's pieces [N, W]; the weight of a piece that is not in it goes."""
        entries, places = self.rows.tocoo(), {piece: place for place, piece in enumerate(pieces)}
        columns = np.array([places.get(piece, -1) for piece in self.pieces])[entries.coords[1]]
        known = columns >= 0
        coordinates = (entries.coords[0][known], columns[known])
        return type(self.rows)((entries.data[known], coordinates), shape=(len(self.rows.indptr) - 1, len(pieces)))  # fmt: skip


def sparse_vectors(folder: Path, texts: Sequence[str], prompt: str | None) -> SparseVectors:
    """What a sparse encoder says of texts, with the pieces that it weighs.

    Args:
        folder: of the model.
        texts: N of them.
        prompt: put in front of each; None for the folder's own.
    """
    rows: Any = text_vectors(folder, texts, prompt)
    ids = read_vocabulary(folder / read_layout(folder).tokenizer).ids
    pieces = [f"row {place} of no piece" for place in range(rows.shape[1])]
    for piece, place in ids.items():
        pieces[place] = piece
    return SparseVectors(rows=rows, pieces=tuple(pieces))


def label_logits(folder: Path, rows: Sequence[tuple[str, ...]]) -> Vectors:
    """[N, L] what a sequence classifier says of texts, or of pairs of texts, behind the default prompt of its folder."""
    from transformers import AutoModelForSequenceClassification

    prompt = default_prompt(read_layout(folder))
    rows = [(prompt + first, *others) for first, *others in rows]
    with quiet():
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    return np.concatenate(_in_batches(model, _tokenizer(folder), rows, lambda batch: model(**batch).logits))  # fmt: skip


def word_labels(folder: Path, texts: Sequence[str]) -> list[NDArray[np.int64]]:
    """Per text the label [W] of each of its words, which white space divides: that of the word's first sub-word."""
    from transformers import AutoModelForTokenClassification

    with quiet():
        model = AutoModelForTokenClassification.from_pretrained(folder, dtype=torch.float32)
    model.to(device()).eval()
    tokenizer = _tokenizer(folder)
    labels: list[NDArray[np.int64]] = []
    with torch.inference_mode():
        for text in texts:
            words = text.split()
            encoded = tokenizer(words, is_split_into_words=True, truncation=True, max_length=_length(model, tokenizer), return_tensors="pt")  # fmt: skip
            best = model(**encoded.to(device())).logits[0].argmax(dim=-1).cpu().numpy()
            firsts: dict[int, int] = {}
            for place, word in enumerate(encoded.word_ids()):
                if word is not None:
                    firsts.setdefault(word, place)
            answers = np.full(len(words), -1, dtype=np.int64)
            for word, place in firsts.items():
                answers[word] = best[place]
            labels.append(answers)
    return labels


def _in_batches(
    model: Any, tokenizer: Any, rows: Sequence[tuple[str, ...]], answer: Any
) -> list[Vectors]:
    model.to(device()).eval()
    order = sorted(range(len(rows)), key=lambda number: sum(map(len, rows[number])))
    answers: list[Any] = [None] * len(rows)
    with torch.inference_mode():
        for start in range(0, len(order), _ROWS):
            numbers = order[start : start + _ROWS]
            columns = [list(column) for column in zip(*(rows[n] for n in numbers), strict=True)]
            batch = tokenizer(*columns, padding=True, truncation=True, max_length=_length(model, tokenizer), return_tensors="pt")  # fmt: skip
            for number, values in zip(numbers, answer(batch.to(device())).float().cpu().numpy(), strict=True):  # fmt: skip
                answers[number] = values[None]
    return answers


def _length(model: Any, tokenizer: Any) -> int:
    return min(_LENGTH, longest_text(model.config, tokenizer))


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder / read_layout(folder).tokenizer)
