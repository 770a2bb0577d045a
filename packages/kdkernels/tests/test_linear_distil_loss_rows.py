"""Which rows count, what they may hold, and what is refused by name."""

import math

import pytest
import torch
from torch import Tensor

from kdkernels import KernelArgumentError, linear_cross_entropy, linear_distil_loss
from kdkernels.testing import DistilShape, make_distil_batch, oracle_distil_loss

SHAPE = DistilShape(N=9, H=6, V=23, K=4)
IMPLS = ["reference", "torch"]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("divisor", [None, 12.0, 0.0])
@pytest.mark.parametrize("poison", [0.0, math.nan])
def test_over_no_rows_loss_and_gradient_are_exactly_zero(
    impl: str, divisor: float | None, poison: float
) -> None:
    batch = make_distil_batch(SHAPE)
    hidden = (batch.hidden.detach() + poison).requires_grad_()
    labels = torch.full_like(batch.labels, -100)
    result = linear_distil_loss(
        hidden, *batch.positional[1:3], labels, *batch.positional[4:], alpha=0.5, impl=impl,
        divisor=divisor,
    )  # fmt: skip
    assert (float(result.loss.detach()), float(result.hard), float(result.soft)) == (0.0, 0.0, 0.0)
    assert result.rows == 0
    for gradient in torch.autograd.grad(result.loss, (hidden, batch.weight, batch.bias)):
        assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("impl", IMPLS)
def test_a_batch_of_length_zero_has_loss_zero(impl: str) -> None:
    weight = torch.randn(5, 3, requires_grad=True)
    ids = torch.empty(0, 2, dtype=torch.int64)
    labels = torch.empty(0, dtype=torch.int64)
    result = linear_distil_loss(
        torch.empty(0, 3), weight, None, labels, ids, torch.empty(0, 2), alpha=0.5, impl=impl
    )
    (by_weight,) = torch.autograd.grad(result.loss, weight)
    assert float(result.loss.detach()) == 0.0
    assert not by_weight.any()


