"""The losses as operators of torch: in compiled graphs without a break, and without a wait for the device."""

import contextlib
import gc
import os
import re
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import kdkernels
from kdkernels import KernelArgumentError, logits_loss, operators
from kdkernels.testing import relative_error

GPU = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
N, H, V, K = 6, 4, 11, 3
HEADS, LENGTH = 2, 5
Result = Any
IMPLS = ["torch", "reference"]


class Batch:
    """A teacher's side, and which rows of a batch count; floating numbers in one dtype."""

    def __init__(self, dtype: torch.dtype = torch.float64, device: str = "cpu") -> None:
        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(device, dtype)

        generator = torch.Generator().manual_seed(0)
        self.leaves = [normal(*shape).requires_grad_() for shape in ((N, H), (V, H), (V,))]
        self.labels = torch.tensor([1, -100, 4, 10, -100, 0], device=device)
        self.logprobs, self.ids = normal(N, V).log_softmax(1).topk(K)
        self.ids[2, 1] = self.ids[2, 0]  # twice
        self.ids[3, 2] = -1
        self.weight = torch.linspace(0.5, 2, N, device=device)
        self.teacher = normal(N, 5), normal(V, 5), normal(V)
        self.columns = torch.tensor([3, -1, 0, *range(4, 11), -1], device=device)
        self.vectors = normal(2, LENGTH, 3 * HEADS), normal(2, LENGTH, 3 * HEADS)
        self.tokens = torch.arange(LENGTH, device=device) < torch.tensor([[5], [3]], device=device)


def linear_distil_loss(batch: Batch, h: Tensor, w: Tensor, b: Tensor, **options: Any) -> Result:
    partition = torch.full_like(batch.weight, 0.1)
    return kdkernels.linear_distil_loss(
        h, w, b, batch.labels, batch.ids, batch.logprobs,
        alpha=0.5, temperature=2.0, log_partition=partition, **options,
    )  # fmt: skip


def linear_cross_entropy(batch: Batch, h: Tensor, w: Tensor, b: Tensor, **options: Any) -> Result:
    return kdkernels.linear_cross_entropy(h, w, b, batch.labels, row_weight=batch.weight, **options)


def linear_kl(batch: Batch, h: Tensor, w: Tensor, b: Tensor, **options: Any) -> Result:
    mask = batch.labels >= 0
    return kdkernels.linear_kl(
        h, w, b, *batch.teacher, column_map=batch.columns, mask=mask, **options
    )


def topk_kl(batch: Batch, h: Tensor, w: Tensor, b: Tensor, **options: Any) -> Result:
    mask = batch.labels >= 0
    return kdkernels.topk_kl(
        h @ w.t() + b, batch.ids, batch.logprobs, mask=mask, divisor=3.0, **options
    )


def kl(batch: Batch, h: Tensor, w: Tensor, b: Tensor, **options: Any) -> Result:
    hidden, weight, _ = batch.teacher
    return kdkernels.kl(h @ w.t() + b, hidden @ weight.t(), mask=batch.labels >= 0, **options)


def attention_mse(batch: Batch, h: Tensor, w: Tensor, b: Tensor, **options: Any) -> Result:
    q, k = (x.unflatten(2, (HEADS, -1)).transpose(1, 2) for x in batch.vectors)
    factor = h.mean() + w.mean() + b.mean()
    return kdkernels.attention_mse(q * factor, k, q, k, batch.tokens, window=4, **options)


def relation_kl(batch: Batch, h: Tensor, w: Tensor, b: Tensor, **options: Any) -> Result:
    x_s, x_t = batch.vectors
    factor = h.mean() + w.mean() + b.mean()
    return kdkernels.relation_kl(x_s * factor, x_t, HEADS, batch.tokens, **options)


OF_ROWS = [linear_distil_loss, linear_cross_entropy, linear_kl, topk_kl, kl]
LOSSES = [*OF_ROWS, attention_mse, relation_kl]
Loss = Callable[..., Result]
OVERWRITING = {"overwrite_logits": True}
WITH_OPTIONS = [*((loss, {}) for loss in LOSSES), (topk_kl, OVERWRITING), (kl, OVERWRITING)]


