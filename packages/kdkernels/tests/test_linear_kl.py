"""`linear_kl` against sums over columns in float64, and the laws it keeps."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kdkernels import KernelArgumentError, linear_kl

IMPLS = ("reference", "torch")
DIVERGENCES = ("forward_kl", "reverse_kl", "jsd")
# Of the gradient's norm, at logits of standard deviation 3; in bfloat16 only the gradient by the logits rounds.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6, torch.bfloat16: 6e-3}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@dataclass(frozen=True)
class Case:
    """Operands of both sides."""

    hidden_s: Tensor
    weight_s: Tensor
    bias_s: Tensor | None
    hidden_t: Tensor
    weight_t: Tensor
    bias_t: Tensor | None

    def tensors(self) -> list[Tensor | None]:
        return list(vars(self).values())

    def to(self, dtype: torch.dtype) -> "Case":
        return Case(*(None if x is None else x.to(dtype) for x in self.tensors()))

    def student(self) -> list[Tensor]:
        return [x for x in (self.hidden_s, self.weight_s, self.bias_s) if x is not None]

    def leaves(self) -> "Case":
        fresh = [
            None if x is None else x.detach().clone().requires_grad_(i < 3)
            for i, x in enumerate(self.tensors())
        ]
        return Case(*fresh)


def case(
    N: int = 6, V_s: int = 11, V_t: int = 11, H_s: int = 4, H_t: int = 7, *, bias: bool = True
) -> Case:
    return Case(
        torch.randn(N, H_s).double(),
        1.5 * torch.randn(V_s, H_s).double(),
        torch.randn(V_s).double() if bias else None,
        torch.randn(N, H_t).double(),
        1.1 * torch.randn(V_t, H_t).double(),
        torch.randn(V_t).double() if bias else None,
    )


def oracle(
    c: Case,
    divergence: str,
    *,
    T: float = 1.0,
    beta: float = 0.5,
    columns: list[tuple[int, int]] | None = None,
    only_s: tuple[int, ...] = (),
    weights: list[float] | None = None,
    divisor: float | None = None,
) -> Tensor:
    """Row by row over (student column, teacher column) pairs; `only_s` are columns that the teacher lacks."""
    columns = columns or [(v, v) for v in range(c.weight_s.shape[0])]
    weights = weights or [1.0] * len(c.hidden_s)
    total = 0 * sum(x.sum() for x in c.student())
    for n, weight in enumerate(weights):
        z_s = c.weight_s @ c.hidden_s[n] + (0 if c.bias_s is None else c.bias_s)
        z_t = c.weight_t @ c.hidden_t[n] + (0 if c.bias_t is None else c.bias_t)
        q = torch.softmax(z_s[[s for s, _ in columns] + list(only_s)] / T, 0)
        shared = torch.softmax(z_t[[t for _, t in columns]].detach() / T, 0)
        p = torch.cat([shared, torch.zeros(len(only_s), dtype=shared.dtype)])
        m = beta * p + (1 - beta) * q
        value = {
            "forward_kl": lambda p=p, q=q: _kl(p, q),
            "reverse_kl": lambda p=p, q=q: _kl(q, p),
            "jsd": lambda p=p, q=q, m=m: beta * _kl(p, m) + (1 - beta) * _kl(q, m),
        }[divergence]()
        total = total + weight * T * T * value
    return total / (divisor or max(len(weights), 1))


def _kl(a: Tensor, b: Tensor) -> Tensor:
    there = a > 0
    return (a[there] * (a[there] / b[there]).log()).sum()


def step(c: Case, impl: str, **options: object) -> tuple[Tensor, list[Tensor]]:
    fresh = c.leaves()
    loss = linear_kl(*fresh.tensors(), impl=impl, **options).loss
    return loss.detach(), list(torch.autograd.grad(loss, fresh.student()))


def true_step(c: Case, divergence: str, **options: object) -> tuple[Tensor, list[Tensor]]:
    fresh = c.to(torch.float64).leaves()
    loss = oracle(fresh, divergence, **options)
    return loss.detach(), list(torch.autograd.grad(loss, fresh.student()))


def relative(got: Tensor, true: Tensor) -> float:
    got, true = got.detach().double(), true.detach().double()
    return float((got - true).norm() / (true.norm() or 1.0))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("T", [1.0, 2.5])
@pytest.mark.parametrize("bias", [True, False])
def test_loss_and_gradients_equal_the_definition(
    impl: str, dtype: torch.dtype, divergence: str, T: float, bias: bool
) -> None:
    c = case(bias=bias).to(dtype)
    options = {"temperature": T, "divergence": divergence, "beta": 0.3, "chunk_bytes": 200}
    loss, gradients = step(c, impl, **options)
    true, true_gradients = true_step(c, divergence, T=T, beta=0.3)

    assert relative(loss, true) < min(TOLERANCE[dtype], 5e-6)
    for gradient, expected, operand in zip(gradients, true_gradients, c.student(), strict=True):
        assert gradient.dtype == operand.dtype
        assert relative(gradient, expected) < TOLERANCE[dtype]


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_reference_passes_gradcheck(divergence: str) -> None:
    c = case(N=3, V_s=5, V_t=5)
    options = {"divergence": divergence, "temperature": 2.0, "impl": "reference"}

    assert torch.autograd.gradcheck(
        lambda *student: linear_kl(*student, *c.tensors()[3:], **options).loss,
        [x.requires_grad_() for x in c.student()],
    )


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("divergence", ["forward_kl", "jsd"])
def test_column_map_compares_the_columns_it_names(impl: str, divergence: str) -> None:
    c = case(V_s=5, V_t=9)
    column_map = torch.tensor([3, -1, 0, 8, -1])
    loss, gradients = step(c, impl, divergence=divergence, column_map=column_map, chunk_bytes=150)
    true, true_gradients = true_step(c, divergence, columns=[(0, 3), (2, 0), (3, 8)], only_s=(1, 4))

    assert relative(loss, true) < 1e-12
    for gradient, expected in zip(gradients, true_gradients, strict=True):
        assert relative(gradient, expected) < 1e-12


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_teacher_in_another_order_teaches_the_same(divergence: str) -> None:
    c = case()
    order = torch.randperm(11)
    shuffled = replace(c, weight_t=c.weight_t[order], bias_t=c.bias_t[order])
    straight, _ = step(c, "torch", divergence=divergence)
    mapped, _ = step(shuffled, "torch", divergence=divergence, column_map=order.argsort())

    torch.testing.assert_close(mapped, straight)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_padded_columns_enter_no_softmax(impl: str, divergence: str) -> None:
    plain, padded = case(V_s=8, V_t=8), case(V_s=11, V_t=10)
    padded = replace(plain, weight_s=padded.weight_s, weight_t=padded.weight_t,
                     bias_s=padded.bias_s + 50, bias_t=padded.bias_t + 50)  # fmt: skip
    for name in ("weight_s", "weight_t", "bias_s", "bias_t"):
        getattr(padded, name)[:8] = getattr(plain, name)
    true, true_gradients = step(plain, "reference", divergence=divergence)
    loss, gradients = step(padded, impl, divergence=divergence, vocab_size=8, chunk_bytes=300)

    torch.testing.assert_close(loss, true)
    for gradient, expected in zip(gradients[1:], true_gradients[1:], strict=True):
        torch.testing.assert_close(gradient[:8], expected)
        assert not gradient[8:].any()


@pytest.mark.parametrize("impl", IMPLS)
def test_rows_outside_the_mask_take_no_part(impl: str) -> None:
    c = case()
    mask = torch.tensor([True, False, True, True, False, True])
    weight = torch.tensor([1.0, 9.0, 0.5, 0.0, 9.0, 2.0]).double()
    c.hidden_s[1], c.hidden_t[4] = math.nan, math.nan
    loss, gradients = step(c, impl, mask=mask, row_weight=weight)
    kept = replace(c, hidden_s=c.hidden_s[mask], hidden_t=c.hidden_t[mask])
    true, true_gradients = true_step(kept, "forward_kl", weights=[1.0, 0.5, 0.0, 2.0])

    torch.testing.assert_close(loss, true)
    torch.testing.assert_close(gradients[0][mask], true_gradients[0])
    assert not gradients[0][~mask].any()
    torch.testing.assert_close(gradients[1], true_gradients[1])


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("N", [0, 4])
def test_no_rows_give_exact_zeros(impl: str, N: int) -> None:
    c = case(N=N)
    loss, gradients = step(c, impl, mask=torch.zeros(N, dtype=torch.bool))

    assert loss == 0
    assert [x.shape for x in gradients] == [x.shape for x in c.student()]
    assert not any(x.any() for x in gradients)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_perfect_student_scores_zero(divergence: str) -> None:
    c = case(H_s=7)
    c = replace(c, hidden_s=c.hidden_t, weight_s=c.weight_t, bias_s=c.bias_t)
    loss, gradients = step(c, "torch", divergence=divergence, temperature=3.0)

    assert abs(loss.item()) < 1e-14
    assert all(x.abs().max() < 1e-14 for x in gradients)


@pytest.mark.parametrize("shape", [(1, 7, 1), (5, 1, 3), (9, 130, 2)], ids=str)
@pytest.mark.parametrize("chunk_bytes", [1, 5000, None])
def test_chunks_of_any_size_give_the_same_loss(
    shape: tuple[int, int, int], chunk_bytes: int | None
) -> None:
    N, V, H = shape
    c = case(N, V, V, H)
    loss, gradients = step(c, "torch", chunk_bytes=chunk_bytes)
    true, true_gradients = step(c, "reference")

    torch.testing.assert_close([loss, *gradients], [true, *true_gradients])


@pytest.mark.parametrize("impl", IMPLS)
def test_gradient_scales_with_what_comes_from_above(impl: str) -> None:
    fresh = case().leaves()
    loss = linear_kl(*fresh.tensors(), impl=impl).loss
    once = torch.autograd.grad(loss, fresh.student(), retain_graph=True)
    thrice = torch.autograd.grad(loss, fresh.student(), torch.tensor(3.0).double())

    torch.testing.assert_close(thrice, tuple(3 * x for x in once))


def test_a_batch_is_the_sum_of_its_halves_by_the_global_divisor() -> None:
    c = case()
    whole, _ = step(c, "torch")
    halves = [
        step(replace(c, hidden_s=c.hidden_s[rows], hidden_t=c.hidden_t[rows]), "torch", divisor=6)[
            0
        ]
        for rows in (slice(0, 2), slice(2, 6))
    ]

    torch.testing.assert_close(sum(halves), whole)


def test_strided_operands_equal_contiguous_ones() -> None:
    c = case()
    strided = Case(*(x if x.dim() == 1 else x.t().contiguous().t() for x in c.tensors()))

    assert not strided.weight_s.is_contiguous()
    torch.testing.assert_close(step(strided, "torch"), step(c, "torch"))


@pytest.mark.parametrize("impl", IMPLS)
def test_only_what_is_trained_gets_a_gradient(impl: str) -> None:
    fresh = case().leaves()
    fresh.hidden_t.requires_grad_()
    fresh.weight_s.requires_grad_(False)
    linear_kl(*fresh.tensors(), impl=impl).loss.backward()

    assert fresh.hidden_s.grad is not None
    assert fresh.weight_s.grad is None
    assert fresh.hidden_t.grad is None


@pytest.mark.parametrize("side", ["hidden_s", "hidden_t"])
@pytest.mark.parametrize("impl", IMPLS)
def test_nan_in_a_counted_row_reaches_the_loss(impl: str, side: str) -> None:
    c = case()
    getattr(c, side)[2, 0] = math.nan

    assert step(c, impl)[0].isnan()


def test_autocast_takes_products_in_its_dtype_and_keeps_the_operands_gradients() -> None:
    c = case().to(torch.float32)
    true, true_gradients = true_step(c, "forward_kl")
    with torch.autocast("cpu", torch.bfloat16):
        loss, gradients = step(c, "torch")

    assert 1e-6 < relative(loss, true) < 2e-2
    assert all(x.dtype == torch.float32 for x in gradients)
    assert all(relative(a, b) < 3e-2 for a, b in zip(gradients, true_gradients, strict=True))


# dynamo looks at .grad of what it is given after a graph break
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_model_around_the_call_gives_the_same_gradient() -> None:
    c = case()
    w = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)

    def loss(w: Tensor) -> Tensor:
        return 2 * linear_kl(c.hidden_s @ w, *c.tensors()[1:]).loss

    (plain,) = torch.autograd.grad(loss(w), w)
    (compiled,) = torch.autograd.grad(torch.compile(loss, backend="aot_eager")(w), w)

    torch.testing.assert_close(compiled, plain)


@pytest.mark.parametrize("dtypes", [(0, 1), (1, 0), (1, 2), (2, 1), (2, 0)], ids=str)
def test_the_sides_may_have_two_dtypes(dtypes: tuple[int, int]) -> None:
    known = (torch.float64, torch.float32, torch.bfloat16)
    s, t = (known[i] for i in dtypes)
    c = case().to(torch.bfloat16)
    mixed = Case(*(x.to(s if i < 3 else t) for i, x in enumerate(c.tensors())))
    loss, gradients = step(mixed, "torch")
    true, true_gradients = true_step(mixed, "forward_kl")

    assert relative(loss, true) < 5e-6
    assert all(x.dtype == s for x in gradients)
    for gradient, expected in zip(gradients, true_gradients, strict=True):
        assert relative(gradient, expected) < TOLERANCE[s]


class LargestTensor(TorchDispatchMode):
    """Notes how many bytes the largest tensor has that any operation puts out."""

    nbytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                self.nbytes = max(self.nbytes, tensor.untyped_storage().nbytes())
        return out


def test_no_tensor_holds_all_logits() -> None:
    fresh = case(N=400, V_s=50, V_t=50, bias=False).leaves()
    with LargestTensor() as largest:
        linear_kl(*fresh.tensors(), chunk_bytes=8000).loss.backward()

    assert largest.nbytes <= 400 * 7 * 8  # the teacher's hidden states; all logits would be 160,000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_t": torch.randn(5, 7).double()}, "hidden_t must be"),
        ({"weight_s": torch.randn(11, 5).double()}, "weight_s must be"),
        ({"bias_t": torch.randn(10).double()}, "bias_t must be"),
        ({"weight_t": torch.randn(11, 7)}, "hidden_t and weight_t must have one dtype"),
        ({"weight_t": torch.randn(9, 7).double(), "bias_t": None}, "got 11 and 9"),
        ({"vocab_size": 12}, "vocab_size must be from 1 to the 11 rows"),
        ({"teacher_vocab_size": 10}, "got 11 and 10"),
        ({"column_map": torch.arange(10)}, "column_map must be"),
        ({"column_map": torch.arange(11) + 1}, "got 11 for student column 10"),
        ({"column_map": torch.full((11,), -1)}, "only -1"),
        ({"column_map": torch.zeros(11, dtype=torch.int64)}, "got column 0 11 times"),
        ({"column_map": torch.arange(11) - 1, "divergence": "reverse_kl"}, "reverse_kl"),
        ({"divergence": "kl"}, "divergence"),
        ({"divergence": "jsd", "beta": 1.0}, "beta"),
        ({"temperature": 0.0}, "temperature"),
        ({"mask": torch.ones(6)}, "mask must be of dtype bool"),
        ({"chunk_bytes": 0}, "chunk_bytes"),
        ({"impl": "liger"}, "impl"),
    ],
)
def test_misfits_are_refused_by_name(change: dict[str, object], message: str) -> None:
    arguments = vars(case()) | change
    positional = [arguments.pop(name) for name in vars(case())]

    with pytest.raises(KernelArgumentError, match=message):
        linear_kl(*positional, **arguments)
