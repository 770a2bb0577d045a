"""What half precision may cost over a vocabulary: float16 under a loss scaler, sums over 250,002 columns."""

import importlib
import math
import os

import pytest
import torch
from torch import Tensor

from kdkernels import kl, linear_cross_entropy, linear_distil_loss, linear_kl, topk_kl
from kdkernels.products import add_column_sums, empty_rows, float16_scale
from kdkernels.reduction import scaled
from kdkernels.testing import DistilShape, make_distil_batch, relative_error

GPU = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = (
    "cuda" if GPU and not INTERPRETED else "cpu"
)  # of impl "triton"; "torch" is tested on the CPU
needs_triton = [
    pytest.mark.interpret if DEVICE == "cpu" else pytest.mark.gpu,
    pytest.mark.skipif(
        DEVICE == "cpu" and not INTERPRETED,
        reason="needs a GPU, or Triton's interpreter: set TRITON_INTERPRET=1",
    ),
    # The interpreter computes with numpy, which warns where the kernels compute with infinities on purpose.
    pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning"),
]
IMPLS = ["torch", pytest.param("triton", marks=needs_triton)]
LOSS_SCALE = 65536.0  # what torch.amp.GradScaler starts with: infinite in float16
BATCH = (
    2.0**20
)  # divides each row: rows times columns are then as for 4,096 rows over 250,000 columns
SHAPE = DistilShape(N=7, H=8, V=1031, K=3)


def device_of(impl: str) -> str:
    """Where an implementation is tested."""
    return DEVICE if impl == "triton" else "cpu"


def loss_of(name: str, hidden: Tensor, weight: Tensor, impl: str, **options: object) -> Tensor:
    """One of the four losses over a vocabulary against a fixed teacher, from hidden states, divided by a large batch."""
    batch = make_distil_batch(SHAPE, device=str(hidden.device))
    topk = (batch.ids, batch.logprobs)
    hidden_t, weight_t = (batch.hidden[:, :5], batch.weight[:, :5].roll(1, 0))
    options |= {"divisor": BATCH, "impl": impl}
    if name == "linear_distil_loss":
        result = linear_distil_loss(hidden, weight, None, batch.labels, *topk, alpha=0.5, **options)
    elif name == "linear_kl":
        teacher = (hidden_t.to(hidden.dtype), weight_t.to(hidden.dtype), None)
        result = linear_kl(hidden, weight, None, *teacher, **options)
    elif name == "topk_kl":
        result = topk_kl(hidden @ weight.t(), *topk, **options)
    else:
        logits = hidden @ weight.t()
        result = kl(logits, (hidden_t @ weight_t.t()).to(logits.dtype), **options)
    return result.loss


FLOAT16_CASES = [
    ("linear_distil_loss", {}),
    ("linear_distil_loss", {"chunk_bytes": 1}),
    ("linear_kl", {"divergence": "reverse_kl", "temperature": 2.0}),
    ("linear_kl", {"chunk_bytes": 1}),
    ("topk_kl", {}),
    ("kl", {"divergence": "jsd"}),
]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("name", "options"), FLOAT16_CASES, ids=str)
def test_float16_keeps_the_gradient_of_rare_columns_under_a_loss_scaler(
    impl: str, name: str, options: dict[str, object]
) -> None:
    """Unscaled it is below float16's smallest number; the scaler's factor comes after it was made."""
    batch = make_distil_batch(SHAPE, dtype=torch.float16, std=1.0, device=device_of(impl))
    operands = [batch.hidden, batch.weight]
    exact = [operand.detach().double().requires_grad_() for operand in operands]
    plain = {key: value for key, value in options.items() if key != "chunk_bytes"}
    loss = LOSS_SCALE * loss_of(name, *exact, "reference", **plain)
    by_hidden, by_weight = torch.autograd.grad(loss, exact)
    loss = LOSS_SCALE * loss_of(name, *operands, impl, **options)
    actual = torch.autograd.grad(loss, operands)
    rare = torch.ones(SHAPE.V, dtype=torch.bool, device=device_of(impl))
    rare[batch.ids.clamp(min=0)] = rare[batch.labels.clamp(min=0)] = False
    assert relative_error(actual[0], by_hidden) < 4e-3
    assert relative_error(actual[1][rare], by_weight[rare]) < 4e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_factor_of_the_loss_is_not_rounded_to_half_precision(dtype: torch.dtype) -> None:
    """131.5 is halfway between two values of bfloat16: rounded, it would make every gradient 0.4 % too large."""
    gradient = torch.rand(10_000).add(1.0).to(dtype)
    product = scaled(gradient, torch.tensor(131.5))
    assert product is not None
    assert product.dtype == dtype
    assert abs(float((product.double() / gradient.double()).mean()) / 131.5 - 1) < 3e-4
    large = scaled(gradient.float() / LOSS_SCALE, torch.tensor(LOSS_SCALE), dtype)
    torch.testing.assert_close(large, gradient, rtol=1e-3, atol=0.0)


