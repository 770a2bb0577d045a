"""Plans the cut of a folder that transformers wrote: which tensors lose rows, and which settings follow.

The model is built without values, on torch's meta device, and its vocabulary taken out as `select_rows` does it; what
that changed is then done to the files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vocabmerge.encoder_folder.weight_files import PlannedTensor, Rows, StoredTensor, read_tensors
from vocabmerge.errors import VocabularyError
from vocabmerge.model_files import name_in_model
from vocabmerge.models import select_rows, vocabulary_tensors
from vocabmerge.open_models import model_without_values


@dataclass(frozen=True, kw_only=True, eq=False)
class TransformerPart:
    """A model folder, read but for the values of its weights.

    Args:
        folder: where it lies.
        model: the model of its config's class, without values.
        rows: how many rows its vocabulary has.
        vocabulary: names in the files of the tensors that have one row per piece.
        named: the model's name for each tensor of the files, "" where the class has none.
        stored: the tensors of the files.
        metadata: what the files say of themselves.
    """

    folder: Path
    model: Any
    rows: int
    vocabulary: frozenset[str]
    named: dict[str, str]
    stored: tuple[StoredTensor, ...]
    metadata: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class TransformerCut:
    """What a cut changes in a model folder.

    Args:
        settings: new values of the config's settings.
        tensors: the tensors to write.
    """

    settings: dict[str, Any]
    tensors: tuple[PlannedTensor, ...]


def open_part(folder: Path) -> TransformerPart:
    """Read a model folder's config and the shapes of its weights.

    Raises:
        VocabularyError: a class that transformers does not have, tables that do not have the config's rows, a file
            without the embedding, or a tensor, of the class or not, with the vocabulary on another than its first axis.
    """
    model = model_without_values(folder)
    tensors = vocabulary_tensors(model)
    state = model.state_dict(keep_vars=True)
    stored, metadata = read_tensors(folder)
    named = {tensor.name: name_in_model(model, tensor.name, state) for tensor in stored}
    tables = {id(table) for table in tensors}
    vocabulary = set()
    for tensor in stored:
        name = named[tensor.name]
        if name and id(state[name]) in tables:
            expected = tuple(state[name].shape)
            if tensor.shape != expected:
                raise VocabularyError(
                    f"{folder}: the config's vocab_size makes {tensor.name} {list(expected)}, the weights have "
                    f"{list(tensor.shape)}; take the config that belongs to the weights"
                )
            vocabulary.add(tensor.name)
        elif not name and tensor.shape[:1] == (tensors.rows,):
            vocabulary.add(tensor.name)  # the head of another class
        elif not name and tensors.rows in tensor.shape:
            raise VocabularyError(
                f"{folder}: {tensor.name} {list(tensor.shape)} is no part of {type(model).__name__}, and is as long as "
                "the vocabulary; what it means is not known here: save the model again as its own class"
            )
    _refuse_other_growth(folder, state, tables, {*named.values()} - {""}, tensors.rows)
    embedding = {name for name, tensor in state.items() if tensor is tensors.embedding}
    if not embedding & {*named.values()}:
        raise VocabularyError(
            f"{folder}: expected the embedding in its weights, found no {min(embedding)}; fetch or save the model again"
        )
    return TransformerPart(
        folder=folder,
        model=model,
        rows=tensors.rows,
        vocabulary=frozenset(vocabulary),
        named=named,
        stored=stored,
        metadata=metadata,
    )


def _refuse_other_growth(
    folder: Path, state: dict[str, Any], tables: set[int], names: set[str], rows: int
) -> None:
    """Refuse a class of which more than the first axis of the tables follows the vocabulary, as MobileBERT's head.

    Asked of the class itself, with one row more: an axis of the vocabulary's length by chance does not grow.
    """
    grown = model_without_values(folder, rows=rows + 1).state_dict(keep_vars=True)
    for name in sorted(names):
        shape = list(state[name].shape)
        expected = [rows + 1, *shape[1:]] if id(state[name]) in tables else shape
        if list(grown[name].shape) != expected:
            raise VocabularyError(
                f"{folder}: {name} {shape} follows the vocabulary otherwise than by a row per piece, which is not cut here; save "
                "the model without its head (AutoModel), if that is where it belongs"
            )


def cut_part(part: TransformerPart, kept: Rows) -> TransformerCut:
    """Plan to keep some rows; the part's model is cut, too, and the part of no further use.

    Raises:
        VocabularyError: an id without a row, or a config id that would lose its row.
    """
    before = part.model.state_dict(keep_vars=True)
    settings = part.model.config.to_dict()
    select_rows(part.model, kept.tolist())
    after = part.model.state_dict(keep_vars=True)
    changed = part.model.config.to_dict()
    return TransformerCut(
        settings={name: value for name, value in changed.items() if settings[name] != value},
        tensors=tuple(
            PlannedTensor(
                stored=tensor,
                rows=kept
                if tensor.name in part.vocabulary
                else _positions(before, after, part.named[tensor.name]),
            )
            for tensor in part.stored
        ),
    )


def _positions(before: dict[str, Any], after: dict[str, Any], name: str) -> Rows | None:
    """The rows of a position table that moved with the padding id; None where a tensor stays as it is."""
    if not name or after[name] is before[name]:
        return None
    old, new = len(before[name]), len(after[name])
    return np.maximum(np.arange(old - new, old), -1)
