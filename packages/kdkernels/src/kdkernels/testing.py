"""What a test of a loss needs, public because the kernels of others can be held to it too.

An oracle that shares no code with the implementations, budgets that come from a measured reference instead of a
guess, shapes that break things, and memory that shows when it was never written.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = [
    "MEANINGS",
    "ODD_SHAPES",
    "DistilBatch",
    "DistilShape",
    "error_budget",
    "make_distil_batch",
    "nan_filled_empties",
    "oracle_distil_loss",
    "oracle_divergence",
    "relative_error",
]


class DistilShape(NamedTuple):
    """N rows of width H over a vocabulary of V, K ids a row."""

    N: int
    H: int
    V: int
    K: int


ODD_SHAPES: Sequence[DistilShape] = (
    DistilShape(N=1, H=1, V=1, K=1),
    DistilShape(N=1, H=5, V=7, K=2),
    DistilShape(N=9, H=5, V=7, K=11),  # more places than columns
    DistilShape(N=17, H=16, V=64, K=4),
    DistilShape(N=6, H=3, V=20_011, K=5),  # a prime beyond two blocks of 8,192 columns
)


# Every divergence with every tail that has a meaning for it.
MEANINGS: Sequence[tuple[str, str]] = (
    ("forward_kl", "bucket"),
    ("forward_kl", "renormalise"),
    ("forward_kl", "drop"),
    ("reverse_kl", "bucket"),
    ("jsd", "bucket"),
    ("jsd", "renormalise"),
)


@dataclass(frozen=True, kw_only=True)
class DistilBatch:
    """Arguments of `kdkernels.linear_distil_loss`; the operands are leaves that require gradients."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    labels: Tensor
    ids: Tensor
    logprobs: Tensor
    teacher: Tensor  # [N, V] log-probabilities the lists were taken from

    @property
    def positional(self) -> tuple[Any, ...]:
        """What is passed by position."""
        return self.hidden, self.weight, self.bias, self.labels, self.ids, self.logprobs

    def partition(self, temperature: float) -> Tensor:
        """The `log_partition` at a temperature. [N]"""
        return (self.teacher / temperature).logsumexp(dim=1)

    def leaves(self) -> list[Tensor]:
        """The operands that get gradients."""
        return [leaf for leaf in (self.hidden, self.weight, self.bias) if leaf is not None]


def make_distil_batch(
    shape: DistilShape,
    *,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    std: float = 2.0,
    bias: bool = True,
    device: str = "cpu",
) -> DistilBatch:
    """A batch with ignored rows, padded lists, a row without ids and a duplicate, as far as the shape has room.

    Args:
        shape: its sizes.
        dtype: of the operands.
        seed: of the random numbers.
        std: standard deviation of the logits, without the bias.
        bias: whether there is one.
        device: of all tensors.

    Returns:
        DistilBatch.

    Example:
        >>> from kdkernels.testing import DistilShape, make_distil_batch
        >>> make_distil_batch(DistilShape(N=6, H=4, V=9, K=3)).ids.shape
        torch.Size([6, 3])
    """
    torch.manual_seed(seed)
    N, H, V, K = shape
    listed = min(K, V)
    teacher = torch.log_softmax(2 * torch.randn(N, V, dtype=torch.float64), dim=1)
    logprobs, ids = teacher.topk(listed, dim=1)
    ids = torch.cat([ids, ids.new_full((N, K - listed), -1)], dim=1)
    logprobs = torch.cat([logprobs, logprobs.new_zeros(N, K - listed)], dim=1)
    labels = torch.randint(0, V, (N,))
    if N > 5:
        labels[4] = -100
        ids[1, 1:] = -1
        ids[2] = -1
        ids[3, 1] = ids[3, 0]
        labels[5] = ids[5, 0]
    weight = torch.randn(V, H, dtype=torch.float64) * std / H**0.5
    return DistilBatch(
        hidden=_leaf(torch.randn(N, H, dtype=torch.float64), dtype, device),
        weight=_leaf(weight, dtype, device),
        bias=_leaf(torch.randn(V, dtype=torch.float64), dtype, device) if bias else None,
        labels=labels.to(device),
        ids=ids.to(device),
        logprobs=logprobs.to(device),
        teacher=teacher.to(device),
    )


def _leaf(values: Tensor, dtype: torch.dtype, device: str) -> Tensor:
    return values.to(device=device, dtype=dtype).requires_grad_()