def test_rows_without_weight_have_gradient_zero_in_float16() -> None:
    assert float16_scale(torch.zeros(3), torch.float16, temperature=1.0).isfinite()
    logits = torch.randn(3, 9, dtype=torch.float16, requires_grad=True)
    loss = kl(logits, logits.flip(0).detach(), row_weight=torch.zeros(3), impl="torch").loss
    (by_logits,) = torch.autograd.grad(LOSS_SCALE * loss, logits)
    assert not by_logits.any()


@pytest.mark.parametrize("impl", IMPLS)
def test_at_250002_columns_bfloat16_gradients_lie_within_one_percent_of_float64(impl: str) -> None:
    """The gradients by hidden states and by bias are the long sums here; 250,002 is divisible by 2 alone."""
    rows = 4 if device_of(impl) == "cpu" else 64
    batch = make_distil_batch(
        DistilShape(N=rows, H=8, V=250_002, K=4), dtype=torch.bfloat16, device=device_of(impl)
    )
    exact = [leaf.detach().double().requires_grad_() for leaf in batch.leaves()]
    truth = linear_distil_loss(*exact, *batch.positional[3:], alpha=0.5, impl="reference").loss
    loss = linear_distil_loss(*batch.positional, alpha=0.5, impl=impl).loss
    assert abs(float(loss.detach()) / float(truth.detach()) - 1) < 1e-3
    for value, expected in zip(
        torch.autograd.grad(loss, batch.leaves()), torch.autograd.grad(truth, exact), strict=True
    ):
        assert relative_error(value, expected) < 1e-2


@pytest.mark.parametrize("impl", IMPLS)
def test_the_gradient_by_bias_sums_many_rows_in_float32(impl: str) -> None:
    """1,024 rows that pull at the same two columns: a bfloat16 sum would stop moving at 256 of them."""
    rows = 1024 if impl == "torch" or DEVICE == "cuda" else 24
    hidden = torch.zeros(rows, 2, dtype=torch.bfloat16, device=device_of(impl))
    weight = torch.zeros(2, 2, dtype=torch.bfloat16, device=device_of(impl))
    bias = torch.zeros(2, dtype=torch.bfloat16, device=device_of(impl), requires_grad=True)
    labels = torch.zeros(rows, dtype=torch.int64, device=device_of(impl))
    for chunk_bytes in (None, 64):
        options = {"divisor": 1.0, "chunk_bytes": chunk_bytes, "impl": impl}
        loss = linear_cross_entropy(hidden, weight, bias, labels, **options).loss
        (by_bias,) = torch.autograd.grad(loss, bias)
        torch.testing.assert_close(by_bias.cpu().float(), torch.tensor([-0.5, 0.5]) * rows)


def test_columns_of_half_precision_are_summed_without_widening_all_rows() -> None:
    rows = torch.randn(300, 30_000).bfloat16()
    total = torch.ones(30_000)
    with torch.profiler.profile(profile_memory=True) as profile:
        add_column_sums(total, rows)
    torch.testing.assert_close(total, 1 + rows.double().sum(dim=0).float())
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert 0 < largest < rows.nbytes / 3  # all of them, widened, are twice as large as they are


