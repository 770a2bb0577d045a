"""`relation_kl` against a loop over query rows in float64, and the laws it keeps."""

import math

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kdkernels import KernelArgumentError, relation_kl

IMPLS = ("reference", "torch")
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 4e-3}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def mask_named(name: str, batch: int, length: int) -> Tensor | None:
    if name == "none":
        return None
    if name == "holes":
        mask = torch.rand(batch, length) > 0.3
        mask[-1] = False
        return mask
    if name == "pairs":
        mask = torch.rand(batch, length, length) > 0.5
        mask[0, 0] = False
        return mask
    return torch.zeros(batch, length, dtype=torch.bool)


def loop(x_s: Tensor, x_t: Tensor, heads: int, mask: Tensor | None) -> tuple[Tensor, int]:
    """Head by head, row by row, over lists of the keys that each query sees."""
    batch, length, _ = x_s.shape
    total, counted = 0 * x_s.sum(), 0
    for b in range(batch):
        for i in range(length):
            seen = [j for j in range(length) if _sees(mask, b, i, j)]
            if not seen:
                continue
            for student, teacher in zip(
                x_s[b].chunk(heads, -1), x_t[b].chunk(heads, -1), strict=True
            ):
                log_s = torch.log_softmax(student[seen] @ student[i] / student.shape[1] ** 0.5, 0)
                log_t = torch.log_softmax(teacher[seen] @ teacher[i] / teacher.shape[1] ** 0.5, 0)
                total = total + (log_t.exp() * (log_t - log_s)).sum()
                counted += 1
    return total / max(counted, 1), counted


def _sees(mask: Tensor | None, b: int, i: int, j: int) -> bool:
    if mask is None:
        return True
    return bool(mask[b, i, j] if mask.dim() == 3 else mask[b, i] and mask[b, j])


def relative(got: Tensor, true: Tensor) -> float:
    got, true = got.detach().double(), true.detach().double()
    return float((got - true).norm() / (true.norm() or 1.0))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("mask_name", ["none", "holes", "pairs", "nothing"])
def test_loss_and_gradient_equal_the_loop(impl: str, dtype: torch.dtype, mask_name: str) -> None:
    x_s, x_t = torch.randn(3, 7, 10).to(dtype), torch.randn(3, 7, 14).to(dtype)
    mask = mask_named(mask_name, 3, 7)
    exact = x_s.double().clone().requires_grad_()
    true, counted = loop(exact, x_t.double(), 2, mask)
    true.backward()

    x_s.requires_grad_()
    result = relation_kl(x_s, x_t, 2, mask, chunk_bytes=100, impl=impl)
    result.loss.backward()

    assert (int(result.counted), result.impl) == (counted, impl)
    assert relative(result.loss, true) < (1e-12 if dtype == torch.float64 else 3e-6)
    assert x_s.grad.dtype == dtype
    assert relative(x_s.grad, exact.grad) < TOLERANCE[dtype]


def test_minilm_relations_of_known_vectors() -> None:
    """Two tokens, one head of width 1: scores are products, so the rows can be written down."""
    x_s, x_t = torch.tensor([[[0.0], [0.0]]]), torch.tensor([[[1.0], [2.0]]])
    rows = []
    for a, b in ((1.0, 2.0), (2.0, 4.0)):  # teacher's scores; the student's are equal
        p = math.exp(a) / (math.exp(a) + math.exp(b))
        rows.append(p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)))

    assert relation_kl(x_s, x_t, 1).loss.item() == pytest.approx(sum(rows) / 2, rel=1e-6)


@pytest.mark.parametrize("impl", IMPLS)
def test_gradient_passes_a_finite_difference(impl: str) -> None:
    x_s, x_t = torch.randn(2, 4, 6).double().requires_grad_(), torch.randn(2, 4, 8).double()
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]).bool()

    assert torch.autograd.gradcheck(
        lambda x: relation_kl(x, x_t, 2, mask, divisor=5.0, impl=impl).loss, x_s
    )


@pytest.mark.parametrize("far", [1.0, 100.0])
def test_a_perfect_student_scores_exactly_zero_even_where_rows_are_one_hot(far: float) -> None:
    x_t = far * torch.randn(2, 9, 8)
    x_s = x_t.clone().requires_grad_()
    result = relation_kl(x_s, x_t, 4)
    result.loss.backward()

    assert result.loss.item() == 0
    assert not x_s.grad.any()


@pytest.mark.parametrize("impl", IMPLS)
def test_nothing_to_count_gives_exact_zeros(impl: str) -> None:
    x_s = torch.randn(2, 4, 6).requires_grad_()
    result = relation_kl(x_s, torch.randn(2, 4, 6), 3, mask_named("nothing", 2, 4), impl=impl)
    result.loss.backward()

    assert (result.loss.item(), int(result.counted)) == (0, 0)
    assert not x_s.grad.any()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("shape", [(0, 4, 6), (2, 0, 6)])
