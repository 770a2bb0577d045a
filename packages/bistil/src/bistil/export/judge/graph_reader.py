"""A graph that is asked for texts, as the model's own tokenizer cuts them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bistil.export.graph.graph import Graph
from bistil.export.graph.session import open_session
from teacherzoo.progress import ProgressCallback, no_progress

LONGEST = 256
"""Tokens of a line at most; what comes behind them is not asked for."""
_ROWS = 32
_NUMBERS = 1 << 26  # of an output at a time: 256 MiB

Arrays = dict[str, NDArray[Any]]
"""Inputs or outputs of a graph by name."""
Row = tuple[str, ...]
"""A text, or a pair of texts."""


@dataclass(frozen=True, kw_only=True)
class ReadRow:
    """What the tokenizer made of a row.

    Attributes:
        ids: [T].
        special: [T], whether a token is one of those put around a text.
        words: [T], the number of the word that a token is of, -1 of none.
        parts: [T], 0 in the first text of a pair, 1 in the second, -1 in neither.
        masked: [T], whether a token was masked before it was read.
        real: [padded T], what is no padding.
    """

    ids: NDArray[np.int64]
    special: NDArray[np.bool_]
    words: NDArray[np.int64]
    parts: NDArray[np.int64]
    masked: NDArray[np.bool_]
    real: NDArray[np.bool_]


class GraphReader:
    """A file of a graph, opened.

    Args:
        graph: that was exported.
        file: in any precision.
    """

    def __init__(self, graph: Graph, file: Path) -> None:
        self.graph = graph
        self._run = open_session(file)
        self._fed: list[Arrays] | None = None

    def run(self, columns: Mapping[str, NDArray[Any]]) -> Arrays:
        """Outputs by name; of the columns the graph takes those that it knows, and zeros for token types that are not there."""
        zeros = np.zeros_like(columns["input_ids"])
        fed = {name: np.asarray(columns.get(name, zeros), dtype=np.int64) for name in self.graph.inputs}  # fmt: skip
        if self._fed is not None:
            self._fed.append(fed)
        return dict(self._run(fed))

    def keep_fed(self) -> list[Arrays]:
        """A list to which whatever is fed from now on is added."""
        self._fed = []
        return self._fed

    def ask(
        self,
        rows: Sequence[Row],
        answer: Callable[[Arrays, ReadRow], Any],
        *,
        masked: float = 0.0,
        longest: int = LONGEST,
        watch: ProgressCallback = no_progress,
        what: str = "",
    ) -> list[Any]:
        """The answer to each row, in their order; rows of like length share a batch, as they do in a server.

        Args:
            rows: texts, or pairs of them.
            answer: of a row's part of the outputs (what has an axis of tokens without padding), and the row.
            masked: share of each row's own tokens that are masked, one at least where it is not 0; which, the row's number says.
            longest: tokens of a row at most, within what the model reads.
            watch: told the rows done.
            what: said to `watch`.
        """
        longest = min(longest, self.graph.longest)
        order = sorted(range(len(rows)), key=lambda number: -sum(map(len, rows[number])))
        answers: list[Any] = [None] * len(rows)
        start = 0
        while start < len(order):
            numbers = order[start : start + self._rows_at_a_time(longest)]
            columns, read = self._read([rows[number] for number in numbers], longest)
            if masked:
                for place, number in enumerate(numbers):
                    self._mask(columns["input_ids"][place], read[place], masked, number)
            outputs = self.run(columns)
            for place, number in enumerate(numbers):
                answers[number] = answer(self._of_row(outputs, place, read[place]), read[place])
            start += len(numbers)
            watch(start, len(order), what)
        return answers

    def _rows_at_a_time(self, longest: int) -> int:
        over_pieces = any(len(axes) == 3 and axes[2] == "vocabulary" for axes in self.graph.outputs.values())  # fmt: skip
        if not over_pieces:
            return _ROWS
        return max(1, min(_ROWS, _NUMBERS // (self.graph.pieces * longest)))

    def _mask(self, ids: NDArray[np.int64], row: ReadRow, share: float, seed: int) -> None:
        maskable = np.flatnonzero(~row.special)
        if len(maskable):
            chosen = np.random.default_rng(seed).choice(maskable, max(1, round(share * len(maskable))), replace=False)  # fmt: skip
            row.masked[chosen] = True
            ids[np.flatnonzero(row.real)[chosen]] = self.graph.tokenizer.mask_token_id

    def _of_row(self, outputs: Arrays, place: int, row: ReadRow) -> Arrays:
        by_token = {name for name, axes in self.graph.outputs.items() if axes[1:2] == ("sequence",)}  # fmt: skip
        return {
            name: values[place][row.real] if name in by_token else values[place]
            for name, values in outputs.items()
        }

    def _read(self, rows: Sequence[Row], longest: int) -> tuple[Arrays, list[ReadRow]]:
        texts = [list(column) for column in zip(*rows, strict=True)]
        encoded = self.graph.tokenizer(
            *texts, padding=True, truncation=True, max_length=longest,
            return_special_tokens_mask=True, return_token_type_ids=True, return_tensors="np",
        )  # fmt: skip
        columns: Arrays = dict(encoded)
        special = columns.pop("special_tokens_mask").astype(bool)
        read = []
        for place, mask in enumerate(columns["attention_mask"].astype(bool)):
            read.append(
                ReadRow(
                    ids=columns["input_ids"][place][mask],
                    special=special[place][mask],
                    words=_numbers(encoded.word_ids(place))[mask],
                    parts=_numbers(encoded.sequence_ids(place))[mask],
                    masked=np.zeros(int(mask.sum()), dtype=bool),
                    real=mask,
                )
            )
        return columns, read


def _numbers(values: Sequence[int | None]) -> NDArray[np.int64]:
    return np.array([-1 if value is None else value for value in values], dtype=np.int64)
