"""The Triton kernels of both map comparisons: in the interpreter on a CPU, or compiled on a GPU, against float64."""

import math
import os

import pytest
import torch
from torch import Tensor

from kdkernels import KernelArgumentError, attention_mse, relation_kl

pytest.importorskip("triton")
from kdkernels.attention_maps import kernel
from kdkernels.attention_maps.blocks import BLOCKS

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
pytestmark = [
    pytest.mark.interpret if INTERPRETED else pytest.mark.gpu,
    pytest.mark.skipif(
        not INTERPRETED and not torch.cuda.is_available(),
        reason="needs a GPU, or Triton's interpreter: set TRITON_INTERPRET=1",
    ),
]
# Of the gradient's norm: float32 products are exact to three TF32 terms, half-precision ones round a factor each.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def mask_named(name: str, batch: int, length: int) -> Tensor | None:
    if name == "none":
        return None
    if name == "holes":
        mask = torch.rand(batch, length) > 0.3
        mask[-1] = False
        return mask.to(DEVICE)
    if name == "pairs":
        mask = torch.rand(batch, length, length) > 0.5
        mask[0, 0] = False
        return mask.to(DEVICE)
    return torch.zeros(batch, length, dtype=torch.bool, device=DEVICE)


def vectors(*shape: int, dtype: torch.dtype) -> Tensor:
    return (torch.randn(*shape) * math.sqrt(3)).to(DEVICE, dtype)


def relative(got: Tensor, true: Tensor) -> float:
    got, true = got.detach().double(), true.detach().double()
    return float((got - true).norm() / (true.norm() or 1.0))


def both_losses(x: Tensor, teacher: Tensor, impl: str) -> Tensor:
    """Of vectors [1, S, d]: their maps with themselves turned, and their relations."""
    q, k = (side[:, None] for side in (x, x.flip(1)))
    q_t, k_t = (side[:, None] for side in (teacher, teacher.roll(1, 1)))
    maps = attention_mse(q, k, q_t, k_t, divisor=1.0, impl=impl)
    return maps.loss + relation_kl(x, teacher, 1, impl=impl).loss


@pytest.fixture
def one_block_where_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that hold the whole of short sequences: the interpreter's time goes by blocks, and others run several."""
    if INTERPRETED:
        monkeypatch.setattr(kernel, "blocks_for", lambda *_, **__: ((64, 64, 4, 2),) * 2)


@pytest.mark.usefixtures("one_block_where_interpreted")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("window", [None, 0, 12])
@pytest.mark.parametrize("mask_name", ["none", "holes", "pairs", "nothing"])
def test_attention_mse_equals_the_reference_in_float64(
    dtype: torch.dtype, window: int | None, mask_name: str
) -> None:
    shapes = [(2, 2, 37, 5), (2, 2, 37, 5), (2, 2, 37, 20), (2, 2, 37, 20)]
    inputs = [vectors(*shape, dtype=dtype) for shape in shapes]
    mask = mask_named(mask_name, 2, 37)
    exact = [x.double().requires_grad_() for x in inputs]
    true = attention_mse(*exact, mask, window=window, scale_s=0.5, impl="reference")
    (3 * true.loss).backward()

    q_s, k_s = (x.clone().requires_grad_() for x in inputs[:2])
    result = attention_mse(q_s, k_s, *inputs[2:], mask, window=window, scale_s=0.5, impl="triton")
    (3 * result.loss).backward()

    assert result.impl == "triton"
    assert int(result.counted) == int(true.counted)
    assert relative(result.loss, true.loss) < TOLERANCE[dtype] / 10
    assert relative(q_s.grad, exact[0].grad) < TOLERANCE[dtype]
    assert relative(k_s.grad, exact[1].grad) < TOLERANCE[dtype]


@pytest.mark.usefixtures("one_block_where_interpreted")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("mask_name", ["none", "holes", "pairs", "nothing"])
def test_relation_kl_equals_the_reference_in_float64(dtype: torch.dtype, mask_name: str) -> None:
    x_s, x_t = vectors(2, 35, 12, dtype=dtype), vectors(2, 35, 40, dtype=dtype)
    mask = mask_named(mask_name, 2, 35)
    exact = x_s.double().requires_grad_()
    true = relation_kl(exact, x_t.double(), 2, mask, impl="reference")
    true.loss.backward()

    x_s = x_s.clone().requires_grad_()
    result = relation_kl(x_s, x_t, 2, mask, impl="triton")
    result.loss.backward()

    assert int(result.counted) == int(true.counted)
    assert relative(result.loss, true.loss) < TOLERANCE[dtype] / 10
    assert relative(x_s.grad, exact.grad) < TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("dtype", "window", "mask_name"),
    [
        (torch.float32, None, "holes"),
        (torch.float32, 20, "pairs"),
        (torch.float16, None, "none"),
        (torch.bfloat16, 12, "none"),
    ],
    ids=str,
)
def test_several_blocks_of_rows_and_of_keys_in_every_dtype(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, window: int | None, mask_name: str
) -> None:
    """Three blocks of rows against three of keys; the maximum of a row is in the last one and large."""
    monkeypatch.setattr(kernel, "blocks_for", lambda *_, **__: ((16, 16, 4, 1),) * 2)
    inputs = [vectors(1, 1, 37, 8, dtype=dtype) for _ in range(4)]
    for k in inputs[1::2]:
        k[:, :, 33:] *= 3
    mask = mask_named(mask_name, 2, 37)
    mask = None if mask is None else mask[:1]
    exact = [x.double().requires_grad_() for x in inputs]
    true = attention_mse(*exact, mask, window=window, impl="reference")
    true.loss.backward()

    q_s, k_s = (x.clone().requires_grad_() for x in inputs[:2])
    result = attention_mse(q_s, k_s, *inputs[2:], mask, window=window, impl="triton")
    result.loss.backward()

    assert relative(result.loss, true.loss) < TOLERANCE[dtype]
    assert relative(q_s.grad, exact[0].grad) < TOLERANCE[dtype]
    assert relative(k_s.grad, exact[1].grad) < TOLERANCE[dtype]


