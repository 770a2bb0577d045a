import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from teacherzoo.signals.codes import decode_logprobs, encode_logprobs, round_float32
from teacherzoo.signals.verify import bucket_kl


def topk_rows(count: int, k: int, *, spread: float, seed: int = 0) -> np.ndarray:
    """The k largest log-probabilities of rows over 5,000 ids, in random order."""
    generator = np.random.default_rng(seed)
    logits = torch.from_numpy(generator.normal(scale=spread, size=(count, 5000)))
    values = logits.log_softmax(dim=1).topk(k, dim=1).values.numpy()
    return generator.permuted(values, axis=1).astype(np.float32)


def divergence(exact: np.ndarray, decoded: np.ndarray, log_kept: np.ndarray) -> np.ndarray:
    tail = -np.expm1(log_kept.astype(np.float64))
    return bucket_kl(
        torch.from_numpy(exact.astype(np.float64)),
        torch.from_numpy(decoded.astype(np.float64)),
        torch.from_numpy(tail),
    ).numpy()


@pytest.mark.parametrize("k", [1, 8, 32])
@pytest.mark.parametrize("spread", [0.01, 1.0, 3.0, 6.0, 12.0])
def test_what_is_lost_is_below_the_bars(k: int, spread: float) -> None:
    exact = topk_rows(400, k, spread=spread)
    codes, scale, log_kept = encode_logprobs(exact)

    lost = divergence(exact, decode_logprobs(codes, scale, log_kept), log_kept)

    assert lost.mean() <= 1e-5
    assert lost.max() <= 1e-4


@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.integers(1, 9)),
        elements=st.floats(-90, -0.125, width=32),
    )
)
@settings(max_examples=100, deadline=None)
def test_decoded_values_sum_to_the_kept_mass(values: np.ndarray) -> None:
    exact = values - np.float32(np.log(values.shape[1]))  # so that no row exceeds one

    codes, scale, log_kept = encode_logprobs(exact)
    decoded = decode_logprobs(codes, scale, log_kept)

    total = np.log(np.exp(decoded.astype(np.float64)).sum(axis=1))
    np.testing.assert_allclose(total, log_kept, rtol=1e-4, atol=1e-5)
    assert (decoded <= 1e-6).all()


@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.integers(2, 9)),
        elements=st.floats(-60, -3, width=32),
    )
)
@settings(max_examples=100, deadline=None)
def test_order_is_kept_up_to_ties(values: np.ndarray) -> None:
    codes, scale, log_kept = encode_logprobs(values)

    decoded = decode_logprobs(codes, scale, log_kept)

    for row, after in zip(values, decoded, strict=True):
        assert (np.diff(after[np.argsort(-row, kind="stable")]) <= 0).all()


def test_a_tail_of_almost_everything_is_kept() -> None:
    flat = np.full((1, 8), -np.log(250_000), dtype=np.float32)

    codes, scale, log_kept = encode_logprobs(flat)

    np.testing.assert_allclose(decode_logprobs(codes, scale, log_kept), flat, rtol=1e-3)


@given(st.floats(-(2.0**90), 2.0**90, width=32))
def test_rounding_is_within_its_bits(value: float) -> None:
    rounded = float(round_float32(np.array([value], dtype=np.float32))[0])

    assert abs(rounded - value) <= abs(value) * 2.0**-12 + 1e-37
