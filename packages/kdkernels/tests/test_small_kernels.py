"""The kernels beside the products, in the interpreter on a CPU or compiled on a GPU: targets, looks, sums, scaling."""

import itertools
import math
import os

import pytest
import torch

from kdkernels import linear_cross_entropy, reduction, targets
from kdkernels.testing import relative_error

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


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl"])
@pytest.mark.parametrize("tail", ["bucket", "renormalise", "drop"])
def test_targets_of_one_launch_are_those_of_plain_torch(tail: str, divergence: str) -> None:
    from kdkernels import targets_kernel

    torch.manual_seed(0)
    for K, twice, T in itertools.product((1, 5), (False, True), (1.0, 2.0)):
        ids = torch.stack([torch.randperm(6)[:K] for _ in range(5)]).to(DEVICE)
        ids[1, -1] = ids[1, 0]
        ids[2], ids[0, K // 2] = -1, -1
        ids[3] = torch.arange(K)
        logprobs = torch.log_softmax(torch.randn(5, K + 1, device=DEVICE), 1)[:, :K]
        partition = 0.1 * torch.rand(5, device=DEVICE)
        partition[2] = -math.inf  # of no ids
        options = {
            "temperature": T,
            "tail": tail,
            "divergence": divergence,
            "log_partition": partition if T != 1 else None,
            "duplicates": twice,
            "columns": 5,
        }
        made = targets_kernel.prepare_targets(ids, logprobs, **options)
        expected = targets.prepare_targets(ids, logprobs, **options, dtype=torch.float32)
        for tensor, truth in zip(made, expected, strict=True):
            torch.testing.assert_close(tensor, truth, rtol=1e-6, atol=1e-6)
        assert made.log_mass[2].isneginf().all()


@pytest.mark.parametrize(
    ("labels", "ids", "seen"),
    [
        ([1, 2], [[1, 2], [3, -1]], (True, True, False)),
        ([1, -100], [[1, 2], [3, 3]], (False, True, True)),
        ([1, 4], [[1, 2], [3, -1]], (True, False, False)),
        ([1, 2], [[1, 2], [4, -1]], (True, False, False)),
        ([1, 2], [[1, -2], [3, -1]], (True, False, False)),
        ([3, 0], None, (True, True, False)),
    ],
)
def test_a_look_finds_what_must_not_be_and_what_does_not_count(
    labels: list[int], ids: list[list[int]] | None, seen: tuple[bool, ...]
) -> None:
    from kdkernels.targets_kernel import look

    of_ids = None if ids is None else torch.tensor(ids, device=DEVICE)
    assert look(torch.tensor(labels, device=DEVICE), of_ids, ignore_index=-100, V=4) == seen


@pytest.mark.parametrize("weighted", [True, False])
def test_column_sums_are_added_to_what_is_there(weighted: bool) -> None:
    from kdkernels.column_sums_kernel import add_column_sums

    plane = torch.randn(70, 320, device=DEVICE).to(torch.float16)
    factor = torch.randn(70, device=DEVICE) if weighted else None
    total = torch.ones(300, device=DEVICE)
    expected = 1 + (plane.double() * (1 if factor is None else factor[:, None])).sum(0)[:300]
    add_column_sums(total, plane, factor)
    assert relative_error(total, expected) < 1e-6


@pytest.mark.parametrize("factor", [1.0, 0.0, 2.0**-3, float("inf")])
def test_a_gradient_is_multiplied_where_it_lies(factor: float) -> None:
    from kdkernels.scaling_kernel import multiply_in_place

    gradient = torch.randn(3, 30_000, device=DEVICE).to(torch.bfloat16)
    expected = gradient * factor
    assert multiply_in_place(gradient, torch.tensor(factor, device=DEVICE)) is gradient
    assert torch.equal(gradient, expected)


def test_a_gradient_that_a_later_pass_needs_is_not_overwritten() -> None:
    """What `scaled` asks before it multiplies in place, and what comes of it on a GPU."""
    kept = []

    class Identity(torch.autograd.Function):
        @staticmethod
        def forward(_ctx: object, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(_ctx: object, gradient: torch.Tensor) -> torch.Tensor:
            kept.append(reduction._is_kept())
            return gradient

    hidden, weight = torch.randn(2, 3, 4, device=DEVICE).unbind()
    weight.requires_grad_()
    labels = torch.tensor([0, 1, 2], device=DEVICE)
    loss = Identity.apply(linear_cross_entropy(hidden, weight, None, labels).loss)
    (first,) = torch.autograd.grad(2 * loss, weight, retain_graph=True)
    (second,) = torch.autograd.grad(3 * loss, weight)
    assert kept == [True, False]
    torch.testing.assert_close(first * 1.5, second)
