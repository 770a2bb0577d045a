"""Both maps tile by tile, with the gradient taken while a tile is at hand (impl "torch").

A tile holds some query rows of some (sequence, head) pairs against all the keys they see, so a softmax is complete
within it and nothing is ever computed twice. On a CPU the tile is sized to stay in the cache.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from kdkernels.attention_maps.arguments import Comparison, widest
from kdkernels.attention_maps.map_sums import MapSums
from kdkernels.attention_maps.sequences import SequenceGroup, groups_of_one_length
from kdkernels.precision import accumulation_dtype, products_of

CPU_TILE_BYTES = 4 << 20  # a second-level cache of two cores or so
DEVICE_TILE_BYTES = 64 << 20


def map_sums(
    q_s: Tensor, k_s: Tensor, q_t: Tensor, k_t: Tensor, comparison: Comparison, *, gradient: bool
) -> MapSums:
    """Sum the comparison over all tiles; float64 in float64, everything else in float32."""
    with torch.autocast(q_s.device.type, enabled=False):
        return _map_sums(q_s, k_s, q_t, k_t, comparison, gradient=gradient)


def _map_sums(
    q_s: Tensor, k_s: Tensor, q_t: Tensor, k_t: Tensor, comparison: Comparison, *, gradient: bool
) -> MapSums:
    dtype = accumulation_dtype(widest(q_s, k_s, q_t, k_t))
    total = torch.zeros((), dtype=torch.float64, device=q_s.device)
    count = torch.zeros((), dtype=torch.int64, device=q_s.device)
    mask = comparison.mask
    if comparison.masks_padding and mask is not None:
        q_s, k_s, q_t, k_t = (
            x.masked_fill(~mask[:, None, :, None], 0.0) for x in (q_s, k_s, q_t, k_t)
        )
        mask = None
    groups = []
    if q_s.numel():
        groups = list(groups_of_one_length(mask, length=q_s.shape[2], device=q_s.device))
    in_parts = not groups or groups[0].sequences is not None
    dq = torch.zeros(q_s.shape if gradient and in_parts else 0, dtype=dtype, device=q_s.device)
    dk = torch.zeros_like(dq)
    for group in groups:
        with products_of(widest(q_s, k_s, q_t, k_t), q_s.device):
            operands = tuple(group.gather(x, dtype) for x in (q_s, k_s, q_t, k_t))
            sums = _group_sums(operands, comparison, group, gradient=gradient)
        total += sums.total
        count += sums.counted
        if gradient:
            dq, dk = group.scatter(sums.dq, dq), group.scatter(sums.dk, dk)
    return MapSums(total=total.to(dtype), counted=count, dq=dq, dk=dk)


def _group_sums(
    operands: tuple[Tensor, ...], comparison: Comparison, group: SequenceGroup, *, gradient: bool
) -> MapSums:
    """As `map_sums`, on tensors [G, h, n, d] without padding."""
    q_s, k_s, q_t, k_t = operands
    heads, shape = q_s.shape[1], q_s.shape if gradient else (0,)
    pairs_at_once, rows_at_once, most_keys = _tile_shape(q_s, comparison)
    if (
        pairs_at_once > heads
    ):  # a tile holds several sequences: all heads side by side, which may copy
        q_s, k_s, q_t, k_t = (x.reshape(1, -1, *x.shape[2:]) for x in (q_s, k_s, q_t, k_t))
    buffers = q_s.new_empty(2, pairs_at_once * rows_at_once * most_keys)
    dq, dk = (
        (q_s.new_empty(q_s.shape), q_s.new_zeros(q_s.shape)) if gradient else (buffers[0, :0],) * 2
    )
    total = torch.zeros((), dtype=torch.float64, device=q_s.device)
    count = torch.zeros((), dtype=torch.int64, device=q_s.device)
    for number, few_heads, rows in _tiles(q_s.shape, pairs_at_once, rows_at_once):
        keys = _keys_seen(rows, q_s.shape[2], comparison.reach)
        pairs = torch.arange(few_heads.start, few_heads.stop, device=q_s.device) + number * heads
        visible = _visible(comparison, group, pairs // heads, rows, keys)
        q, k = q_s[number, few_heads, rows], k_s[number, few_heads, keys]
        student = _scores(q, k, comparison.scale_s, buffers[0])
        teacher = _scores(
            q_t[number, few_heads, rows],
            k_t[number, few_heads, keys],
            comparison.scale_t,
            buffers[1],
        )
        if comparison.divergence == "mse":
            total += _mse_tile(student, teacher, visible, gradient=gradient)
        else:
            total += _kl_tile(student, teacher, visible)
        count += _counted(comparison.divergence, student, visible)
        if gradient:
            torch.bmm(teacher, k, out=dq[number, few_heads, rows])
            dk[number, few_heads, keys].baddbmm_(teacher.mT, q)
    return MapSums(total=total, counted=count, dq=dq.view(shape), dk=dk.view(shape))


def _tile_shape(q: Tensor, comparison: Comparison) -> tuple[int, int, int]:
    """How many pairs (sequence, head), query rows and keys a tile holds at most."""
    length = q.shape[2]
    default = CPU_TILE_BYTES if q.device.type == "cpu" else DEVICE_TILE_BYTES
    entries = max(1, int(comparison.chunk_bytes or default) // q.element_size())
    rows = min(
        length, max(1, entries // (2 * length))
    )  # two pairs a tile, so that two threads share it
    keys = length
    if comparison.reach is not None:
        rows = min(rows, max(64, 2 * comparison.reach))  # beyond this a tile is mostly out of reach
        keys = min(length, rows + 2 * comparison.reach)
    return min(q.shape[0] * q.shape[1], max(1, entries // (rows * keys))), rows, keys


def _tiles(
    shape: torch.Size, pairs_at_once: int, rows_at_once: int
) -> Iterator[tuple[int, slice, slice]]:
    """Of tensors [G, h, n, d]: the sequence, some of its heads, some of its query rows."""
    sequences, heads, length, _ = shape
    for number in range(sequences):
        for first in range(0, heads, pairs_at_once):
            few_heads = slice(first, min(first + pairs_at_once, heads))
            for row in range(0, length, rows_at_once):
                yield number, few_heads, slice(row, min(row + rows_at_once, length))


def _keys_seen(rows: slice, length: int, reach: int | None) -> slice:
    """The keys that any of the rows can reach: tokens are never closer in position than in number."""
    if reach is None:
        return slice(0, length)
    return slice(max(0, rows.start - reach), min(length, rows.stop + reach))


def _visible(
    comparison: Comparison, group: SequenceGroup, sequences: Tensor, rows: slice, keys: slice
) -> Tensor | None:
    """Which entries of the tile exist: bool [pairs or 1, rows, keys], or None where all do."""
    mask = comparison.mask
    if mask is not None and mask.dim() == 2 and not comparison.masks_padding:
        mask = None
    if comparison.reach is None and mask is None:
        return None
    visible = None
    if comparison.reach is not None:
        positions = group.positions if group.sequences is None else group.positions[sequences]
        apart = positions[:, rows, None] - positions[:, None, keys]
        visible = apart.abs_() <= comparison.reach
    if mask is not None:
        if mask.dim() == 3:
            allowed = mask[sequences, rows, keys]
        else:
            allowed = mask[sequences, rows, None] & mask[sequences, None, keys]
        visible = allowed if visible is None else visible & allowed
    return visible


def _scores(q: Tensor, k: Tensor, scale: float, buffer: Tensor) -> Tensor:
    shape = (q.shape[0], q.shape[1], k.shape[1])
    out = buffer[: math.prod(shape)].view(shape)
    return torch.baddbmm(out, q, k.mT, beta=0, alpha=scale, out=out)


def _mse_tile(
    student: Tensor, teacher: Tensor, visible: Tensor | None, *, gradient: bool
) -> Tensor:
    """Σ (A_s − A_t)² of the tile; half its gradient by the student's scores is left in `teacher`.

    With D = A_s − A_t, the gradient by A_s is 2D and by the scores 2 A_s ∘ (D − rowsum(A_s ∘ D)): that of a softmax.
    """
    for scores in (student, teacher):
        if visible is not None:
            scores.masked_fill_(~visible, -math.inf)
        torch.softmax(scores, -1, out=scores)
        if visible is not None:
            scores.masked_fill_(~visible, 0.0)  # a row that sees nothing is NaN until here
    difference = torch.sub(student, teacher, out=teacher)
    total = torch.linalg.vector_norm(difference, dim=-1).double().square().sum()
    if gradient:
        torch.ops.aten._softmax_backward_data.out(
            difference, student, -1, difference.dtype, grad_input=difference
        )
    return total


def _kl_tile(student: Tensor, teacher: Tensor, visible: Tensor | None) -> Tensor:
    """Σ R_t (log R_t − log R_s) of the tile; its gradient by the student's scores, R_s − R_t, is left in `teacher`."""
    for scores in (student, teacher):
        if visible is not None:
            scores.masked_fill_(~visible, -math.inf)
        torch.log_softmax(scores, -1, out=scores)
    probability = teacher.exp()
    ratio = teacher.sub_(student)
    student.exp_()
    if visible is not None:
        for entries in (ratio, probability, student):
            entries.masked_fill_(~visible, 0.0)  # −inf − (−inf), and rows that see nothing
    total = torch.linalg.vecdot(probability, ratio).sum(dtype=torch.float64)
    torch.sub(student, probability, out=teacher)
    return total


def _counted(divergence: str, tile: Tensor, visible: Tensor | None) -> Tensor | int:
    """What the mean runs over: entries, or query rows that see something."""
    if visible is None:
        return tile.numel() if divergence == "mse" else tile.shape[0] * tile.shape[1]
    counted = visible if divergence == "mse" else visible.any(-1)
    return counted.sum() * (tile.shape[0] // visible.shape[0])
