"""Rounds a second of a replay on one core, on a table larger than the caches: JSON, a policy a row.

python bench/bench_replay.py
"""

from __future__ import annotations

import json

import numpy as np
from harness import environment, summary, times_us

import tapout_kernels as tk
from tapout_kernels.replay import DraftTable, RoundCosts, replay

POSITIONS, DRAFTERS, SLOTS, REQUEST, PASSES = 50_000, 2, 8, 100, 10
ARMS = ("fixed_length", "max_confidence", "svip", "svip_difference", "logit_margin", "adaedl")
POLICIES = (
    ("ucb1", "blend"), ("ucb1", "throughput"), ("ucb_tuned", "blend"),
    ("thompson_gaussian", "blend"), ("fixed", "blend"),
)  # fmt: skip


def table(seed: int = 0) -> DraftTable:
    """Drafts of which 35 in 100 end at each slot, with statistics that stop rules differ about."""
    rng = np.random.default_rng(seed)
    each = (POSITIONS, DRAFTERS)
    stats = np.zeros((*each, SLOTS, 8), np.float32)
    stats[..., 1] = rng.exponential(0.6, (*each, SLOTS))
    stats[..., 2] = rng.beta(4, 1, (*each, SLOTS))
    stats[..., 3] = (1 - stats[..., 2]) / 2
    left = np.tile(np.arange(REQUEST)[::-1], POSITIONS // REQUEST)
    return DraftTable(
        stats, np.full(each, SLOTS, np.int32),
        np.minimum(rng.geometric(0.35, each) - 1, SLOTS).astype(np.int32),
        np.minimum(left, SLOTS).astype(np.int32), np.arange(0, POSITIONS + 1, REQUEST),
        np.ones(DRAFTERS, np.bool_),
    )  # fmt: skip


def main() -> None:
    drafts, rules = table(), tk.StopRules(*ARMS)
    costs = RoundCosts(
        1 + 0.02 * np.arange(SLOTS + 1.0)[None], np.full((1, DRAFTERS), 0.1),
        np.full(DRAFTERS, 0.01), np.full((1, DRAFTERS), 0.12, np.float32),
    )  # fmt: skip
    requests = np.tile(np.arange(drafts.requests), PASSES)
    for policy, reward in POLICIES:
        rounds = 0

        def run(_: int, policy: str = policy, reward: str = reward) -> None:
            nonlocal rounds
            bandit = tk.BanditState.create(len(ARMS), slots=SLOTS, policy=policy, reward=reward)
            rounds = len(replay(drafts, rules, bandit, costs, requests=requests).cost)

        found = summary(times_us(run))
        row = {"op": "replay", "policy": policy, "reward": reward, "arms": len(ARMS),
               "positions": POSITIONS, "rounds": rounds, **found,
               "million_rounds_a_second": round(rounds / found["median_us"], 2)}  # fmt: skip
        print(json.dumps({**row, **environment()}))


if __name__ == "__main__":
    main()
