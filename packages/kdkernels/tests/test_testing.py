"""The instruments themselves: a broken kernel must not pass them. And the examples of the docstrings run."""

import doctest
import importlib
import math

import pytest
import torch

from kdkernels.testing import (
    ODD_SHAPES,
    error_budget,
    make_distil_batch,
    nan_filled_empties,
    oracle_distil_loss,
    oracle_divergence,
    relative_error,
)


def test_memory_that_is_never_written_shows_and_only_inside() -> None:
    with nan_filled_empties():
        assert torch.empty(2, 3).isnan().all()
        assert torch.empty_like(torch.zeros(2)).isnan().all()
        assert torch.zeros(2).new_empty(3).isnan().all()
        assert torch.empty_strided((2, 2), (2, 1)).isnan().all()
        assert (torch.empty(2, dtype=torch.int64) == torch.iinfo(torch.int64).max).all()
        assert torch.empty(2, dtype=torch.bool).all()
    original = torch.empty
    with pytest.raises(RuntimeError, match="inside"), nan_filled_empties():
        raise RuntimeError("inside")
    assert torch.empty is original


def test_the_budget_is_measured_and_refuses_what_is_worse_than_plain() -> None:
    torch.manual_seed(0)
    truth = torch.randn(1000, dtype=torch.float64)
    plain = truth.bfloat16()
    budget = error_budget(plain, truth, dtype=torch.bfloat16)
    assert relative_error(plain, truth) < budget < 0.05
    assert relative_error(plain * 1.1, truth) > budget
    assert relative_error(torch.zeros(3), torch.zeros(3)) == 0.0


def test_the_oracle_is_cross_entropy_and_kl_div_where_those_are_defined() -> None:
    batch = make_distil_batch(ODD_SHAPES[3])
    log_q = torch.log_softmax(torch.nn.functional.linear(*batch.positional[:3]), dim=1)
    kept = batch.labels != -100
    _, hard, soft = oracle_distil_loss(*batch.positional[:4], *whole(batch.teacher), alpha=0.5)
    torch.testing.assert_close(hard, torch.nn.functional.nll_loss(log_q, batch.labels))
    expected = torch.nn.functional.kl_div(
        log_q[kept], batch.teacher[kept], reduction="batchmean", log_target=True
    )
    torch.testing.assert_close(soft, expected)


def whole(teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The teacher's full distribution as a list that leaves nothing out."""
    return torch.arange(teacher.shape[1]).expand_as(teacher), teacher


def test_divergences_have_their_known_values() -> None:
    t, q = torch.tensor([0.5, 0.5]), torch.tensor([0.9, 0.1])
    forward = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    reverse = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    m = (0.7, 0.3)
    jensen = 0.5 * sum(0.5 * math.log(0.5 / y) for y in m)
    jensen += 0.5 * (0.9 * math.log(0.9 / 0.7) + 0.1 * math.log(0.1 / 0.3))
    expected = {"forward_kl": forward, "reverse_kl": reverse, "jsd": jensen}
    for name, value in expected.items():
        assert float(oracle_divergence(t, q, divergence=name)) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(
    "module",
    [
        "testing",
        "modules",
        "kl.api",
        "topk_kl.api",
        "linear_kl.api",
        "linear_distil_loss.api",
        "linear_cross_entropy.api",
        "attention_mse.api",
        "relation_kl.api",
        "hf.loss",
        "hf.collators",
    ],
)
def test_examples_in_docstrings_run(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"kdkernels.{module}"))
    assert result.attempted > 0
    assert result.failed == 0
