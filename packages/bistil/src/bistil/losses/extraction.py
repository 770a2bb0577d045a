"""What a student is taught: the terms of the loss, computed in its own forward pass beside what the teacher did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bistil.encoders.capture import Activations, capture_activations, layers_of
from bistil.encoders.recompute import recomputing
from bistil.errors import ModelError
from bistil.losses.attention_hidden import matching_loss
from bistil.losses.weights import Terms
from kdkernels import linear_cross_entropy, linear_kl, relation_kl
from teacherzoo import split_head

if TYPE_CHECKING:
    from teacherzoo.encoders.zero3 import ShardedEngine


@dataclass(frozen=True, kw_only=True)
class Taught:
    """What the teacher did with a batch.

    Attributes:
        tapped: its states and attention.
        rows: [N, H'] what its decoder reads at masked positions, None unless logits are compared.
        weight: [V, H'] of the decoder.
        bias: [V] of the decoder.
    """

    tapped: Activations
    rows: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None


@torch.no_grad()
def ask_teacher(
    teacher: Any,
    batch: dict[str, Tensor],
    terms: Terms,
    layers: Sequence[int],
    *,
    engine: ShardedEngine | None = None,
) -> Taught:
    """Run the teacher on a batch, listening to what the terms need.

    Args:
        teacher: a masked LM in evaluation mode.
        batch: `input_ids` [B, S] and `labels` [B, S], without padding.
        terms: of the loss.
        layers: the student's map.
        engine: runs the teacher, where its weights are shared among processes; then no logits can be compared.
    """
    head = split_head(teacher)
    depth = len(layers_of(teacher))
    wanted = _listened(terms, layers, last=depth - 1)
    with capture_activations(teacher, layers=wanted, values=bool(terms.relations)) as tapped:
        if engine is not None:
            ids = batch["input_ids"]
            engine.hidden_rows(ids, torch.ones_like(ids), torch.zeros(1, dtype=torch.int64))
            return Taught(tapped=tapped)
        last = head.encoder(input_ids=batch["input_ids"]).last_hidden_state
    if not terms.logits:
        return Taught(tapped=tapped)
    rows = head.transform(last[batch["labels"] >= 0])
    return Taught(tapped=tapped, rows=rows, weight=head.weight, bias=head.bias)


def _listened(terms: Terms, layers: Sequence[int], *, last: int) -> list[int]:
    if terms.attention or terms.hidden:
        return sorted({*layers, last}) if terms.relations else list(layers)
    return [last] if terms.relations else []


@dataclass(frozen=True)
class Lesson:
    """What the student's forward pass returns; no mapping, which accelerate would make anew under mixed precision.

    Attributes:
        loss: to differentiate: the weighted sum of the terms.
        terms: each term without its weight, detached.
    """

    loss: Tensor
    terms: dict[str, Tensor]


def as_student(
    model: Any,
    terms: Terms,
    layers: Sequence[int],
    *,
    positions: int,
    depth: int,
    projection: Tensor | None = None,
) -> Any:
    """Teach a stock masked LM to compute the loss in its own forward pass, in place.

    The model stays what it is: the same parameters, the same name in its configuration, the same folder when saved.
    Called without a lesson it answers as before. Because the loss is inside the forward pass, whatever wraps the model
    (DDP, DeepSpeed ZeRO-1 and 2) sees one ordinary call.

    Args:
        model: a stock `…ForMaskedLM`.
        terms: of the loss.
        layers: for each of its layers the teacher's.
        positions: masked positions of each block, which means are taken over.
        depth: the teacher's number of layers.
        projection: [H_t, H_s] that teacher states are multiplied by, where the model is narrower.

    Returns:
        `model`.

    Raises:
        ModelError: where relations cannot be cut.
    """
    stock = type(model)
    model.__class__ = type(stock.__name__, (_Taught, stock), {"__module__": stock.__module__})
    widths = [model.config.hidden_size, *([] if projection is None else projection.shape[:1])]
    heads = _relation_heads(model, terms, widths) if terms.relations else 0
    model._lesson = _LessonPlan(terms, tuple(layers), positions, depth, heads, projection)
    return model


@dataclass(frozen=True)
class _LessonPlan:
    terms: Terms
    layers: tuple[int, ...]
    positions: int
    depth: int
    relation_heads: int
    projection: Tensor | None = None


def _relation_heads(model: Any, terms: Terms, widths: Sequence[int]) -> int:
    """Relation heads, which must divide the width of student and teacher."""
    heads = terms.relation_heads or 4 * model.config.num_attention_heads
    if terms.relation_heads is None and any(width % heads for width in widths):
        heads = model.config.num_attention_heads
    for width in widths:
        if width % heads:
            raise ModelError(
                f"{heads} relation heads do not divide the width {width}; choose a divisor."
            )
    return heads


class _Taught:
    """Goes before a stock class in the order of resolution."""

    # Every batch has as many positions as any other, so the mean over batches is the mean over positions.
    accepts_loss_kwargs = False

    def forward(self, *args: Any, taught: Taught | None = None, lesson: bool = False, **inputs: Any) -> Any:  # fmt: skip
        """The stock forward pass, or, in a lesson, the loss on a batch [B, S] without padding.

        Args:
            args: as the stock model takes them.
            taught: what the teacher did; None where no term needs it.
            lesson: whether this is one.
            inputs: `input_ids` [B, S] and `labels` [B, S], -100 where nothing is asked.
        """
        if not lesson:
            return super().forward(*args, **inputs)  # type: ignore[misc]  # of the stock class
        return _learn(self, self._lesson, inputs, taught)  # type: ignore[attr-defined]  # set by `as_student`


def _learn(model: Any, plan: _LessonPlan, batch: dict[str, Tensor], taught: Taught | None) -> Lesson:  # fmt: skip
    terms, mine = plan.terms, len(plan.layers) - 1
    own = _listened(terms, range(mine + 1), last=mine)
    head = split_head(model)
    with (
        recomputing(model),
        capture_activations(model, layers=own, values=bool(terms.relations)) as tapped,
    ):
        last = head.encoder(input_ids=batch["input_ids"]).last_hidden_state
    found: dict[str, Tensor] = {}
    if terms.attention or terms.hidden:
        assert taught is not None
        matching = matching_loss(
            tapped,
            taught.tapped,
            layers=plan.layers,
            attention_mask=None,
            projection=plan.projection,
        )
        found |= {"attention": matching.attention, "hidden": matching.hidden}
    if terms.relations:
        assert taught is not None
        found["relations"] = _relations(
            tapped, taught.tapped, mine, plan.depth - 1, plan.relation_heads
        )
    if terms.cosine:
        assert taught is not None
        assert taught.tapped.last is not None
        its = taught.tapped.last.float()
        if plan.projection is not None:
            its = its @ plan.projection.to(its)
        found["cosine"] = 1 - F.cosine_similarity(last.float(), its, dim=-1).mean()
    if terms.mlm or terms.logits:
        found |= _at_masks(head, last, batch["labels"], plan, taught)
    loss = torch.stack([weight * found[name] for name, weight in terms.weights.items()]).sum()
    return Lesson(loss, {name: value.detach() for name, value in found.items()})


def _at_masks(
    head: Any, last: Tensor, labels: Tensor, plan: _LessonPlan, taught: Taught | None
) -> dict[str, Tensor]:
    """The terms that need the vocabulary, at masked positions alone."""
    asked = labels >= 0
    rows = head.transform(last[asked])
    divisor = plan.positions * len(labels)
    found = {}
    if plan.terms.mlm:
        found["mlm"] = linear_cross_entropy(
            rows, head.weight, head.bias, labels[asked], divisor=divisor
        ).loss
    if plan.terms.logits:
        assert taught is not None
        assert taught.rows is not None
        assert taught.weight is not None
        found["logits"] = linear_kl(
            rows,
            head.weight,
            head.bias,
            taught.rows,
            taught.weight,
            taught.bias,
            temperature=plan.terms.temperature,
            divisor=divisor,
        ).loss
    return found


def _relations(
    student: Activations, teacher: Activations, mine: int, its: int, heads: int
) -> Tensor:
    losses = []
    for part in ("queries", "keys", "values"):
        vectors_s: Tensor | None = getattr(student.attention[mine], part)
        vectors_t: Tensor | None = getattr(teacher.attention[its], part)
        if vectors_s is None or vectors_t is None:
            raise ModelError(
                "Relations are made of queries, keys and values, which cannot be reached in this architecture; "
                "leave the weight of relations at 0."
            )
        losses.append(relation_kl(_side_by_side(vectors_s), _side_by_side(vectors_t), heads).loss)
    return torch.stack(losses).mean()


def _side_by_side(vectors: Tensor) -> Tensor:
    """[B, h, S, d] as [B, S, h · d]."""
    return vectors.transpose(1, 2).flatten(2)


def freeze_unreached(student: Any, batch: dict[str, Tensor], taught: Taught | None) -> int:
    """Switch off training of parameters that no term reaches; they stay what they are.

    What no loss depends on would stop DDP, and drift under weight decay.

    Returns:
        How many parameters stay as they are.
    """
    student(**batch, taught=taught, lesson=True).loss.backward()
    frozen = 0
    for parameter in student.parameters():
        if parameter.grad is None:
            parameter.requires_grad_(False)
            frozen += parameter.numel()
        parameter.grad = None
    return frozen