def test_without_sequences_or_tokens_the_loss_is_an_exact_zero(
    impl: str, shape: tuple[int, ...]
) -> None:
    vectors = torch.randn(shape, requires_grad=True)
    result = relation_kl(vectors, vectors, 3, impl=impl)
    [gradient] = torch.autograd.grad(result.loss, vectors)
    assert (result.loss.item(), int(result.counted)) == (0, 0)
    assert gradient.shape == shape


def test_padding_is_not_read_and_gets_no_gradient() -> None:
    x_s, x_t = torch.randn(2, 6, 4).double(), torch.randn(2, 6, 4).double()
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]]).bool()
    x_s[~mask] = math.nan
    x_t[~mask] = math.nan
    x_s.requires_grad_()
    result = relation_kl(x_s, x_t, 2, mask)
    result.loss.backward()

    alone = relation_kl(x_s[:1, :3], x_t[:1, :3], 2)
    assert result.loss.item() == pytest.approx(alone.loss.item(), rel=1e-12)
    assert not x_s.grad[~mask].any()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("side", [0, 1])
def test_nan_in_a_real_token_reaches_the_loss(impl: str, side: int) -> None:
    sides = [torch.randn(1, 5, 4), torch.randn(1, 5, 4)]
    sides[side][0, 2, 0] = math.nan

    assert relation_kl(*sides, 2, impl=impl).loss.isnan()


@pytest.mark.parametrize("impl", IMPLS)
def test_gradient_scales_with_what_comes_from_above(impl: str) -> None:
    x_s = torch.randn(2, 5, 4).requires_grad_()
    loss = relation_kl(x_s, torch.randn(2, 5, 4), 2, impl=impl).loss
    (once,) = torch.autograd.grad(loss, x_s, retain_graph=True)
    (thrice,) = torch.autograd.grad(loss, x_s, torch.tensor(3.0))

    torch.testing.assert_close(thrice, 3 * once)


@pytest.mark.parametrize("impl", IMPLS)
def test_autocast_changes_nothing(impl: str) -> None:
    x_s, x_t = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    with torch.autocast("cpu", torch.bfloat16):
        under = relation_kl(x_s, x_t, 2, impl=impl).loss

    assert under == relation_kl(x_s, x_t, 2, impl=impl).loss


# dynamo looks at .grad of what it is given after a graph break
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_model_around_the_call_gives_the_same_gradient() -> None:
    x, x_t, w = torch.randn(2, 5, 4), torch.randn(2, 5, 4), torch.randn(4, 4, requires_grad=True)

    def step(w: Tensor) -> Tensor:
        return relation_kl(x @ w, x_t, 2).loss * 2

    (plain,) = torch.autograd.grad(step(w), w)
    (compiled,) = torch.autograd.grad(torch.compile(step, backend="aot_eager")(w), w)

    torch.testing.assert_close(compiled, plain)


class LargestTensor(TorchDispatchMode):
    """Notes how many elements the largest tensor has that any operation puts out."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                size = tensor.untyped_storage().nbytes() // tensor.element_size()
                self.elements = max(self.elements, size)
        return out


@pytest.mark.parametrize("length", [128, 256])
def test_no_tensor_grows_with_the_square_of_the_length(length: int) -> None:
    x_s, x_t = torch.randn(2, length, 8).requires_grad_(), torch.randn(2, length, 8)
    with LargestTensor() as largest:
        relation_kl(x_s, x_t, 2, chunk_bytes=8192).loss.backward()

    assert largest.elements <= 2 * 8192 // 4  # two tiles of scores, and x itself is no larger


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_s": torch.randn(2, 3)}, r"x_s must be \[B, S, D_s\]"),
        ({"x_t": torch.randn(2, 5, 6)}, "x_t must be"),
        ({"heads": 4}, "heads must divide the width of x_s, 6"),
        ({"heads": 0}, "heads"),
        ({"x_t": torch.randn(2, 4, 8)}, "heads must divide the width of x_t, 8"),
        ({"mask": torch.ones(2, 4, dtype=torch.int64)}, "mask must be bool"),
        ({"divisor": torch.ones(2)}, "divisor"),
    ],
)
def test_misfits_are_refused_by_name(change: dict[str, object], message: str) -> None:
    arguments = {"x_s": torch.randn(2, 4, 6), "x_t": torch.randn(2, 4, 6), "heads": 3}

    with pytest.raises(KernelArgumentError, match=message):
        relation_kl(**(arguments | change))
