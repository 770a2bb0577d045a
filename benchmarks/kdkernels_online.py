"""What does linear_kl cost beside its matrix products and the dense formulation, and how exact is it?

A step is forward and backward in the student's hidden states and weight, teacher forward included. Contenders: the
four matrix products alone (the floor), linear_kl, the dense eager formulation, and, where they are importable, Liger's
fused linear JSD (its soft loss alone) and TextBrewer's cross-entropy with the teacher (the forward KL but for a constant,
its gradient the same). Then the error of loss and gradient against float64 in bfloat16.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from record import Recorder, extra_memory, parser, race, timed_dtypes
from torch import Tensor

from kdkernels import linear_kl

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Loss = Callable[["Case"], Tensor]
TEXTBREWER = "textbrewer kd_ce_loss"


@dataclass(frozen=True, kw_only=True)
class Case:
    """Both sides of one batch of masked rows."""

    hidden_s: Tensor  # [N, H_s]
    weight_s: Tensor  # [V, H_s]
    hidden_t: Tensor  # [N, H_t]
    weight_t: Tensor  # [V, H_t]

    def to(self, dtype: torch.dtype) -> Case:
        sides = {name: x.detach().to(dtype) for name, x in vars(self).items()}
        for name in ("hidden_s", "weight_s"):
            sides[name] = sides[name].clone().requires_grad_()
        return Case(**sides)


def make_case(N: int, H_s: int, H_t: int, V: int, *, std: float = 3.0) -> Case:
    """Independent Gaussian logits of this standard deviation on both sides."""
    torch.manual_seed(0)
    return Case(
        hidden_s=torch.randn(N, H_s, device=DEVICE),
        weight_s=torch.randn(V, H_s, device=DEVICE) * std / H_s**0.5,
        hidden_t=torch.randn(N, H_t, device=DEVICE),
        weight_t=torch.randn(V, H_t, device=DEVICE) * std / H_t**0.5,
    )


def main() -> None:
    """Times and memory, then errors."""
    arguments = parser(__doc__.splitlines()[0]).parse_args()
    recorder = Recorder("kdkernels_online", arguments)
    N, H_s, H_t, V = (128, 256, 512, 30_000) if arguments.quick else (512, 384, 768, 120_000)
    if DEVICE == "cuda":
        N, H_s, H_t, V = 8192, 768, 1024, 250_000
    for name, dtype in timed_dtypes().items():
        case = make_case(N, H_s, H_t, V).to(dtype)
        for divergence in ("forward_kl", "jsd"):
            steps = {"four products": lambda case=case: products(case)}
            for contender, loss in contenders(divergence).items():
                steps[contender] = lambda case=case, loss=loss: step(case, loss)
            times = race(steps, repeats=3 if arguments.quick else 5)
            recorder.add(
                f"{divergence}, forward and backward",
                times,
                unit="s",
                floor="four products",
                memory={contender: settled_memory(run) for contender, run in steps.items()},
                shape={"N": N, "H_s": H_s, "H_t": H_t, "V": V, "dtype": name},
            )
    for std in (3.0, 6.0):
        for divergence in ("forward_kl", "jsd"):
            record_errors(recorder, divergence, std)
    recorder.close()


def contenders(divergence: str) -> dict[str, Loss]:
    """Losses of both sides' hidden states, ours first."""
    losses: dict[str, Loss] = {
        "linear_kl": lambda c: (
            linear_kl(
                c.hidden_s, c.weight_s, None, c.hidden_t, c.weight_t, None, divergence=divergence
            ).loss
        ),
        "dense eager": lambda c: dense(c, divergence),
    }
    rivals = {"liger fused linear jsd": liger_jsd(divergence), TEXTBREWER: textbrewer(divergence)}
    return losses | {name: loss for name, loss in rivals.items() if loss is not None}


def dense(case: Case, divergence: str) -> Tensor:
    """The usual formulation: both [N, V] log-softmaxes in float32, and kl_div."""
    log_q = F.log_softmax((case.hidden_s @ case.weight_s.t()).float(), -1)
    log_p = F.log_softmax((case.hidden_t @ case.weight_t.t()).float(), -1)
    if divergence == "forward_kl":
        return F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
    log_m = torch.lerp(log_q.exp(), log_p.exp(), 0.5).log()
    sides = [F.kl_div(log_m, x, log_target=True, reduction="batchmean") for x in (log_p, log_q)]
    return (sides[0] + sides[1]) / 2