@pytest.mark.parametrize("width", [16, 12], ids=["whole vectors", "padded vectors"])
def test_blocks_that_no_mask_and_no_end_of_the_sequence_cuts(
    monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """Three of rows, three of keys, loaded without bounds; the largest scores are in the last."""
    monkeypatch.setattr(kernel, "blocks_for", lambda *_, **__: ((16, 16, 4, 1),) * 2)
    x_s, x_t = (vectors(1, 48, width, dtype=torch.float32) for _ in range(2))
    for x in (x_s, x_t):
        x[:, -3:] *= 3
    exact = x_s.double().requires_grad_()
    x_s = x_s.requires_grad_()

    true, got = (
        both_losses(x, teacher, impl)
        for x, teacher, impl in ((exact, x_t.double(), "reference"), (x_s, x_t, "triton"))
    )
    true.backward()
    got.backward()

    assert relative(got, true) < TOLERANCE[torch.float32]
    assert relative(x_s.grad, exact.grad) < TOLERANCE[torch.float32]


def test_a_student_near_its_teacher_has_an_exact_loss_and_gradient() -> None:
    """The squares of two maps cancel to nine digits; their difference does not."""
    q, k = (vectors(1, 2, 40, 16, dtype=torch.float32) for _ in range(2))
    near = [q + 1e-4 * torch.randn_like(q), k + 1e-4 * torch.randn_like(k)]
    exact = [x.double().requires_grad_() for x in near]
    true = attention_mse(*exact, q.double(), k.double(), impl="reference").loss
    true.backward()
    q_s, k_s = (x.clone().requires_grad_() for x in near)
    loss = attention_mse(q_s, k_s, q, k, impl="triton").loss
    loss.backward()

    assert relative(loss, true) < 2e-2  # of D ~ 1e-4 A, A being right to 1e-6
    assert relative(q_s.grad, exact[0].grad) < 2e-2
    assert relative(k_s.grad, exact[1].grad) < 2e-2


@pytest.mark.parametrize("length", [70] if INTERPRETED else [150, 256])
@pytest.mark.parametrize(
    ("dtype", "width"),
    [(dtype, width) for dtype in TOLERANCE for width in BLOCKS[dtype]],
    ids=str,
)
def test_every_width_that_auto_accepts_with_the_tables_blocks(
    dtype: torch.dtype, width: int, length: int
) -> None:
    """Both comparisons, their gradients included; on a device a tile that does not fit fails at the launch."""
    x_s, x_t = (vectors(1, length, width, dtype=dtype) / width**0.25 for _ in range(2))
    exact = x_s.double().requires_grad_()
    x_s = x_s.requires_grad_()

    true, got = both_losses(exact, x_t.double(), "reference"), both_losses(x_s, x_t, "triton")
    true.backward()
    got.backward()

    assert relative(got, true) < TOLERANCE[dtype]
    assert relative(x_s.grad, exact.grad) < TOLERANCE[dtype]


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 3, 64, 16), (2, 1, 65, 3)], ids=str)
def test_odd_and_even_lengths(shape: tuple[int, ...]) -> None:
    inputs = [vectors(*shape, dtype=torch.float32) for _ in range(4)]
    got, true = (
        torch.autograd.grad(
            attention_mse(q.requires_grad_(), k.requires_grad_(), *inputs[2:], impl=impl).loss,
            (q, k),
        )
        for impl in ("triton", "reference")
        for q, k in [[x.clone() for x in inputs[:2]]]
    )

    for actual, expected in zip(got, true, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-7)


def test_strided_inputs_and_a_loss_without_gradient() -> None:
    inputs = [vectors(2, 20, 3, 8, dtype=torch.float32).transpose(1, 2) for _ in range(4)]
    loss = attention_mse(*inputs, impl="triton").loss

    torch.testing.assert_close(loss, attention_mse(*inputs, impl="reference").loss)


def test_padding_is_not_read_and_nan_elsewhere_reaches_the_loss() -> None:
    inputs = [vectors(1, 2, 20, 8, dtype=torch.float32) for _ in range(4)]
    mask = torch.arange(20, device=DEVICE)[None] < 13
    clean = attention_mse(*inputs, mask, impl="triton").loss
    for x in inputs:
        x[:, :, 13:] = math.nan
    q_s = inputs[0].requires_grad_()
    loss = attention_mse(q_s, *inputs[1:], mask, impl="triton").loss
    loss.backward()

    assert loss == clean
    assert not q_s.grad.isnan().any()
    with torch.no_grad():
        inputs[3][0, 0, 4, 0] = math.nan
    assert attention_mse(*inputs, mask, impl="triton").loss.isnan()


def test_same_inputs_same_bits() -> None:
    inputs = [vectors(2, 2, 40, 8, dtype=torch.bfloat16) for _ in range(4)]
    q_s = inputs[0].requires_grad_()
    first, second = (
        torch.autograd.grad(attention_mse(*inputs, impl="triton").loss, q_s)[0] for _ in range(2)
    )

    assert torch.equal(first, second)


def test_float64_is_refused_by_name() -> None:
    inputs = [vectors(1, 1, 4, 4, dtype=torch.float64) for _ in range(4)]

    with pytest.raises(KernelArgumentError, match="float64"):
        attention_mse(*inputs, impl="triton")
