"""Which of a teacher's layers, pieces, states and heads a student's stand for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bistil.counted import counted
from bistil.encoders.capture import family_of, layers_of
from bistil.errors import AdaptError
from bistil.losses.table import Sees
from bistil.losses.weights import TaskLossWeights
from bistil.sparse.reindex import kept_ids
from bistil.student.layers import layer_map
from bistil.student.narrow import projection_of
from bistil.tasks.teacher import TaskTeacher
from bistil.tasks.training import shell
from teacherzoo.encoders.teachers import teacher_folder


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """How a student's layers, pieces, states and heads correspond to its teacher's.

    Attributes:
        layers: for each of the student's layers the teacher's.
        teacher_ids: [V_s] the teacher's id of each of the student's pieces.
        projection: [H_t, H_s] that teacher states are multiplied by; None where they are as wide.
        heads: for each of its layers the teacher's heads that it keeps; None for all.
    """

    layers: Sequence[int]
    teacher_ids: Tensor
    projection: Tensor | None
    heads: Sequence[Sequence[int]] | None


def align(
    student: str | Path,
    teacher: TaskTeacher,
    layers: Sequence[int] | None,
    loss: TaskLossWeights,
) -> Alignment:
    """Known from configurations and vocabularies alone: what does not fit is refused before a teacher is made.

    Args:
        student: a folder that `extract` wrote, or any model with the teacher's layers thinned out.
        teacher: of the task.
        layers: for each of the student's layers the teacher's; by default what `extract` wrote, or the last of each block.
        loss: its terms say whether layers are compared.

    Raises:
        AdaptError: for layers, heads or widths that do not correspond.
        SparseError: for a student whose vocabulary is not part of the teacher's.
    """
    small, big = shell(student), shell(teacher.model)
    chosen = layers if layers is not None else _layers_of(student, small, big)
    _check_layers(student, chosen, len(layers_of(small)), len(layers_of(big)))
    projection = heads = None
    if "attention" in loss:
        heads = _heads(student, *(model.config.num_attention_heads for model in (small, big)))
    if Sees.MAPPED_LAYERS in loss.sees:
        projection = _projection(student, small.config.hidden_size, big.config.hidden_size)
    ids = torch.from_numpy(kept_ids(student, teacher.model))
    return Alignment(layers=chosen, teacher_ids=ids, projection=projection, heads=heads)


def _check_layers(student: str | Path, layers: Sequence[int], count: int, depth: int) -> None:
    """One of the teacher's layers for each of the student's."""
    strange = [layer for layer in layers if not 0 <= layer < depth]
    if len(layers) != count or strange:
        raise AdaptError(
            f"{student}: expected {count} of the teacher's layers 0 to {depth - 1}, one for each of the student's, "
            f"got {', '.join(map(str, layers)) or 'none'}."
        )


def _layers_of(student: str | Path, model: nn.Module, teacher: nn.Module) -> Sequence[int]:
    """What `extract` wrote down, where the student came from as deep a teacher; else the last layer of each block."""
    depth, count = len(layers_of(teacher)), len(layers_of(model))
    plan = plan_of_extraction(student)
    if plan.get("teacher_layers") == depth and len(plan.get("layers", ())) == count:
        return tuple(plan["layers"])
    if depth % count:
        raise AdaptError(
            f"{student}: its {count} layers do not divide the teacher's {depth}, and no run.json says which they come from; "
            "name them by --layers."
        )
    return layer_map(
        depth, reduction=depth // count, first=bool(family_of(model).first_layer_pinned)
    )


def _projection(student: str | Path, width: int, teacher_width: int) -> Tensor | None:
    """What the teacher's states are multiplied by, where the student is narrower: the choice of units that `extract` made."""
    if width == teacher_width:
        return None
    units = plan_of_extraction(student).get("units") or ()
    if len(units) != width or max(units) >= teacher_width:
        raise AdaptError(
            f"{student}: its states are {width} wide and the teacher's {teacher_width}, and no run.json says which of them they stand for; "
            "give the teacher that it was extracted from, or leave both out by --attention 0 --hidden 0."
        )
    return projection_of(units, teacher_width)


def _heads(student: str | Path, count: int, teacher_count: int) -> Sequence[Sequence[int]] | None:
    """Which of the teacher's heads the student keeps, where it has fewer: those that `extract` chose."""
    if count == teacher_count:
        return None
    heads: list[list[int]] = plan_of_extraction(student).get("heads") or []
    if not heads or any(len(kept) != count or max(kept) >= teacher_count for kept in heads):
        raise AdaptError(
            f"{student}: the student has {counted(count, 'head')} and the teacher {teacher_count}, and no run.json says which of them it keeps; "
            "give the teacher that it was extracted from, or leave attention out by --attention 0."
        )
    return heads


def plan_of_extraction(student: str | Path) -> dict[str, Any]:
    """The plan that `extract` wrote down, in a folder or on the Hub; empty where it did not."""
    note = (Path(student) if Path(student).is_dir() else teacher_folder(student)) / "run.json"
    if not note.is_file():
        return {}
    plan: dict[str, Any] = json.loads(note.read_text(encoding="utf-8")).get("plan", {})
    return plan
