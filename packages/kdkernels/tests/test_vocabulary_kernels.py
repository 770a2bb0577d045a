"""The Triton kernels over a vocabulary: in the interpreter on a CPU, or compiled on a GPU, against the oracle."""

import math
import os

import pytest
import torch

from kdkernels import kl, linear_cross_entropy, linear_distil_loss, topk_kl, tuning
from kdkernels.loss_options import LossOptions
from kdkernels.targets import prepare_targets
from kdkernels.testing import (
    MEANINGS,
    ODD_SHAPES,
    DistilShape,
    make_distil_batch,
    nan_filled_empties,
    oracle_distil_loss,
    relative_error,
)
from kdkernels.topk_kl import chunked

pytest.importorskip("triton")

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
pytestmark = [
    pytest.mark.gpu if GPU else pytest.mark.interpret,
    pytest.mark.skipif(
        not GPU and os.environ.get("TRITON_INTERPRET") != "1",
        reason="needs a GPU, or Triton's interpreter: set TRITON_INTERPRET=1",
    ),
    # The interpreter computes with numpy, which warns where the kernels compute with infinities on purpose.
    pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning"),
]
SHAPE = DistilShape(N=7, H=6, V=1031, K=5)
# Of the gradient's norm; half-precision logits round once, and their gradient once more.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 2e-2}


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks for the rows below, the last of them not full, as the table's have for a real vocabulary."""
    table = {
        "row_losses": {"default": {"BLOCK_V": 512, "STAGES": 1, "num_warps": 4}},
        "divergences": {"default": {"BLOCK_V": 256, "STAGES": 1, "num_warps": 4}},
        "projection": {"default": {"ROWS": 16, "COLUMNS": 128, "WIDTH": 16, "num_warps": 4}},
    }
    monkeypatch.setattr(tuning, "_table", lambda: table)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(("divergence", "tail"), MEANINGS)
@pytest.mark.parametrize(("temperature", "alpha"), [(1.0, 0.0), (1.0, 0.3), (2.0, 0.3), (2.0, 1.0)])
def test_value_parts_and_gradients_are_the_oracles(
    divergence: str, tail: str, temperature: float, alpha: float
) -> None:
    batch = make_distil_batch(SHAPE, dtype=torch.float32, device=DEVICE)
    options = {
        "alpha": alpha,
        "temperature": temperature,
        "tail": tail,
        "divergence": divergence,
        "beta": 0.3,
        "log_partition": batch.partition(temperature),
        "row_weight": torch.linspace(0.5, 2.0, SHAPE.N, device=DEVICE),
    }
    expected = oracle_distil_loss(*batch.positional, **options)
    with nan_filled_empties():
        actual = linear_distil_loss(
            *batch.positional, **options, impl="triton", chunk_bytes=4 * SHAPE.V * 4
        )
        grads = torch.autograd.grad(1.5 * actual.loss, batch.leaves())
    assert actual.impl == "triton"
    for value, truth in zip(actual[:3], expected, strict=True):
        torch.testing.assert_close(value.double(), truth, rtol=2e-6, atol=1e-6)
    truths = torch.autograd.grad(1.5 * expected[0], batch.leaves())
    for value, truth in zip(grads, truths, strict=True):
        assert relative_error(value, truth) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("shape", ODD_SHAPES)
@pytest.mark.parametrize(
    ("dtype", "bias"), [(torch.float32, False), *((dtype, True) for dtype in TOLERANCE)]
)
def test_kernel_and_lean_torch_agree_on_odd_shapes(
    shape: DistilShape, dtype: torch.dtype, bias: bool
) -> None:
    batch = make_distil_batch(shape, dtype=dtype, bias=bias, device=DEVICE)
    results = []
    for impl in ("torch", "triton"):
        with nan_filled_empties():
            loss = linear_distil_loss(*batch.positional, alpha=0.5, impl=impl).loss
            results.append((loss, *torch.autograd.grad(loss, batch.leaves())))
    for by_torch, by_triton in zip(*results, strict=True):
        error = relative_error(by_triton, by_torch)
        assert error < TOLERANCE[dtype] or (by_triton - by_torch).abs().max() < 1e-6


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize(("temperature", "overwrite"), [(1.0, False), (2.0, True)])
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_losses_of_given_logits_agree_with_the_reference(
    dtype: torch.dtype, temperature: float, divergence: str, overwrite: bool
) -> None:
    torch.manual_seed(0)
    student = (2 * torch.randn(4, 300, device=DEVICE)).to(dtype).requires_grad_()
    teacher = torch.randn(4, 300, device=DEVICE).to(dtype)
    logprobs, ids = torch.log_softmax(teacher.float(), 1).topk(3)
    ids[0, 1] = -1
    mask = torch.tensor([True, True, False, True], device=DEVICE)
    partition = (torch.log_softmax(teacher.float(), 1) / temperature).logsumexp(1)
    options = {"temperature": temperature, "divergence": divergence, "mask": mask, "beta": 0.3}
    for dense in (True, False):
        results = []
        for impl in ("reference", "triton"):
            settings = options | {
                "overwrite_logits": overwrite and impl == "triton",
                "impl": impl,
            }
            logits = student * 1
            loss = (
                kl(logits, teacher, **settings)
                if dense
                else topk_kl(logits, ids, logprobs, log_partition=partition, **settings)
            ).loss
            results.append((loss.detach(), *torch.autograd.grad(loss, student)))
        (expected, by_reference), (actual, by_triton) = results
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
        assert relative_error(by_triton, by_reference) < TOLERANCE[dtype]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("shape", ["rising", "falling", "peak in the middle", "peak at the end"])