def assert_same(actual: Result, expected: Result, batch: Batch, **tolerances: float) -> None:
    """Loss, gradients and number of rows (or entries) of two results."""
    torch.testing.assert_close(actual.loss, expected.loss, **tolerances)
    assert int(actual[-2]) == int(expected[-2])
    gradients = torch.autograd.grad(actual.loss * 3, batch.leaves)
    truths = torch.autograd.grad(expected.loss * 3, batch.leaves)
    for value, truth in zip(gradients, truths, strict=True):
        torch.testing.assert_close(value, truth, **tolerances)


@pytest.fixture
def compiled() -> Iterator[Callable[..., Any]]:
    """torch.compile that allows no graph break, and forgets what others compiled."""
    torch._dynamo.reset()
    yield lambda function: torch.compile(function, backend="aot_eager", fullgraph=True)
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("loss", "impl"),
    [(loss, "torch") for loss in LOSSES] + [(linear_kl, "reference"), (relation_kl, "reference")],
)
def test_a_compiled_loss_breaks_no_graph(compiled: Any, loss: Loss, impl: str) -> None:
    batch = Batch()

    def step(h: Tensor, w: Tensor, b: Tensor) -> Result:
        return loss(batch, torch.tanh(h), w, b, impl=impl)

    assert_same(compiled(step)(*batch.leaves), step(*batch.leaves), batch)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("loss", LOSSES)
def test_without_checks_the_result_is_the_same(loss: Loss, impl: str) -> None:
    batch = Batch()
    unchecked = loss(batch, *batch.leaves, impl=impl, check=False)
    assert isinstance(unchecked[-2], Tensor)
    assert_same(unchecked, loss(batch, *batch.leaves, impl=impl), batch)


@pytest.mark.parametrize("loss", LOSSES)
def test_torch_func_passes_through_the_reference_and_is_refused_elsewhere(loss: Loss) -> None:
    batch = Batch()
    h, w, b = (leaf.detach() for leaf in batch.leaves)

    def value(hidden: Tensor, impl: str) -> Tensor:
        return loss(batch, hidden, w, b, impl=impl).loss

    [expected] = torch.autograd.grad(value(batch.leaves[0], "torch"), batch.leaves[:1])
    torch.testing.assert_close(torch.func.grad(value)(h, "reference"), expected)
    [each] = torch.func.vmap(torch.func.grad(value), (0, None))(h[None], "reference")
    torch.testing.assert_close(each, expected)
    for transformed in (
        lambda: torch.func.grad(value)(h, "torch"),
        lambda: torch.func.vmap(torch.func.grad(value), (0, None))(h[None], "auto"),
        lambda: torch.func.jvp(lambda hidden: value(hidden, "torch"), (h,), (h,)),
    ):
        with pytest.raises(KernelArgumentError, match=rf"{loss.__name__}: transforms of torch.func .*; ask for impl='reference'"):  # fmt: skip
            transformed()


def test_gradients_of_single_examples_with_a_label_and_a_list_each() -> None:
    batch = Batch()
    h, w, b = (leaf.detach() for leaf in batch.leaves)

    def value(row: Tensor, label: Tensor, ids: Tensor, logprobs: Tensor) -> Tensor:
        return kdkernels.linear_distil_loss(
            row[None], w, b, label[None], ids[None], logprobs[None], alpha=0.5, impl="reference", check=False
        ).loss  # fmt: skip

    rows = (h, batch.labels, batch.ids, batch.logprobs)
    each = torch.func.vmap(torch.func.grad(value))(*rows)
    for gradient, row, *others in zip(each, *rows, strict=True):
        leaf = row.clone().requires_grad_()
        torch.testing.assert_close(gradient, *torch.autograd.grad(value(leaf, *others), leaf))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("loss", OF_ROWS)
def test_without_checks_a_row_that_does_not_count_adds_nothing_whatever_it_holds(
    loss: Loss, impl: str
) -> None:
    batch = Batch()
    expected = loss(batch, *batch.leaves, impl=impl)
    truths = torch.autograd.grad(expected.loss, batch.leaves)
    counted = batch.labels >= 0
    hidden = torch.where(counted[:, None], batch.leaves[0].detach(), torch.nan).requires_grad_()
    batch.ids[~counted], batch.logprobs[~counted] = 10**9, torch.nan
    batch.weight[~counted] = torch.nan
    if loss is linear_distil_loss:
        batch.teacher[0][~counted] = torch.inf
    actual = loss(batch, hidden, *batch.leaves[1:], impl=impl, check=False)
    torch.testing.assert_close(actual.loss, expected.loss)
    gradients = torch.autograd.grad(actual.loss, (hidden, *batch.leaves[1:]))
    of_linear = (
        slice(None) if "linear" in loss.__name__ else slice(0)
    )  # others multiply NaN themselves
    for value, truth in list(zip(gradients, truths, strict=True))[of_linear]:
        torch.testing.assert_close(value, truth)


