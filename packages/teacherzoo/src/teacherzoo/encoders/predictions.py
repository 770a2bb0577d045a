"""What a teacher says at masked rows, in one pass over the vocabulary that never holds all logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

# On a processor the logits of one step stay in its cache between product and sums; a GPU wants few, large steps.
_CHUNK_BYTES = 2 << 20
_CHUNK_BYTES_GPU = 256 << 20
_MOST_ROWS = 256


@dataclass(frozen=True)
class Predictions:
    """A teacher's distribution at N masked rows, cut to its K likeliest ids.

    Attributes:
        ids: [N, K] int64, ascending in each row.
        logprobs: [N, K] float32, of those ids.
        log_partition: [N, T] float32, log Σ_v p_v^(1/T) for each temperature.
        wanted_logprobs: [N, W] float32, of the ids that were asked for.
    """

    ids: torch.Tensor
    logprobs: torch.Tensor
    log_partition: torch.Tensor
    wanted_logprobs: torch.Tensor


def predict(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    wanted: torch.Tensor,
    *,
    k: int,
    temperatures: Sequence[float],
) -> Predictions:
    """Multiply out the head for masked rows and keep the top k, chunk by chunk.

    One exponential per logit serves every temperature that halves another: with e = exp(z/4), Σe² and Σe⁴ are the sums for
    temperatures 2 and 1. Ties go to the smaller id. Sums are float32 in a chunk and float64 across chunks.

    Args:
        hidden: [N, H], after the head's transform.
        weight: [V, H].
        bias: [V] or None.
        wanted: [N, W] ids whose log-probabilities are asked for whether they are likely or not, such as the gold one.
        k: at most V.
        temperatures: at which partitions are wanted.

    Returns:
        See `Predictions`; not finite where the logits are not.
    """
    parts = [
        _predict_rows(hidden[start:stop], weight, bias, wanted[start:stop], k, tuple(temperatures))
        for start in range(0, len(hidden), _MOST_ROWS)
        for stop in [start + _MOST_ROWS]
    ]
    return Predictions(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _predict_rows(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    wanted: torch.Tensor,
    k: int,
    temperatures: tuple[float, ...],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    rows, size = len(hidden), len(weight)
    chunk = _CHUNK_BYTES_GPU if hidden.is_cuda else _CHUNK_BYTES
    width = max(k, min(size, chunk // (4 * rows)))
    ladder = sorted({1.0, *temperatures}, reverse=True)
    top = hidden.new_full((rows,), -torch.inf)
    sums = torch.zeros(rows, len(ladder), dtype=torch.float64, device=hidden.device)
    best = hidden.new_full((rows, k), -torch.inf)
    best_ids = torch.zeros(rows, k, dtype=torch.int64, device=hidden.device)
    hottest = hidden.new_tensor(ladder, dtype=torch.float64)
    for start in range(0, size, width):
        z = torch.nn.functional.linear(
            hidden,
            weight[start : start + width],
            None if bias is None else bias[start : start + width],
        )
        here = z.amax(dim=1)
        _keep_best(z, here, start, best, best_ids)
        raised = torch.maximum(top, here)
        if start:
            sums *= torch.exp((top - raised).double()[:, None] / hottest)
        top = raised
        sums += _sums(z, top, ladder)
    log_sums = sums.log()
    whole = top.double() + log_sums[:, ladder.index(1.0)]
    wanted_logits = torch.einsum("nh,nwh->nw", hidden, weight[wanted])
    if bias is not None:
        wanted_logits = wanted_logits + bias[wanted]
    # log Σ p^(1/T) = log Σ exp(z/T) - lse/T
    partition = (
        torch.stack(
            [top / t + log_sums[:, ladder.index(t)] - whole / t for t in temperatures], dim=1
        )
        if temperatures
        else sums.new_zeros(rows, 0)
    )
    order = best_ids.argsort(dim=1)
    logprobs = best.gather(1, order).double() - whole[:, None]
    return (
        best_ids.gather(1, order),
        logprobs.float(),
        partition.float(),
        (wanted_logits.double() - whole[:, None]).float(),
    )


def _keep_best(
    z: torch.Tensor, here: torch.Tensor, start: int, best: torch.Tensor, best_ids: torch.Tensor
) -> None:
    """Merge a chunk's top k into the best so far, in rows where the chunk has something to add."""
    k = best.shape[1]
    better = (here > best[:, -1]) | here.isnan()
    rows = better.nonzero().squeeze(1)
    if not len(rows):
        return
    # Almost every row gains in the first chunks, hardly one in the last.
    values, ids = _top(z if len(rows) == len(z) else z[rows], min(k, z.shape[1]))
    values = torch.cat([best[rows], values], dim=1)
    ids = torch.cat([best_ids[rows], ids + start], dim=1)
    order = values.sort(dim=1, descending=True, stable=True).indices[:, :k]
    best[rows] = values.gather(1, order)
    best_ids[rows] = ids.gather(1, order)


def _top(z: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and ids [N, k] of the largest, ids ascending; `topk` alone takes any of those that tie for the last place."""
    values, ids = z.topk(min(k + 1, z.shape[1]), dim=1)
    tied = (values[:, k - 1] == values[:, -1]) if values.shape[1] > k else values.new_zeros(len(z))
    values, ids = values[:, :k], ids[:, :k]
    rows = tied.nonzero().squeeze(1)
    if len(rows):
        ids[rows] = z[rows].sort(dim=1, descending=True, stable=True).indices[:, :k]
    ids = ids.sort(dim=1).values
    return z.gather(1, ids), ids


def _sums(z: torch.Tensor, top: torch.Tensor, ladder: list[float]) -> torch.Tensor:
    """[N, T] sums of exp((z - top) / T), the temperatures descending; uses up `z`."""
    z -= top[:, None]
    sums = []
    power: torch.Tensor | None = None
    for i, temperature in enumerate(ladder):
        if power is not None and ladder[i - 1] == 2 * temperature:
            power.square_()
        else:
            last = i == len(ladder) - 1
            power = (z.mul_(1 / temperature) if last else z / temperature).exp_()
        sums.append(power.sum(dim=1, dtype=torch.float32))
    return torch.stack(sums, dim=1).double()
