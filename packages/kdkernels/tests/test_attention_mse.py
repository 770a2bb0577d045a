"""`attention_mse` against a loop over query rows in float64, and the laws it keeps."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kdkernels import KernelArgumentError, attention_mse

IMPLS = ("reference", "torch")
MASKS = ("none", "padding", "holes", "pairs", "nothing")
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 4e-3}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def sides(
    *shape: int, width_t: int | None = None, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """q_s, k_s, q_t, k_t with scores of standard deviation 3 or so."""
    *front, width = shape
    widths = (width, width, width_t or width, width_t or width)
    return [(torch.randn(*front, d) * math.sqrt(3)).to(dtype) for d in widths]


def mask_named(name: str, batch: int, length: int) -> Tensor | None:
    if name == "none":
        return None
    if name == "padding":
        return torch.arange(length) < torch.linspace(1, length, batch).long()[:, None]
    if name == "holes":
        mask = torch.rand(batch, length) > 0.3
        mask[-1] = False
        return mask
    if name == "pairs":
        mask = torch.rand(batch, length, length) > 0.5
        mask[0, 0] = False
        return mask
    return torch.zeros(batch, length, dtype=torch.bool)


def loop(
    q_s: Tensor, k_s: Tensor, q_t: Tensor, k_t: Tensor, mask: Tensor | None, window: int | None
) -> tuple[Tensor, int]:
    """Row by row, over lists of the keys that each query sees."""
    batch, heads, length, _ = q_s.shape
    total, counted = q_s.new_zeros(()) + 0 * q_s.sum() + 0 * k_s.sum(), 0
    for b in range(batch):
        for i in range(length):
            seen = [j for j in range(length) if _sees(mask, window, b, i, j)]
            if not seen:
                continue
            for h in range(heads):
                student = torch.softmax(k_s[b, h, seen] @ q_s[b, h, i] / q_s.shape[3] ** 0.5, 0)
                teacher = torch.softmax(k_t[b, h, seen] @ q_t[b, h, i] / q_t.shape[3] ** 0.5, 0)
                total = total + ((student - teacher) ** 2).sum()
                counted += len(seen)
    return total / max(counted, 1), counted


def _sees(mask: Tensor | None, window: int | None, b: int, i: int, j: int) -> bool:
    if window is not None and abs(i - j) > window // 2:
        return False
    if mask is None:
        return True
    return bool(mask[b, i, j] if mask.dim() == 3 else mask[b, i] and mask[b, j])


def relative(got: Tensor, true: Tensor) -> float:
    got, true = got.detach().double(), true.detach().double()
    return float((got - true).norm() / (true.norm() or 1.0))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("window", [None, 0, 3, 100])
@pytest.mark.parametrize("mask_name", MASKS)
def test_loss_and_gradients_equal_the_loop(
    impl: str, dtype: torch.dtype, window: int | None, mask_name: str
) -> None:
    inputs = sides(3, 2, 7, 5, width_t=8, dtype=dtype)
    mask = mask_named(mask_name, 3, 7)
    exact = [x.double().clone() for x in inputs]
    true, counted = loop(
        exact[0].requires_grad_(), exact[1].requires_grad_(), *exact[2:], mask, window
    )
    true.backward()

    q_s, k_s = (x.clone().requires_grad_() for x in inputs[:2])
    result = attention_mse(q_s, k_s, *inputs[2:], mask, window=window, chunk_bytes=100, impl=impl)
    result.loss.backward()

    assert int(result.counted) == counted
    assert result.impl == impl
    assert relative(result.loss, true) < max(TOLERANCE[dtype] / 100, 1e-6 * (dtype != torch.float64), 1e-12)  # fmt: skip
    assert q_s.grad.dtype == dtype
    assert relative(q_s.grad, exact[0].grad) < TOLERANCE[dtype]
    assert relative(k_s.grad, exact[1].grad) < TOLERANCE[dtype]


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (2, 1, 1, 3), (1, 3, 33, 7), (2, 2, 65, 16)], ids=str
)
@pytest.mark.parametrize("chunk_bytes", [1, 4096, None])
def test_tiles_of_any_size_give_the_same_loss(
    shape: tuple[int, ...], chunk_bytes: int | None
) -> None:
    inputs = sides(*shape)
    mask = mask_named("padding", shape[0], shape[2])

    def step(impl: str) -> list[Tensor]:
        q_s, k_s = (x.clone().requires_grad_() for x in inputs[:2])
        loss = attention_mse(
            q_s, k_s, *inputs[2:], mask, window=9, chunk_bytes=chunk_bytes, impl=impl
        ).loss
        return [loss, *torch.autograd.grad(loss, (q_s, k_s))]

    for tiles, maps in zip(step("torch"), step("reference"), strict=True):
        torch.testing.assert_close(tiles, maps, rtol=1e-10, atol=1e-14)


def test_reference_passes_gradcheck() -> None:
    q_s, k_s, q_t, k_t = sides(2, 2, 4, 3)
    mask = mask_named("padding", 2, 4)

    def loss(q: Tensor, k: Tensor) -> Tensor:
        return attention_mse(q, k, q_t, k_t, mask, window=4, scale_s=0.7, impl="reference").loss

    assert torch.autograd.gradcheck(loss, (q_s.requires_grad_(), k_s.requires_grad_()))


def test_tiles_pass_a_finite_difference_with_both_scales_given() -> None:
    q_s, k_s, q_t, k_t = sides(2, 2, 5, 3, width_t=4)

    def loss(q: Tensor, k: Tensor) -> Tensor:
        return attention_mse(
            q, k, q_t, k_t, scale_s=0.3, scale_t=0.9, divisor=7.0, impl="torch"
        ).loss

    assert torch.autograd.gradcheck(loss, (q_s.requires_grad_(), k_s.requires_grad_()))


@pytest.mark.parametrize("impl", IMPLS)
def test_a_perfect_student_scores_exactly_zero(impl: str) -> None:
    q, k, *_ = sides(2, 2, 9, 4, dtype=torch.float32)
    q_s, k_s = q.clone().requires_grad_(), k.clone().requires_grad_()
    result = attention_mse(q_s, k_s, q, k, window=4, impl=impl)
    result.loss.backward()

    assert result.loss.item() == 0
    assert not q_s.grad.any()
    assert not k_s.grad.any()


@pytest.mark.parametrize("impl", IMPLS)
def test_nothing_to_count_gives_exact_zeros(impl: str) -> None:
    q_s, k_s, q_t, k_t = sides(2, 2, 4, 3, dtype=torch.float32)
    result = attention_mse(
        q_s.requires_grad_(), k_s.requires_grad_(), q_t, k_t, mask_named("nothing", 2, 4), impl=impl
    )
    result.loss.backward()

    assert (result.loss.item(), int(result.counted)) == (0, 0)
    assert not q_s.grad.any()
    assert not k_s.grad.any()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("shape", [(0, 2, 4, 3), (2, 0, 4, 3), (2, 2, 0, 3)])
@pytest.mark.parametrize("window", [None, 2])
def test_without_sequences_heads_or_tokens_the_loss_is_an_exact_zero(
    impl: str, shape: tuple[int, ...], window: int | None
) -> None:
    vectors = torch.randn(shape, requires_grad=True)
    for mask in (None, torch.ones(shape[0], shape[2], dtype=torch.bool)):
        result = attention_mse(vectors, vectors, vectors, vectors, mask, window=window, impl=impl)
        [gradient] = torch.autograd.grad(result.loss, vectors)
        assert (result.loss.item(), int(result.counted)) == (0, 0)
        assert gradient.shape == shape


def test_padding_is_not_read_and_gets_no_gradient() -> None:
    q_s, k_s, q_t, k_t = sides(2, 2, 6, 3)
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]]).bool()
    for x in (q_s, k_s, q_t, k_t):
        x.transpose(1, 2)[~mask] = math.nan
    q_s.requires_grad_()
    k_s.requires_grad_()
    result = attention_mse(q_s, k_s, q_t, k_t, mask)
    result.loss.backward()
    alone = attention_mse(*(x[:1, :, :3] for x in (q_s, k_s, q_t, k_t)))

    assert result.loss.item() == pytest.approx(alone.loss.item(), rel=1e-12)
    assert not q_s.grad.transpose(1, 2)[~mask].any()
    assert not k_s.grad.transpose(1, 2)[~mask].any()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("which", range(4))
def test_nan_in_a_real_token_reaches_the_loss(impl: str, which: int) -> None:
    inputs = sides(1, 2, 5, 3)
    inputs[which][0, 1, 2, 0] = math.nan

    assert attention_mse(*inputs, impl=impl).loss.isnan()


@pytest.mark.parametrize("impl", IMPLS)
def test_gradient_scales_with_what_comes_from_above(impl: str) -> None:
    inputs = sides(2, 2, 5, 3)
    q_s = inputs[0].requires_grad_()
    loss = attention_mse(*inputs, impl=impl).loss
    (once,) = torch.autograd.grad(loss, q_s, retain_graph=True)
    (thrice,) = torch.autograd.grad(loss, q_s, torch.tensor(3.0, dtype=loss.dtype))

    torch.testing.assert_close(thrice, 3 * once)


def test_strided_inputs_equal_contiguous_ones() -> None:
    inputs = sides(2, 6, 3, 4)  # [B, S, h, d], as projections leave it
    turned = [x.transpose(1, 2) for x in inputs]

    assert not turned[0].is_contiguous()
    assert attention_mse(*turned).loss == attention_mse(*(x.contiguous() for x in turned)).loss


def test_the_mean_over_a_batch_is_the_sum_over_its_parts_by_a_divisor() -> None:
    inputs = sides(4, 2, 5, 3)
    mask = mask_named("padding", 4, 5)
    whole = attention_mse(*inputs, mask)
    parts = [
        attention_mse(*(x[half] for x in inputs), mask[half], divisor=whole.counted).loss
        for half in (slice(0, 2), slice(2, 4))
    ]

    torch.testing.assert_close(parts[0] + parts[1], whole.loss)


def test_a_frozen_student_and_no_grad_need_no_gradient() -> None:
    inputs = sides(1, 1, 4, 3)
    assert not attention_mse(*inputs).loss.requires_grad
    inputs[0].requires_grad_()
    with torch.no_grad():
        assert not attention_mse(*inputs).loss.requires_grad


@pytest.mark.parametrize("impl", IMPLS)
def test_autocast_changes_nothing(impl: str) -> None:
    inputs = sides(2, 2, 6, 4, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        under = attention_mse(*inputs, impl=impl).loss

    assert under == attention_mse(*inputs, impl=impl).loss


def test_bfloat16_products_leave_the_process_as_it_was() -> None:
    before = torch.backends.mkldnn.matmul.fp32_precision
    attention_mse(*sides(1, 1, 4, 3, dtype=torch.bfloat16), impl="torch")

    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_bfloat16_gradients_stay_within_a_percent_at_a_real_length() -> None:
    inputs = sides(1, 2, 200, 32, dtype=torch.bfloat16)
    exact = [x.double().requires_grad_() for x in inputs]
    true = attention_mse(*exact, impl="reference").loss
    q_s, k_s = (x.clone().requires_grad_() for x in inputs[:2])
    result = attention_mse(q_s, k_s, *inputs[2:], impl="torch")
    got = torch.autograd.grad(result.loss, (q_s, k_s))

    assert relative(result.loss, true) < 1e-5
    for gradient, expected in zip(got, torch.autograd.grad(true, exact[:2]), strict=True):
        assert relative(gradient, expected) < 0.01


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_kept_for_the_backward_pass_are_as_many_bytes_as_student_queries_and_keys(
    dtype: torch.dtype,
) -> None:
    operands = [x.transpose(1, 2) for x in sides(2, 40, 3, 8, dtype=dtype)]
    q_s, k_s = (x.requires_grad_() for x in operands[:2])
    kept: list[Tensor] = []

    with torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(x), x)[1], lambda x: x):
        attention_mse(*operands)

    assert sum(x.untyped_storage().nbytes() for x in kept) == q_s.nbytes + k_s.nbytes
    assert [x.stride() for x in kept if x.numel()] == [q_s.stride(), k_s.stride()]


# dynamo looks at .grad of what it is given after a graph break
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_model_around_the_call_gives_the_same_gradient() -> None:
    inputs = sides(2, 2, 6, 4)
    w = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)

    def step(w: Tensor) -> Tensor:
        return attention_mse(inputs[0] @ w, inputs[1] @ w, *inputs[2:]).loss * 2

    (plain,) = torch.autograd.grad(step(w), w)
    (compiled,) = torch.autograd.grad(torch.compile(step, backend="aot_eager")(w), w)

    torch.testing.assert_close(compiled, plain)


class LargestTensor(TorchDispatchMode):
    """Notes how many elements the largest tensor has that any operation puts out."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in _tensors(out):
            self.elements = max(
                self.elements, tensor.untyped_storage().nbytes() // tensor.element_size()
            )
        return out


