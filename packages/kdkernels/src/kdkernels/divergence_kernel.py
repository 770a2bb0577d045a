# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# (what triton compiles is no typed Python)

"""Divergence terms and pulls in Triton, as `divergences.py` defines them, for the kernels of this package.

Imports triton: reached only once impl="triton" has been chosen.
"""

import triton
import triton.language as tl

# The kernels' numbers for the divergences.
NUMBERS = {"forward_kl": 0, "reverse_kl": 1, "jsd": 2}


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
def weighted_gap(weight, log_a, log_b):
    """As `divergences.weighted_gap`."""
    return tl.where(weight == 0, 0.0, weight * (log_a - log_b))


@triton.jit
def finite_or_zero(x):
    """0 in place of -inf, so that it can be subtracted."""
    return tl.where(x == -float("inf"), 0.0, x)


@triton.jit
def log_add(a, b):
    """log(exp a + exp b) without overflow, -inf for two times -inf; NaN stays NaN."""
    peak = finite_or_zero(tl.maximum(a, b))
    return peak + tl.log(tl.exp(a - peak) + tl.exp(b - peak))


@triton.jit
def divergence_terms(log_t, log_q, beta, DIVERGENCE: tl.constexpr):
    """As `divergences.divergence_terms`: each class's term, and its pull."""
    if DIVERGENCE == 0:
        t = tl.exp(log_t)
        terms = weighted_gap(t, log_t, log_q)
        pulls = -t
    elif DIVERGENCE == 1:
        q = tl.exp(log_q)
        terms = weighted_gap(q, log_q, log_t)
        pulls = terms
    else:
        peak = finite_or_zero(tl.maximum(log_t, log_q))
        log_m = peak + tl.log(beta * tl.exp(log_t - peak) + (1.0 - beta) * tl.exp(log_q - peak))
        pulls = (1.0 - beta) * weighted_gap(tl.exp(log_q), log_q, log_m)
        terms = beta * weighted_gap(tl.exp(log_t), log_t, log_m) + pulls
    return terms, pulls