def test_a_bias_of_minus_infinity_leaves_no_trace_in_rows_that_do_not_count() -> None:
    batch = Batch()
    h, w, b = batch.leaves
    padded = torch.cat([b.detach().new_tensor([-torch.inf]), b[1:].detach()])
    batch.labels[-1] = 1  # column 0 is padding
    unchecked = linear_cross_entropy(batch, h, w, padded, check=False)
    expected = linear_cross_entropy(batch, h, w, padded)
    torch.testing.assert_close(unchecked.loss, expected.loss)
    for value, truth in zip(
        torch.autograd.grad(unchecked.loss, (h, w)), torch.autograd.grad(expected.loss, (h, w)), strict=True
    ):  # fmt: skip
        torch.testing.assert_close(value, truth)


@pytest.mark.parametrize("impl", IMPLS)
def test_without_checks_what_is_no_column_makes_the_loss_nan(impl: str) -> None:
    for loss, attribute, place, value in (
        (linear_cross_entropy, "labels", 0, V),
        (linear_distil_loss, "labels", 0, -7),
        (linear_distil_loss, "ids", (0, 1), V),
        (topk_kl, "ids", (0, 1), -2),
        (linear_kl, "columns", 1, V),
    ):
        batch = Batch()
        getattr(batch, attribute)[place] = value
        result = loss(batch, *batch.leaves, impl=impl, check=False)
        assert result.loss.isnan()
        for gradient in torch.autograd.grad(result.loss, batch.leaves):
            assert gradient.isnan().any()


def test_a_compiled_graph_says_what_is_no_column(compiled: Any) -> None:
    for loss, attribute, place, value, said in (
        (linear_distil_loss, "labels", 2, V, "got 11 as counted row 1"),
        (linear_kl, "columns", 1, V, "got 11 for student column 1"),
    ):
        batch = Batch()
        step = compiled(lambda *leaves, loss=loss, batch=batch: loss(batch, *leaves, impl="torch"))
        step(*batch.leaves)
        getattr(batch, attribute)[place] = value
        with pytest.raises(KernelArgumentError, match=f"^{loss.__name__}: .*{said}"):
            step(*batch.leaves)


def test_refusals_of_shapes_reach_whoever_compiles(compiled: Any) -> None:
    batch = Batch()
    h, b = batch.leaves[0], batch.leaves[2]
    narrow = torch.ones(V, H - 1)
    said = "linear_cross_entropy: weight must be [V, H], here [*, 4]; got [11, 3]"
    with pytest.raises(Exception, match=re.escape(said)):  # dynamo's own error quotes it
        compiled(lambda h: linear_cross_entropy(batch, h, narrow, b).loss)(h)
    with pytest.raises(KernelArgumentError, match=re.escape(said)):
        torch.compile(
            lambda h: linear_cross_entropy(batch, h, narrow, b).loss, backend="aot_eager"
        )(h)


