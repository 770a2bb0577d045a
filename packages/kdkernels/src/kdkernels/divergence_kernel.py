# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# (what triton compiles is no typed Python)

"""Pieces of the kernels over a vocabulary: loads, stores, online softmax, and the divergences of `divergences.py` in Triton.

Imports triton: reached only once impl="triton" has been chosen.
"""

import triton
import triton.language as tl

# The kernels' numbers for the divergences.
DIVERGENCE_NUMBERS = {"forward_kl": 0, "reverse_kl": 1, "jsd": 2}
LOG2_E = tl.constexpr(1.4426950408889634)
LOG_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def load_block(z, column, V, scale, MASKED: tl.constexpr):
    """Logits of consecutive columns times a scale, in float32, -inf beyond the row.

    A mask whose bound is no multiple of the vector width forbids wide loads: only the last block of a row has one.
    """
    if MASKED:
        return tl.load(z + column, mask=column < V, other=-float("inf")).to(tl.float32) * scale
    else:
        return tl.load(z + column).to(tl.float32) * scale


@triton.jit
def store_block(z, column, values, V, P, MASKED: tl.constexpr):
    """The counterpart of `load_block`; zeros in the columns from V to P, which products read."""
    values = values.to(z.dtype.element_ty)
    if MASKED:
        values = tl.where(column < V, values, 0.0).to(z.dtype.element_ty)
        tl.store(z + column, values, mask=column < P)
    else:
        tl.store(z + column, values)


@triton.jit
def online_softmax_update(x, lane_max, lane_sum):
    """Take a block into every lane's maximum and sum of powers of two: no lane waits for another.

    The online softmax (Milakov & Gimelshein 2018, "Online normalizer calculation for softmax", Algorithm 3): with m the
    maximum and d the sum of 2^(x - m) so far, m' = max(m, x) and d' = d 2^(m - m') + 2^(x - m').
    """
    new_max = tl.maximum(lane_max, x)
    base = finite_or_zero(new_max)
    return new_max, lane_sum * tl.exp2(lane_max - base) + tl.exp2(x - base)


@triton.jit
def log2_sum(lane_max, lane_sum):
    """The lanes' maximum, 0 if there is none, and the logarithm to base 2 of their sum of powers of two."""
    base = finite_or_zero(tl.max(lane_max, axis=0))
    return base, base + tl.log2(tl.sum(lane_sum * tl.exp2(lane_max - base), axis=0))


@triton.jit
def weighted_log_ratio(weight, log_a, log_b):
    """As `divergences.weighted_log_ratio`."""
    return tl.where(weight == 0, 0.0, weight * (log_a - log_b))


@triton.jit
def finite_or_zero(x):
    """0 in place of -inf, so that it can be subtracted."""
    return tl.where(x == -float("inf"), 0.0, x)


@triton.jit
def log_add(a, b):
    """log(exp a + exp b) without overflow, -inf for two times -inf; NaN stays NaN."""
    larger = finite_or_zero(tl.maximum(a, b))
    return larger + tl.log(tl.exp(a - larger) + tl.exp(b - larger))


@triton.jit
def log_sum_exp(x):
    """Log Σ exp of a vector, -inf where it is empty."""
    base = finite_or_zero(tl.max(x, axis=0))
    return base + tl.log(tl.sum(tl.exp(x - base), axis=0))


@triton.jit
def divergence_terms(log_t, log_q, beta, DIVERGENCE: tl.constexpr):
    """As `divergences.divergence_terms`: each class's term, and its gradient by log q."""
    if DIVERGENCE == 0:
        t = tl.exp(log_t)
        terms = weighted_log_ratio(t, log_t, log_q)
        grad_log_q = -t
    elif DIVERGENCE == 1:
        q = tl.exp(log_q)
        terms = weighted_log_ratio(q, log_q, log_t)
        grad_log_q = terms
    else:
        larger = finite_or_zero(tl.maximum(log_t, log_q))
        log_m = larger + tl.log(
            beta * tl.exp(log_t - larger) + (1.0 - beta) * tl.exp(log_q - larger)
        )
        grad_log_q = (1.0 - beta) * weighted_log_ratio(tl.exp(log_q), log_q, log_m)
        terms = beta * weighted_log_ratio(tl.exp(log_t), log_t, log_m) + grad_log_q
    return terms, grad_log_q
