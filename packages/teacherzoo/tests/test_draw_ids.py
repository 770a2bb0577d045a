"""Ids drawn from a teacher's distribution: unbiased, seeded by position, independent of the batch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from numpy.typing import NDArray

from teacherzoo.encoders import samples
from teacherzoo.encoders.samples import draw_ids
from teacherzoo.signals.samples import decode_draws, merge_draws
from teacherzoo.text.masking import sample_keys

VOCABULARY = 1200  # two whole groups of 512 ids and part of a third


def keys_of(count: int, *, seed: int = 0) -> NDArray[np.uint64]:
    return sample_keys(
        np.arange(count),
        documents=bytes(range(16)),
        parts=np.array([0]),
        draws=np.array([0]),
        counts=np.array([count]),
        seed=seed,
    )


def head(spread: float = 2.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """States of 40 rows, and a decoder with its bias."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(40, 8, generator=generator)
    weight = spread * torch.randn(VOCABULARY, 8, generator=generator) / 8**0.5
    return hidden, weight, torch.randn(VOCABULARY, generator=generator)


def draw(
    hidden: torch.Tensor, keys: NDArray[np.uint64], draws: int = 12, temperature: float = 1.0
) -> torch.Tensor:
    _, weight, bias = head()
    gold = torch.zeros(len(hidden), 1, dtype=torch.int64)
    return draw_ids(hidden, weight, bias, gold, keys, draws=draws, temperature=temperature).ids


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_ids_are_drawn_as_often_as_they_are_likely(temperature: float) -> None:
    hidden, weight, bias = head()
    rows = 3000
    ids = draw(hidden[:1].expand(rows, -1), keys_of(rows), temperature=temperature)
    p = torch.softmax((hidden[0] @ weight.T + bias).double() / temperature, 0).numpy()

    counts = np.bincount(ids.flatten().numpy(), minlength=VOCABULARY)
    expected = p * ids.numel()
    rare = expected < 5  # together they are one more class
    seen = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(expected[~rare], expected[rare].sum())
    chi_square = ((seen - wanted) ** 2 / wanted).sum()

    freedom = len(wanted) - 1
    assert abs(chi_square - freedom) < 4 * (2 * freedom) ** 0.5
    assert len(np.unique(ids.flatten().numpy() // 512)) == 3


def test_draws_of_a_row_are_independent() -> None:
    hidden, weight, bias = head()
    rows = 6000
    ids = draw(hidden[:1].expand(rows, -1), keys_of(rows), draws=2)
    p = torch.softmax((hidden[0] @ weight.T + bias).double(), 0)

    same = float((ids[:, 0] == ids[:, 1]).double().mean())

    expected = float((p**2).sum())
    assert abs(same - expected) < 4 * (expected * (1 - expected) / rows) ** 0.5


def test_a_row_gets_the_same_ids_alone_and_in_any_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, _, _ = head()
    keys = keys_of(len(hidden))
    together = draw(hidden, keys)

    alone = torch.cat(
        [draw(hidden[row : row + 1], keys[row : row + 1]) for row in range(len(hidden))]
    )
    backwards = draw(hidden.flip(0), keys[::-1]).flip(0)
    monkeypatch.setattr(samples, "_NUMBERS_AT_ONCE", 1000)
    monkeypatch.setattr(samples, "_CHUNK_BYTES", 1)
    monkeypatch.setattr(samples, "_MOST_ROWS", 7)

    assert torch.equal(alone, together)
    assert torch.equal(backwards, together)
    assert torch.equal(draw(hidden, keys), together)


def test_another_seed_draws_other_ids() -> None:
    hidden, _, _ = head()

    assert not torch.equal(draw(hidden, keys_of(40)), draw(hidden, keys_of(40, seed=1)))


def test_the_gold_id_keeps_its_probability_at_temperature_one() -> None:
    hidden, weight, bias = head()
    gold = torch.arange(40)[:, None]

    predictions = draw_ids(hidden, weight, bias, gold, keys_of(40), draws=3, temperature=2.0)

    exact = torch.log_softmax(hidden @ weight.T + bias, 1).gather(1, gold)
    torch.testing.assert_close(predictions.wanted_logprobs, exact)
    torch.testing.assert_close(
        (predictions.logprobs / 2 - predictions.log_partition).exp().sum(1), torch.ones(40)
    )


def test_logits_that_are_not_finite_show_in_the_gold_id() -> None:
    hidden, weight, bias = head()
    hidden[3, 0] = torch.nan
    gold = torch.zeros(40, 1, dtype=torch.int64)

    predictions = draw_ids(hidden, weight, bias, gold, keys_of(40), draws=3, temperature=1.0)

    assert torch.isfinite(predictions.wanted_logprobs).squeeze(1).logical_not().nonzero().tolist() == [[3]]  # fmt: skip


@given(
    some.integers(1, 30).flatmap(
        lambda draws: some.lists(
            some.lists(some.integers(0, 9), min_size=draws, max_size=draws), min_size=1, max_size=20
        )
    ),
    some.sampled_from([1.0, 2.0, 0.5]),
)
def test_weights_are_counts_over_draws_and_sum_to_one(
    rows: list[list[int]], temperature: float
) -> None:
    drawn = np.sort(np.array(rows, dtype=np.int64), axis=1)
    ids, counts, distinct = merge_draws(drawn)

    decoded, logprobs = decode_draws(
        ids.astype(np.int64), counts, draws=drawn.shape[1], temperature=temperature
    )

    weights = np.exp(logprobs.astype(np.float64) / temperature)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
    for row, row_ids, row_weights in zip(drawn, decoded, weights, strict=True):
        values, times = np.unique(row, return_counts=True)
        assert row_ids[: len(values)].tolist() == values.tolist()
        assert (row_ids[len(values) :] == -1).all()
        np.testing.assert_allclose(row_weights[: len(values)], times / drawn.shape[1], rtol=1e-6)
    assert distinct.sum() == len(ids) == len(counts)