@pytest.mark.parametrize("in_a_graph", [False, True])
@pytest.mark.parametrize(("loss", "options"), WITH_OPTIONS)
def test_a_derivative_of_a_gradient_is_refused(
    loss: Loss, options: dict[str, bool], in_a_graph: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if in_a_graph:
        monkeypatch.setattr(operators, "has_values", lambda _: False)
    batch = Batch()
    value = loss(batch, *batch.leaves, impl="torch", **options).loss
    gradient, *_ = torch.autograd.grad(value, batch.leaves, create_graph=True)
    penalty = gradient.square().sum() + batch.leaves[0].sum()
    with pytest.raises(KernelArgumentError, match=r"second derivatives .*; ask for impl='reference'"):  # fmt: skip
        penalty.backward()


@pytest.mark.parametrize(("loss", "options"), WITH_OPTIONS)
def test_a_second_derivative_by_any_operand_is_refused_not_zero(
    loss: Loss, options: dict[str, bool]
) -> None:
    """`torch.autograd.functional` answers zeros where no way leads to the operand."""
    batch = Batch()
    for place, leaf in enumerate(batch.leaves):

        def value(operand: Tensor, impl: str, place: int = place) -> Tensor:
            operands = [other.detach() for other in batch.leaves]
            operands[place] = operand
            return loss(batch, *operands, impl=impl, **options).loss

        with pytest.raises(KernelArgumentError, match="second derivatives"):
            torch.autograd.functional.hessian(lambda x: value(x, "torch"), leaf.detach())
        with pytest.raises(KernelArgumentError, match="second derivatives"):
            torch.autograd.functional.jvp(lambda x: value(x, "torch"), leaf.detach(), leaf.detach())  # fmt: skip
        assert torch.autograd.functional.hessian(lambda x: value(x, "reference"), leaf.detach()).any()  # fmt: skip


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_that_is_changed_in_place_keeps_its_gradients(loss: Loss) -> None:
    """Accumulation of gradients divides it; what a second derivative is refused by hangs on no version of it."""
    batch = Batch()
    expected = torch.autograd.grad(loss(batch, *batch.leaves, impl="torch").loss, batch.leaves)
    value = loss(batch, *batch.leaves, impl="torch").loss.mul_(3)
    for actual, truth in zip(torch.autograd.grad(value, batch.leaves), expected, strict=True):
        torch.testing.assert_close(actual, 3 * truth)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_graph_is_let_go_with_the_loss(loss: Loss) -> None:
    """An output that its own node kept would be a cycle, which waits for the garbage collector with all that is saved."""
    batch = Batch()
    saved = torch.full_like(batch.leaves[0], 2.0)
    watched = weakref.ref(saved)
    value = loss(batch, batch.leaves[0] * saved, *batch.leaves[1:], impl="torch").loss
    gc.disable()
    try:
        del saved, value
        assert watched() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_that_is_computed_again_in_the_backward_pass_has_the_same_gradients(
    loss: Loss,
) -> None:
    batch = Batch()

    def value(*leaves: Tensor) -> Tensor:
        return loss(batch, *leaves, impl="torch").loss

    expected = torch.autograd.grad(value(*batch.leaves), batch.leaves)
    again = checkpoint(value, *batch.leaves, use_reentrant=False)
    for actual, truth in zip(torch.autograd.grad(again, batch.leaves), expected, strict=True):
        torch.testing.assert_close(actual, truth)


class Recorder(TorchDispatchMode):
    """Notes with which arguments an operator of the package is called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == operators.NAMESPACE:
            self.calls.append((func, args))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("loss", LOSSES)
def test_each_operator_passes_opcheck(loss: Loss, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "has_values", lambda _: False)  # as in a graph
    # Logits in float16 have their gradient rescaled.
    batch = Batch(torch.float16 if loss in (topk_kl, kl) else torch.float32)
    with Recorder() as recorder:
        loss(batch, *batch.leaves, impl="torch", check=False)
    ((operator, arguments),) = recorder.calls
    fresh = (
        argument.detach().clone().requires_grad_(argument.requires_grad)
        if isinstance(argument, Tensor)
        else argument
        for argument in arguments
    )
    torch.library.opcheck(operator, tuple(fresh))


class UnderGuard(TorchDispatchMode):
    """Notes what is computed while the device of a tensor is current, and of which tensors it was."""

    def __init__(self) -> None:
        super().__init__()
        self.of: list[Tensor] = []
        self.computed: list[str] = []
        self._depth = 0

    @contextlib.contextmanager
    def device_of(self, tensor: Tensor) -> Iterator[None]:
        self.of.append(tensor)
        self._depth += 1
        yield
        self._depth -= 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._depth:
            self.computed.append(func._schema.name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("in_a_graph", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_is_computed_while_the_device_of_its_operands_is_current(
    loss: Loss, in_a_graph: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton launches a kernel on the current device, wherever its tensors are."""
    if in_a_graph:
        monkeypatch.setattr(operators, "has_values", lambda _: False)
    guard = UnderGuard()
    monkeypatch.setattr(torch.cuda, "device_of", guard.device_of)
    batch, overwrite = Batch(), loss in (topk_kl, kl) and not in_a_graph
    options = {"overwrite_logits": True} if overwrite else {}
    with guard:
        loss(batch, *batch.leaves, impl="torch", check=False, **options)
    (operand,) = guard.of
    assert operand.dtype == torch.float64
    assert in_a_graph or guard.computed  # a mode of torch sees nothing inside of an operator


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_who_asks_for_torch_launches_no_kernel_in_the_backward_pass_either(
    loss: Loss, overwrite: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton may be installed, as CUDA builds of torch bring it, and lack a compiler of C."""
    asked = []

    def scaled(gradient: Tensor, grad_output: Tensor, *_: Any, impl: str) -> Tensor:
        asked.append(impl)
        return gradient * grad_output

    monkeypatch.setattr(operators, "scaled", scaled)
    monkeypatch.setattr(logits_loss, "scaled", scaled)
    batch = Batch()
    options = {"overwrite_logits": True} if overwrite and loss in (topk_kl, kl) else {}
    torch.autograd.grad(loss(batch, *batch.leaves, impl="torch", **options).loss, batch.leaves)
    assert set(asked) == {"torch"}


# Beside the current device there must be another: a machine with one GPU, which runs the other `gpu` tests, cannot show it.
@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_on_another_device_than_the_current_one_is_the_same(loss: Loss) -> None:
    for options in ({}, {"check": False}):
        results = []
        for device in ("cuda:0", "cuda:1"):
            batch = Batch(torch.bfloat16, device)
            value = loss(batch, *batch.leaves, impl="triton", **options).loss
            results.append([value, *torch.autograd.grad(value * 3, batch.leaves)])
        for first, second in zip(*results, strict=True):
            assert torch.equal(first.cpu(), second.cpu())


class NoLookAtValues(TorchDispatchMode):
    """Refuses what waits for a device."""

    waits = (
        "_local_scalar_dense",
        "nonzero",
        "item",
        "masked_select",
        "_unique2",
        "equal",
        "is_nonzero",
    )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        assert name not in self.waits, f"{func} waits for the device"
        assert name != "index" or all(x is None or x.dtype != torch.bool for x in args[1])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("loss", LOSSES)
def test_without_checks_nothing_waits_for_the_device(loss: Loss, impl: str) -> None:
    batch = Batch()
    with NoLookAtValues():
        loss(batch, *batch.leaves, impl=impl, check=False)
    if loss not in (attention_mse, relation_kl, kl) or (impl == "torch" and loss is not kl):
        with pytest.raises(AssertionError, match="waits for the device"), NoLookAtValues():
            loss(batch, *batch.leaves, impl=impl)


def test_a_compiled_loss_takes_its_products_in_the_dtype_of_autocast(compiled: Any) -> None:
    batch = Batch(torch.float32)

    def step(h: Tensor, w: Tensor, b: Tensor) -> Result:
        with torch.autocast("cpu", torch.bfloat16):
            return linear_distil_loss(batch, h, w, b, impl="torch")

    assert_same(compiled(step)(*batch.leaves), step(*batch.leaves), batch, rtol=0, atol=0)
    plain = linear_distil_loss(batch, *batch.leaves, impl="torch").loss
    assert not torch.equal(plain, step(*batch.leaves).loss)


def test_a_compiled_graph_keeps_logits_that_it_may_overwrite(compiled: Any) -> None:
    batch = Batch()
    for loss in (topk_kl, kl):

        def step(h: Tensor, w: Tensor, b: Tensor, loss: Loss = loss) -> Result:
            return loss(batch, h, w, b, impl="torch", overwrite_logits=True)

        assert_same(compiled(step)(*batch.leaves), step(*batch.leaves), batch)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_who_kept_overwritten_logits_hears_of_it(dtype: torch.dtype) -> None:
    teacher = torch.randn(N, V).to(dtype)
    logprobs, ids = teacher.float().log_softmax(1).topk(K)
    for loss in (
        lambda z: kdkernels.kl(z, teacher, overwrite_logits=True, impl="torch"),
        lambda z: kdkernels.topk_kl(z, ids, logprobs, overwrite_logits=True, impl="torch"),
    ):
        logits = torch.randn(N, V).to(dtype).requires_grad_() * 2
        before, kept = (
            logits._version,
            logits.sigmoid() * logits,
        )  # multiplication keeps its operands
        value = loss(logits).loss
        assert logits._version > before
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            (value + kept.sum()).backward()


def test_more_pairs_of_places_than_fit_at_once_are_compared_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = Batch()
    expected = topk_kl(batch, *batch.leaves, impl="torch")
    monkeypatch.setattr("kdkernels.targets.COMPARED_AT_ONCE", 2 * K * K)
    assert_same(topk_kl(batch, *batch.leaves, impl="torch", check=False), expected, batch)


@pytest.mark.interpret if INTERPRETED else pytest.mark.gpu
@pytest.mark.skipif(
    not INTERPRETED and not GPU, reason="no CUDA device, and TRITON_INTERPRET is not 1"
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the interpreter, at infinities
@pytest.mark.parametrize("loss", OF_ROWS)
def test_kernels_without_checks_keep_to_the_same_laws(loss: Loss) -> None:
    device = "cpu" if INTERPRETED else "cuda"
    batch = Batch(torch.bfloat16, device)
    expected = loss(batch, *batch.leaves, impl="triton")
    truths = torch.autograd.grad(expected.loss, batch.leaves)
    counted = batch.labels >= 0
    hidden, *others = batch.leaves
    if "linear" in loss.__name__:
        hidden = torch.where(counted[:, None], hidden.detach(), torch.nan).requires_grad_()
    batch.ids[~counted], batch.logprobs[~counted] = 10**9, torch.nan
    actual = loss(batch, hidden, *others, impl="triton", check=False)
    torch.testing.assert_close(actual.loss, expected.loss)
    gradients = torch.autograd.grad(actual.loss, (hidden, *others))
    for value, truth in zip(gradients, truths, strict=True):
        assert relative_error(value, truth) < 1e-2
    batch.labels[0], batch.ids[0, 1], batch.columns[1] = V + 5, V + 5, V + 5
    unchecked = loss(batch, *batch.leaves, impl="triton", check=False).loss
    assert bool(unchecked.isnan()) == (loss is not kl)  # which names no column


class Student(nn.Module):
    """A layer of attention over states, and a head."""

    def __init__(self, H: int, V: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(H, 2, 2 * H, dropout=0.0, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(H, V)
        self.distil = kdkernels.LinearDistilLoss(alpha=0.5)
        self.relations = kdkernels.RelationKl(2)

    def forward(self, states: Tensor, labels: Tensor, ids: Tensor, logprobs: Tensor, **options: Any) -> Tensor:  # fmt: skip
        after = self.body(states)
        loss = self.distil(
            after.flatten(0, 1), self.head.weight, self.head.bias, labels, ids, logprobs, **options
        ).loss
        return loss + self.relations(after, states, **options).loss


def student_and_inputs(
    H: int, V: int, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Student, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    states, labels = torch.randn(3, 8, H), torch.randint(0, V, (24,))
    labels[::3] = -100
    logprobs, ids = torch.randn(24, V).log_softmax(1).topk(4)
    inputs = (states.to(dtype), labels, ids, logprobs)
    return Student(H, V).to(device, dtype), tuple(x.to(device) for x in inputs)


def gradients_of(student: nn.Module, loss: Tensor) -> list[Tensor]:
    student.zero_grad(set_to_none=True)
    loss.backward()
    return gradients_in(student)


def gradients_in(student: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in student.parameters() if p.grad is not None]


def test_a_model_with_its_losses_is_one_graph(compiled: Any) -> None:
    student, inputs = student_and_inputs(8, 30)
    expected = gradients_of(student, student(*inputs))
    for value, truth in zip(
        gradients_of(student, compiled(student)(*inputs)), expected, strict=True
    ):
        torch.testing.assert_close(value, truth)


@pytest.mark.slow
def test_a_model_compiled_to_machine_code_learns_the_same() -> None:
    torch._dynamo.reset()
    student, inputs = student_and_inputs(8, 30)
    expected = gradients_of(student, student(*inputs))
    program = torch.compile(student, fullgraph=True)
    for value, truth in zip(gradients_of(student, program(*inputs)), expected, strict=True):
        torch.testing.assert_close(value, truth, rtol=1e-4, atol=1e-6)


@contextlib.contextmanager
def no_wait_allowed() -> Iterator[None]:
    """CUDA raises where the host waits for it."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


ON_A_GPU = [("torch", torch.float32), ("triton", torch.float32), ("triton", torch.bfloat16)]
MARKS = (
    pytest.mark.gpu,
    pytest.mark.skipif(not GPU, reason="there is no CUDA device"),
    pytest.mark.filterwarnings("default"),  # of the compiler, and of CUDA that looks for waits
)


def on_a_gpu(test: Callable[..., None]) -> Callable[..., None]:
    for mark in MARKS:
        test = mark(test)
    return test


def assert_close(actual: list[Tensor], expected: list[Tensor], dtype: torch.dtype) -> None:
    """Up to the order of sums."""
    for value, truth in zip(actual, expected, strict=True):
        assert relative_error(value, truth) < (2e-2 if dtype == torch.bfloat16 else 1e-3)


@on_a_gpu
@pytest.mark.parametrize(("impl", "dtype"), ON_A_GPU)
@pytest.mark.parametrize("loss", LOSSES)
def test_on_a_gpu_nothing_waits_without_checks(loss: Loss, impl: str, dtype: torch.dtype) -> None:
    batch = Batch(dtype, "cuda")
    loss(batch, *batch.leaves, impl=impl, check=False).loss.backward()  # compiles the kernels
    with no_wait_allowed():
        loss(batch, *batch.leaves, impl=impl, check=False).loss.backward()
    results = [loss(batch, *batch.leaves, impl=impl, check=check) for check in (False, True)]
    actual, expected = (
        [result.loss, *torch.autograd.grad(result.loss, batch.leaves)] for result in results
    )
    assert_close(actual, expected, dtype)


@on_a_gpu
@pytest.mark.parametrize(("impl", "dtype"), ON_A_GPU)
def test_on_a_gpu_a_captured_step_gives_the_gradients_of_new_values(
    impl: str, dtype: torch.dtype
) -> None:
    student, inputs = student_and_inputs(64, 1000, "cuda", dtype)
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(2):
            gradients_of(student, student(*inputs, impl=impl, check=False))
    torch.cuda.current_stream().wait_stream(aside)
    student.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = student(*inputs, impl=impl, check=False)
        loss.backward()
    inputs[0].copy_(torch.randn_like(inputs[0]))
    inputs[1].copy_(inputs[1].roll(1))
    inputs[2].copy_(inputs[2].roll(2, 0))
    graph.replay()
    replayed = [loss.detach().clone(), *gradients_in(student)]
    expected = student(*inputs, impl=impl)
    assert_close(replayed, [expected.detach(), *gradients_of(student, expected)], dtype)


@on_a_gpu
@pytest.mark.parametrize("mode", [None, "reduce-overhead"])
def test_on_a_gpu_a_compiled_model_learns_the_same(mode: str | None) -> None:
    torch._dynamo.reset()
    student, inputs = student_and_inputs(64, 1000, "cuda")
    expected = gradients_of(student, student(*inputs, impl="triton"))
    program = torch.compile(student, fullgraph=True, mode=mode)
    for _ in range(3):
        torch.compiler.cudagraph_mark_step_begin()
        actual = gradients_of(student, program(*inputs, impl="triton", check=False))
    assert_close(actual, expected, torch.float32)


def test_no_room_is_made_for_a_gradient_that_nobody_wants() -> None:
    """Of logits at hand a gradient is as large as they are."""
    made: list[torch.Size] = []

    class Rooms(TorchDispatchMode):
        def __torch_dispatch__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            output = function(*args, **(kwargs or {}))
            if function.overloadpacket in (torch.ops.aten.empty, torch.ops.aten.new_empty):
                made.append(output.shape)
            return output

    student, teacher = torch.randn(3, 11, requires_grad=True), torch.randn(3, 11)
    logprobs, ids = torch.log_softmax(teacher, 1).topk(2)
    with Rooms(), torch.no_grad():
        kdkernels.kl(student, teacher)
    assert student.shape not in made
    with Rooms(), torch.no_grad():
        kdkernels.topk_kl(student, ids, logprobs)
    assert made.count(student.shape) == 1  # a chunk to work in
    with Rooms():
        kdkernels.kl(student, teacher)
    assert made.count(student.shape) == 2  # and the gradient
