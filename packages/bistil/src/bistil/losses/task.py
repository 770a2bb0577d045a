"""Phase 2's loss: a student with a task's head beside a teacher with one, attention, states and soft answers compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bistil.errors import AdaptError
from bistil.losses.attention_hidden import capture_activations, matching_loss
from xeval.finetune.checkpoint import TaskModel
from xeval.task_templates.batches import IGNORED

TASKS = ("pos", "dp", "ner", "nli", "paraphrase", "topic", "qa", "choice")
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Weights of the terms; the defaults are BiStil's.

    Args:
        attention: mean over layers of the mean squared difference of attention maps.
        hidden: mean over states of their mean squared difference.
        soft: cross-entropy with the teacher's softened answers.
        gold: cross-entropy with the labels.
        temperature: T, by which logits are divided in `soft`.
        times_t_squared: whether `soft` is multiplied by T², which keeps its gradient at the size it has for T = 1.

    Raises:
        AdaptError: for weights or a temperature that are none.
    """

    attention: float = 1.0
    hidden: float = 1.0
    soft: float = 1.0
    gold: float = 0.0
    temperature: float = 2.0
    times_t_squared: bool = False

    def __post_init__(self) -> None:
        for name in ("attention", "hidden", "soft", "gold"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise AdaptError(f"The weight of {name} must be a number from 0 on, got {getattr(self, name)!r}.")  # fmt: skip
        if not self.soft and not self.gold:
            raise AdaptError("The head learns from soft or gold answers; give one of them a weight above 0.")  # fmt: skip
        if not self.temperature > 0:
            raise AdaptError(f"temperature must be greater than 0, got {self.temperature!r}.")


class Distilling(nn.Module):
    """A student in training; the teacher is no part of it, so that it is neither saved, trained nor wrapped.

    loss = soft · CE(p_T, p_S) + gold · CE(y, p_S), summed over labelled rows and divided by their number in the step, plus
    attention · L_attn + hidden · L_hidden, means over a forward pass, averaged over the passes of a step.

    Args:
        student: to be trained.
        teacher: with a head of the same labels.
        layers: for each student layer the teacher's.
        teacher_ids: [V_s] the teacher's id of each of the student's pieces.
        weights: of the terms.
        passes: forward passes in a step, over all processes.
        projection: [H_t, H_s] that teacher states are multiplied by, where the student is narrower.
    """

    def __init__(
        self,
        student: TaskModel,
        teacher: TaskModel,
        *,
        layers: Sequence[int],
        teacher_ids: Tensor,
        weights: Distillation,
        passes: int = 1,
        projection: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self._teacher = (teacher.eval().requires_grad_(False),)
        self._layers, self._weights, self._passes = tuple(layers), weights, passes
        self.teacher_ids: Tensor
        self.register_buffer("teacher_ids", teacher_ids, persistent=False)
        self.projection: Tensor | None
        self.register_buffer("projection", projection, persistent=False)

    def forward(self, num_items_in_batch: Tensor | int | None = None, **batch: Any) -> dict[str, Tensor]:  # fmt: skip
        """The loss on a batch of the task's collation."""
        weights = self._weights
        count = batch["labels"].ne(IGNORED).sum() if num_items_in_batch is None else num_items_in_batch  # fmt: skip
        count = torch.as_tensor(count).clamp(min=1)
        inputs = {name: batch[name] for name in _INPUTS if name in batch}
        matched = weights.attention or weights.hidden
        listened = None if matched else ()
        with capture_activations(self.student, layers=listened) as mine:
            outputs = self.student.head(self.student.encoder(**inputs).last_hidden_state, batch)
        theirs, answers = self._ask(inputs, batch, listened)
        loss = outputs[next(iter(outputs))].new_zeros(())
        if weights.soft:
            factor = weights.temperature**2 if weights.times_t_squared else 1.0
            loss = loss + weights.soft * factor * self._soft(outputs, answers, batch) / count
        if weights.gold:
            loss = loss + weights.gold * self.student.head.loss(outputs, batch, count)  # type: ignore[operator]  # every head has it
        if matched:
            matching = matching_loss(
                mine, theirs, layers=self._layers, attention_mask=batch["attention_mask"], projection=self.projection
            )  # fmt: skip
            passes = 1 if num_items_in_batch is None else self._passes
            terms = weights.attention * matching.attention + weights.hidden * matching.hidden
            loss = loss + terms / passes
        return {"loss": loss}

    @torch.no_grad()
    def _ask(self, inputs: dict[str, Tensor], batch: dict[str, Tensor], listened: Any) -> Any:
        """What the teacher hears and answers to the student's very tokens, under its own ids."""
        teacher = self._teacher[0].to(self.teacher_ids.device)
        own = {**inputs, "input_ids": self.teacher_ids[inputs["input_ids"]]}
        layers = self._layers if listened is None else listened
        with capture_activations(teacher, layers=layers) as theirs:
            answers = teacher.head(teacher.encoder(**own).last_hidden_state, batch)
        return theirs, answers

    def _soft(self, outputs: dict[str, Tensor], answers: dict[str, Tensor], batch: Any) -> Tensor:
        """Σ over labelled rows of -Σ_c softmax(z_T / T)_c log softmax(z_S / T)_c."""
        pairs = list(zip(
            _choices(self.student.head, outputs, batch), _choices(self._teacher[0].head, answers, batch), strict=True
        ))  # fmt: skip
        return torch.stack([soft_cross_entropy(mine, its, rows, temperature=self._weights.temperature) for (mine, rows), (its, _) in pairs]).sum()  # fmt: skip


def soft_cross_entropy(
    student: Tensor, teacher: Tensor, rows: Tensor, *, temperature: float
) -> Tensor:
    """Σ over rows of -Σ_c p_c log q_c, p and q being the teacher's and the student's softmax at a temperature.

    Args:
        student: [..., C] logits; minus infinity where a choice is not allowed.
        teacher: [..., C] logits, minus infinity at the same places.
        rows: [...] bool, the rows that count.
        temperature: divides both.
    """
    mine, its = student[rows].float() / temperature, teacher[rows].float() / temperature
    open_to = torch.isfinite(its) & torch.isfinite(mine)
    # A choice that is not allowed has probability 0 on both sides, and 0 times minus infinity is no number.
    logs = mine.log_softmax(-1).masked_fill(~open_to, 0)
    return -(its.softmax(-1) * logs).sum()


def _choices(head: Any, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:  # fmt: skip
    """The distributions that a head's outputs stand for: logits [..., C] and the rows [...] that count."""
    labels = batch["labels"]
    if "labels" in outputs:
        return [(outputs["labels"], labels != IGNORED)]
    if "options" in outputs:
        return [(outputs["options"], labels != IGNORED)]
    if "start" in outputs:
        return [(outputs["start"], labels[:, 0] != IGNORED), (outputs["end"], labels[:, 1] != IGNORED)]  # fmt: skip
    # Relations are compared at the gold heads, as in BiStil: two parsers rarely agree on all others.
    rows = labels != IGNORED
    return [(outputs["arcs"], rows), (head.relations(outputs, labels), rows)]
