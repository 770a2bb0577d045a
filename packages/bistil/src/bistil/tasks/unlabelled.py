"""Text without labels as examples of a task: what a teacher answers to it is all that there is to learn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bistil.errors import AdaptError
from bistil.tasks.data import TaskData
from teacherzoo.text.words import has_words, word_spans
from vocabmerge.language_texts import LanguageText
from xeval.task_templates.text_labels import Labelled
from xeval.task_templates.word_labels import Tagged

LINES = 10_000
"""Of each language, where no number is asked for."""


@dataclass(frozen=True, kw_only=True)
class UnlabelledText:
    """Lines that a task's teacher labels.

    Args:
        sources: per language files, folders and data sets of the Hub, as `vocabmerge.language_texts.LanguageText` takes them.
        lines: of each language at most so many, evenly spread.
    """

    sources: Mapping[str, Sequence[str]]
    lines: int = LINES


def require_lines(data: TaskData, asked: str) -> None:
    """Refuse a task whose examples are more than a text and labels of it or of its words.

    Args:
        data: of the task.
        asked: what wants lines as examples, for the message.

    Raises:
        AdaptError: naming the task.
    """
    example = data.train[0]
    if not isinstance(example, Tagged) and not (
        isinstance(example, Labelled) and example.second is None
    ):
        raise AdaptError(
            f"{data.task.name}: lines of text are no examples of it; leave {asked} out, or choose a task of one label per word or text."
        )


def unlabelled_examples(data: TaskData, text: UnlabelledText) -> dict[str, list[Any]]:
    """Per language its lines as examples, under the first of the labels, which nothing may read.

    Words are those of `teacherzoo.text.words`: between spaces, punctuation by itself, and single characters where a script has no
    spaces.

    Raises:
        AdaptError: for a task of other examples, and a language without any text.
        VocabularyError: for text that is not there or cannot be read, or fewer than one line asked for.
    """
    require_lines(data, "--text")
    label, in_words = data.labels[0], isinstance(data.train[0], Tagged)
    texts = {language: LanguageText(given, lines=text.lines) for language, given in text.sources.items()}  # fmt: skip
    examples: dict[str, list[Any]] = {}
    for language, lines in texts.items():
        rows = filter(has_words, lines)
        examples[language] = list(_tagged(rows, label) if in_words else _labelled(rows, label))
        if not examples[language]:
            raise AdaptError(f"{language}: its text has no words; give lines of text.")
    return examples


def _tagged(lines: Iterator[str], label: str) -> Iterator[Tagged]:
    for line in lines:
        words = tuple(line[start:end] for start, end in word_spans(line))
        yield Tagged(words, (label,) * len(words))


def _labelled(lines: Iterator[str], label: str) -> Iterator[Labelled]:
    return (Labelled(line.strip(), label) for line in lines)
