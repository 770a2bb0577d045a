"""Settings of a config that hold pieces by their ids, beyond special pieces: lists of what a model never says, or must say.

A trim does not keep a piece for their sake. What is not said any more need not be forbidden.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vocabmerge.errors import VocabularyError

_SETTINGS = {
    "suppress_tokens": "pieces",
    "begin_suppress_tokens": "pieces",
    "bad_words_ids": "words",
    "force_words_ids": "words",
    "sequence_bias": "words with bias",
    "forced_decoder_ids": "pieces by place",
    "lang_to_id": "names",
    "task_to_id": "names",
}  # what a setting of transformers' generation holds; every `…_token_id` is a special piece
_TASKS = "task_specific_params"


def token_ids(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Every `…_token_id` that parsed settings set: an id or a list of ids."""
    return {
        name: value
        for name, value in settings.items()
        if name.endswith("_token_id") and value is not None
    }


def ids_named(settings: Mapping[str, Any], *, file: Path) -> Iterator[int]:
    """The ids that settings name alone, each an id, a list of ids, or null.

    Args:
        settings: by their names.
        file: where they stand, for messages.

    Raises:
        VocabularyError: a setting of another form, such as an id in quotes.

    Example:
        >>> list(ids_named({"pad_token_id": 0, "eos_token_id": [2, 5], "bos_token_id": None}, file=Path("config.json")))
        [0, 2, 5]
    """
    for name, value in settings.items():
        ids = value if isinstance(value, (list, tuple)) else [value]
        if not all(number is None or isinstance(number, int) for number in ids):
            raise VocabularyError(
                f"{file}: {name}: expected the id of a piece or a list of ids, got {value!r}; write numbers there, without quotes"
            )
        yield from (number for number in ids if number is not None)


def moved_lists(
    settings: Mapping[str, Any], new_of_old: Mapping[int, int], rows: int
) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """New values of all settings that list pieces by their ids.

    A piece that went leaves its list; a word of several pieces goes with any of them. A list of which nothing is left is
    None, which to transformers is the same as no setting. Numbers that were no ids (-1, beyond the vocabulary) stay.

    Args:
        settings: a parsed `config.json` or `generation_config.json`; settings of tasks within it count.
        new_of_old: the new id of each kept one.
        rows: how many rows there were.

    Returns:
        The settings that change, and the ids that each lost, ascending.

    Raises:
        VocabularyError: a setting of another form than transformers gives it.

    Example:
        >>> moved_lists({"suppress_tokens": [1, 5, 9], "bad_words_ids": [[5, 1], [9]]}, {1: 0, 5: 1}, 10)
        ({'suppress_tokens': [0, 1], 'bad_words_ids': [[1, 0]]}, {'suppress_tokens': [9], 'bad_words_ids': [9]})
    """
    return _moved_lists(settings, new_of_old, rows, within_task=False)


def _moved_lists(
    settings: Mapping[str, Any], new_of_old: Mapping[int, int], rows: int, *, within_task: bool
) -> tuple[dict[str, Any], dict[str, list[int]]]:
    moved: dict[str, Any] = {}
    lost: dict[str, list[int]] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and (within_task or name == _TASKS):
            changed, gone = _moved_lists(value, new_of_old, rows, within_task=True)
            if changed:
                moved[name] = {**value, **changed}
            lost.update({f"{name}.{key}": ids for key, ids in gone.items()})
            continue
        holds = _SETTINGS.get(name, "pieces" if within_task and name.endswith("_token_id") else "")
        if holds and value is not None:
            ids = _Ids(new_of_old, rows)
            try:
                left = _left(value, holds, ids)
            except (AttributeError, TypeError, ValueError) as error:
                raise VocabularyError(
                    f"{name}: expected ids of pieces as transformers lists them, got {value!r}; mend it, or take it out of the "
                    "model's configs"
                ) from error
            if left != value:
                moved[name] = left
            if ids.lost:
                lost[name] = sorted(ids.lost)
    return moved, lost


class _Ids:
    """New ids of old ones, None for what went, which is kept in mind."""

    def __init__(self, new_of_old: Mapping[int, int], rows: int) -> None:
        self._new_of_old = new_of_old
        self._rows = rows
        self.lost: set[int] = set()

    def __call__(self, old: int) -> int | None:
        if not 0 <= old < self._rows:
            return old
        if old not in self._new_of_old:
            self.lost.add(old)
        return self._new_of_old.get(old)

    def word(self, word: Sequence[Any]) -> list[Any] | None:
        """A word of several pieces, or a choice among words; None where nothing is left of it."""
        if word and not isinstance(word[0], int):
            return [left for left in map(self.word, word) if left is not None] or None
        pieces = [self(old) for old in word]
        return None if None in pieces else pieces


def _left(value: Any, holds: str, ids: _Ids) -> Any:
    if holds == "names":
        named = {name: ids(old) for name, old in value.items()}
        return {name: new for name, new in named.items() if new is not None}
    if isinstance(value, int):
        return ids(value)
    if holds == "pieces":
        left: list[Any] = [new for new in map(ids, value) if new is not None]
    elif holds == "words":
        left = [word for word in map(ids.word, value) if word is not None]
    elif holds == "words with bias":
        biases = [(ids.word(word), bias) for word, bias in value]
        left = [[word, bias] for word, bias in biases if word is not None]
    else:
        places = [(place, old, None if old is None else ids(old)) for place, old in value]
        left = [[place, new] for place, old, new in places if old is None or new is not None]
    return left or None
