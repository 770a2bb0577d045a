"""linear_distil_loss against a row-by-row float64 oracle: value, parts and every gradient."""

import math

import pytest
import torch
from torch import Tensor

import kdkernels
from kdkernels import linear_distil_loss
from kdkernels.testing import (
    MEANINGS,
    ODD_SHAPES,
    DistilBatch,
    DistilShape,
    error_budget,
    make_distil_batch,
    nan_filled_empties,
    oracle_distil_loss,
    relative_error,
)

SHAPE = DistilShape(N=9, H=6, V=23, K=4)
# Rounding of float64 sums over a few dozen terms.
EXACT = 1e-12


def gradients(loss: Tensor, batch: DistilBatch, by_loss: float = 1.5) -> list[Tensor]:
    return list(torch.autograd.grad(by_loss * loss, batch.leaves()))


@pytest.mark.parametrize("impl", ["reference", "torch"])
@pytest.mark.parametrize(("divergence", "tail"), MEANINGS)
@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.7])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_value_parts_and_gradients_are_the_oracles(
    impl: str, divergence: str, tail: str, temperature: float, alpha: float
) -> None:
    batch = make_distil_batch(SHAPE)
    options = {
        "alpha": alpha,
        "temperature": temperature,
        "tail": tail,
        "divergence": divergence,
        "beta": 0.3,
        "log_partition": batch.partition(temperature),
        "row_weight": torch.linspace(0.5, 2.0, SHAPE.N),
    }
    expected = oracle_distil_loss(*batch.positional, **options)
    with nan_filled_empties():
        actual = linear_distil_loss(
            *batch.positional, **options, impl=impl, chunk_bytes=4 * SHAPE.V * 8
        )
        grads = gradients(actual.loss, batch)
    assert (actual.rows, actual.impl) == (8, impl)
    for value, truth in zip(actual[:3], expected, strict=True):
        torch.testing.assert_close(value, truth, rtol=EXACT, atol=EXACT)
    for value, truth in zip(grads, gradients(expected[0], batch), strict=True):
        assert relative_error(value, truth) < EXACT


@pytest.mark.parametrize("impl", ["reference", "torch"])
@pytest.mark.parametrize("shape", ODD_SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [True, False])
def test_odd_shapes_stay_within_the_budget_of_the_plain_formula(
    impl: str, shape: DistilShape, dtype: torch.dtype, bias: bool
) -> None:
    batch = make_distil_batch(shape, dtype=dtype, bias=bias)
    loss, _, _ = oracle_distil_loss(*batch.positional, alpha=0.5)
    truth = [loss, *(g.double() for g in oracle_gradients(batch))]
    plain_loss = plain(batch)
    plain_results = [plain_loss, *torch.autograd.grad(plain_loss, batch.leaves())]
    with nan_filled_empties():
        actual = linear_distil_loss(
            *batch.positional, alpha=0.5, impl=impl, chunk_bytes=4 * shape.V * dtype.itemsize
        )
        results = [actual.loss, *torch.autograd.grad(actual.loss, batch.leaves())]
    assert [g.dtype for g in results[1:]] == [dtype] * len(results[1:])
    for value, expected, by_plain in zip(results, truth, plain_results, strict=True):
        budget = error_budget(by_plain, expected, dtype=dtype)
        assert relative_error(value, expected) <= budget or (value - expected).abs().max() < 1e-6


def oracle_gradients(batch: DistilBatch) -> list[Tensor]:
    """The oracle's gradients, by float64 copies of the operands."""
    leaves = [leaf.detach().double().requires_grad_() for leaf in batch.leaves()]
    bias = leaves[2] if len(leaves) == 3 else None
    loss, _, _ = oracle_distil_loss(*leaves[:2], bias, *batch.positional[3:], alpha=0.5)
    return list(torch.autograd.grad(loss, leaves))


