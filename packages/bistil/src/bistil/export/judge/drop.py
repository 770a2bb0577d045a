"""What an eight-bit graph loses against the float32 one, in points of 100, on a user's text and test sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bistil.counted import counted
from bistil.encoders.closeness import interval
from bistil.errors import ExportError
from bistil.export.graph.graph import Graph
from bistil.export.judge.graph_reader import Arrays, GraphReader, Row
from bistil.export.judge.scores import TestSets
from bistil.export.judge.text_answers import TextAnswers
from teacherzoo.progress import ProgressCallback
from vocabmerge.language_texts import Corpora, language_texts
from vocabmerge.text_warnings import text_warnings
from vocabmerge.trim.characters import writing_scripts
from xeval.statistics.compare import compare_test_set
from xeval.statistics.items import Items

LINES = 300
"""Of each language's text at most."""
_LEAST = 20
_DRAWS = 2_000
_SAMPLE = 8


@dataclass(frozen=True, kw_only=True)
class Drop:
    """One measure on one text or test set.

    Attributes:
        place: the language of a text, or a test set such as "tatoeba/de".
        measure: in words, or a metric of xeval.
        n: lines or items.
        float32: of the float32 graph; 100 where answers are compared with its own.
        quantized: of the smaller graph.
        points: how much worse the smaller graph is.
        low: lower end of the 95 % interval of the points, paired over lines or items; None where there is none.
        high: its upper end.
        gated: whether it must stay within the bound.
    """

    place: str
    measure: str
    n: int
    float32: float
    quantized: float
    points: float
    low: float | None
    high: float | None
    gated: bool


def read_texts(texts: Corpora) -> dict[str, list[str]]:
    """Per language the different lines that are judged.

    Args:
        texts: per language files, folders, `hub:NAME[:CONFIG[:SPLIT]]`.

    Raises:
        ExportError: for fewer than 20 lines.
        VocabularyError: for text that cannot be read.
    """
    lines = {}
    for language, text in language_texts(texts, lines=LINES).items():
        lines[language] = list(dict.fromkeys(line for line in map(str.strip, text) if line))
        if len(lines[language]) < _LEAST:
            raise ExportError(
                f"{language}: its text has {counted(len(lines[language]), 'different line')}, and {_LEAST} are the least to judge by; "
                "give more text."
            )
    return lines


def warnings_of(texts: Mapping[str, Sequence[str]], tokenizer: Any, bound: float) -> list[str]:
    """Signs that a text is not of its language, or too short for the bound; one sentence each."""
    warnings = []
    for language, lines in texts.items():
        ids = [
            number for row in tokenizer(list(lines), verbose=False)["input_ids"] for number in row
        ]
        unknown = tokenizer.unk_token_id
        warnings += text_warnings(
            language,
            writing_scripts(Counter(character for line in lines for character in line)),
            unknown=0 if unknown is None else ids.count(unknown),
            words=sum(len(line.split()) for line in lines),
        )
        enough = min(LINES, int(np.ceil(100 / bound))) if bound else LINES
        if len(lines) < enough:
            warnings.append(
                f"{language}: of {len(lines)} lines a single one is {100 / len(lines):.2g} points, more than the bound of "
                f"{bound:g}; give {enough} lines, so that one does not decide."
            )
    return warnings


class Judge:
    """Tells what a smaller graph loses against the float32 one.

    Args:
        graph: that was exported.
        float32: its file.
        how: lines are read and compared; None where there are none.
        rows: per language what is read of its lines.
        tests: sets of xeval, where there are any.
        watch: told (done, total, what).

    Attributes:
        sample: a few batches of what the float32 graph was fed.
    """

    def __init__(
        self,
        graph: Graph,
        float32: Path,
        *,
        how: TextAnswers | None,
        rows: Mapping[str, Sequence[Row]],
        tests: TestSets | None,
        watch: ProgressCallback,
    ) -> None:
        self._graph, self._watch = graph, watch
        self._how, self._rows, self._tests = how, rows, tests
        reader = GraphReader(graph, float32)
        fed = reader.keep_fed()
        self._answers, self._items = self._read(reader)
        step = max(1, len(fed) // _SAMPLE)
        self.sample: list[Arrays] = fed[::step][:_SAMPLE]

    def __call__(self, file: Path) -> tuple[Drop, ...]:
        """The drops of a file, texts first."""
        answers, items = self._read(GraphReader(self._graph, file))
        drops: list[Drop] = []
        for language, given in answers.items():
            drops += self._of_text(language, self._answers[language], given)
        if self._tests is not None:
            for test, exact, quantized in zip(self._tests.sets, self._items, items, strict=True):
                drops += map(_of_test_set, [test.data_set.name] * len(exact), exact, quantized)
        return tuple(drops)

    def _read(self, reader: GraphReader) -> tuple[dict[str, list[Any]], list[list[Items]]]:
        answers = {}
        for language, rows in self._rows.items():
            assert self._how is not None
            answers[language] = self._how.ask(reader, rows, language, self._watch)
        items = [] if self._tests is None else self._tests.items(reader, self._watch)
        return answers, items

    def _of_text(
        self, language: str, expected: Sequence[Any], given: Sequence[Any]
    ) -> Iterator[Drop]:
        assert self._how is not None
        for measure, items in self._how.compare(expected, given).items():
            low, high = interval(items, seed=0)
            yield _alike(
                language,
                measure,
                len(items),
                100 * float(items.mean()),
                (low, high),
                gated=measure in self._how.gated,
            )
            if measure == "cosine":
                yield _alike(
                    language,
                    "cosine, 1st percentile",
                    len(items),
                    100 * float(np.quantile(items, 0.01)),
                )


def _alike(
    language: str,
    measure: str,
    n: int,
    value: float,
    between: tuple[float, float] | None = None,
    *,
    gated: bool = False,
) -> Drop:
    """Of answers compared with those of float32, which are 100 like themselves."""
    return Drop(
        place=language,
        measure=measure,
        n=n,
        float32=100.0,
        quantized=value,
        points=100 - value,
        low=100 - between[1] if between else None,
        high=100 - between[0] if between else None,
        gated=gated,
    )


def _of_test_set(place: str, exact: Items, quantized: Items) -> Drop:
    """Of scores, all of which are better the higher they are."""
    compared = compare_test_set(
        exact.metric,
        {0: exact.rows.astype(float)},
        {0: quantized.rows.astype(float)},
        place=place,
        resamples=_DRAWS,
    )
    return Drop(
        place=place,
        measure=exact.metric,
        n=compared.n,
        float32=compared.score_a,
        quantized=compared.score_b,
        points=compared.difference,
        low=compared.low,
        high=compared.high,
        gated=True,
    )  # fmt: skip
