"""The loss of a student: a module around a stock masked LM whose forward pass returns the distillation loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from mergedistill.recipe.recipe import Distil
from mergedistill.student.states import StatesTerm
from mergedistill.targets.batch import OnlineTargets, StatesTargets, Targets
from mergedistill.targets.online import OnlineTeacher, compare_top
from mergedistill.targets.online_ensemble import OnlineEnsemble
from mergedistill.targets.word_divergence import compare_words
from teacherzoo import SplitHead, split_head
from teacherzoo.training.loss_module import LossModule

_MAP = Path("states", "map.safetensors")  # in a checkpoint, apart from the student's files
_LOGITS_BYTES = 64 << 20  # of logits held at once while hits are counted


@dataclass(frozen=True)
class DistilOutput:
    """What the forward pass returns. No mapping: accelerate would rebuild one under mixed precision.

    Attributes:
        loss: to differentiate.
        hard: detached mean cross-entropy with the gold pieces.
        soft: detached mean divergence from the teacher.
        rows: how many masked positions counted.
        hits: [] at how many of them the student puts the gold piece first; None where they were not counted.
        states: detached term of an encoder's states; None without one.
    """

    loss: torch.Tensor
    hard: torch.Tensor
    soft: torch.Tensor
    rows: int | torch.Tensor
    hits: torch.Tensor | None = None
    states: torch.Tensor | None = None


class DistillationLoss(LossModule):
    """L = (1 - α) · CE(student, gold) + α · D(student, teacher), means over the masked positions of a batch.

    The first term is masked language modelling (Devlin et al. 2019), the second distillation with a temperature (Hinton
    et al. 2015), which is scaled by T². D is one of `linear_distil_loss`'s divergences; of teachers that are heard word by word
    see `compare_words`.

    With an encoder's states L has + w · L_states (see `StatesTerm`). Among several batches that are accumulated or read by several
    processes, L_states of each weighs as its masked positions do.

    Args:
        student: a stock `…ForMaskedLM`.
        distil: α, temperature, tail, divergence.
        teachers: that run beside the student, where targets are online; they are no part of the module.
        states: the term of an encoder's states, whose map is trained and kept in checkpoints; None without one.
    """

    accepts_loss_kwargs = True

    def __init__(
        self,
        student: Any,
        distil: Distil,
        teachers: Sequence[OnlineTeacher | OnlineEnsemble] = (),
        states: StatesTerm | None = None,
    ) -> None:
        super().__init__(student)
        self._distil = distil
        self._teachers = tuple(teachers)
        self.states = states

    def forward(
        self,
        *,
        rows: torch.Tensor,
        positions: torch.Tensor,
        labels: torch.Tensor,
        targets: Targets,
        states: StatesTargets | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        count_hits: bool = False,
        **inputs: torch.Tensor,
    ) -> DistilOutput:
        """The loss at N masked positions of a batch [B, S].

        Args:
            rows: [N] which block.
            positions: [N] where in it.
            labels: [N] gold pieces, -100 where nothing is predicted.
            targets: the teacher's predictions, or what it predicts from.
            states: what an encoder reads, where its states are learned.
            num_items_in_batch: divides the sums: counted positions over all accumulated batches and processes.
            count_hits: whether to count where the gold piece comes first, which takes one more product with the vocabulary.
            inputs: `input_ids`, `attention_mask`.
        """
        head = split_head(self.student)
        hidden = head.encoder(**inputs).last_hidden_state
        masked = head.transform(hidden[rows, positions])
        if isinstance(targets, OnlineTargets):
            loss, hard, soft, count = self._teachers[targets.teacher].loss(
                masked, head, labels, targets.query, divisor=num_items_in_batch
            )
        elif targets.words is not None:
            loss, hard, soft, count = compare_words(
                masked, head, labels, targets, self._distil, num_items_in_batch
            )
        else:
            loss, hard, soft, count = compare_top(
                masked, head, labels, targets.topk_ids, targets.topk_logprobs, targets.log_partition, self._distil, num_items_in_batch
            )  # fmt: skip
        hits = _hits(masked, head, labels) if count_hits else None
        if self.states is None or states is None:
            return DistilOutput(loss, hard, soft, count, hits)
        term = self.states(hidden, states)
        share = 1.0 if num_items_in_batch is None else count / num_items_in_batch
        loss = loss + self.states.weight * share * term
        return DistilOutput(loss, hard, soft, count, hits, term.detach())

    def save_student(self, folder: Path, state: dict[str, torch.Tensor] | None = None) -> None:
        """Write the student as a plain model folder, and beside its files the map of the states' term."""
        super().save_student(folder, state)
        if self.states is not None:
            (folder / _MAP).parent.mkdir(exist_ok=True)
            save_file(self.states.state_dict(), folder / _MAP)

    def load_student(self, folder: Path) -> None:
        """Put back what `save_student` wrote, in place."""
        super().load_student(folder)
        if self.states is not None:
            self.states.load_state_dict(load_file(folder / _MAP))


@torch.no_grad()
def _hits(states: torch.Tensor, head: SplitHead, labels: torch.Tensor) -> torch.Tensor:
    rows = max(1, _LOGITS_BYTES // (4 * len(head.weight)))
    hits = labels.new_zeros(())
    for part, gold in zip(states.split(rows), labels.split(rows), strict=True):
        likeliest = F.linear(part, head.weight.to(part.dtype), _as(head.bias, part)).argmax(dim=-1)
        hits += (likeliest == gold).sum()
    return hits


def _as(bias: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor | None:
    return None if bias is None else bias.to(like.dtype)
