"""How far are bfloat16 losses and gradients from float64, at logits of standard deviation 3 and 6?

Contenders on the same inputs: linear_distil_loss, the sparse eager formula that widens the logits to float32, and the
same formula left in bfloat16 throughout. Figures are ‖gradient - truth‖ / ‖truth‖ by hidden states and weight, and the
relative error of the loss.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from inputs import Case, make_case, sparse
from record import Recorder, parser
from torch import Tensor

import kdkernels
from kdkernels.testing import relative_error

ALPHA = 0.5


def linear_distil(case: Case) -> Tensor:
    return kdkernels.linear_distil_loss(
        case.hidden, case.weight, None, case.labels, case.ids, case.logprobs, alpha=ALPHA
    ).loss


def unwidened(case: Case) -> Tensor:
    """The sparse formula in the operands' own precision throughout."""
    log_q = torch.log_softmax(case.hidden @ case.weight.t(), dim=1)
    hard = F.nll_loss(log_q, case.labels)
    p, log_q = case.logprobs.exp(), log_q.gather(1, case.ids)
    r, s = 1 - p.sum(dim=1), 1 - log_q.exp().sum(dim=1)
    soft = (p * (case.logprobs - log_q)).sum(dim=1) + r * (r.log() - s.log())
    return (1 - ALPHA) * hard + ALPHA * soft.mean()


def outcome(case: Case, loss: Callable[[Case], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, and gradient by hidden states and by weight."""
    value = loss(case)
    return (value.detach(), *torch.autograd.grad(value, (case.hidden, case.weight)))


def main() -> None:
    options = parser(__doc__.splitlines()[0]).parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    N, H, V, K = (128, 384, 20_000, 8) if options.quick else (256, 768, 120_000, 8)
    recorder = Recorder("kdkernels_precision", options)
    contenders = {
        "linear_distil_loss": linear_distil,
        "sparse eager, widened logits": lambda case: sparse(case, alpha=ALPHA),
        "sparse eager, all bfloat16": unwidened,
    }
    for std in (3.0, 6.0):
        case = make_case(N, H, V, K, dtype=torch.bfloat16, device=device, std=std)
        exact = dataclasses.replace(
            case,
            hidden=case.hidden.detach().double().requires_grad_(),
            weight=case.weight.detach().double().requires_grad_(),
            logprobs=case.logprobs.double(),
        )
        truth = outcome(exact, unwidened)
        errors = {
            name: [relative_error(a, b) for a, b in zip(outcome(case, loss), truth, strict=True)]
            for name, loss in contenders.items()
        }
        goals = (0.001, 0.01, 0.01) if std == 3.0 else (None, None, None)
        for place, part in enumerate(("loss", "gradient by hidden", "gradient by weight")):
            recorder.add(
                f"relative error of the {part}, bfloat16",
                {name: [parts[place]] for name, parts in errors.items()},
                unit="", bar={"linear_distil_loss": goals[place]},
                shape={"N": N, "H": H, "V": V, "K": K, "std": std},
            )  # fmt: skip
    recorder.close()


if __name__ == "__main__":
    sys.exit(main())
