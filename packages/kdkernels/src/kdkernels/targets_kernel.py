# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# (what triton compiles is no typed Python)

"""The look at labels and ids, and the teacher's classes of `targets.py`, in one launch each where plain torch takes thirty.

At the sizes of a step the launches alone would take as long as a product over the vocabulary.

Imports triton: reached only once impl="triton" has been chosen.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdkernels.targets import LOG_TAIL_FLOOR, Targets

# Pairs of a row's ids are compared in registers.
MOST_IDS = 64


class Look(NamedTuple):
    """What a look at the rows of a call found."""

    all_count: bool
    fine: bool
    """Whether every counted label, and every id of a row, is a column."""
    twice: bool
    """Whether a row has an id twice."""


def look(labels: Tensor, ids: Tensor | None, *, ignore_index: int, V: int) -> Look:
    """Look at labels [N] and ids [N, K], K up to MOST_IDS. One wait for the device."""
    flags = torch.zeros(3, dtype=torch.int32, device=labels.device)
    K = 0 if ids is None else ids.shape[1]
    if len(labels):
        with torch.cuda.device_of(labels):
            _look_kernel[(len(labels),)](
                labels.contiguous(), labels if ids is None else ids.contiguous(), flags, ignore_index, V, K,
                BLOCK_K=max(2, triton.next_power_of_2(K)), num_warps=1,
            )  # fmt: skip
    left_out, bad, twice = flags.tolist()
    return Look(not left_out, not bad, bool(twice))


@triton.jit
def _look_kernel(labels, ids, flags, ignore_index, V, K, BLOCK_K: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels + row)
    counts = label != ignore_index
    tl.store(flags, 1, mask=label == ignore_index)
    tl.store(flags + 1, 1, mask=counts & ((label < 0) | (label >= V)))
    if K > 0:
        k = tl.arange(0, BLOCK_K)
        word = tl.load(ids + row * K + k, mask=k < K, other=-1)
        bad = tl.sum(tl.where((word < -1) | (word >= V), 1, 0), axis=0)
        tl.store(flags + 1, 1, mask=bad > 0)
        same = (word[:, None] == word[None, :]) & (word[:, None] >= 0) & (k[:, None] < k[None, :])
        twice = tl.sum(tl.sum(tl.where(same, 1, 0), axis=1), axis=0)
        tl.store(flags + 2, 1, mask=twice > 0)


def prepare_targets(
    ids: Tensor,
    logprobs: Tensor,
    *,
    temperature: float,
    tail: str,
    divergence: str,
    log_partition: Tensor | None,
    duplicates: bool,
    columns: int,
) -> Targets:
    """As `targets.prepare_targets`, in float32, for K up to MOST_IDS."""
    N, K = ids.shape
    made = Targets(
        ids.new_empty(N, K, dtype=torch.int64),
        ids.new_empty(N, K, dtype=torch.float32),
        ids.new_empty(N, dtype=torch.float32),
    )
    if N:
        _targets_kernel[(N,)](
            ids.contiguous(), logprobs.detach().contiguous(),
            logprobs if log_partition is None else log_partition.detach().contiguous(),
            *made, K, columns, 1 / temperature,
            PARTITION=log_partition is not None and tail != "renormalise", RENORMALISE=tail == "renormalise",
            BUCKET=tail == "bucket", FLOOR=LOG_TAIL_FLOOR if divergence == "reverse_kl" else 0.0,
            DUPLICATES=duplicates, BLOCK_K=max(2, triton.next_power_of_2(K)), num_warps=1,
        )  # fmt: skip
    return made


@triton.jit
def _targets_kernel(
    ids, logprobs, log_partition, ids_out, log_mass_out, log_rest_out, K, columns, inverse_T,
    PARTITION: tl.constexpr, RENORMALISE: tl.constexpr, BUCKET: tl.constexpr, FLOOR: tl.constexpr,
    DUPLICATES: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, BLOCK_K)
    word = tl.load(ids + row * K + k, mask=k < K, other=-1).to(tl.int64)
    has_ids = tl.sum(tl.where(word >= 0, 1, 0), axis=0) > 0
    x = tl.load(logprobs + row * K + k, mask=k < K, other=-float("inf")).to(tl.float64) * inverse_T
    x = tl.where(word >= 0, x, -float("inf"))
    if DUPLICATES:
        same = (word[:, None] == word[None, :]) & (word[:, None] >= 0)
        largest = tl.max(tl.where(same, x[None, :], -float("inf")), axis=1)
        base = tl.where(largest == -float("inf"), 0.0, largest)
        masses = tl.where(same, tl.exp(x[None, :] - base[:, None]), 0.0)
        earlier = tl.sum(tl.where(same & (k[None, :] < k[:, None]), 1, 0), axis=1)
        first = (word >= 0) & (earlier == 0)
        x = tl.where(first, base + tl.log(tl.sum(masses, axis=1)), -float("inf"))
        word = tl.where(first, word, -1)
    if RENORMALISE:
        largest = tl.max(x, axis=0)
        base = tl.where(largest == -float("inf"), 0.0, largest)
        total = base + tl.log(tl.sum(tl.exp(x - base), axis=0))
        x -= tl.where(total == -float("inf"), 0.0, total)
    if PARTITION:
        x = tl.where(word >= 0, x - tl.load(log_partition + row).to(tl.float64), -float("inf"))
    rest = tl.full([], -float("inf"), tl.float64)
    if BUCKET:
        missing = 1.0 - tl.sum(tl.exp(x), axis=0)
        rest = tl.log(tl.where(missing < 0, 0.0, missing))
    if FLOOR != 0.0:
        rest = tl.where(rest < FLOOR, FLOOR, rest)
    listed = tl.sum(tl.where(word >= 0, 1, 0), axis=0)
    rest = tl.where(listed == columns, -float("inf"), rest)
    rest = tl.where(has_ids, rest, 0.0)
    tl.store(ids_out + row * K + k, word, mask=k < K)
    tl.store(log_mass_out + row * K + k, x.to(tl.float32), mask=k < K)
    tl.store(log_rest_out + row, rest.to(tl.float32))
