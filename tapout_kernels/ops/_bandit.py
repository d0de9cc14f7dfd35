"""The arguments of a finished round, for the operators that learn from it."""

from __future__ import annotations

from torch import Tensor

from ..bandit_state import BanditState
from ..policies import HEDGES, WEIGHTED
from ..proposal import Proposal
from ..reference.bandit import POLICIES, REWARDS
from ..stop_rules import StopRules, StopState, rule_arguments
from ..types import Verdict


def arm_prob_of(bandit: BanditState) -> Tensor | None:
    """What the operators get of the bandit's ``arm_prob``: nothing where no policy reads it."""
    return bandit.arm_prob if bandit.policy in WEIGHTED else None


def round_arguments(
    op: str,
    bandit: BanditState,
    arm: Tensor,
    proposal: Proposal,
    verdict: Verdict,
    group: Tensor | None,
    rules: StopRules | None,
    state: StopState | None,
    rows: Tensor | None,
) -> dict[str, object]:
    table = rule_arguments(op, rules, state)
    if bandit.reward == "throughput" and proposal.slots != bandit.slots:
        raise ValueError(
            f"{op}: proposal must have {bandit.slots} slots, as the bandit was created "
            f"for throughput, got {proposal.slots}"
        )
    if bandit.policy in HEDGES and rules is None:
        raise ValueError(f"{op}: rules must be given with {bandit.policy}, got None")
    overlap = verdict.overlap if bandit.reward == "overlap" else None
    if bandit.reward == "overlap" and overlap is None:
        raise ValueError(f"{op}: verdict must have overlap (verify(overlap=True)), got None")
    return {
        "arm": arm, "rows": rows, "draft_tokens": proposal.tokens, "length": proposal.length,
        "stats": proposal.stats, "live": proposal.live, "stop_reason": proposal.stop_reason,
        "num_accepted": verdict.num_accepted, "overlap": overlap, "status": verdict.status,
        "group": group, "params": bandit.params, "cost_ratio": bandit.cost_ratio,
        "policy": POLICIES[bandit.policy], "reward": REWARDS[bandit.reward],
        "rule_kind": table["rule_kind"], "rule_param": table["rule_param"],
        "arm_prob": arm_prob_of(bandit), "count": bandit.count, "reward_sum": bandit.reward_sum,
        "reward_sq": bandit.reward_sq, "tokens": bandit.tokens, "cost": bandit.cost,
        "memory": table["memory"],
    }  # fmt: skip