@pytest.mark.parametrize(
    ("dtype", "trained", "chunks"),
    [
        (torch.bfloat16, True, 1),  # no more memory than two chunks and the sum of both in float32
        (torch.bfloat16, False, 2),
        (torch.float32, True, 4),
        (torch.float16, True, 2),  # its gradient waits in float32 anyway
    ],
)
def test_without_a_budget_one_chunk_is_taken_where_its_rows_need_no_more_than_the_sums_of_several(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, trained: bool, chunks: int
) -> None:
    batch = make_distil_batch(DistilShape(N=48, H=16, V=400, K=4), dtype=dtype)
    batch.weight.requires_grad_(trained)
    monkeypatch.setattr("kdkernels.products.CPU_CHUNK_BYTES", 30 * 400 * 2)
    rows = []
    monkeypatch.setattr(
        importlib.import_module("kdkernels.linear_distil_loss.chunked"),
        "empty_rows",
        lambda count, *rest: rows.append(count) or empty_rows(count, *rest),
    )
    linear_distil_loss(*batch.positional, alpha=0.5, impl="torch").loss.backward()
    counted = int((batch.labels != -100).sum())
    assert rows == [math.ceil(counted / chunks)]
    linear_distil_loss(*batch.positional, alpha=0.5, impl="torch", chunk_bytes=400 * 4)
    assert rows[1] == 400 * 4 // (400 * dtype.itemsize)  # what is asked for holds


def test_products_add_up_in_float32_and_the_process_gets_its_switches_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    matmul = torch.backends.cuda.matmul
    names = ("allow_bf16_reduced_precision_reduction", "allow_fp16_reduced_precision_reduction")
    inside: list[bool] = []
    topk_chunked = importlib.import_module("kdkernels.topk_kl.chunked")
    row_losses = topk_chunked.row_losses

    def watched(*args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        inside.extend(getattr(matmul, name) for name in names)
        return row_losses(*args, **kwargs)

    monkeypatch.setattr(topk_chunked, "row_losses", watched)
    batch = make_distil_batch(SHAPE, dtype=torch.bfloat16)
    before = [getattr(matmul, name) for name in names]
    try:
        for value in (True, False):
            for name in names:
                setattr(matmul, name, value)
            linear_distil_loss(*batch.positional, alpha=0.5, impl="torch").loss.backward()
            assert [getattr(matmul, name) for name in names] == [value, value]
    finally:
        for name, value in zip(names, before, strict=True):
            setattr(matmul, name, value)
    assert inside == [False] * len(inside) != []


def test_rows_of_logits_start_aligned_everywhere_but_on_a_cpu() -> None:
    rows = empty_rows(3, 250_002, torch.bfloat16, torch.device("meta"))
    assert rows.shape == (3, 250_002)
    assert rows.stride(1) == 1
    assert rows.stride(0) == 250_048
    assert empty_rows(3, 7, torch.bfloat16, torch.device("cpu")).is_contiguous()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gap_behind_each_row_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, impl: str, dtype: torch.dtype
) -> None:
    """The layout of a GPU, tried where the tests run; NaN in the gap would show."""

    def padded(rows: int, columns: int, kind: torch.dtype, device: torch.device) -> Tensor:
        return torch.full((rows, columns + 5), torch.nan, dtype=kind, device=device)[:, :columns]

    batch = make_distil_batch(SHAPE, dtype=dtype, device=device_of(impl))
    head = batch.positional[:3]
    teacher = [tensor.detach().flip(0) for tensor in head]
    results = []
    for patched in (False, True):
        if patched:
            for module in ("linear_distil_loss.chunked", "linear_kl.chunked"):
                monkeypatch.setattr(
                    importlib.import_module(f"kdkernels.{module}"), "empty_rows", padded
                )
        results.append([])
        for loss in (
            linear_distil_loss(*batch.positional, alpha=0.5, impl=impl).loss,
            linear_kl(*head, *teacher, impl=impl).loss,
        ):
            results[-1] += [loss, *torch.autograd.grad(loss, batch.leaves())]
    for plain, with_gap in zip(*results, strict=True):
        torch.testing.assert_close(with_gap, plain)
