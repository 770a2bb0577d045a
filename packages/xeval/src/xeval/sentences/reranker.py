"""One score per pair of query and document, by a cross-encoder or by the similarity of their vectors."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from xeval.encoder import named, quiet
from xeval.errors import XevalError
from xeval.progress import ProgressCallback
from xeval.protocol import Protocol as Settings
from xeval.sentences.kinds import RERANKER, device, kind_of, scores_pairs, sentence_transformers
from xeval.sentences.vectors import TextVectors, open_vectors, require_numbers

_log = logging.getLogger("xeval")
_PAIRS = 512  # between two reports of progress

Scores = NDArray[np.float32]


class PairScores(Protocol):
    """A model that says how well documents answer queries.

    Attributes:
        method: how, in words.
    """

    method: str

    def score(
        self,
        queries: Sequence[str],
        documents: Sequence[Sequence[str]],
        watch: ProgressCallback,
        what: str,
    ) -> tuple[list[Scores], int]:
        """A score for each document of each query, and how many texts or pairs were cut."""


def open_reranker(model: str, protocol: Settings) -> PairScores:
    """A cross-encoder by its own score; any other model by the similarity of vectors.

    Raises:
        XevalError: as `open_vectors`, for `layer` or a prompt given for a cross-encoder, which has no use for them, and for a
            classifier that says that its score is of single texts.
    """
    if kind_of(model) != RERANKER:
        return SimilarityScores(open_vectors(model, protocol))
    assumed = scores_pairs(model) == "assumed"
    for name in ("layer", "query_prompt", "document_prompt"):
        if getattr(protocol, name) is not None:
            raise XevalError(
                f"{model}: is a cross-encoder, which reads query and document as one, but {name} is "
                f"{getattr(protocol, name)!r}; leave it out"
            )
    if assumed:
        _log.warning(
            "%s: taken for a reranker, which scores pairs of texts: it has one output, and its config.json does not say of what; "
            'if it scores single texts, add its "problem_type" there',
            model,
        )
    return CrossEncoderScores(model, protocol.max_length, assumed=assumed)


class CrossEncoderScores:
    """A sequence classifier with one label, opened by sentence-transformers, in float32.

    Args:
        model: a model folder or Hub name.
        max_length: sub-words of a pair; the model's own limit where that is smaller or this is None.
        assumed: whether nothing in the folder says that it scores pairs.
    """

    def __init__(self, model: str, max_length: int | None, *, assumed: bool = False) -> None:
        self._name, library = model, sentence_transformers(model)
        with named(model, "reranker"), quiet():
            self._model = library.CrossEncoder(
                model, device=device(), trust_remote_code=False, model_kwargs={"dtype": "float32"}
            )
        limit = self._model.max_seq_length
        if max_length is not None and (limit is None or max_length < limit):
            self._model.max_seq_length = max_length
        if self._model.num_labels != 1:
            raise XevalError(
                f"{model}: expected a reranker with one score, got {self._model.num_labels} labels; "
                "a classifier is judged by the task it was tuned for"
            )
        self.method = f"cross-encoder ({type(self._model.activation_fn).__name__})" + (
            ", assumed to score pairs" if assumed else ""
        )

    def score(
        self,
        queries: Sequence[str],
        documents: Sequence[Sequence[str]],
        watch: ProgressCallback,
        what: str,
    ) -> tuple[list[Scores], int]:
        """The scores of `CrossEncoder.predict`, longest pairs first."""
        pairs = [
            (query, document)
            for query, listed in zip(queries, documents, strict=True)
            for document in listed
        ]
        order = sorted(range(len(pairs)), key=lambda i: (-len(pairs[i][0] + pairs[i][1]), i))
        scores = np.empty(len(pairs), dtype=np.float32)
        for start in range(0, len(order), _PAIRS):
            chosen = order[start : start + _PAIRS]
            scores[chosen] = self._model.predict(
                [pairs[i] for i in chosen], show_progress_bar=False
            )
            watch(start + len(chosen), len(order), what)
        require_numbers(scores, self._name)
        return _split(scores, documents), self._cut(pairs)

    def _cut(self, pairs: list[tuple[str, str]]) -> int:
        limit = self._model.max_seq_length
        if not limit or limit == float("inf"):
            return 0
        firsts, seconds = ([pair[side] for pair in pairs] for side in (0, 1))
        ids = self._model.tokenizer(firsts, seconds, truncation=False, verbose=False)["input_ids"]
        return sum(len(row) > limit for row in ids)


class SimilarityScores:
    """The similarity of the vectors of query and document; a text that stands several times is encoded once."""

    def __init__(self, vectors: TextVectors) -> None:
        self._vectors = vectors
        self.method = vectors.method

    def score(
        self,
        queries: Sequence[str],
        documents: Sequence[Sequence[str]],
        watch: ProgressCallback,
        what: str,
    ) -> tuple[list[Scores], int]:
        """Similarities of each query to its documents."""
        asked, cut_queries = self._vectors.encode(queries, "query", watch, what)
        place = {text: i for i, text in enumerate(dict.fromkeys(t for d in documents for t in d))}
        known, cut_documents = self._vectors.encode(list(place), "document", watch, what)
        scores = [
            self._vectors.similarity(asked[i : i + 1], known[[place[text] for text in listed]])[0]
            for i, listed in enumerate(documents)
        ]
        return scores, cut_queries + cut_documents


def _split(scores: Scores, documents: Sequence[Sequence[str]]) -> list[Scores]:
    ends = np.cumsum([len(listed) for listed in documents])
    return np.split(scores, ends[:-1])