@pytest.mark.parametrize("impl", IMPLS)
def test_ignored_rows_take_no_part_whatever_they_hold(impl: str) -> None:
    batch = make_distil_batch(SHAPE)
    kept = batch.labels != -100
    hidden, ids, logprobs = batch.hidden.detach().clone(), batch.ids.clone(), batch.logprobs.clone()
    hidden[~kept], ids[~kept], logprobs[~kept] = math.nan, 10_000, math.nan
    hidden.requires_grad_()
    full = linear_distil_loss(
        hidden, *batch.positional[1:3], batch.labels, ids, logprobs, alpha=0.5, impl=impl
    )
    alone = linear_distil_loss(
        batch.hidden[kept], *batch.positional[1:3], batch.labels[kept], batch.ids[kept],
        batch.logprobs[kept], alpha=0.5, impl=impl,
    )  # fmt: skip
    torch.testing.assert_close(full.loss, alone.loss)
    by_hidden, by_weight = torch.autograd.grad(full.loss, (hidden, batch.weight))
    assert not by_hidden[~kept].any()
    torch.testing.assert_close(by_weight, torch.autograd.grad(alone.loss, batch.weight)[0])


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("tail", ["bucket", "renormalise", "drop"])
def test_a_row_without_ids_counts_and_has_no_soft_part(impl: str, tail: str) -> None:
    batch = make_distil_batch(SHAPE)
    result = linear_distil_loss(
        *batch.positional[:4], torch.full_like(batch.ids, -1), batch.logprobs, alpha=1.0, tail=tail,
        impl=impl,
    )  # fmt: skip
    assert (float(result.soft), result.rows) == (0.0, 8)
    for gradient in torch.autograd.grad(result.loss, batch.leaves()):
        assert not gradient.any()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("partition", [-math.inf, math.nan])
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_a_row_without_ids_may_bring_a_partition_that_is_no_number(
    impl: str, divergence: str, partition: float
) -> None:
    """Log Σ p^(1/T) over nothing is minus infinity."""
    batch = make_distil_batch(SHAPE)
    options = {"alpha": 0.5, "temperature": 2.0, "divergence": divergence}
    partitions = batch.partition(2.0)
    truth, *_ = oracle_distil_loss(*batch.positional, **options, log_partition=partitions)
    assert (batch.ids[2] == -1).all()
    partitions[2] = partition
    actual = linear_distil_loss(*batch.positional, **options, log_partition=partitions, impl=impl)
    torch.testing.assert_close(actual.loss, truth)
    for gradient, expected in zip(
        torch.autograd.grad(actual.loss, batch.leaves()), torch.autograd.grad(truth, batch.leaves()), strict=True
    ):  # fmt: skip
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("impl", IMPLS)
def test_the_teacher_gets_no_gradient_and_a_partition_that_nobody_needs_is_not_read(
    impl: str,
) -> None:
    batch = make_distil_batch(SHAPE)
    logprobs = batch.logprobs.requires_grad_()
    partition = batch.partition(2.0).requires_grad_()
    options = {"alpha": 0.5, "temperature": 2.0, "impl": impl}
    loss = linear_distil_loss(*batch.positional, **options, log_partition=partition).loss
    assert torch.autograd.grad(loss, (logprobs, partition), allow_unused=True) == (None, None)
    unread = torch.full_like(partition, math.nan)
    renormalised = {**options, "tail": "renormalise"}
    assert torch.equal(
        linear_distil_loss(*batch.positional, **renormalised, log_partition=unread).loss,
        linear_distil_loss(*batch.positional, **renormalised).loss,
    )


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_an_id_listed_twice_stands_for_the_sum(impl: str, divergence: str) -> None:
    batch = make_distil_batch(SHAPE)
    operands, labels = batch.positional[:3], batch.labels
    once = torch.tensor([[3, 7]]).repeat(SHAPE.N, 1)
    masses = torch.tensor([[0.6, 0.3]]).repeat(SHAPE.N, 1)
    twice = torch.tensor([[3, 7, 3, -1, 3]]).repeat(SHAPE.N, 1)
    parts = torch.tensor([[0.1, 0.3, 0.3, 1.0, 0.2]]).repeat(SHAPE.N, 1)
    options = {"alpha": 0.5, "divergence": divergence, "impl": impl}
    expected = linear_distil_loss(*operands, labels, once, masses.log(), **options)
    actual = linear_distil_loss(*operands, labels, twice, parts.log(), **options)
    torch.testing.assert_close(actual.soft, expected.soft, rtol=1e-6, atol=1e-7)
    for a, b in zip(
        torch.autograd.grad(actual.loss, batch.leaves()),
        torch.autograd.grad(expected.loss, batch.leaves()),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("impl", IMPLS)
def test_row_weights_multiply_and_the_divisor_replaces_the_count(impl: str) -> None:
    batch = make_distil_batch(SHAPE)
    plain = linear_distil_loss(*batch.positional, alpha=0.5, impl=impl)
    options = {"alpha": 0.5, "impl": impl, "row_weight": torch.full((SHAPE.N,), 3.0)}
    for divisor in (4, 4.0, torch.tensor(4), torch.tensor([4.0])):
        scaled = linear_distil_loss(*batch.positional, **options, divisor=divisor)
        torch.testing.assert_close(scaled.loss, plain.loss * 3 * plain.rows / 4)


def test_halves_with_the_global_divisor_sum_to_the_whole() -> None:
    """Gradient accumulation: the divisor is the number of counted rows of all micro-batches."""
    batch = make_distil_batch(SHAPE)
    whole = linear_distil_loss(*batch.positional, alpha=0.5)
    halves = [
        linear_distil_loss(
            batch.hidden[part], batch.weight, batch.bias, batch.labels[part], batch.ids[part],
            batch.logprobs[part], alpha=0.5, divisor=whole.rows,
        )
        for part in (slice(0, 5), slice(5, None))
    ]  # fmt: skip
    torch.testing.assert_close(halves[0].loss + halves[1].loss, whole.loss)


@pytest.mark.parametrize("impl", IMPLS)
def test_layout_of_the_operands_does_not_matter(impl: str) -> None:
    batch = make_distil_batch(SHAPE)
    expected = linear_distil_loss(*batch.positional, alpha=0.5, impl=impl)

    def strided(tensor: Tensor) -> Tensor:
        return (
            tensor.detach()
            .repeat_interleave(2, dim=-1)[..., ::2]
            .requires_grad_(tensor.requires_grad)
        )

    hidden, weight, bias, labels, ids, logprobs = batch.positional
    turned = weight.detach().t().contiguous().t().requires_grad_()
    operands = (strided(hidden), turned, strided(bias))
    actual = linear_distil_loss(
        *operands, strided(labels), strided(ids.int()), strided(logprobs), alpha=0.5, impl=impl
    )
    torch.testing.assert_close(actual.loss, expected.loss)
    for a, b in zip(
        torch.autograd.grad(actual.loss, operands),
        torch.autograd.grad(expected.loss, batch.leaves()),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("impl", IMPLS)
def test_nan_in_a_counted_row_reaches_the_loss(impl: str) -> None:
    batch = make_distil_batch(SHAPE)
    hidden = batch.hidden.detach().clone()
    hidden[0, 0] = math.nan
    result = linear_distil_loss(hidden, *batch.positional[1:], alpha=0.5, impl=impl)
    assert result.loss.isnan()


@pytest.mark.parametrize("impl", IMPLS)
def test_a_column_barred_by_its_bias_gets_no_mass_and_no_gradient(impl: str) -> None:
    """A bias of -inf takes a column out of the softmax: the others behave as if it did not exist."""
    batch = make_distil_batch(SHAPE)
    hidden, weight, bias, _, ids, logprobs = batch.positional
    barred = SHAPE.V - 1
    ids, labels = ids.where(ids != barred, -1), batch.labels.clamp(max=barred - 1)
    closed = bias.detach().clone()
    closed[barred] = -math.inf
    result = linear_distil_loss(hidden, weight, closed, labels, ids, logprobs, alpha=0.5, impl=impl)
    fewer = linear_distil_loss(
        hidden, weight[:barred], bias[:barred], labels, ids, logprobs, alpha=0.5, impl=impl
    )
    torch.testing.assert_close(result.loss, fewer.loss)
    (by_weight,) = torch.autograd.grad(result.loss, weight)
    assert not by_weight[barred].any()


@pytest.mark.parametrize("impl", IMPLS)
def test_a_teacher_sure_of_a_barred_column_is_an_infinite_loss(impl: str) -> None:
    bias = torch.tensor([0.0, 0.0, -math.inf])
    result = linear_distil_loss(
        torch.ones(1, 2), torch.ones(3, 2), bias, torch.tensor([0]), torch.tensor([[2]]),
        torch.tensor([[0.5]]).log(), alpha=0.5, impl=impl,
    )  # fmt: skip
    assert float(result.soft) == math.inf


@pytest.mark.parametrize("impl", IMPLS)
def test_a_list_that_covers_the_vocabulary_leaves_no_rest(impl: str) -> None:
    """The sum of all probabilities is 1 up to rounding; the rounding must not become a class."""
    torch.manual_seed(0)
    weight = torch.randn(7, 3)
    logprobs, ids = torch.log_softmax(torch.randn(40, 7), dim=1).topk(7, dim=1)
    options = {"alpha": 1.0, "impl": impl}
    labels = torch.zeros(40, dtype=torch.int64)
    result = linear_distil_loss(torch.randn(40, 3), weight, None, labels, ids, logprobs, **options)
    assert result.soft.isfinite()


def refused(**changes: object) -> str:
    batch = make_distil_batch(SHAPE, dtype=torch.float32)
    names = ["hidden", "weight", "bias", "labels", "topk_ids", "topk_logprobs"]
    arguments: dict[str, object] = dict(zip(names, batch.positional, strict=True))
    arguments |= {"alpha": 0.5} | changes
    with pytest.raises(KernelArgumentError) as caught:
        linear_distil_loss(**arguments)  # type: ignore[arg-type]  # wrong on purpose
    message = str(caught.value)
    assert message.startswith("linear_distil_loss: ")
    return message


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"divergence": "kl"}, ["divergence", "'forward_kl'", "'kl'"]),
        ({"tail": "ghost"}, ["tail", "'bucket'", "'ghost'"]),
        ({"impl": "cuda"}, ["impl", "'auto'", "'cuda'"]),
        ({"alpha": 1.5}, ["alpha", "1.5"]),
        ({"alpha": math.nan}, ["alpha", "nan"]),
        ({"temperature": 0.0}, ["temperature", "0.0"]),
        ({"temperature": 2.0}, ["log_partition", "temperature=2.0", "'bucket'"]),
        ({"divergence": "jsd", "beta": 1.0}, ["beta", "1.0", "reverse_kl"]),
        (
            {"divergence": "reverse_kl", "tail": "renormalise"},
            ["'reverse_kl'", "'renormalise'", "infinite"],
        ),
        ({"divergence": "reverse_kl", "tail": "drop"}, ["'reverse_kl'", "'drop'"]),
        ({"divergence": "jsd", "tail": "drop"}, ["'jsd'", "'drop'"]),
        ({"divisor": -1.0}, ["divisor", "-1.0"]),
        ({"divisor": torch.ones(2)}, ["divisor", "[2]"]),
        ({"chunk_bytes": 0}, ["chunk_bytes", "0"]),
        ({"hidden": torch.randn(9, 5)}, ["weight", "[V, H]", "[*, 5]", "[23, 6]"]),
        ({"hidden": torch.randn(9)}, ["hidden", "[N, H]", "[9]"]),
        ({"weight": torch.randn(23, 6).double()}, ["float32", "float64"]),
        ({"bias": torch.randn(22)}, ["bias", "[23]", "[22]"]),
        ({"labels": torch.zeros(9)}, ["labels", "int64", "float32"]),
        ({"labels": torch.zeros(8, dtype=torch.int64)}, ["labels", "[9]", "[8]"]),
        ({"labels": torch.full((9,), 23)}, ["labels", "22", "23", "row 0"]),
        ({"labels": torch.full((9,), -1)}, ["labels", "ignore_index", "-1"]),
        ({"topk_ids": torch.full((9, 4), 23)}, ["topk_ids", "22", "23", "row 0"]),
        ({"topk_ids": torch.full((9, 4), -2)}, ["topk_ids", "-2"]),
        ({"topk_ids": torch.zeros(9, 3, dtype=torch.int64)}, ["topk_logprobs", "[9, 3]", "[9, 4]"]),
        ({"topk_logprobs": torch.zeros(9, 4, dtype=torch.int64)}, ["topk_logprobs", "int64"]),
        ({"log_partition": torch.zeros(8)}, ["log_partition", "[9]", "[8]"]),
        ({"row_weight": torch.zeros(8)}, ["row_weight", "[9]", "[8]"]),
        ({"hidden": torch.randn(9, 6, device="meta")}, ["one device", "meta"]),
    ],
)  # fmt: skip
def test_misuse_is_refused_by_name(changes: dict[str, object], parts: list[str]) -> None:
    message = refused(**changes)
    for part in parts:
        assert part in message


