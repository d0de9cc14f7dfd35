"""What one draft says of every stop rule, for hedges (of drafters: Not-a-Bandit, 2510.20064).

A rule that would have stopped inside the draft is judged by the tokens up to there; one that would
have gone on is not seen, unless the draft was cut by something that is no rule.  A loss divided by
the probability that a draft as long is drawn is unbiased; scoring only what was seen is not.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .bandit import ALPHA, OVERLAP, POLICY_PARAM, in_order_sum, overlap_reward, reward_of
from .stop import PRE_DRAFT, RULE, Slot, should_stop, stop_before_drafting
from .weights import HEDGES, NORMALHEDGE


class Finished(NamedTuple):
    """Of one round, [B] each."""

    num_accepted: Tensor
    drafted: Tensor  # at most K
    stop_reason: Tensor
    stats: Tensor  # [B, K, 8]
    overlap: Tensor | None  # [B, K], for the reward of that name


def require_rules(op: str, policy: int, rule_kind: Tensor | None, memory: Tensor | None) -> None:
    for name, value in (("rule_kind", rule_kind), ("memory", memory)):
        if policy in HEDGES and value is None:
            raise RuntimeError(f"{op}: {name} must be a Tensor with this policy, got None")


def would_stop(
    kind: Tensor,  # [A]
    param: Tensor,  # [A, 4]
    memory: Tensor,  # [B, A, 4]
    finished: Finished,
) -> Tensor:
    """[B, A]: after how many tokens; one more than drafted where a rule goes on, at most K."""
    stats, drafted = finished.stats, finished.drafted.long()
    batch, slots, arms = len(stats), stats.shape[1], len(kind)
    kinds, params = kind.repeat(batch).long(), param.repeat(batch, 1).double()
    remembered = memory.reshape(batch * arms, -1).double()
    table = stats.double().repeat_interleave(arms, 0)
    stops = (drafted + 1).clamp(max=slots).repeat_interleave(arms)
    for slot in reversed(range(slots)):
        index = torch.full_like(stops, slot)
        fires = should_stop(kinds, Slot(index, table, params, remembered))
        inside = slot < drafted.repeat_interleave(arms)
        stops = torch.where(fires & inside, slot + 1, stops)
    stops = torch.where(stop_before_drafting(kinds, params, remembered), 0, stops)
    return stops.view(batch, arms)


def loss_estimates(
    policy: int,
    reward: int,
    params: Tensor,
    prob: Tensor,  # [B, A] that the arm was drawn with
    stops: Tensor,  # [B, A]
    finished: Finished,
) -> Tensor:
    """[B, A]; for ``normalhedge`` regrets: what its own weights lost, less what the arm did."""
    drafted, reason = finished.drafted[:, None], finished.stop_reason[:, None]
    own = torch.minimum(stops, drafted)
    accepted = torch.minimum(finished.num_accepted[:, None], own)
    if reward == OVERLAP:
        loss = 1 - overlap_reward(finished.overlap, own)
    else:
        loss = 1 - reward_of(reward, accepted, own, finished.stats.shape[1], params[ALPHA])
    as_long = stops[:, None, :] >= stops[:, :, None]
    chance = in_order_sum(torch.where(as_long, prob[:, None, :], 0.0))
    cut = (reason != RULE) & (reason != PRE_DRAFT)
    seen = (cut | (stops <= drafted)) & (chance > 0)
    estimate = torch.where(seen, loss / torch.where(chance > 0, chance, 1.0), 0.0)
    if policy != NORMALHEDGE:
        return estimate
    epsilon, arms = params[POLICY_PARAM], prob.shape[1]
    weight = (prob - epsilon / arms) / (1 - epsilon)
    return in_order_sum(weight * estimate)[:, None] - estimate
