"""Acceptance.  A draft without logits is one-hot: p_draft(x) = 1.

    token    (Leviathan et al. 2211.17192, Chen et al. 2302.01318) accept x iff
             u p_draft(x) < p_target(x); rejected: sample norm[p_target - p_draft]+
    block    (Sun et al. 2403.10444) w_0 = 1, w_i = min(1, w_{i-1} p_target(x_i) / p_draft(x_i)),
             S_i = sum [w_i p_target - p_draft]+ over the row that follows x_i.  Level i < L holds
             iff u (S_i + 1 - w_i) < S_i, or w_i = 1 and S_i = 0; level L iff u < w_L.  The largest
             level that holds is accepted, none is 0; below L: sample norm[w_i p_target - p_draft]+
    gumbel   accept x iff it is the target's own token
    greedy   accept x iff it is the target's argmax

All of it float64.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def accepts(uniform, p_target, p_draft):
    return uniform * p_draft < p_target


@triton.jit
def accept_probability(p_target, p_draft):
    return tl.where(p_target < p_draft, p_target / p_draft, 1.0)


@triton.jit
def draft_probability(token_logprob):
    """NaN stays NaN."""
    value = tl.exp(token_logprob)
    return tl.where(value > 1.0, 1.0, value)


@triton.jit
def block_weight(weight, p_target, p_draft):
    """w_i from w_{i-1}."""
    product = weight * p_target / p_draft
    return tl.where(product < 1.0, product, 1.0)


@triton.jit
def one_hot_residual(weight, p_target):
    """S_i of a one-hot draft of x."""
    return weight * (1.0 - p_target)


@triton.jit
def block_accepts(uniform, residual, weight):
    """Level i < L; S + 1 - w = sum [p_draft - w p_target]+, so both sides are of one sign."""
    whole = (weight == 1.0) & (residual == 0.0)
    return whole | (uniform * (residual + (1.0 - weight)) < residual)


@triton.jit
def block_may_accept(uniform, weight):
    """Level L, and what any level needs: S <= w."""
    return uniform < weight