@pytest.mark.parametrize("alpha", [0.0, 0.5])
@pytest.mark.parametrize("impl", IMPLS)
def test_cross_entropy_is_torchs(impl: str, alpha: float) -> None:
    batch = make_distil_batch(SHAPE)
    logits = torch.nn.functional.linear(*batch.positional[:3])
    expected = torch.nn.functional.cross_entropy(logits, batch.labels)
    result = linear_cross_entropy(*batch.positional[:4], impl=impl)
    assert (result.rows, result.impl) == (8, impl)
    torch.testing.assert_close(result.loss, expected)
    for a, b in zip(
        torch.autograd.grad(result.loss, batch.leaves()),
        torch.autograd.grad(expected, batch.leaves()),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
    both = linear_distil_loss(*batch.positional, alpha=alpha, impl=impl)
    torch.testing.assert_close(both.hard, result.loss.detach())


@pytest.mark.parametrize("impl", IMPLS)
def test_only_the_gradients_asked_for_are_made(impl: str) -> None:
    batch = make_distil_batch(SHAPE)
    frozen = batch.weight.detach()
    result = linear_distil_loss(batch.hidden, frozen, *batch.positional[2:], alpha=0.5, impl=impl)
    result.loss.backward()
    expected = linear_distil_loss(*batch.positional, alpha=0.5, impl=impl)
    (by_hidden,) = torch.autograd.grad(expected.loss, batch.hidden)
    assert frozen.grad is None
    torch.testing.assert_close(batch.hidden.grad, by_hidden)
    with torch.no_grad():
        silent = linear_distil_loss(*batch.positional, alpha=0.5, impl=impl)
    assert not silent.loss.requires_grad
    assert not result.hard.requires_grad
    torch.testing.assert_close(silent.loss, expected.loss.detach())


def test_backward_twice_gives_the_gradient_twice() -> None:
    batch = make_distil_batch(SHAPE)
    loss = linear_distil_loss(*batch.positional, alpha=0.5).loss
    (2 * loss).backward(retain_graph=True)
    once = batch.weight.grad.clone()
    (2 * loss).backward()
    torch.testing.assert_close(batch.weight.grad, 2 * once)
