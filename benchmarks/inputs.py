"""Inputs and rivals of the losses over a vocabulary, shared by the questions about them; no question itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Case:
    """One batch of masked rows with its teacher's top-k."""

    hidden: Tensor  # [N, H]
    weight: Tensor  # [V, H]
    labels: Tensor  # [N]
    ids: Tensor  # [N, K]
    logprobs: Tensor  # [N, K]
    bias: Tensor | None = None  # [V]

    def forget_gradients(self) -> None:
        """As before any backward pass."""
        self.hidden.grad = self.weight.grad = None
        if self.bias is not None:
            self.bias.grad = None


def make_case(
    N: int,
    H: int,
    V: int,
    K: int,
    *,
    dtype: torch.dtype,
    device: str = "cpu",
    std: float = 3.0,
    bias: bool = False,
) -> Case:
    """Random operands whose logits have the standard deviation `std`; the teacher lists K distinct ids a row."""
    torch.manual_seed(0)
    hidden = torch.randn(N, H, device=device)
    weight = torch.randn(V, H, device=device) * (std / H**0.5)
    # distinct by construction: one id from each of K stripes of the vocabulary
    stripe = V // K
    ids = torch.randint(0, stripe, (N, K), device=device) + torch.arange(K, device=device) * stripe
    logprobs = (torch.softmax(2 * torch.randn(N, K, device=device), dim=1) * 0.9).log()
    return Case(
        hidden=hidden.to(dtype).requires_grad_(),
        weight=weight.to(dtype).requires_grad_(),
        labels=torch.randint(0, V, (N,), device=device),
        ids=ids,
        logprobs=logprobs,
        bias=torch.randn(V, device=device).to(dtype).requires_grad_() if bias else None,
    )


def sparse(case: Case, *, alpha: float) -> Tensor:
    """Eager torch with the logits in memory: one log_softmax, K gathered columns, the rest as a bucket."""
    log_q = torch.log_softmax(F.linear(case.hidden, case.weight, case.bias).float(), dim=1)
    hard = F.nll_loss(log_q, case.labels)
    p, log_q = case.logprobs.exp(), log_q.gather(1, case.ids)
    r, s = 1 - p.sum(dim=1), 1 - log_q.exp().sum(dim=1)
    soft = (p * (case.logprobs - log_q)).sum(dim=1) + r * (r.log() - s.log())
    return (1 - alpha) * hard + alpha * soft.mean()


def dense(case: Case, *, alpha: float) -> Tensor:
    """The usual formulation: targets scattered to [N, V], then kl_div and cross_entropy on the same logits."""
    logits = F.linear(case.hidden, case.weight, case.bias).float()
    target = torch.zeros_like(logits, requires_grad=False).scatter_(
        1, case.ids, case.logprobs.exp()
    )
    soft = F.kl_div(F.log_softmax(logits, dim=1), target, reduction="batchmean")
    return (1 - alpha) * F.cross_entropy(logits, case.labels) + alpha * soft


def liger_cross_entropy() -> Callable[[Case], Tensor] | None:
    """Liger's fused linear cross-entropy, where it is installed and there is a device it runs on."""
    if not torch.cuda.is_available():
        return None
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss
    except ImportError:
        return None
    loss = LigerFusedLinearCrossEntropyLoss()
    return lambda case: loss(case.weight, case.hidden, case.labels)
