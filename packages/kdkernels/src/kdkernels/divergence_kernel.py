# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# (what triton compiles is no typed Python)

"""Pieces of the kernels over a vocabulary: loads, stores, log-sums, and the divergences of `divergences.py` in Triton.

Imports triton: reached only once impl="triton" has been chosen.
"""

import triton
import triton.language as tl

# The kernels' numbers for the divergences.
DIVERGENCE_NUMBERS = {"forward_kl": 0, "reverse_kl": 1, "jsd": 2}


@triton.jit
def load_block(z, column, V, MASKED: tl.constexpr):
    """Logits of consecutive columns in float32, -inf beyond the row.

    A mask whose bound is no multiple of the vector width forbids wide loads: only the last block of a row has one.
    """
    if MASKED:
        return tl.load(z + column, mask=column < V, other=-float("inf")).to(tl.float32)
    else:
        return tl.load(z + column).to(tl.float32)


@triton.jit
def store_block(z, column, values, V, MASKED: tl.constexpr):
    """The counterpart of `load_block`."""
    if MASKED:
        tl.store(z + column, values, mask=column < V)
    else:
        tl.store(z + column, values)


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