def test_sums_are_rescaled_when_a_later_block_has_a_larger_maximum(
    shape: str, temperature: float
) -> None:
    """Differences of hundreds: a sum kept relative to an earlier block's maximum overflows, or drowns the later one."""
    V = 1031
    rising = torch.linspace(-300, 300, V, dtype=torch.float64)
    logits = {"rising": rising, "falling": rising.flip(0)}.get(shape, torch.zeros(V).double())
    if shape.startswith("peak"):
        logits[600 if "middle" in shape else V - 2] = 400.0
    logits = (logits + torch.linspace(0, 1, V).sin()).to(DEVICE)[None]
    teacher = logits.roll(1, 1) / 4
    logprobs, ids = torch.log_softmax(teacher, 1).topk(3)
    partition = (torch.log_softmax(teacher, 1) / temperature).logsumexp(1)
    for operation, of_teacher in (
        (kl, {"teacher": teacher}),
        (topk_kl, {"topk_ids": ids, "topk_logprobs": logprobs, "log_partition": partition}),
    ):
        results = []
        for impl, dtype in (("reference", torch.float64), ("triton", torch.float32)):
            leaf = logits.to(dtype).requires_grad_()
            if operation is kl:
                of_teacher = {"teacher": teacher.to(dtype)}
            loss = operation(leaf, **of_teacher, temperature=temperature, impl=impl).loss
            results.append((loss.detach(), *torch.autograd.grad(loss, leaf)))
        (expected, by_reference), (actual, by_triton) = results
        torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)
        assert relative_error(by_triton, by_reference) < 1e-4


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("logit", [150.0, -math.inf])
def test_a_word_far_likelier_than_label_and_ids_or_a_barred_label(
    logit: float, alpha: float
) -> None:
    """The base of a row's exponentials is the largest logit of label and ids, which may be far from the row's."""
    batch = make_distil_batch(SHAPE, dtype=torch.bfloat16, device=DEVICE)
    hidden, weight, bias, labels, ids, logprobs = batch.positional
    bias = bias.detach().clone()
    word = 700 if logit > 0 else int(labels[0])
    labels[labels == word], ids[ids == word] = (1, -1) if logit > 0 else (word, -1)
    bias[word] = logit
    if logit < 0:  # the loss of a barred label is infinite; its gradient is that of the others
        labels[1:] = 1 if word != 1 else 2
    leaves = [hidden, weight, bias.requires_grad_()]
    results = []
    for impl in ("reference", "triton"):
        wide = (
            leaves
            if impl == "triton"
            else [leaf.detach().double().requires_grad_() for leaf in leaves]
        )
        result = linear_distil_loss(*wide, labels, ids, logprobs, alpha=alpha, impl=impl)
        results.append([result.loss, *torch.autograd.grad(result.soft * 0 + result.loss, wide)])
    for by_reference, by_triton in zip(*results, strict=True):
        if not by_reference.isfinite().all():
            assert torch.equal(by_reference.isfinite(), by_triton.double().isfinite())
            continue
        assert relative_error(by_triton, by_reference) < TOLERANCE[torch.bfloat16]


def test_given_logits_keep_their_values_without_gradient() -> None:
    logits = torch.randn(3, 40, device=DEVICE)
    before = logits.clone()
    logprobs, ids = torch.log_softmax(torch.randn(3, 40, device=DEVICE), 1).topk(3)
    loss = topk_kl(logits, ids, logprobs, impl="triton").loss
    torch.testing.assert_close(loss, topk_kl(logits, ids, logprobs, impl="torch").loss)
    assert torch.equal(logits, before)


def test_a_backward_pass_that_needs_overwritten_logits_raises() -> None:
    """As after any operation in place, though autograd sees no write of a kernel; exp keeps its result."""
    leaf = torch.randn(3, 40, device=DEVICE).requires_grad_()
    logprobs, ids = torch.log_softmax(torch.randn(3, 40, device=DEVICE), 1).topk(3)
    for loss_of in (
        lambda logits: kl(logits, torch.zeros_like(leaf), overwrite_logits=True, impl="triton"),
        lambda logits: topk_kl(logits, ids, logprobs, overwrite_logits=True, impl="triton"),
    ):
        loss = loss_of(leaf.exp()).loss
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_over_no_rows_loss_and_gradient_are_exactly_zero() -> None:
    batch = make_distil_batch(SHAPE, dtype=torch.float32, device=DEVICE)
    labels = torch.full_like(batch.labels, -100)
    result = linear_distil_loss(
        *batch.positional[:3], labels, *batch.positional[4:], alpha=0.5, impl="triton"
    )
    assert float(result.loss.detach()) == 0.0
    for gradient in torch.autograd.grad(result.loss, batch.leaves()):
        assert not gradient.any()


