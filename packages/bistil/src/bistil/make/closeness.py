"""How near a smaller model's answers are to the model's, on text that it was not made with.

Each measure gives one number x_i in [0, 1] per line, 1 where the answers are the same; what is shown is 100 · mean x_i with
the 95 % interval of a bootstrap over lines (Efron and Tibshirani 1993).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bistil.make.answers import label_logits, text_vectors, word_labels
from teacherzoo.progress import ProgressCallback
from vocabmerge import Kind, read_layout

NEIGHBOURS = 10
_CANDIDATES = 10
_DRAWS = 2_000

Items = NDArray[np.float64]


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
    measures = _MEASURES[layout.kind](layout.num_labels)
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
                interval={name: _interval(values[measure], seed) for name, values in items.items()},
            )
            for measure in next(iter(items.values()))
        ]
    return rows


@dataclass(frozen=True)
class _Measures:
    ask: Callable[[Path, Sequence[str], str | None], Any]
    compare: Callable[[Any, Any], dict[str, Items]]


def compare_vectors(
    expected: NDArray[np.float32], given: NDArray[np.float32], *, neighbours: int = NEIGHBOURS
) -> dict[str, Items]:
    """Cosine of each vector to the whole model's, and the share of its nearest lines that are the same.

    Args:
        expected: [N, D] of the whole model.
        given: [N, D] of a smaller one.
        neighbours: k; N - 1 where there are fewer.

    Returns:
        By measure [N].

    Example:
        >>> x = np.eye(3, dtype=np.float32)
        >>> {name: values.tolist() for name, values in compare_vectors(x, 2 * x, neighbours=1).items()}
        {'cosine': [1.0, 1.0, 1.0], 'same 1 nearest': [1.0, 1.0, 1.0]}
    """
    a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (expected, given))  # fmt: skip
    k = min(neighbours, len(a) - 1)
    same = [len({*one} & {*two}) / k for one, two in zip(_nearest(a, k), _nearest(b, k), strict=True)]  # fmt: skip
    return {"cosine": (a * b).sum(axis=1).astype(np.float64), f"same {k} nearest": np.array(same)}


def compare_labels(expected: NDArray[np.float32], given: NDArray[np.float32]) -> dict[str, Items]:
    """Whether the greatest of the logits [N, L] is the same, and 1 - the total variation of their softmaxes."""
    same = expected.argmax(axis=1) == given.argmax(axis=1)
    variation = np.abs(_softmax(expected) - _softmax(given)).sum(axis=1) / 2
    return {"same label": same.astype(np.float64), "shared probability": 1 - variation}


def compare_rankings(expected: NDArray[np.float32], given: NDArray[np.float32]) -> dict[str, Items]:
    """Of candidates scored [N, C] per query: whether the first is the same, and the share of pairs in the same order."""
    first = expected.argmax(axis=1) == given.argmax(axis=1)
    upper = np.triu_indices(expected.shape[1], 1)
    order = [np.sign(x[:, :, None] - x[:, None, :])[:, upper[0], upper[1]] for x in (expected, given)]  # fmt: skip
    return {
        "same first candidate": first.astype(np.float64),
        "pairs in the same order": (order[0] == order[1]).mean(axis=1),
    }


def compare_word_labels(
    expected: Sequence[NDArray[np.int64]], given: Sequence[NDArray[np.int64]]
) -> dict[str, Items]:
    """The share of each line's words that get the same label."""
    return {"same label of a word": np.array([(a == b).mean() for a, b in zip(expected, given, strict=True)])}  # fmt: skip


def _ask_reranker(folder: Path, lines: Sequence[str], _prompt: str | None) -> NDArray[np.float32]:
    """Each line is a query, the lines behind it are its candidates: [N, C]."""
    count = min(_CANDIDATES, len(lines) - 1)
    pairs = [
        (line, lines[(number + behind) % len(lines)])
        for number, line in enumerate(lines)
        for behind in range(1, count + 1)
    ]
    return label_logits(folder, pairs)[:, 0].reshape(len(lines), count)


def _of_classifier(num_labels: int | None) -> _Measures:
    if num_labels == 1:
        return _Measures(_ask_reranker, compare_rankings)
    return _Measures(
        lambda folder, lines, _prompt: label_logits(folder, [(line,) for line in lines]),
        compare_labels,
    )


_MEASURES: dict[Kind, Callable[[int | None], _Measures]] = {
    **dict.fromkeys(
        (Kind.SENTENCE, Kind.HEADLESS, Kind.MASKED_LM),
        lambda _labels: _Measures(text_vectors, compare_vectors),
    ),
    Kind.CLASSIFIER: _of_classifier,
    Kind.TOKEN_CLASSIFIER: lambda _labels: _Measures(
        lambda folder, lines, _prompt: word_labels(folder, lines), compare_word_labels
    ),
}


def _nearest(vectors: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    cosine = vectors @ vectors.T
    np.fill_diagonal(cosine, -np.inf)
    return np.argsort(-cosine, axis=1, kind="stable")[:, :k]


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True).astype(np.float64))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def _interval(items: Items, seed: int) -> tuple[float, float]:
    draws = np.random.default_rng(seed).integers(0, len(items), size=(_DRAWS, len(items)))
    low, high = np.quantile(items[draws].mean(axis=1), (0.025, 0.975))
    return 100 * float(low), 100 * float(high)
