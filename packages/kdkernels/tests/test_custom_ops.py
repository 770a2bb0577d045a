"""The losses as operators of torch: in compiled graphs without a break, and without a wait for the device."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import kdkernels

N, H, V, K = 6, 4, 11, 3
LABELS = torch.tensor([1, -100, 4, 10, -100, 0])
MASK = LABELS >= 0
Call = Callable[..., Any]


def teacher_list() -> tuple[Tensor, Tensor]:
    logprobs, ids = torch.log_softmax(torch.randn(N, V), 1).topk(K)
    ids[2, 1] = ids[2, 0]  # twice
    ids[3, 2] = -1
    return ids, logprobs


def distil(h: Tensor, w: Tensor, b: Tensor, **options: Any) -> Any:
    partition = torch.full((N,), 0.1)
    options = {"alpha": 0.5, "temperature": 2.0, "log_partition": partition, **options}
    labels = options.pop("labels", LABELS)
    ids, logprobs = options.pop("topk", None) or LIST
    return kdkernels.linear_distil_loss(h, w, b, labels, ids, logprobs, **options)


def cross_entropy(h: Tensor, w: Tensor, b: Tensor, **options: Any) -> Any:
    weight = torch.linspace(0.5, 2, N)
    return kdkernels.linear_cross_entropy(
        h, w, b, options.pop("labels", LABELS), row_weight=weight, **options
    )


def linear_kl(h: Tensor, w: Tensor, b: Tensor, **options: Any) -> Any:
    column_map = options.pop("column_map", COLUMNS)
    return kdkernels.linear_kl(h, w, b, *TEACHER, column_map=column_map, mask=MASK, **options)


def topk_kl(h: Tensor, w: Tensor, b: Tensor, **options: Any) -> Any:
    ids, logprobs = options.pop("topk", None) or LIST
    return kdkernels.topk_kl(h @ w.t() + b, ids, logprobs, mask=MASK, divisor=3.0, **options)


def kl(h: Tensor, w: Tensor, b: Tensor, **options: Any) -> Any:
    return kdkernels.kl(h @ w.t() + b, TEACHER[0] @ TEACHER[1].t(), mask=MASK, **options)


torch.manual_seed(0)
LIST = teacher_list()
TEACHER = torch.randn(N, 5), torch.randn(V, 5), torch.randn(V)
COLUMNS = torch.tensor([3, -1, 0, *range(4, 11), -1])
LOSSES: dict[str, Call] = {
    "linear_distil_loss": distil,
    "linear_cross_entropy": cross_entropy,
    "linear_kl": linear_kl,
    "topk_kl": topk_kl,
    "kl": kl,
}


def operands(dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    return tuple(
        torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in ((N, H), (V, H), (V,))
    )


def same(actual: Any, expected: Any, leaves: tuple[Tensor, ...]) -> None:
    """The loss, its gradients, and the number of rows of two results."""
    torch.testing.assert_close(actual.loss, expected.loss)
    assert int(actual[-2]) == int(expected[-2])
    gradients = torch.autograd.grad(actual.loss * 3, leaves)
    for value, truth in zip(gradients, torch.autograd.grad(expected.loss * 3, leaves), strict=True):
        torch.testing.assert_close(value, truth)


@pytest.mark.parametrize("impl", ["torch", "reference"])
@pytest.mark.parametrize("name", list(LOSSES))
def test_a_compiled_loss_breaks_no_graph_and_gives_the_same_gradients(name: str, impl: str) -> None:
    leaves = operands()

    def step(h: Tensor, w: Tensor, b: Tensor) -> Any:
        return LOSSES[name](torch.tanh(h), w, b, impl=impl)

    torch._dynamo.reset()
    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    same(compiled(*leaves), step(*leaves), leaves)


@pytest.mark.parametrize("impl", ["torch", "reference"])
@pytest.mark.parametrize("name", list(LOSSES))
def test_without_checks_rows_that_do_not_count_add_nothing_whatever_they_hold(
    name: str, impl: str
) -> None:
    leaves = operands()
    expected = LOSSES[name](*leaves, impl=impl)
    hidden = torch.where(MASK[:, None], leaves[0].detach(), torch.nan).requires_grad_()
    actual = LOSSES[name](hidden, *leaves[1:], impl=impl, check=False)
    assert isinstance(actual[-2], Tensor)
    torch.testing.assert_close(actual.loss, expected.loss)
    by_hidden, *others = torch.autograd.grad(actual.loss, (hidden, *leaves[1:]))
    truth, *other_truths = torch.autograd.grad(expected.loss, leaves)
    linear = name.startswith("linear")
    torch.testing.assert_close(
        by_hidden if linear else by_hidden[MASK], truth if linear else truth[MASK]
    )
    if linear:
        for value, expected_value in zip(others, other_truths, strict=True):
            torch.testing.assert_close(value, expected_value)
