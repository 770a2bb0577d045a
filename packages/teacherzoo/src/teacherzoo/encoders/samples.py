"""Ids drawn from a teacher's distribution at masked rows: the same ones in whatever batch a row is read.

A draw is a Gumbel-max: argmax_v (log p_v + g_v), with g_v standard Gumbel numbers, has the distribution p (Maddison, Tarlow
and Minka 2014). It is taken in two steps, first among groups of ids by their mass, then within the group, so that a
draw needs one number for each group and for each id of one group, not for each id of the vocabulary. The numbers are hashes of the
position (`teacherzoo.text.masking.sample_keys`), the draw and the group or id. The last bits of a logit, which
depend on the batch, change a draw only where two sums are equal up to them; a walk along cumulative probabilities would
change with every boundary that moves.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from teacherzoo.encoders.predictions import Predictions
from teacherzoo.text.masking import hashed, unit

_GROUP = 512  # ids
_MOST_ROWS = 256
_CHUNK_BYTES = 2 << 20  # of logits: what a processor's cache holds
_CHUNK_BYTES_GPU = 256 << 20
_NUMBERS_AT_ONCE = 1 << 21


def draw_ids(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    wanted: torch.Tensor,
    keys: NDArray[np.uint64],
    *,
    draws: int,
    temperature: float,
) -> Predictions:
    """Multiply out the head for masked rows and draw ids from softmax(logits / T), with replacement.

    Args:
        hidden: [N, H], after the head's transform.
        weight: [V, H].
        bias: [V] or None.
        wanted: [N, W] ids whose log-probabilities at temperature 1 are asked for.
        keys: [N], which seed the draws.
        draws: D, ids drawn for each row.
        temperature: T.

    Returns:
        Ids [N, D] ascending, an id once for every time it was drawn; each draw has the weight 1/D, so that the
        log-probabilities are T · log(1/D) and the log partition at T is 0, as `Signals` has them.
        `wanted_logprobs` is not finite where the logits are not.
    """
    parts = [
        _draw_rows(hidden[rows], weight, bias, wanted[rows], keys[rows], draws, temperature)
        for start in range(0, len(hidden), _MOST_ROWS)
        for rows in [slice(start, start + _MOST_ROWS)]
    ]
    ids, wanted_logprobs = (torch.cat(column) for column in zip(*parts, strict=True))
    logprobs = torch.full(ids.shape, -temperature * float(np.log(draws)), device=ids.device)
    partition = logprobs.new_zeros(len(ids), 0 if temperature == 1.0 else 1)
    return Predictions(ids, logprobs, partition, wanted_logprobs)


def _draw_rows(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    wanted: torch.Tensor,
    keys: NDArray[np.uint64],
    draws: int,
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    at_temperature, whole = _group_masses(hidden, weight, bias, temperature)
    wanted_logits = torch.einsum("nh,nwh->nw", hidden, weight[wanted])
    if bias is not None:
        wanted_logits = wanted_logits + bias[wanted]
    wanted_logprobs = (wanted_logits.double() - whole[:, None]).float()
    masses = at_temperature.cpu().numpy()
    order = np.arange(draws)
    for_groups, for_ids = (hashed(keys[:, None], 2 * order + step) for step in (0, 1))
    groups = _largest(
        lambda pairs: masses[pairs // draws],
        for_groups.ravel(),
        np.zeros(for_groups.size, dtype=np.int64),
        masses.shape[1],
    )
    logits = _logits_of_groups(hidden, weight, bias, groups.reshape(-1, draws)) / temperature
    inside = _largest(lambda pairs: logits[pairs], for_ids.ravel(), groups * _GROUP, _GROUP)
    ids = np.sort((groups * _GROUP + inside).reshape(-1, draws), axis=1)
    return torch.from_numpy(ids).to(hidden.device), wanted_logprobs


def _group_masses(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """[N, groups] log Σ exp(z / T) over each group's ids in float32, and [N] log Σ exp(z) over all in float64."""
    chunk = _CHUNK_BYTES_GPU if hidden.is_cuda else _CHUNK_BYTES
    width = _GROUP * max(1, chunk // (4 * len(hidden) * _GROUP))
    masses, sums = [], []
    for start in range(0, len(weight), width):
        z = torch.nn.functional.linear(
            hidden,
            weight[start : start + width],
            None if bias is None else bias[start : start + width],
        )
        z = torch.nn.functional.pad(z, (0, -z.shape[1] % _GROUP), value=-torch.inf)
        z = z.view(len(hidden), -1, _GROUP)
        masses.append((z / temperature).logsumexp(dim=2))
        sums.append(z.logsumexp(dim=2) if temperature != 1.0 else masses[-1])
    return torch.cat(masses, dim=1), torch.cat(sums, dim=1).double().logsumexp(dim=1)


def _logits_of_groups(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    groups: NDArray[np.int64],
) -> NDArray[np.float32]:
    """[N * D, group] logits of each draw's group, one small product for each group that was drawn."""
    logits = np.full((groups.size, _GROUP), -np.inf, dtype=np.float32)
    drawn = groups.ravel()
    order = np.argsort(drawn, kind="stable")
    present, starts = np.unique(drawn[order], return_index=True)
    for group, pairs in zip(present.tolist(), np.split(order, starts[1:]), strict=True):
        rows, row_of_pair = np.unique(pairs // groups.shape[1], return_inverse=True)
        ids = slice(group * _GROUP, (group + 1) * _GROUP)
        z = torch.nn.functional.linear(
            hidden[torch.from_numpy(rows).to(hidden.device)],
            weight[ids],
            None if bias is None else bias[ids],
        )
        logits[pairs, : z.shape[1]] = z.cpu().numpy()[row_of_pair]
    return logits


def _largest(
    scores: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    keys: NDArray[np.uint64],
    first: NDArray[np.int64],
    width: int,
) -> NDArray[np.int64]:
    """[P] where in [0, width) score + Gumbel number is largest, the numbers those of `first` and the ids behind it."""
    step = max(1, _NUMBERS_AT_ONCE // width)
    chosen = np.empty(len(keys), dtype=np.int64)
    for start in range(0, len(keys), step):
        pairs = np.arange(start, min(start + step, len(keys)))
        index = first[pairs, None] + np.arange(width)
        # Half a step in place of 0, which has no logarithm.
        number = np.maximum(unit(hashed(keys[pairs, None], index)), 2.0**-54)
        gumbel = -np.log(-np.log(number))
        chosen[pairs] = (scores(pairs) + gumbel).argmax(axis=1)
    return chosen
