"""Which columns of the two heads stand for the same words, and which are padding."""

from typing import NamedTuple

import torch
from torch import Tensor

from kdkernels.checks import KernelArgumentError, require_integer, require_shape


class Columns(NamedTuple):
    """What of two heads is compared."""

    student: int
    """How many columns of the student's head are real; they are its first."""
    teacher: int
    """As `student`, of the teacher's."""
    source: Tensor | None
    """[student] for each student column the teacher column of the same word, -1 for none; None: the same columns."""


def match_columns(
    operation: str,
    weight_s: Tensor,
    weight_t: Tensor,
    *,
    column_map: Tensor | None,
    vocab_size: int | None,
    teacher_vocab_size: int | None,
) -> Columns:
    """Settle the columns of both heads.

    Args:
        operation: the public function's name, for the message.
        weight_s: [V_s, H_s].
        weight_t: [V_t, H_t].
        column_map: [vocab_size] or None.
        vocab_size: real columns of the student's head, None for all.
        teacher_vocab_size: real columns of the teacher's head, None for as many as the student's (with a map: for all).

    Returns:
        Columns, whose map nobody has looked at yet: `check_map` does.

    Raises:
        KernelArgumentError: the sizes do not match.
    """
    student = _real("vocab_size", vocab_size, weight_s, operation)
    if teacher_vocab_size is None and column_map is None:
        teacher_vocab_size = vocab_size
    teacher = _real("teacher_vocab_size", teacher_vocab_size, weight_t, operation)
    if column_map is not None:
        require_shape(
            "column_map", column_map, (student,), axes="[vocab_size]", operation=operation
        )
        require_integer("column_map", column_map, operation=operation)
        return Columns(student, teacher, column_map.to(torch.int64))
    if student != teacher:
        raise KernelArgumentError(
            f"{operation}: student and teacher must have the same columns; got {student} and {teacher}: "
            "give vocab_size where the rest is padding, or column_map where the vocabularies differ"
        )
    return Columns(student, teacher, None)


def _real(name: str, size: int | None, weight: Tensor, operation: str) -> int:
    most = weight.shape[0]
    if size is None:
        size = most
    if not 1 <= size <= most:
        raise KernelArgumentError(
            f"{operation}: {name} must be from 1 to the {most} rows of the weight; got {size!r}"
        )
    return int(size)


def check_map(operation: str, columns: Columns, divergence: str) -> None:
    """Refuse a map from student to teacher columns that is none. Waits for the device.

    Raises:
        KernelArgumentError: it names a column that is not there, a column twice or none, or does not fit the divergence.
    """
    student, teacher, column_map = columns
    if column_map is None:
        return
    wrong = (column_map < -1) | (column_map >= teacher)
    if bool(wrong.any()):
        column = int(wrong.nonzero()[0, 0])
        raise KernelArgumentError(
            f"{operation}: column_map must hold -1 (not in the teacher) or a teacher column from 0 to "
            f"{teacher - 1}; got {int(column_map[column])} for student column {column}"
        )
    named = column_map[column_map >= 0]
    if len(named) == 0:
        raise KernelArgumentError(
            f"{operation}: column_map must name a teacher column; got only -1"
        )
    times = torch.bincount(named, minlength=teacher)
    if bool((times > 1).any()):
        raise KernelArgumentError(
            f"{operation}: column_map must name a teacher column at most once; got column "
            f"{int(times.argmax())} {int(times.max())} times: keep one student column for it"
        )
    if divergence == "reverse_kl" and len(named) < student:
        raise KernelArgumentError(
            f"{operation}: divergence='reverse_kl' is infinite where column_map holds -1: the teacher gives "
            f"{student - len(named)} student columns no mass; use 'forward_kl' or 'jsd'"
        )