def _tensors(out: object) -> Iterator[Tensor]:
    if isinstance(out, Tensor):
        yield out
    elif isinstance(out, (tuple, list)):
        for part in out:
            yield from _tensors(part)


@pytest.mark.parametrize("mask_name", ["none", "padding"])
@pytest.mark.parametrize("length", [128, 256])
def test_no_tensor_grows_with_the_square_of_the_length(length: int, mask_name: str) -> None:
    inputs = sides(2, 2, length, 4, dtype=torch.float32)
    inputs[0].requires_grad_()
    with LargestTensor() as largest:
        attention_mse(*inputs, mask_named(mask_name, 2, length), chunk_bytes=8192).loss.backward()

    assert largest.elements <= 2 * 8192 // 4  # both tiles of scores, and q itself is no larger


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q_s": torch.randn(2, 3, 4)}, r"q_s must be \[B, h, S, d\]"),
        ({"k_s": torch.randn(2, 2, 5, 3)}, "k_s must be"),
        ({"q_t": torch.randn(2, 4, 4, 3)}, "q_t must be"),
        ({"k_t": torch.randn(2, 2, 4, 5)}, "k_t must be"),
        ({"q_t": torch.zeros(2, 2, 4, 3, dtype=torch.int64)}, "floating point"),
        ({"mask": torch.ones(2, 4)}, "mask must be bool"),
        ({"mask": torch.ones(2, 5).bool()}, r"mask must be \[B, S\]"),
        ({"mask": torch.ones(2, 4, 5).bool()}, r"mask must be \[B, S, S\]"),
        (dict.fromkeys(("q_s", "k_s"), torch.randn(2, 2, 4, 0)), "got 0 and 3"),
        ({"window": -1}, "window"),
        ({"divisor": 0.0}, "divisor"),
        ({"chunk_bytes": 0}, "chunk_bytes"),
        ({"impl": "fast"}, "impl"),
    ],
)  # fmt: skip
def test_misfits_are_refused_by_name(change: dict[str, object], message: str) -> None:
    arguments = dict(zip(("q_s", "k_s", "q_t", "k_t"), sides(2, 2, 4, 3), strict=True))

    with pytest.raises(KernelArgumentError, match=message):
        attention_mse(**(arguments | change))
