"""Log-probabilities as bytes, and back: what is lost, and what is not.

The k log-probabilities of a position lie on a curve below the largest: offset - scale * code^1.5. Steps are small near the top,
where probability is, and wide far below; the power 1 loses three times as much in the worst peaked rows, the power 2 loses
more in flat ones. The offset is not stored: the mass of the k ids together is, and the decoded values
are renormalised to it, so that no rounding can leak mass between the k ids and the tail.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LEVELS = 255
_KEPT_BITS = 12  # of a float32's 23: relative error 2^-13, and the zeros behind compress away

_CURVE = (np.arange(_LEVELS + 1) ** 1.5).astype(np.float32)


def encode_logprobs(
    logprobs: NDArray[np.float32],
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    """Code log-probabilities.

    Args:
        logprobs: [N, K].

    Returns:
        codes [N, K], scale [N], log_kept [N].
    """
    exact = logprobs.astype(np.float64)
    top = exact.max(axis=1, keepdims=True)
    below = top - exact
    scale = _rounded_up(below.max(axis=1) / _LEVELS**1.5)
    safe = np.where(scale > 0, scale, 1).astype(np.float64)[:, None]
    codes = np.minimum(np.rint((below / safe) ** (1 / 1.5)), _LEVELS).astype(np.uint8)
    log_kept = top[:, 0] + np.log(np.exp(exact - top).sum(axis=1))
    return codes, scale, round_float32(np.minimum(log_kept, 0))


def decode_logprobs(
    codes: NDArray[np.uint8], scale: NDArray[np.float32], log_kept: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The inverse of `encode_logprobs`, renormalised: the K probabilities of a position sum to exp(log_kept).

    Args:
        codes: [N, K].
        scale: [N].
        log_kept: [N].

    Returns:
        [N, K] float32.
    """
    relative = _CURVE[codes]
    relative *= -scale[:, None]
    # Code 0 marks the largest, so every sum is at least one.
    shift = log_kept - np.log(np.exp(relative).sum(axis=1))
    relative += shift[:, None]
    return relative


def round_float32(values: NDArray[np.floating]) -> NDArray[np.float32]:
    """Round to 12 bits of mantissa, to nearest; still a plain float32."""
    drop = 23 - _KEPT_BITS
    bits = values.astype(np.float32).view(np.uint32)
    half = np.uint32(1 << (drop - 1))
    return ((bits + half) & np.uint32(0xFFFFFFFF << drop & 0xFFFFFFFF)).view(np.float32)


def _rounded_up(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """As `round_float32`, but never below, so that the largest code still fits a byte."""
    drop = 23 - _KEPT_BITS
    bits = values.astype(np.float32).view(np.uint32)
    up = np.where(values > 0, np.uint32((1 << drop) - 1) + np.uint32(1 << drop), np.uint32(0))
    return (
        ((bits + up) & np.uint32(0xFFFFFFFF << drop & 0xFFFFFFFF))
        .astype(np.uint32)
        .view(np.float32)
    )
