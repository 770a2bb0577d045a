"""topk_kl and kl on logits at hand: the soft part of the linear loss, masks, and gradients in place."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kdkernels import KernelArgumentError, kl, linear_distil_loss, topk_kl
from kdkernels.testing import (
    MEANINGS,
    DistilShape,
    error_budget,
    make_distil_batch,
    nan_filled_empties,
    oracle_divergence,
    relative_error,
)

SHAPE = DistilShape(N=9, H=6, V=23, K=4)
IMPLS = ["reference", "torch"]
DIVERGENCES = ["forward_kl", "reverse_kl", "jsd"]


def logits_of(N: int, V: int, *, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return (2 * torch.randn(N, V, generator=torch.Generator().manual_seed(seed))).to(dtype)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("divergence", "tail"), MEANINGS)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_topk_kl_is_the_soft_part_of_the_linear_loss(
    impl: str, divergence: str, tail: str, temperature: float
) -> None:
    batch = make_distil_batch(SHAPE)
    hidden, weight, bias, labels, ids, logprobs = batch.positional
    options = {
        "temperature": temperature,
        "tail": tail,
        "divergence": divergence,
        "log_partition": batch.partition(temperature),
        "row_weight": torch.linspace(0.5, 2.0, SHAPE.N),
    }
    expected = linear_distil_loss(*batch.positional, alpha=1.0, impl="reference", **options)
    mask = labels != -100
    with nan_filled_empties():
        logits = torch.nn.functional.linear(hidden, weight, bias)
        actual = topk_kl(logits, ids, logprobs, mask=mask, impl=impl, **options)
        slopes = torch.autograd.grad(1.5 * actual.loss, batch.leaves())
    assert (actual.rows, actual.impl) == (8, impl)
    torch.testing.assert_close(actual.loss, expected.loss)
    expected_slopes = torch.autograd.grad(1.5 * expected.loss, batch.leaves())
    for value, truth in zip(slopes, expected_slopes, strict=True):
        torch.testing.assert_close(value, truth)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (5, 130)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_kl_and_its_gradient_are_the_oracles(
    impl: str, divergence: str, temperature: float, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    student = logits_of(*shape, dtype=dtype).requires_grad_()
    teacher = logits_of(*shape, dtype=dtype, seed=1)
    exact = student.detach().double().requires_grad_()
    rows = [
        oracle_divergence(
            torch.softmax(t.double() / temperature, 0), torch.softmax(s / temperature, 0),
            divergence=divergence, beta=0.3,
        )
        for s, t in zip(exact, teacher, strict=True)
    ]  # fmt: skip
    truth = temperature**2 * torch.stack(rows).mean()
    (by_truth,) = torch.autograd.grad(truth, exact)
    with nan_filled_empties():
        actual = kl(
            student, teacher, temperature=temperature, divergence=divergence, beta=0.3, impl=impl
        )
        (by_student,) = torch.autograd.grad(actual.loss, student)
    wide = torch.promote_types(dtype, torch.float32)
    assert abs(float(actual.loss.detach() - truth.detach())) < 1e4 * torch.finfo(wide).eps
    assert by_student.dtype == dtype
    budget = error_budget(by_truth.to(dtype), by_truth, dtype=dtype)
    few = 100 * torch.finfo(wide).eps
    assert relative_error(by_student, by_truth) < budget + few


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_reference_of_kl_passes_gradcheck(divergence: str) -> None:
    teacher = logits_of(3, 7, seed=1)

    def loss(student: Tensor) -> Tensor:
        return kl(student, teacher, divergence=divergence, temperature=2.0, impl="reference").loss

    assert torch.autograd.gradcheck(loss, logits_of(3, 7).requires_grad_())


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("operation", ["topk_kl", "kl"])
def test_rows_outside_the_mask_take_no_part_whatever_they_hold(impl: str, operation: str) -> None:
    mask = torch.tensor([True, False, True])
    student, teacher = logits_of(3, 11), logits_of(3, 11, seed=1)
    student[1] = math.nan
    student.requires_grad_()
    logprobs, ids = torch.log_softmax(teacher, 1).topk(3)
    ids[1] = 10_000
    if operation == "kl":
        teacher[1] = math.nan
        result = kl(student, teacher, mask=mask, impl=impl)
        alone = kl(student[mask], teacher[mask], impl=impl)
    else:
        result = topk_kl(student, ids, logprobs, mask=mask, impl=impl)
        alone = topk_kl(student[mask], ids[mask], logprobs[mask], impl=impl)
    assert result.rows == 2
    torch.testing.assert_close(result.loss, alone.loss)
    (by_student,) = torch.autograd.grad(result.loss, student)
    (expected,) = torch.autograd.grad(alone.loss, student)
    torch.testing.assert_close(by_student, expected.nan_to_num())
    nobody = (
        kl(student, teacher, mask=mask & False, impl=impl)
        if operation == "kl"
        else topk_kl(student, ids, logprobs, mask=mask & False, impl=impl)
    )
    (by_nobody,) = torch.autograd.grad(nobody.loss, student)
    assert (float(nobody.loss.detach()), nobody.rows, bool(by_nobody.any())) == (0.0, 0, False)


@pytest.mark.parametrize("operation", ["topk_kl", "kl"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_overwriting_puts_the_same_gradient_into_the_logits(
    operation: str, dtype: torch.dtype
) -> None:
    leaf = logits_of(5, 130, dtype=dtype).requires_grad_()
    teacher = logits_of(5, 130, seed=1, dtype=dtype)
    logprobs, ids = torch.log_softmax(teacher.float(), 1).topk(3)

    def loss(logits: Tensor, overwrite: bool) -> Tensor:
        if operation == "kl":
            return kl(logits, teacher, overwrite_logits=overwrite).loss
        return topk_kl(logits, ids, logprobs, overwrite_logits=overwrite).loss

    (expected,) = torch.autograd.grad(loss(leaf, False), leaf)
    logits = leaf * 1
    place = logits.data_ptr()
    value = loss(logits, True)
    assert torch.equal(logits.detach(), expected)
    (actual,) = torch.autograd.grad(value, leaf)
    assert torch.equal(actual, expected)
    assert logits.data_ptr() == place


def test_logits_stay_as_they_are_unless_asked() -> None:
    logits = logits_of(4, 9).requires_grad_()
    before = logits.detach().clone()
    logprobs, ids = torch.log_softmax(logits_of(4, 9, seed=1), 1).topk(3)
    topk_kl(logits, ids, logprobs).loss.backward()
    kl(logits, logits_of(4, 9, seed=1)).loss.backward()
    with torch.no_grad():
        topk_kl(logits, ids, logprobs)
    assert torch.equal(logits.detach(), before)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_columns_barred_on_both_sides_do_not_exist(impl: str, divergence: str) -> None:
    student, teacher = logits_of(3, 11).requires_grad_(), logits_of(3, 11, seed=1)
    barred = torch.arange(11) >= 9
    wide = kl(
        student.masked_fill(barred, -math.inf), teacher.masked_fill(barred, -math.inf),
        divergence=divergence, impl=impl,
    )  # fmt: skip
    narrow = kl(student[:, :9], teacher[:, :9], divergence=divergence, impl=impl)
    torch.testing.assert_close(wide.loss, narrow.loss)
    (by_wide,) = torch.autograd.grad(wide.loss, student)
    (by_narrow,) = torch.autograd.grad(narrow.loss, student)
    torch.testing.assert_close(by_wide, by_narrow)


@pytest.mark.parametrize("impl", IMPLS)
def test_mass_where_the_other_side_has_none_is_infinite(impl: str) -> None:
    student, teacher = torch.tensor([[0.0, -math.inf]]), torch.zeros(1, 2)
    assert float(kl(student, teacher, impl=impl).loss) == math.inf
    assert float(kl(teacher, student, divergence="reverse_kl", impl=impl).loss) == math.inf
    assert math.isfinite(float(kl(student, teacher, divergence="jsd", impl=impl).loss))
    assert math.isnan(float(kl(student * math.nan, teacher, impl=impl).loss))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"divergence": "mse"}, "'mse'"),
        ({"temperature": -1.0}, "-1.0"),
        ({"divergence": "jsd", "beta": 0.0}, "forward_kl"),
        ({"teacher": torch.zeros(3, 8)}, "[3, 8]"),
        ({"teacher": torch.zeros(3, 7, dtype=torch.int64)}, "int64"),
        ({"mask": torch.ones(3)}, "bool"),
        ({"overwrite_logits": True}, "leaf"),
        ({"impl": "triton"}, "impl='torch'"),
        ({"student": torch.zeros(3, 0)}, "[3, 0]"),
    ],
)
def test_misuse_of_kl_is_refused_by_name(change: dict[str, object], part: str) -> None:
    arguments = {"student": torch.zeros(3, 7, requires_grad=True), "teacher": torch.zeros(3, 7)}
    with pytest.raises(KernelArgumentError, match=r"^kl: ") as caught:
        kl(**(arguments | change))  # type: ignore[arg-type]  # wrong on purpose
    assert part in str(caught.value)


def test_overwriting_refuses_memory_it_cannot_use() -> None:
    leaf = torch.zeros(7, 3, requires_grad=True)
    turned = (leaf * 1).t()
    with pytest.raises(KernelArgumentError, match="contiguous"):
        topk_kl(
            turned, torch.zeros(3, 1, dtype=torch.int64), torch.zeros(3, 1), overwrite_logits=True
        )
    logits = leaf * 1
    with pytest.raises(KernelArgumentError, match="same memory"):
        kl(logits, logits, overwrite_logits=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_backward_pass_that_needs_overwritten_logits_raises(dtype: torch.dtype) -> None:
    """As after any operation in place: exp keeps its result for its gradient."""
    leaf = torch.randn(3, 9, dtype=dtype).requires_grad_()
    logprobs, ids = torch.log_softmax(torch.randn(3, 9), 1).topk(2)
    for loss_of in (
        lambda logits: kl(logits, torch.zeros_like(leaf), overwrite_logits=True, impl="torch"),
        lambda logits: topk_kl(logits, ids, logprobs, overwrite_logits=True, impl="torch"),
    ):
        loss = loss_of(leaf.exp()).loss
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


OVERWRITING = [
    pytest.param(
        lambda logits, target, impl: kl(logits, target, overwrite_logits=True, impl=impl).loss,
        id="kl",
    ),
    pytest.param(
        lambda logits, target, impl: (
            topk_kl(
                logits, *target.log_softmax(1).topk(2)[::-1], overwrite_logits=True, impl=impl
            ).loss
        ),
        id="topk_kl",
    ),
]


@pytest.mark.parametrize("loss_of", OVERWRITING)
def test_torch_func_passes_through_the_reference_where_logits_may_be_overwritten(
    loss_of: Callable[[Tensor, Tensor, str], Tensor],
) -> None:
    leaf, target = torch.randn(3, 9, requires_grad=True), torch.randn(3, 9)
    [expected] = torch.autograd.grad(loss_of(leaf * 1, target, "torch"), leaf)

    def value(logits: Tensor, impl: str) -> Tensor:
        return loss_of(logits * 1, target, impl)

    logits = leaf.detach()
    torch.testing.assert_close(torch.func.grad(value)(logits, "reference"), expected)
    for transformed in (
        lambda: torch.func.grad(value)(logits, "torch"),
        lambda: torch.func.jvp(lambda z: value(z, "auto"), (logits,), (logits,)),
    ):
        with pytest.raises(
            KernelArgumentError, match=r"transforms of torch.func .*; ask for impl='reference'"
        ):
            transformed()
