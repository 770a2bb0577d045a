"""Every tenth line of a corpus is held out: calibration never sees it, and fidelity is measured on it."""

from collections.abc import Mapping, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

_EVERY = 10


def split_corpora(
    corpora: Mapping[str, Sequence[str]],
) -> tuple[dict[str, Sequence[str]], dict[str, Sequence[str]]]:
    """The lines of each language to calibrate on, and those held out: the first, the eleventh, and so on.

    Example:
        >>> training, held_out = split_corpora({"en": "abcdefghijkl"})
        >>> "".join(training["en"]), "".join(held_out["en"])
        ('bcdefghijl', 'ak')
    """
    training: dict[str, Sequence[str]] = {}
    held_out: dict[str, Sequence[str]] = {}
    for code, lines in corpora.items():
        numbers = np.arange(len(lines))
        training[code] = SelectedLines(lines, numbers[numbers % _EVERY > 0])
        held_out[code] = SelectedLines(lines, range(0, len(lines), _EVERY))
    return training, held_out


class SelectedLines(Sequence[str]):
    """Some lines of a corpus by their numbers; the corpus, which may lie on disk, is not copied."""

    def __init__(self, corpus: Sequence[str], numbers: Sequence[int] | NDArray[np.int64]) -> None:
        self._corpus = corpus
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return SelectedLines(self._corpus, self._numbers[index])
        return self._corpus[int(self._numbers[index])]