def plain(batch: DistilBatch) -> Tensor:
    """What one would write: logits in the operands' dtype, float32 from there on, a dense target."""
    hidden, weight, bias, labels, ids, logprobs = batch.positional
    wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    logits = torch.nn.functional.linear(hidden, weight, bias).to(wide)
    kept = labels != -100
    target = torch.zeros_like(logits).scatter_add(
        1, ids.clamp(min=0), (logprobs.exp() * (ids >= 0)).to(wide)
    )
    listed = torch.zeros_like(logits).scatter_add(1, ids.clamp(min=0), (ids >= 0).to(wide)) > 0
    q = torch.softmax(logits, dim=1)
    r = (1 - target.sum(dim=1)).clamp(min=0) * ~listed.all(dim=1)
    s = (q * ~listed).sum(dim=1)
    terms = torch.where(target > 0, target * (target.clamp(min=1e-30).log() - q.log()), 0.0)
    rest = torch.where(r > 0, r * (r.clamp(min=1e-30).log() - s.clamp(min=1e-30).log()), 0.0)
    hard = -q.gather(1, labels.clamp(min=0).unsqueeze(1)).log().squeeze(1)
    return (0.5 * hard + 0.5 * (terms.sum(dim=1) + rest))[kept].mean()


@pytest.mark.parametrize(("divergence", "tail"), MEANINGS)
def test_reference_passes_gradcheck(divergence: str, tail: str) -> None:
    batch = make_distil_batch(DistilShape(N=7, H=3, V=9, K=3))

    def loss(*operands: Tensor) -> Tensor:
        return linear_distil_loss(
            *operands, *batch.positional[3:], alpha=0.4, temperature=2.0, tail=tail,
            divergence=divergence, log_partition=batch.partition(2.0), impl="reference",
        ).loss  # fmt: skip

    assert torch.autograd.gradcheck(loss, batch.positional[:3])


@pytest.mark.parametrize(("divergence", "tail"), MEANINGS)
def test_lean_gradient_is_the_finite_difference_of_the_lean_value(
    divergence: str, tail: str
) -> None:
    batch = make_distil_batch(SHAPE)
    direction = [torch.randn_like(leaf) for leaf in batch.leaves()]

    def value(step: float) -> Tensor:
        moved = [
            leaf.detach() + step * along
            for leaf, along in zip(batch.leaves(), direction, strict=True)
        ]
        operands = [leaf.requires_grad_() for leaf in moved]
        return linear_distil_loss(
            *operands, *batch.positional[3:], alpha=0.7, temperature=2.0, tail=tail,
            divergence=divergence, log_partition=batch.partition(2.0), impl="torch",
        ).loss  # fmt: skip

    step = 1e-5
    difference = (value(step) - value(-step)) / (2 * step)
    loss = linear_distil_loss(
        *batch.positional, alpha=0.7, temperature=2.0, tail=tail, divergence=divergence,
        log_partition=batch.partition(2.0), impl="torch",
    ).loss  # fmt: skip
    slopes = torch.autograd.grad(loss, batch.leaves())
    slope = sum((g * along).sum() for g, along in zip(slopes, direction, strict=True))
    torch.testing.assert_close(slope, difference, rtol=1e-7, atol=1e-9)


