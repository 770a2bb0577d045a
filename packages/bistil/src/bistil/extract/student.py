"""The student as it starts: the teacher with layers left out, and narrower where that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bistil.encoders.widths import inner_width
from bistil.extract.config import Extraction
from bistil.extract.text import ExtractionText
from bistil.student.layers import student_of
from bistil.student.narrow import choose_hidden, narrowed, projection_of

_SAMPLE = 8192  # positions of text on which units are chosen


@dataclass(frozen=True, kw_only=True)
class InitialStudent:
    """A student before its training.

    Attributes:
        student: of the teacher's class.
        units: the teacher's hidden units that its states stand for; None for all.
        projection: [H_t, H_s] that teacher states are multiplied by; None where they are as wide.
        words: what was made narrower, for plan and card.
    """

    student: Any
    units: tuple[int, ...] | None = None
    projection: Tensor | None = None
    words: tuple[str, ...] = ()


def initial_student(
    teacher: Any, layers: Sequence[int], extraction: Extraction, text: ExtractionText
) -> InitialStudent:
    """The teacher's layers `layers`, verified bit for bit, then made as narrow as `extraction` says.

    Args:
        teacher: in evaluation mode.
        layers: see `choose_layers`.
        extraction: widths, first weights, seed.
        text: of which a sample decides what is kept.
    """
    seed = extraction.seed if extraction.init == "random" else None
    student = student_of(teacher, layers, seed=seed)
    whole, inner = teacher.config.hidden_size, inner_width(teacher.config)
    width = None if extraction.width == whole else extraction.width
    feed_forward = None if extraction.feed_forward == inner else extraction.feed_forward
    if width is None and feed_forward is None:
        return InitialStudent(student=student)
    sample = text.sample(_SAMPLE)
    units, words = None, []
    if width is not None:
        kept = choose_hidden(teacher, layers, sample, width=width)
        units = kept.numbers
        words.append(
            f"{width:,} of {whole:,} hidden units; the projection of the teacher's states is the choice of these, which tell "
            f"{100 * kept.explained:.0f} % of their variance by a linear map"
        )
    if feed_forward is not None:
        words.append(f"{feed_forward:,} of {inner:,} units in each feed-forward layer")
    return InitialStudent(
        student=narrowed(student, sample, units=units, feed_forward=feed_forward, seed=seed),
        units=units,
        projection=None if units is None else projection_of(units, whole),
        words=tuple(words),
    )