def oracle_distil_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    topk_ids: Tensor,
    topk_logprobs: Tensor,
    *,
    alpha: float,
    temperature: float = 1.0,
    tail: str = "bucket",
    divergence: str = "forward_kl",
    beta: float = 0.5,
    log_partition: Tensor | None = None,
    row_weight: Tensor | None = None,
    ignore_index: int = -100,
    divisor: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`linear_distil_loss` by definition, row by row in float64: (loss, hard, soft), all differentiable.

    Each row's teacher is a dictionary from id to probability; nothing is vectorised, so nothing can be masked wrongly.
    Arguments as for `kdkernels.linear_distil_loss`.

    Example:
        >>> import torch
        >>> from kdkernels.testing import oracle_distil_loss
        >>> ids, logprobs = torch.tensor([[0]]), torch.zeros(1, 1)
        >>> loss, hard, soft = oracle_distil_loss(
        ...     torch.zeros(1, 2), torch.zeros(4, 2), None, torch.tensor([0]), ids, logprobs, alpha=0.5
        ... )
        >>> round(float(hard), 4), round(float(soft), 4)     # log 4 both
        (1.3863, 1.3863)
    """
    logits = hidden.double() @ weight.double().t()
    if bias is not None:
        logits = logits + bias.double()
    hard, soft = logits.sum() * 0.0, logits.sum() * 0.0
    rows = 0
    for n, label in enumerate(labels.tolist()):
        if label == ignore_index:
            continue
        rows += 1
        share = 1.0 if row_weight is None else float(row_weight[n])
        q = torch.softmax(logits[n], dim=0)
        cool_q = torch.softmax(logits[n] / temperature, dim=0)
        hard = hard - share * q[label].log()
        shift = 0.0 if log_partition is None or tail == "renormalise" else float(log_partition[n])
        teacher: dict[int, float] = {}
        for column, logprob in zip(topk_ids[n].tolist(), topk_logprobs[n].tolist(), strict=True):
            if column >= 0:
                mass = math.exp(logprob / temperature - shift)
                teacher[column] = teacher.get(column, 0.0) + mass
        if teacher:
            value = _row_divergence(cool_q, teacher, tail=tail, divergence=divergence, beta=beta)
            soft = soft + share * temperature**2 * value
    by = divisor if divisor is not None else max(rows, 1)
    hard, soft = hard / by, soft / by
    return (1 - alpha) * hard + alpha * soft, hard, soft


def _row_divergence(
    q: Tensor, teacher: dict[int, float], *, tail: str, divergence: str, beta: float
) -> Tensor:
    """One row: classes are the teacher's ids and, unless it covers the vocabulary, all other columns together."""
    columns = list(teacher)
    masses = list(teacher.values())
    if tail == "renormalise":
        masses = [mass / sum(masses) for mass in masses]
    others = [column for column in range(len(q)) if column not in teacher]
    classes = [q[column] for column in columns]
    if others and tail != "drop":
        classes.append(q[others].sum())
        missing = -math.expm1(math.log(max(masses))) - (sum(masses) - max(masses))
        masses.append(max(missing, 0.0) if tail == "bucket" else 0.0)
        if divergence == "reverse_kl":
            masses[-1] = max(masses[-1], 2.0**-24)
    t = torch.tensor(masses, dtype=q.dtype, device=q.device)
    return oracle_divergence(t, torch.stack(classes), divergence=divergence, beta=beta)


def oracle_divergence(t: Tensor, q: Tensor, *, divergence: str, beta: float = 0.5) -> Tensor:
    """D(t, q) of two vectors of masses; t the teacher. 0 log 0 is 0.

    Example:
        >>> import torch
        >>> from kdkernels.testing import oracle_divergence
        >>> float(oracle_divergence(torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.5]), divergence="jsd"))
        0.0
    """
    if divergence == "forward_kl":
        return _kl(t, q)
    if divergence == "reverse_kl":
        return _kl(q, t)
    m = beta * t + (1 - beta) * q
    return beta * _kl(t, m) + (1 - beta) * _kl(q, m)


def _kl(a: Tensor, b: Tensor) -> Tensor:
    terms = [x * (x / y).log() for x, y in zip(a, b, strict=True) if float(x.detach()) > 0]
    return torch.stack(terms).sum() if terms else a.sum() * 0.0


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """‖actual - expected‖ / ‖expected‖ in float64; the absolute norm where nothing was expected."""
    expected = expected.detach().double()
    difference = (actual.detach().double() - expected).norm()
    size = expected.norm()
    return float(difference / size) if size > 0 else float(difference)


def error_budget(
    plain: Tensor, expected: Tensor, *, dtype: torch.dtype, factor: float = 2.0
) -> float:
    """How far from the float64 truth an implementation in `dtype` may be, in ‖·‖ ratio.

    As far as the plain formula in the same dtype, times `factor`, plus a few roundings: an implementation must not be
    worse than what anyone would write, and no tolerance is made up.

    Args:
        plain: the plain formula's result, computed in `dtype`.
        expected: the float64 truth.
        dtype: of the operands.
        factor: how many times the plain error is allowed.

    Returns:
        The largest `relative_error` that passes.

    Example:
        >>> import torch
        >>> from kdkernels.testing import error_budget
        >>> error_budget(torch.ones(2), torch.ones(2), dtype=torch.float32) < 1e-6
        True
    """
    return factor * relative_error(plain, expected) + 4 * torch.finfo(dtype).eps


@contextlib.contextmanager
def nan_filled_empties() -> Iterator[None]:
    """Inside, torch.empty and its kin return NaN (or the largest integer), so that what is never written shows.

    Example:
        >>> import torch
        >>> from kdkernels.testing import nan_filled_empties
        >>> with nan_filled_empties():
        ...     bool(torch.empty(3).isnan().all())
        True
    """
    names = ("empty", "empty_like", "empty_strided")
    originals = {name: getattr(torch, name) for name in names}
    original_new = Tensor.new_empty
    try:
        for name, original in originals.items():
            setattr(torch, name, _filled(original))
        Tensor.new_empty = _filled(original_new)  # type: ignore[method-assign]  # undone below
        yield
    finally:
        for name, original in originals.items():
            setattr(torch, name, original)
        Tensor.new_empty = original_new  # type: ignore[method-assign]  # as it was


def _filled(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def filled(*args: object, **kwargs: object) -> Tensor:
        made = make(*args, **kwargs)
        poison = float("nan") if made.is_floating_point() or made.is_complex() else None
        if poison is None:
            poison = True if made.dtype == torch.bool else torch.iinfo(made.dtype).max
        return made.fill_(poison)

    return filled
