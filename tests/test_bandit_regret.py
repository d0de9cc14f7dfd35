"""Bandits learn: a clearly best arm wins, and an arm that drafts nothing is not played for ever."""

from __future__ import annotations

import pytest
import torch
from helpers import raw
from helpers.mutants import Edit, Reference
from torch import Tensor

from tapout_kernels import BanditState
from tapout_kernels.reference.bandit import POLICIES, REWARDS

K, BATCH, ROUNDS = 4, 8, 90
BEST = 2
NONE, RULE, MAX_LENGTH, PRE_DRAFT = range(4)
Outcome = tuple[Tensor, Tensor, Tensor]  # accepted, length, stop_reason, [B] int32 each


class Play:
    """A bandit and a world that answers its arms."""

    def __init__(
        self, call: raw.Call, world, policy: str, reward: str, seed: int = 1, arms: int = 3
    ):
        level = "token" if reward in ("decision", "token_accept") else "sequence"
        self.bandit = BanditState.create(arms, 1, K, level, policy, reward, seed=seed, rows=BATCH)
        self.bandit.cost_ratio.fill_(0.1)
        self.call, self.world = call, world
        self.generator = torch.Generator().manual_seed(seed)
        self.picked: list[Tensor] = []

    def run(self, rounds: int) -> Tensor:
        """[rounds, B] or [rounds, B, K] arms."""
        for _ in range(rounds):
            self._round()
        return torch.stack(self.picked)

    def _round(self) -> None:
        b = self.bandit
        names = ("count", "reward_sum", "reward_sq", "tokens", "cost", "params")
        tables = {name: getattr(b, name) for name in names}
        arm = torch.zeros(BATCH, *b.count.shape[2:], dtype=torch.int32)
        drawn = b.arm_prob if len(b.arm_prob) else None
        shared = {
            "group": None,
            "rows": None,
            "reward": REWARDS[b.reward],
            "policy": POLICIES[b.policy],
            "arm": arm,
            "arm_prob": drawn,
            **tables,
        }
        self.call("bandit_select", **shared, seed=b.seed, live=None, slots=K,
                  calls=b.calls)  # fmt: skip
        accepted, length, reason = self.world(arm, self.generator)
        ok = torch.zeros(BATCH, dtype=torch.int32)
        self.call(
            "bandit_update", **shared, draft_tokens=torch.zeros(BATCH, K, dtype=torch.int64),
            length=length, stats=torch.zeros(BATCH, K, 8), live=ok == 0, stop_reason=reason,
            num_accepted=accepted, overlap=None, status=ok, cost_ratio=b.cost_ratio, rule_kind=None,
            rule_param=None, memory=None,
        )  # fmt: skip
        self.picked.append(arm)


def first_false(flags: Tensor) -> Tensor:
    """How many of the first flags of a row are true."""
    return flags.long().cumprod(-1).sum(-1).int()


def sequence_world(arm: Tensor, generator: torch.Generator) -> Outcome:
    """Arms 0 and 1 draft tokens that are rejected more often than those of arm 2."""
    chance = torch.tensor([0.2, 0.4, 0.9])[arm.long()]
    accepted = first_false(torch.rand(BATCH, K, generator=generator) < chance[:, None])
    return accepted, torch.full_like(accepted, K), torch.full_like(accepted, MAX_LENGTH)


def decision_world(arm: Tensor, generator: torch.Generator) -> Outcome:
    """Arm 0 stops at once, arm 1 never, arm 2 after a token that will be rejected."""
    good = torch.rand(BATCH, K, generator=generator) < 0.6
    stops = (arm == 0) | ((arm == 2) & ~good)
    stops[:, -1] = True
    length = first_false(~stops) + 1
    by_rule = ((arm != 1) & stops).gather(1, length[:, None].long() - 1)[:, 0]
    accepted = torch.minimum(first_false(good), length)
    return accepted, length.int(), torch.where(by_rule, RULE, MAX_LENGTH).int()


def accept_world(arm: Tensor, generator: torch.Generator) -> Outcome:
    """Each arm's own tokens are accepted more or less often (a table of drafters)."""
    chance = torch.tensor([0.3, 0.5, 0.95])[arm.long()]
    accepted = first_false(torch.rand(BATCH, K, generator=generator) < chance)
    return accepted, torch.full_like(accepted, K), torch.full_like(accepted, MAX_LENGTH)


WORLDS = {
    "simple": sequence_world, "blend": sequence_world, "throughput": sequence_world,
    "decision": decision_world, "token_accept": accept_world,
}  # fmt: skip
LEARNERS = [
    (policy, reward)
    for policy in ("ucb1", "ucb_tuned", "thompson_gaussian", "thompson_beta", "epsilon_greedy")
    for reward in WORLDS
    if (policy, reward) != ("ucb_tuned", "throughput")
] + [("ucbspec", "simple"), ("exp3", "blend"), ("exp3spec", "simple"), ("exp3", "token_accept")]


def share_of_best(picked: Tensor) -> Tensor:
    """Over the last third, of every slot."""
    late = picked[2 * len(picked) // 3 :]
    return (late == BEST).double().mean((0, 1))


@pytest.mark.interpreted_slow
@pytest.mark.parametrize(("policy", "reward"), LEARNERS)
@pytest.mark.sliced(4)
def test_the_best_arm_wins(backend, policy, reward):
    play = Play(raw.caller(backend), WORLDS[reward], policy, reward)
    share = share_of_best(play.run(ROUNDS))
    # Slots late in the draft see few rounds: the first three of four are judged.
    assert (share.view(-1)[:3] > 0.6).all(), share


def test_a_bandit_that_learns_nothing_fails_that_test(backend):
    play = Play(raw.caller(backend), sequence_world, "fixed", "simple")
    assert share_of_best(play.run(10)) == 0


# ---- starvation ----------------------------------------------------------------------------------


def idle_world(arm: Tensor, generator: torch.Generator) -> Outcome:
    """Arm 0 drafts nothing; the others draft K tokens, mostly accepted."""
    first = arm[:, 0] if arm.dim() == 2 else arm
    length = torch.where(first == 0, 0, K).int()
    accepted = first_false(torch.rand(BATCH, K, generator=generator) < 0.8)
    reason = torch.where(first == 0, PRE_DRAFT, MAX_LENGTH).int()
    return torch.minimum(accepted, length), length, reason


def idle_share(call: raw.Call, policy: str, reward: str) -> float:
    """How often slot 0 plays the arm that drafts nothing, in the last third."""
    picked = Play(call, idle_world, policy, reward, arms=2).run(60)[40:]
    return (picked.view(20, BATCH, -1)[..., 0] == 0).double().mean().item()


@pytest.mark.interpreted_slow
@pytest.mark.parametrize("policy", ["ucb1", "ucb_tuned", "thompson_beta", "epsilon_greedy"])
@pytest.mark.parametrize("reward", ["simple", "decision", "token_accept"])
@pytest.mark.sliced(4)
def test_an_arm_that_drafts_nothing_is_not_played_for_ever(backend, policy, reward):
    assert idle_share(raw.caller(backend), policy, reward) < 0.35


def test_without_its_credit_it_would_be():
    """Nothing learnt from an empty draft: the arm stays untried, and untried arms come first."""
    starved = Reference(Edit("bandit.py", "judged | undrafted", "judged"))
    assert idle_share(raw.caller_of(starved.ops), "ucb1", "decision") == 1.0
