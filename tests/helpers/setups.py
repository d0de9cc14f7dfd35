"""Toy chains and the product of axes the exact law is enumerated over."""

from __future__ import annotations

import itertools

import numpy as np

from tapout_kernels import StopRules

from .law import Setup

# Thresholds lie inside the range the toy chains reach: each rule fires in some contexts only
# (asserted by test_every_stop_rule_is_exercised).
RULES = StopRules(
    ("fixed_length", {"n": 0}),
    ("fixed_length", {"n": 2}),
    ("max_confidence", {"threshold": 0.55}),
    ("svip", {"threshold": 0.9}),
    ("svip_difference", {"threshold": 0.02}),
    ("logit_margin", {"threshold": 0.3}),
    ("adaedl", {"gamma": 0.2, "initial_threshold": 0.6}),
)
ARMS = range(-1, len(RULES))  # -1: no rule, draft to the end
TEMPERATURES = ((0.0, 0.7), (0.7, 1.3), (0.7, 0.0))  # target, draft
TOP_K = (0, 2)
TOP_P = ((1.0, 0.8), (0.6, 1.0))  # target, draft


def chains(vocab: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two random conditional models, in float32 so that every layer reads the same numbers."""
    generator = np.random.default_rng(seed)
    tables = 1.5 * generator.normal(size=(2, vocab, vocab))
    return tuple(tables.astype(np.float32).astype(np.float64))


def product(vocab: int, slots: int, seed: int = 0, arms=ARMS, **fields: object) -> Setup:
    """Every arm x temperatures x top-k x top-p as the configurations of one launch."""
    grid = list(itertools.product(arms, TEMPERATURES, TOP_K, TOP_P))
    target, draft = chains(vocab, seed)

    def columns(side: int) -> dict[str, list]:
        # Through float32, as the operator sees them.
        return {
            "temperature": [float(np.float32(t[side])) for _, t, _, _ in grid],
            "top_k": [k for _, _, k, _ in grid],
            "top_p": [float(np.float32(p[side])) for _, _, _, p in grid],
        }

    return Setup(
        target, draft, slots, columns(0), columns(1), [arm for arm, *_ in grid], RULES, **fields
    )
