import pytest
import torch

from teacherzoo.encoders import predictions
from teacherzoo.encoders.predictions import Predictions, predict


def by_the_book(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    wanted: torch.Tensor,
    k: int,
    temperatures: list[float],
) -> Predictions:
    """In float64, with all logits at once."""
    logits = hidden.double() @ weight.double().T + (0 if bias is None else bias.double())
    logprobs = logits.log_softmax(dim=1)
    order = sorted_by_value_then_id(logprobs)[:, :k].sort(dim=1).values
    partition = [torch.logsumexp(logprobs / t, dim=1) for t in temperatures]
    return Predictions(
        order,
        logprobs.gather(1, order),
        torch.stack(partition, dim=1) if temperatures else logprobs[:, :0],
        logprobs.gather(1, wanted),
    )


def sorted_by_value_then_id(values: torch.Tensor) -> torch.Tensor:
    return values.sort(dim=1, descending=True, stable=True).indices


def problem(
    rows: int, size: int, width: int = 12
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows * size)
    hidden = torch.randn(rows, width, generator=generator)
    weight = torch.randn(size, width, generator=generator)
    bias = torch.randn(size, generator=generator)
    wanted = torch.randint(0, size, (rows, 3), generator=generator)
    return hidden, weight, bias, wanted


@pytest.mark.parametrize("temperatures", [[], [2.0], [2.0, 4.0], [1.5, 3.0], [0.5, 1.0, 8.0]])
@pytest.mark.parametrize(
    ("rows", "size", "k"), [(1, 7, 7), (5, 1000, 8), (300, 777, 3), (17, 4099, 32)]
)
def test_one_pass_over_chunks_equals_all_logits_in_float64(
    monkeypatch: pytest.MonkeyPatch, temperatures: list[float], rows: int, size: int, k: int
) -> None:
    monkeypatch.setattr(predictions, "_CHUNK_BYTES", 4 * rows * 100)
    hidden, weight, bias, wanted = problem(rows, size)

    found = predict(hidden, weight, bias, wanted, k=k, temperatures=temperatures)

    exact = by_the_book(hidden, weight, bias, wanted, k, temperatures)
    assert torch.equal(found.ids, exact.ids)
    for name in ("logprobs", "log_partition", "wanted_logprobs"):
        torch.testing.assert_close(
            getattr(found, name).double(), getattr(exact, name), rtol=1e-5, atol=2e-5
        )


def test_a_head_without_bias_is_one_with_bias_zero() -> None:
    hidden, weight, bias, wanted = problem(4, 50)

    none = predict(hidden, weight, None, wanted, k=5, temperatures=[2.0])
    zero = predict(hidden, weight, torch.zeros_like(bias), wanted, k=5, temperatures=[2.0])

    torch.testing.assert_close(none.logprobs, zero.logprobs)
    assert torch.equal(none.ids, zero.ids)


@pytest.mark.parametrize("width", [5, 17, 100, 2000])
@pytest.mark.parametrize("levels", [1, 3, 40])
def test_ties_go_to_the_smaller_id_within_chunks_and_across(
    monkeypatch: pytest.MonkeyPatch, width: int, levels: int
) -> None:
    rows, size, k = 6, 2000, 5
    monkeypatch.setattr(predictions, "_CHUNK_BYTES", 4 * rows * width)
    generator = torch.Generator().manual_seed(levels)
    # Whole numbers, whose products are exact: many logits are equal.
    weight = torch.randint(0, levels, (size, 3), generator=generator).float()
    hidden = torch.randint(1, 3, (rows, 3), generator=generator).float()

    found = predict(
        hidden, weight, None, torch.zeros(rows, 1, dtype=torch.int64), k=k, temperatures=[]
    )

    expected = sorted_by_value_then_id(hidden @ weight.T)[:, :k].sort(dim=1).values
    assert torch.equal(found.ids, expected)


def test_logits_of_any_height_stay_finite() -> None:
    hidden, weight, bias, wanted = problem(3, 200)

    found = predict(hidden * 300, weight, bias + 1e4, wanted, k=4, temperatures=[2.0, 4.0])

    assert torch.isfinite(found.logprobs).all()
    assert torch.isfinite(found.log_partition).all()


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_poisoned_row_shows_and_spoils_no_other(poison: float) -> None:
    hidden, weight, bias, wanted = problem(4, 3000)
    clean = predict(hidden, weight, bias, wanted, k=4, temperatures=[2.0])
    hidden = hidden.clone()
    hidden[2] = poison

    found = predict(hidden, weight, bias, wanted, k=4, temperatures=[2.0])

    assert not torch.isfinite(found.wanted_logprobs[2]).any()
    others = torch.tensor([0, 1, 3])
    assert torch.equal(found.ids[others], clean.ids[others])
