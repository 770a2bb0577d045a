"""`linear_kl` with its Triton row kernel: in the interpreter on a CPU, or compiled on a GPU, against float64."""

import math
import os

import pytest
import torch
from torch import Tensor

from kdkernels import kl, linear_kl, tuning

pytest.importorskip("triton")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
pytestmark = [
    pytest.mark.interpret if INTERPRETED else pytest.mark.gpu,
    pytest.mark.skipif(
        not INTERPRETED and not torch.cuda.is_available(),
        reason="needs a GPU, or Triton's interpreter: set TRITON_INTERPRET=1",
    ),
    # The interpreter's numpy remarks on lanes beyond the row, -inf - (-inf), which the kernel then leaves out.
    pytest.mark.filterwarnings("ignore:(invalid value|divide by zero) encountered:RuntimeWarning"),
]
# Of the gradient's norm; a GPU may take float32 products in TF32 only where the caller has allowed it.
TOLERANCE = {torch.float32: 5e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole block and a part of another for 37 columns."""
    table = {
        "divergences": {"default": {"BLOCK_V": 32, "STAGES": 1, "num_warps": 4}},
        "projection": {"default": {"ROWS": 16, "COLUMNS": 32, "WIDTH": 16, "num_warps": 4}},
    }
    monkeypatch.setattr(tuning, "_table", lambda: table)


def operands(dtype: torch.dtype, V_s: int = 37, V_t: int = 37) -> list[Tensor]:
    shapes = [(5, 6), (V_s, 6), (V_s,), (5, 9), (V_t, 9), (V_t,)]
    return [torch.randn(*shape).to(DEVICE, dtype) for shape in shapes]


def step(tensors: list[Tensor], impl: str, **options: object) -> list[Tensor]:
    student = [x.detach().clone().requires_grad_() for x in tensors[:3]]
    result = linear_kl(*student, *tensors[3:], impl=impl, **options)
    assert result.impl == impl
    return [result.loss, *torch.autograd.grad(3 * result.loss, student)]


def relative(got: Tensor, true: Tensor) -> float:
    got, true = got.detach().double(), true.detach().double()
    return float((got - true).norm() / (true.norm() or 1.0))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
@pytest.mark.parametrize(
    ("dtype", "T"),
    [
        (torch.float32, 1.0),
        (torch.float32, 2.0),
        (torch.float16, 2.0),
        (torch.bfloat16, 1.0),
    ],
)
def test_loss_and_gradients_equal_the_reference_in_float64(
    dtype: torch.dtype, divergence: str, T: float
) -> None:
    tensors = operands(dtype)
    options = {"divergence": divergence, "temperature": T, "beta": 0.3, "chunk_bytes": 300}
    got = step(tensors, "triton", **options)
    true = step([x.double() for x in tensors], "reference", **options)

    assert all(relative(a, b) < TOLERANCE[dtype] for a, b in zip(got, true, strict=True))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_a_vocabulary_of_many_blocks_with_a_size_that_no_vector_divides(dtype: torch.dtype) -> None:
    tensors = operands(dtype, V_s=20_011, V_t=20_013)
    options = {"temperature": 2.0, "divergence": "jsd", "vocab_size": 20_011}
    got = step(tensors, "triton", **options)
    true = step([x.double() for x in tensors], "reference", **options)

    assert all(relative(a, b) < TOLERANCE[dtype] for a, b in zip(got, true, strict=True))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("divergence", ["forward_kl", "jsd"])
def test_mapped_and_padded_columns(divergence: str) -> None:
    tensors = operands(torch.float32, V_s=21, V_t=33)
    column_map = torch.randperm(30)[:18].to(DEVICE)
    column_map[3] = -1
    options = {
        "divergence": divergence,
        "vocab_size": 18,
        "teacher_vocab_size": 30,
        "column_map": column_map,
    }
    got = step(tensors, "triton", **options)
    true = step([x.double() for x in tensors], "reference", **options)

    assert all(relative(a, b) < 5e-6 for a, b in zip(got, true, strict=True))
    assert not got[2][18:].any()


def test_rows_outside_the_mask_take_no_part_and_nan_inside_propagates() -> None:
    tensors = operands(torch.float32)
    mask = torch.tensor([True, False, True, True, False], device=DEVICE)
    tensors[0][1], tensors[3][4] = math.nan, math.nan
    got = step(tensors, "triton", mask=mask)

    assert not any(x.isnan().any() for x in got)
    assert step(tensors, "triton")[0].isnan()
    assert not any(x.any() for x in step(tensors, "triton", mask=torch.zeros_like(mask)))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_a_sure_student_near_a_sure_teacher_is_measured_no_worse_than_by_rounded_logits(
    divergence: str,
) -> None:
    """Of words beyond those that a row is measured by; what plain logits in bfloat16 leave of the gradient is the budget."""
    torch.manual_seed(0)
    words = torch.randn(310, 64)
    sure = 16 * torch.nn.functional.normalize(words[300:305]) / words[300:305].norm(dim=1)[:, None]
    tensors = [
        x.to(DEVICE, torch.bfloat16)
        for x in (sure + 0.2 * torch.randn(5, 64), words, torch.zeros(310), sure, words, torch.zeros(310))
    ]  # fmt: skip
    options = {"divergence": divergence}
    true = step([x.double() for x in tensors], "reference", **options)
    student, teacher = (
        (hidden @ weight.t()).float() for hidden, weight in (tensors[0:2], tensors[3:5])
    )
    plain = student.requires_grad_()
    loss = kl(plain, teacher, impl="reference", **options).loss
    (by_logits,) = torch.autograd.grad(3 * loss, plain)
    budget = relative(by_logits @ tensors[1].float(), true[1])

    got = step(tensors, "triton", **options)

    assert relative(got[1], true[1]) < budget
    assert relative(got[0], true[0]) < relative(loss, true[0])


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("word", [300, 5])
def test_a_word_far_likelier_than_those_that_a_row_is_measured_by(word: int) -> None:
    """The base of a row's logits is the largest of the first columns; a word beyond them, or a barred one among them."""
    tensors = operands(torch.bfloat16, V_s=310, V_t=310)
    for bias, place in ((tensors[2], word), (tensors[5], word + (word == 300))):
        bias[place] = 200.0 if word == 300 else -math.inf
    got = step(tensors, "triton")
    true = step([x.double() for x in tensors], "reference")

    assert all(relative(a, b) < TOLERANCE[torch.bfloat16] for a, b in zip(got, true, strict=True))
