"""Embeddings and head of a new vocabulary, from one or several old models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vocabmerge.carry.methods import METHODS
from vocabmerge.carry.pieces import matching_ids
from vocabmerge.carry.source import ORIGINS, NewTables, Source
from vocabmerge.errors import VocabularyError
from vocabmerge.tokenizer_file.vocabulary import Vocabulary

if TYPE_CHECKING:
    import torch

Method = Literal["copy", "mean", "subword", "focus", "omp", "procrustes"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Carried:
    """Tables of the new vocabulary.

    Args:
        embedding: input rows [V_new, E].
        head: output rows [V_new, E], None where the first source has none of its own.
        bias: head bias [V_new], None where the first source has none.
        origin: per new piece, where its embedding comes from: an index into `ORIGINS` [V_new].
        report: what was done, for people and files.
    """

    embedding: torch.Tensor = field(repr=False)
    head: torch.Tensor | None = field(repr=False)
    bias: torch.Tensor | None = field(repr=False)
    origin: NDArray[np.int8] = field(repr=False)
    report: Mapping[str, Any]


def carry(
    new: Vocabulary,
    sources: Sequence[Source],
    *,
    method: Method = "subword",
    auxiliary: ArrayLike | None = None,
    k: int = 64,
    seed: int = 0,
) -> Carried:
    """Give every piece of a new vocabulary rows, made from the rows of old models.

    A piece that an old vocabulary has too, by its place in a word and its bytes, is an anchor. Methods:

    - `copy`: anchors are copied from the first source that has them.
    - `mean`: anchors are averaged over the sources that have them; all others get the mean of the first source.
    - `subword`: anchors as under `mean`; another piece is the mean of the old pieces that make it up, in the first
      source that can (WECHSEL's way with subwords: Minixhofer, Paischer, Rekabsaz 2022).
    - `focus`: anchors are copied from the first source; another piece is `Σ_a w_a · row of anchor a` with
      `w = sparsemax` of the cosine similarities of `auxiliary` embeddings (FOCUS: Dobler, de Melo 2023).
    - `omp`: anchors are copied from the first source; another piece is expressed in some later source as a
      combination of at most k anchors shared with the first, by orthogonal matching pursuit, and takes the same
      combination of the first's rows (Goddard, Fernandes Neto 2025).
    - `procrustes`: every source is rotated, scaled and shifted onto the first by their shared anchors (Schönemann
      1966); then averaged.

    What a method cannot reach is drawn from a normal distribution with each column's mean and deviation in the first
    source; a bias gets the mean.

    Args:
        new: the vocabulary to fill, of V_new pieces.
        sources: the old models, each with tables [V, E]. The result lies in the first one's space and has its tables.
        method: see above.
        auxiliary: for `focus`, an embedding of each new piece [V_new, D], zero where unknown.
        k: for `omp`, the number of anchors in a combination.
        seed: of the random rows.

    Returns:
        The tables and a report: per origin the number of pieces, per source the number of anchors.

    Raises:
        VocabularyError: an unknown method, a table with missing rows, widths that the method cannot unite, too few
            anchors, or no auxiliary embeddings where they are needed.

    Example:
        >>> import torch
        >>> from vocabmerge.tokenizer_file.vocabulary import parse_vocabulary
        >>> def words(*pieces):
        ...     return parse_vocabulary({"added_tokens": [], "model": {"type": "WordPiece", "unk_token": "?",
        ...         "continuing_subword_prefix": "##", "max_input_chars_per_word": 9,
        ...         "vocab": {piece: number for number, piece in enumerate(pieces)}}}, name="tiny")
        >>> old = Source(vocabulary=words("?", "a", "##b"), embedding=torch.tensor([[0.0], [1.0], [3.0]]))
        >>> carry(words("##b", "ab", "?"), [old]).embedding.tolist()
        [[3.0], [2.0], [0.0]]
    """
    if method not in METHODS:
        raise VocabularyError(
            f"expected a method among {', '.join(get_args(Method))}, got {method!r}"
        )
    if not sources:
        raise VocabularyError("expected at least one model to carry from, got none")
    if method == "omp" and len(sources) < 2:
        raise VocabularyError(
            "omp expresses a piece in a second model that has it, got one model; add one, or take subword"
        )
    matches = [matching_ids(new, source.vocabulary) for source in sources]
    filled = NewTables(
        vocabulary=new,
        sources=sources,
        matches=matches,
        tables=_random_tables(len(new), sources[0], seed),
        origin=np.zeros(len(new), dtype=np.int8),
        auxiliary=auxiliary,
        k=k,
    )
    METHODS[method](filled)
    bias = filled.tables.get("bias")
    return Carried(
        embedding=filled.tables["embedding"],
        head=filled.tables.get("head"),
        bias=None if bias is None else bias[:, 0],
        origin=filled.origin,
        report={
            "method": method,
            "pieces": len(new),
            **{name: int((filled.origin == index).sum()) for index, name in enumerate(ORIGINS)},
            "anchors": {
                source.vocabulary.name: int((ids >= 0).sum())
                for source, ids in zip(sources, matches, strict=True)
            },
            "seed": seed,
        },
    )


def _random_tables(size: int, first: Source, seed: int) -> dict[str, torch.Tensor]:
    import torch

    generator = torch.Generator().manual_seed(seed)
    tables = {}
    for name, table in first.tables().items():
        rows = table[: len(first.vocabulary)].float()
        noise = torch.zeros(size, table.shape[1])
        if name != "bias":
            noise.normal_(generator=generator)
            noise *= rows.std(dim=0, correction=0).cpu()
        tables[name] = (noise + rows.mean(dim=0).cpu()).to(table.device, table.dtype)
    return tables
