"""What do attention_mse and relation_kl cost beside maps held in memory?

Forward and backward, against the eager formulation: both softmax maps, `mse_loss` or `kl_div`, autograd. Then the
memory of one step as the sequence grows, which should double with its length, not quadruple.
"""

from __future__ import annotations

import ctypes
import gc
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from record import Recorder, extra_memory, parser, race, timed_dtypes
from torch import Tensor

from kdkernels import attention_mse, relation_kl

HEADS, WIDTH = 12, 64


def main() -> None:
    """Time and memory of both operations in both dtypes, then memory over lengths."""
    arguments = parser("kdkernels: attention_mse and relation_kl beside eager maps").parse_args()
    recorder = Recorder("kdkernels_attention", arguments)
    batch, repeats = (2, 5) if arguments.quick else (8, 9)
    for name, dtype in timed_dtypes().items():
        for padded in (False, True):
            for operation, steps in OPERATIONS.items():
                contenders = steps(batch, 512, dtype, padded=padded)
                recorder.add(
                    f"{operation}, forward and backward",
                    race(contenders, repeats=repeats),
                    unit="s",
                    floor="eager maps",
                    bar={"tiles": 1.0 if device() == "cpu" else 0.5},
                    memory={name: settled_memory(step) for name, step in contenders.items()},
                    shape={"B": batch, "heads": HEADS, "S": 512, "d": WIDTH, "dtype": name}
                    | ({"real tokens": "half to all"} if padded else {}),
                )
    lengths = (256, 512) if arguments.quick else (256, 512, 1024, 2048)
    for operation, steps in OPERATIONS.items():
        for length in lengths:
            contenders = steps(1, length, torch.float32, padded=False)
            recorder.add(
                f"{operation}, memory of a step",
                {name: [settled_memory(step) / 2**20] for name, step in contenders.items()},
                unit="MiB",
                shape={"B": 1, "heads": HEADS, "S": length, "d": WIDTH, "dtype": "fp32"},
            )
    recorder.close()


def settled_memory(run: Callable[[], object]) -> int:
    """Peak extra bytes, with what the allocator keeps from earlier runs given back first."""
    gc.collect()
    if device() == "cpu":
        ctypes.CDLL(None).malloc_trim(0)
    return extra_memory(run)


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def padding(batch: int, length: int, *, padded: bool) -> Tensor | None:
    """Sequences of half to full length, or None for no padding."""
    if not padded:
        return None
    lengths = torch.linspace(length // 2, length, batch, device=device()).long()
    return torch.arange(length, device=device()) < lengths[:, None]


def bias_of(mask: Tensor | None, dtype: torch.dtype) -> Tensor | float:
    """What eager attention adds to its scores."""
    if mask is None:
        return 0.0
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(
        ~mask, torch.finfo(dtype).min
    )[:, None, None]


def attention_steps(
    batch: int, length: int, dtype: torch.dtype, *, padded: bool
) -> dict[str, Callable[[], object]]:
    """One step of `attention_mse` with tiles and with maps."""
    mask = padding(batch, length, padded=padded)
    shape = (batch, HEADS, length, WIDTH)
    q_s, k_s, q_t, k_t = (torch.randn(shape, device=device()).to(dtype) for _ in range(4))
    q_s.requires_grad_()
    k_s.requires_grad_()
    bias = bias_of(mask, dtype)

    def eager_map(q: Tensor, k: Tensor) -> Tensor:
        return torch.softmax(q @ k.mT / math.sqrt(WIDTH) + bias, -1)

    def eager() -> object:
        student = eager_map(q_s, k_s)
        with torch.no_grad():
            teacher = eager_map(q_t, k_t)
        if mask is None:
            loss = F.mse_loss(student, teacher)
        else:
            inside = (mask[:, :, None] & mask[:, None, :])[:, None]
            loss = ((student - teacher).square() * inside).sum() / (inside.sum() * HEADS)
        return torch.autograd.grad(loss, (q_s, k_s))

    def tiles() -> object:
        return torch.autograd.grad(attention_mse(q_s, k_s, q_t, k_t, mask).loss, (q_s, k_s))

    return {"eager maps": eager, "tiles": tiles}


def relation_steps(
    batch: int, length: int, dtype: torch.dtype, *, padded: bool
) -> dict[str, Callable[[], object]]:
    """One step of `relation_kl` with tiles and with maps."""
    mask = padding(batch, length, padded=padded)
    x_s, x_t = (
        torch.randn(batch, length, HEADS * WIDTH, device=device()).to(dtype) for _ in range(2)
    )
    x_s.requires_grad_()
    bias = bias_of(mask, dtype)

    def eager_log_map(x: Tensor) -> Tensor:
        split = x.unflatten(2, (HEADS, WIDTH)).transpose(1, 2)
        return torch.log_softmax(split @ split.mT / math.sqrt(WIDTH) + bias, -1)

    def eager() -> object:
        student = eager_log_map(x_s)
        with torch.no_grad():
            teacher = eager_log_map(x_t)
        if mask is None:
            loss = F.kl_div(student, teacher, log_target=True, reduction="sum")
            loss = loss / (batch * HEADS * length)
        else:
            terms = F.kl_div(student, teacher, log_target=True, reduction="none").sum(-1)
            loss = (terms * mask[:, None]).sum() / (mask.sum() * HEADS)
        return torch.autograd.grad(loss, x_s)

    def tiles() -> object:
        return torch.autograd.grad(relation_kl(x_s, x_t, HEADS, mask).loss, x_s)

    return {"eager maps": eager, "tiles": tiles}


OPERATIONS = {"attention_mse": attention_steps, "relation_kl": relation_steps}


if __name__ == "__main__":
    main()
