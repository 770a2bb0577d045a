"""How near a smaller model's answers are to the model's, on text that it was not made with.

Each measure gives one number x_i in [0, 1] per line, 1 where the answers are the same; what is shown is 100 · mean x_i with
the 95 % interval of a bootstrap over lines (Efron and Tibshirani 1993).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bistil.encoders.answers import answers_of_folder
from bistil.encoders.closeness import (
    Items,
    compare_labels,
    compare_rankings,
    compare_scores,
    compare_sparse_vectors,
    compare_vectors,
    compare_word_labels,
    interval,
)
from bistil.make.answers import (
    SparseVectors,
    label_logits,
    sparse_vectors,
    text_vectors,
    word_labels,
)
from teacherzoo.progress import ProgressCallback
from vocabmerge import Kind, Layout, read_layout

_CANDIDATES = 10


@dataclass(frozen=True, kw_only=True)
class Closeness:
    """One measure in one language.

    Attributes:
        language: of the lines.
        measure: in words.
        n: lines.
        mean: per smaller model, 100 · the mean.
        interval: per smaller model, the 95 % interval of it.
    """

    language: str
    measure: str
    n: int
    mean: Mapping[str, float]
    interval: Mapping[str, tuple[float, float]]


def closeness(
    whole: Path,
    models: Mapping[str, Path],
    texts: Mapping[str, Sequence[str]],
    *,
    prompt: str | None,
    seed: int,
    watch: ProgressCallback,
) -> list[Closeness]:
    """Compare smaller models with the whole one.

    Args:
        whole: the model's folder.
        models: name to folder of what was made of it.
        texts: per language lines that none was made with.
        prompt: put in front of each; None for the folder's own.
        seed: of the bootstrap.
        watch: told (done, total, what).

    Returns:
        A row for each language and measure.
    """
    layout = read_layout(whole)
    measures = measures_of(layout)
    rows = []
    for number, (language, lines) in enumerate(texts.items()):
        watch(number, len(texts), f"judging {language}")
        expected = measures.ask(whole, lines, prompt)
        items = {
            name: measures.compare(expected, measures.ask(folder, lines, prompt))
            for name, folder in models.items()
        }
        rows += [
            Closeness(
                language=language,
                measure=measure,
                n=len(lines),
                mean={name: 100 * float(values[measure].mean()) for name, values in items.items()},
                interval={name: interval(values[measure], seed) for name, values in items.items()},
            )
            for measure in next(iter(items.values()))
        ]
    return rows


@dataclass(frozen=True)
class Measures:
    """What models of a kind are asked, and how their answers are compared.

    Attributes:
        ask: given folder, lines and what is put in front of each, the answers.
        compare: given the answers of the whole model and those of a smaller one, measures by name, one number for each line.
    """

    ask: Callable[[Path, Sequence[str], str | None], Any]
    compare: Callable[[Any, Any], dict[str, Items]]


def measures_of(layout: Layout) -> Measures:
    """Those of a model folder's kind."""
    return _MEASURES[layout.kind](layout)


def _ask_reranker(folder: Path, lines: Sequence[str], _prompt: str | None) -> NDArray[np.float32]:
    """[N, C] of each line's query its own passage and those of the lines behind it; a line of one column is both, but not to itself."""
    rows = _columns(lines)
    first = 1 if len(rows[0]) == 1 else 0
    count = min(_CANDIDATES, len(rows) - first)
    pairs = [
        (row[0], rows[(number + behind) % len(rows)][-1])
        for number, row in enumerate(rows)
        for behind in range(first, first + count)
    ]
    return label_logits(folder, pairs)[:, 0].reshape(len(rows), count)


def _columns(lines: Sequence[str]) -> list[tuple[str, ...]]:
    """The text of each line, or its two texts."""
    return [tuple(line.split("\t")) for line in lines]


def _compare_sparse(expected: SparseVectors, given: SparseVectors) -> dict[str, Items]:
    return compare_sparse_vectors(expected.rows, given.over(expected.pieces))


def _of_classifier(layout: Layout) -> Measures:
    if layout.reranker:
        return Measures(_ask_reranker, compare_rankings)
    form = answers_of_folder(layout)
    return Measures(
        lambda folder, lines, _prompt: label_logits(folder, _columns(lines)),
        compare_scores if form == "numbers" else partial(compare_labels, several=form == "several"),
    )


_MEASURES: dict[Kind, Callable[[Layout], Measures]] = {
    **dict.fromkeys(
        (Kind.SENTENCE, Kind.HEADLESS, Kind.MASKED_LM),
        lambda _layout: Measures(text_vectors, compare_vectors),
    ),
    Kind.SPARSE: lambda _layout: Measures(sparse_vectors, _compare_sparse),
    Kind.CLASSIFIER: _of_classifier,
    Kind.TOKEN_CLASSIFIER: lambda _layout: Measures(
        lambda folder, lines, _prompt: word_labels(folder, lines), compare_word_labels
    ),
}
