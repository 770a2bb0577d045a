"""The student: a stock masked LM whose forward pass, given signals, returns the distillation loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from mergedistill.recipe.recipe import Distil
from mergedistill.targets.online import OnlineTeacher, compare_top
from mergedistill.targets.online_ensemble import OnlineEnsemble
from teacherzoo import SplitHead, split_head

_LOGITS_BYTES = 64 << 20  # of logits held at once while hits are counted


@dataclass(frozen=True)
class DistilOutput:
    """What the forward pass returns. No mapping: accelerate would rebuild one under mixed precision.

    Attributes:
        loss: to differentiate.
        hard: detached mean cross-entropy with the gold pieces.
        soft: detached mean divergence from the teacher.
        rows: how many masked positions counted.
        hits: [] at how many of them the student puts the gold piece first; None where it was not asked.
    """

    loss: torch.Tensor
    hard: torch.Tensor
    soft: torch.Tensor
    rows: int
    hits: torch.Tensor | None = None


def as_student(
    model: Any, distil: Distil, teachers: Sequence[OnlineTeacher | OnlineEnsemble] = ()
) -> Any:
    """Teach a stock masked LM to compute the distillation loss in its own forward pass, in place.

    The model stays what it is: the same parameters, the same name in its config, the same folder when saved. Called
    without signals it answers as before. Because the loss is inside the forward pass, whatever wraps the model (DDP,
    DeepSpeed ZeRO-1 and 2) sees one ordinary call.

    Args:
        model: a stock `…ForMaskedLM`.
        distil: alpha, temperature, tail, divergence.
        teachers: who are asked in each step, where that is wanted; they are no part of the model.

    Returns:
        `model`.
    """
    stock = type(model)
    model.__class__ = type(stock.__name__, (_Distilled, stock), {"__module__": stock.__module__})
    model._distil = distil
    model._teachers = tuple(teachers)
    return model


class _Distilled:
    """Goes before a stock class in the order of resolution."""

    accepts_loss_kwargs = (
        True  # the loss is divided by `num_items_in_batch`, so Trainer must not divide again
    )

    def forward(
        self,
        *args: Any,
        rows: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
        topk_ids: torch.Tensor | None = None,
        topk_logprobs: torch.Tensor | None = None,
        log_partition: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        count_hits: bool = False,
        question: Mapping[str, Any] | None = None,
        **inputs: Any,
    ) -> Any:
        """The stock forward pass, or, with signals, the loss at N masked positions of a batch [B, S].

        Args:
            args: as the stock model takes them.
            rows: [N] which block.
            positions: [N] where in it.
            topk_ids: [N, K] the teacher's pieces, -1 where the student has none.
            topk_logprobs: [N, K].
            log_partition: [N] log Σ p^(1/T), or None at T = 1.
            labels: [N] gold pieces, -100 where nothing is asked; without signals, as the stock model takes them.
            num_items_in_batch: divides the sums: counted positions over all accumulated batches and processes.
            count_hits: whether to count where the gold piece comes first, which takes one more product with the vocabulary.
            question: which teacher is asked now, and what, in place of `topk_ids` and `topk_logprobs`; see `OnlineSignals`.
            inputs: `input_ids`, `attention_mask`.
        """
        if labels is None or (topk_ids is None and question is None):
            return super().forward(*args, labels=labels, **inputs)  # type: ignore[misc]  # of the stock class
        head = split_head(self)  # type: ignore[arg-type]  # a stock model, by `as_student`
        states = head.transform(head.encoder(**inputs).last_hidden_state[rows, positions])
        distil: Distil = self._distil  # type: ignore[attr-defined]  # set there too
        if question is not None:
            online: OnlineTeacher | OnlineEnsemble = self._teachers[question["teacher"]]  # type: ignore[attr-defined]  # set there too
            loss, hard, soft, count = online.loss(
                states, head, labels, question, divisor=num_items_in_batch
            )
        else:
            assert topk_ids is not None
            assert topk_logprobs is not None
            loss, hard, soft, count = compare_top(
                states, head, labels, topk_ids, topk_logprobs, log_partition, distil, num_items_in_batch
            )  # fmt: skip
        hits = _hits(states, head, labels) if count_hits else None
        return DistilOutput(loss, hard, soft, count, hits)


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