def test_a_perfect_student_scores_zero() -> None:
    torch.manual_seed(0)
    logits = (4 * torch.randn(6, 50, device=DEVICE)).requires_grad_()
    logprobs, ids = torch.log_softmax(logits.detach().double(), 1).topk(5)
    for divergence in ("forward_kl", "reverse_kl", "jsd"):
        loss = topk_kl(logits, ids, logprobs, divergence=divergence, impl="triton").loss
        (by_logits,) = torch.autograd.grad(loss, logits)
        assert abs(float(loss.detach())) < 2e-6
        assert float(by_logits.abs().max()) < 2e-6


def test_nan_and_infinite_logits_propagate_as_documented() -> None:
    ids, logprobs = torch.tensor([[0]], device=DEVICE), torch.tensor([[0.5]], device=DEVICE).log()
    for place in (0, 2):
        logits = torch.zeros(1, 4, device=DEVICE)
        logits[0, place] = math.nan
        assert topk_kl(logits, ids, logprobs, impl="triton").loss.isnan()
        assert kl(logits, torch.zeros(1, 4, device=DEVICE), impl="triton").loss.isnan()
    barred = torch.tensor([[0.0, 1.0, -math.inf, -math.inf]], device=DEVICE)
    torch.testing.assert_close(
        topk_kl(barred, ids, logprobs, impl="triton").loss,
        topk_kl(barred[:, :2], ids, logprobs, impl="triton").loss,
    )
    assert float(topk_kl(barred.flip(1), ids, logprobs, impl="triton").loss) == math.inf


def test_cross_entropy_is_torchs() -> None:
    batch = make_distil_batch(SHAPE, dtype=torch.float32, device=DEVICE)
    expected = torch.nn.functional.cross_entropy(
        torch.nn.functional.linear(*batch.positional[:3]), batch.labels
    )
    actual = linear_cross_entropy(*batch.positional[:4], impl="triton").loss
    torch.testing.assert_close(actual, expected)
    for a, b in zip(
        torch.autograd.grad(actual, batch.leaves()),
        torch.autograd.grad(expected, batch.leaves()),
        strict=True,
    ):
        assert relative_error(a, b) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_layout_of_the_operands_does_not_matter(dtype: torch.dtype) -> None:
    """All rows count, so that nothing is copied on the way to the kernels."""
    batch = make_distil_batch(SHAPE, dtype=dtype, device=DEVICE)
    operands = [*batch.positional]
    operands[3] = operands[3].clamp(min=0)

    def loss_and_gradients(operands: list[torch.Tensor]) -> list[torch.Tensor]:
        loss = linear_distil_loss(*operands, alpha=0.5, impl="triton").loss
        return [loss.detach(), *torch.autograd.grad(loss, operands[:3])]

    expected = loss_and_gradients(operands)
    for place, operand in enumerate(operands):
        with_gaps = torch.stack([operand.detach(), operand.detach().flip(0)], dim=-1)[..., 0]
        changed = [*operands]
        changed[place] = with_gaps.requires_grad_(operand.requires_grad)
        for value, truth in zip(loss_and_gradients(changed), expected, strict=True):
            torch.testing.assert_close(value, truth)


def test_rows_lie_beyond_two_to_the_31st_element() -> None:
    """Rows with a huge stride that itself fits 32 bits: the memory between them is never touched, and costs nothing."""
    from kdkernels.topk_kl import kernel

    stride = 2**30 + 64
    storage = torch.empty(2 * stride + 64, dtype=torch.bfloat16, device=DEVICE)
    logits = storage.as_strided((3, 50), (stride, 1))
    torch.manual_seed(0)
    logits.copy_(torch.randn(3, 50))
    close = logits.contiguous()
    logprobs, ids = torch.log_softmax(torch.randn(3, 50, device=DEVICE), 1).topk(3)
    teacher = torch.randn(3, 50, device=DEVICE)
    torch.testing.assert_close(
        kl(logits, teacher, impl="triton").loss, kl(close, teacher, impl="reference").loss
    )
    targets = prepare_targets(
        ids, logprobs, temperature=1.0, tail="bucket", divergence="forward_kl", log_partition=None,
        dtype=torch.float32, duplicates=False, columns=50,
    )  # fmt: skip
    options = {
        "labels": None,
        "targets": targets,
        "row_scale": torch.ones(3, device=DEVICE),
        "options": LossOptions(alpha=1.0),
    }
    expected = torch.empty_like(close)
    chunked.row_losses(close, **options, gradient=expected)
    kernel.row_losses(logits, **options, gradient=logits)
    assert relative_error(logits, expected) < TOLERANCE[torch.bfloat16]