def test_temperature_scales_value_and_gradient_by_its_square() -> None:
    """At T the loss is T² times the loss at T=1 of logits and teacher both cooled."""
    batch = make_distil_batch(SHAPE)
    T = 3.0
    options = {"alpha": 1.0, "impl": "torch"}
    warm = linear_distil_loss(
        *batch.positional, temperature=T, log_partition=batch.partition(T), **options
    )
    cooled_lists = batch.logprobs / T - batch.partition(T).unsqueeze(1)
    hidden, weight, bias, labels, ids, _ = batch.positional
    cool = linear_distil_loss(hidden / T, weight, bias / T, labels, ids, cooled_lists, **options)
    torch.testing.assert_close(warm.soft, cool.soft * T**2)
    for a, b in zip(gradients(warm.loss, batch), gradients(cool.loss, batch), strict=True):
        torch.testing.assert_close(a, b * T**2)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_perfect_student_scores_zero_with_gradient_zero(
    divergence: str, temperature: float, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    logits = 4 * torch.randn(6, 50, dtype=torch.float64)
    hidden, weight = torch.eye(6, dtype=dtype), logits.t().to(dtype).contiguous().requires_grad_()
    log_q = torch.log_softmax(weight.detach().t().double(), dim=1)
    logprobs, ids = log_q.topk(5, dim=1)
    partition = (log_q / temperature).logsumexp(dim=1)
    result = linear_distil_loss(
        hidden, weight, None, torch.zeros(6, dtype=torch.int64), ids, logprobs, alpha=1.0,
        temperature=temperature, divergence=divergence, log_partition=partition, impl="torch",
    )  # fmt: skip
    (by_weight,) = torch.autograd.grad(result.loss, weight)
    nothing = 10 * torch.finfo(dtype).eps
    assert abs(float(result.soft)) < nothing
    assert float(by_weight.abs().max()) < nothing


def test_confident_student_keeps_a_finite_loss_where_one_minus_the_sum_would_cancel() -> None:
    """The student's mass outside the list is e^-60, far below the rounding of 1 - Σq."""
    weight = torch.tensor([[60.0], [0.0], [0.0]])
    result = linear_distil_loss(
        torch.ones(1, 1), weight, None, torch.tensor([0]), torch.tensor([[0]]),
        torch.tensor([[0.9]]).log(), alpha=1.0,
    )  # fmt: skip
    log_s = torch.log(torch.tensor(2.0, dtype=torch.float64)) - 60
    p = torch.tensor(0.9).double()
    truth = p * p.log() + (1 - p) * ((1 - p).log() - log_s)
    torch.testing.assert_close(result.soft.double(), truth, rtol=1e-6, atol=0.0)


def test_sure_teacher_keeps_its_tail() -> None:
    """A tail of 1e-9 is far below the rounding of 1 - Σp in float32."""
    logprobs = torch.log1p(-torch.tensor([[1e-9]], dtype=torch.float64))
    weight = torch.tensor([[30.0], [0.0]], dtype=torch.float64)
    result = linear_distil_loss(
        torch.ones(1, 1, dtype=torch.float64), weight, None, torch.tensor([0]),
        torch.tensor([[0]]), logprobs, alpha=1.0,
    )  # fmt: skip
    r, log_s = 1e-9, -30.0
    log_q = -math.exp(log_s)
    truth = (1 - r) * (math.log1p(-r) - log_q) + r * (math.log(r) - log_s)
    assert result.soft.item() == pytest.approx(truth, rel=1e-7)


def test_the_chunk_budget_does_not_change_the_result() -> None:
    batch = make_distil_batch(DistilShape(N=17, H=16, V=64, K=4))
    whole, *pieces = [
        linear_distil_loss(*batch.positional, alpha=0.5, impl="torch", chunk_bytes=size)
        for size in (2**30, 1, 5 * 64 * 8, 16 * 64 * 8)
    ]
    expected = gradients(whole.loss, batch)
    for piece in pieces:
        torch.testing.assert_close(piece.loss, whole.loss, rtol=EXACT, atol=0.0)
        for a, b in zip(gradients(piece.loss, batch), expected, strict=True):
            assert relative_error(a, b) < EXACT


def test_two_runs_are_bit_equal() -> None:
    batch = make_distil_batch(DistilShape(N=17, H=16, V=64, K=4), dtype=torch.float32)
    first, second = [
        gradients(linear_distil_loss(*batch.positional, alpha=0.5).loss, batch) for _ in range(2)
    ]
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def test_auto_reports_what_it_chose() -> None:
    batch = make_distil_batch(SHAPE)
    assert linear_distil_loss(*batch.positional, alpha=0.5).impl == "torch"


def test_it_is_public() -> None:
    assert {"linear_distil_loss", "DistilLoss"} <= set(kdkernels.__all__)
