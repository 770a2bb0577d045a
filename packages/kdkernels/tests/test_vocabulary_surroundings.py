"""The losses over a vocabulary inside what surrounds them: torch.compile, autocast, DDP, a Python without triton."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import kdkernels
from kdkernels import kl, linear_cross_entropy, linear_distil_loss, topk_kl
from kdkernels.testing import (
    DistilBatch,
    DistilShape,
    make_distil_batch,
    oracle_distil_loss,
    relative_error,
)

SHAPE = DistilShape(N=9, H=6, V=23, K=4)


def run_python(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )


def test_a_fresh_python_without_triton_imports_the_package_and_computes() -> None:
    done = run_python(
        "import sys\n"
        "sys.modules['triton'] = None\n"  # any import of it fails
        "import torch, kdkernels\n"
        "h, w = torch.randn(2, 3, requires_grad=True), torch.randn(5, 3)\n"
        "ids, y = torch.tensor([[1], [2]]), torch.tensor([1, 2])\n"
        "for impl in ('auto', 'torch', 'reference'):\n"
        "    r = kdkernels.linear_distil_loss(\n"
        "        h, w, None, y, ids, torch.full((2, 1), -1.0), alpha=0.5, impl=impl)\n"
        "    r.loss.backward()\n"
        "kdkernels.kl(torch.zeros(2, 3), torch.zeros(2, 3))\n"
        "assert 'torch._dynamo' not in sys.modules\n"  # the compiler is not imported along
    )
    assert done.returncode == 0, done.stderr


# After any graph break the compiler looks at the .grad of intermediate tensors, and warns itself about it.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("impl", ["torch", "reference"])
def test_a_compiled_training_step_gives_the_same_gradients(impl: str) -> None:
    batch = make_distil_batch(SHAPE, dtype=torch.float32)

    def step(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        rows = torch.nn.functional.gelu(hidden)
        distil = linear_distil_loss(
            rows, weight, bias, *batch.positional[3:], alpha=0.5, impl=impl
        ).loss
        logits = torch.nn.functional.linear(rows, weight, bias)
        return distil + topk_kl(logits, *batch.positional[4:], impl=impl).loss

    torch._dynamo.reset()
    compiled = torch.compile(step, backend="aot_eager")
    operands = batch.positional[:3]
    expected = torch.autograd.grad(step(*operands), operands)
    actual = torch.autograd.grad(compiled(*operands), operands)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("rows_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("impl", ["torch", "reference"])
def test_under_autocast_float32_operands_get_float32_gradients(
    impl: str, rows_dtype: torch.dtype
) -> None:
    batch = make_distil_batch(DistilShape(N=40, H=32, V=300, K=4), dtype=torch.float32)
    expected, _, _ = oracle_distil_loss(*batch.positional, alpha=0.5)
    truths = torch.autograd.grad(expected, batch.leaves())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rows = batch.hidden.to(rows_dtype)
        loss = linear_distil_loss(rows, *batch.positional[1:], alpha=0.5, impl=impl).loss
    gradients = torch.autograd.grad(loss, batch.leaves())
    assert loss.dtype == torch.float32
    for value, truth in zip(gradients, truths, strict=True):
        assert value.dtype == torch.float32
        error = relative_error(value, truth)
        assert error < 1e-2
        if impl == "torch":
            assert error > 1e-5  # the products were taken in bfloat16


def test_autocast_leaves_float64_alone() -> None:
    batch = make_distil_batch(SHAPE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = linear_distil_loss(*batch.positional, alpha=0.5, impl="torch").loss
    assert torch.equal(inside, linear_distil_loss(*batch.positional, alpha=0.5, impl="torch").loss)


@pytest.mark.parametrize("chunk_bytes", [2**30, 1])
def test_bfloat16_gradients_lie_within_one_percent_of_float64(chunk_bytes: int) -> None:
    """At logits of standard deviation 3, one chunk or a row each; the loss within a thousandth."""
    batch = make_distil_batch(
        DistilShape(N=96, H=64, V=3000, K=8), dtype=torch.bfloat16, std=3.0, bias=False
    )
    leaves = [leaf.detach().double().requires_grad_() for leaf in batch.leaves()]
    truth, _, _ = oracle_distil_loss(*leaves, None, *batch.positional[3:], alpha=0.5)
    loss = linear_distil_loss(
        *batch.positional, alpha=0.5, impl="torch", chunk_bytes=chunk_bytes
    ).loss
    assert abs(float(loss.detach()) / float(truth.detach()) - 1) < 1e-3
    for value, expected in zip(
        torch.autograd.grad(loss, batch.leaves()), torch.autograd.grad(truth, leaves), strict=True
    ):
        assert value.dtype == torch.bfloat16
        assert relative_error(value, expected) < 1e-2


def test_many_chunks_sum_the_weight_gradient_in_float32() -> None:
    """512 rows that all pull at the same 32 columns: a bfloat16 sum would stop moving."""
    batch = make_distil_batch(DistilShape(N=512, H=16, V=32, K=4), dtype=torch.bfloat16, bias=False)
    leaves = [leaf.detach().double().requires_grad_() for leaf in batch.leaves()]
    truth = linear_distil_loss(
        *leaves, None, *batch.positional[3:], alpha=0.5, impl="reference"
    ).loss
    (expected,) = torch.autograd.grad(truth, leaves[1])
    errors = []
    for chunk_bytes in (2**30, 1):
        loss = linear_distil_loss(*batch.positional, alpha=0.5, chunk_bytes=chunk_bytes).loss
        (by_weight,) = torch.autograd.grad(loss, batch.weight)
        errors.append(relative_error(by_weight, expected))
    assert errors[1] < 1.5 * errors[0] < 0.02


def test_rows_lie_beyond_two_to_the_31st_element() -> None:
    """Two rows with a huge stride: the memory between them is never touched, so it costs nothing."""
    stride = 2**31 + 64
    logits = torch.empty(stride + 64, dtype=torch.bfloat16).as_strided((2, 50), (stride, 1))
    torch.manual_seed(0)
    logits.copy_(torch.randn(2, 50))
    logprobs, ids = torch.log_softmax(torch.randn(2, 50), 1).topk(3)
    close = logits.contiguous()
    for impl in ("reference", "torch"):
        far = topk_kl(logits, ids, logprobs, impl=impl).loss
        torch.testing.assert_close(far, topk_kl(close, ids, logprobs, impl=impl).loss)
        far = kl(logits, close.roll(1, 0), impl=impl).loss
        torch.testing.assert_close(far, kl(close, close.roll(1, 0), impl=impl).loss)


MODULES = {
    "LinearDistilLoss": (
        {"alpha": 0.5, "divergence": "jsd", "beta": 0.2, "temperature": 2.0, "tail": "renormalise"},
        lambda batch, **options: linear_distil_loss(*batch.positional, **options),
        lambda module, batch: module(*batch.positional),
    ),
    "LinearCrossEntropy": (
        {"ignore_index": 3},
        lambda batch, **options: linear_cross_entropy(
            *batch.positional[:3], batch.labels.abs() % 23, **options
        ),
        lambda module, batch: module(*batch.positional[:3], batch.labels.abs() % 23),
    ),
    "TopkKl": (
        {"divergence": "jsd", "beta": 0.2, "temperature": 2.0, "tail": "renormalise"},
        lambda batch, **options: topk_kl(
            batch.teacher.roll(1, 0), *batch.positional[4:], **options
        ),
        lambda module, batch: module(batch.teacher.roll(1, 0), *batch.positional[4:]),
    ),
    "Kl": (
        {"divergence": "jsd", "beta": 0.2, "temperature": 2.0},
        lambda batch, **options: kl(batch.teacher.roll(1, 0), batch.teacher, **options),
        lambda module, batch: module(batch.teacher.roll(1, 0), batch.teacher),
    ),
}


@pytest.mark.parametrize("name", list(MODULES))
def test_a_module_is_its_function_with_the_options_set(name: str) -> None:
    options, function, forward = MODULES[name]
    batch: DistilBatch = make_distil_batch(SHAPE)
    module = getattr(kdkernels, name)(**options, impl="reference")
    actual, expected = forward(module, batch), function(batch, **options, impl="reference")
    assert torch.equal(actual.loss, expected.loss)
    assert actual.impl == "reference"
    assert list(module.parameters()) == []


def test_alpha_of_one_call_overrides_the_modules() -> None:
    batch = make_distil_batch(SHAPE)
    module = kdkernels.LinearDistilLoss(alpha=0.5)
    result = module(*batch.positional, alpha=1.0)
    torch.testing.assert_close(result.loss.detach(), result.soft)


DDP_PROGRAM = """
import sys, torch, torch.distributed as dist, kdkernels
from kdkernels.testing import DistilShape, make_distil_batch

rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
batch = make_distil_batch(DistilShape(N=10, H=6, V=23, K=4), dtype=torch.float32)

class Student(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.body, self.head = torch.nn.Linear(6, 6), torch.nn.Linear(6, 23)

    def forward(self, rows, divisor):
        return kdkernels.linear_distil_loss(
            self.body(batch.hidden[rows].detach()), self.head.weight, self.head.bias, batch.labels[rows],
            batch.ids[rows], batch.logprobs[rows], alpha=0.5, divisor=divisor).loss

alone, student = Student(), Student()
counted = int((batch.labels != -100).sum())
alone(slice(0, 10), counted).backward()
parallel = torch.nn.parallel.DistributedDataParallel(student)
# DDP averages over two processes: the divisor is the global count over the number of processes
parallel(slice(0, 3) if rank == 0 else slice(3, 10), counted / 2).backward()
for (name, p), q in zip(alone.named_parameters(), student.parameters()):
    torch.testing.assert_close(q.grad, p.grad, msg=name)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_give_the_gradients_of_one(tmp_path: Path) -> None:
    program, store = tmp_path / "program.py", tmp_path / "store"
    program.write_text(DDP_PROGRAM)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, str(program), str(rank), str(store)],
            stderr=subprocess.PIPE, text=True, env=environment,
        )
        for rank in range(2)
    ]  # fmt: skip
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