def liger_jsd(divergence: str) -> Loss | None:
    """Liger's chunked fused linear JSD, whose beta 0 is the forward KL; None where it is not installed."""
    try:
        from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss
    except ImportError:
        return None
    loss = LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0,
        weight_soft_loss=1.0,
        beta=0.0 if divergence == "forward_kl" else 0.5,
        compiled=DEVICE == "cuda",
    )

    def call(case: Case) -> Tensor:
        labels = torch.zeros(len(case.hidden_s), dtype=torch.int64, device=DEVICE)
        return loss(case.hidden_s, case.weight_s, case.hidden_t, case.weight_t, labels)

    return call


def textbrewer(divergence: str) -> Loss | None:
    """TextBrewer's soft cross-entropy of logits, in their dtype; None where it is not installed or another divergence is asked."""
    try:
        from textbrewer.losses import kd_ce_loss
    except ImportError:
        return None
    if divergence != "forward_kl":
        return None
    return lambda c: kd_ce_loss(c.hidden_s @ c.weight_s.t(), c.hidden_t @ c.weight_t.t())


def products(case: Case) -> None:
    """What nobody can avoid: both sides' logits, and the student's two gradients."""
    logits = case.hidden_s.detach() @ case.weight_s.detach().t()
    del logits
    logits = case.hidden_t @ case.weight_t.t()
    del logits
    by_logits = torch.ones(1, 1, dtype=case.hidden_s.dtype, device=DEVICE)
    by_logits = by_logits.expand(len(case.hidden_s), len(case.weight_s)).contiguous()
    by_logits @ case.weight_s.detach()
    by_logits.t() @ case.hidden_s.detach()


def step(case: Case, loss: Loss) -> None:
    case.hidden_s.grad = case.weight_s.grad = None
    loss(case).backward()


def settled_memory(run: Callable[[], object]) -> int:
    """Peak extra bytes, with what the allocator keeps from earlier runs given back first."""
    gc.collect()
    if DEVICE == "cpu":
        ctypes.CDLL(None).malloc_trim(0)
    return extra_memory(run)


def record_errors(recorder: Recorder, divergence: str, std: float) -> None:
    """Relative error of loss and gradient in bfloat16, against the same rounded operands in float64."""
    rounded = make_case(64, 128, 192, 8000, std=std).to(torch.bfloat16)
    exact = rounded.to(torch.float64)
    true = dense_exact(exact, divergence)
    true_gradients = torch.autograd.grad(true, (exact.hidden_s, exact.weight_s))
    for part in ("loss", "gradient by hidden", "gradient by weight"):
        errors = {}
        for contender, loss in contenders(divergence).items():
            if contender == TEXTBREWER and part == "loss":
                continue  # apart from the KL by the teacher's entropy
            value = loss(rounded)
            gradients = torch.autograd.grad(value, (rounded.hidden_s, rounded.weight_s))
            got = dict(zip(("gradient by hidden", "gradient by weight"), gradients, strict=True))
            true_of = dict(zip(got, true_gradients, strict=True)) | {"loss": true}
            got["loss"] = value.detach()
            gap = got[part].double() - true_of[part].detach()
            errors[contender] = [float(gap.norm() / true_of[part].detach().norm())]
        recorder.add(
            f"{divergence}, relative error of the {part} in bf16",
            errors,
            unit="",
            bar={"linear_kl": 0.001 if part == "loss" else 0.01} if std == 3.0 else None,
            shape={"N": 64, "H_s": 128, "H_t": 192, "V": 8000, "logit std": std},
        )


def dense_exact(case: Case, divergence: str) -> Tensor:
    """As `dense`, in the dtype of the operands."""
    log_q = F.log_softmax(case.hidden_s @ case.weight_s.t(), -1)
    log_p = F.log_softmax(case.hidden_t @ case.weight_t.t(), -1)
    p, q = log_p.exp(), log_q.exp()
    if divergence == "forward_kl":
        return (p * (log_p - log_q)).sum() / len(p)
    log_m = ((p + q) / 2).log()
    return (p * (log_p - log_m) + q * (log_q - log_m)).sum() / (2 * len(p))


if __name__ == "__main__":
    main()
