"""What stop rules remember from round to round, worked out by hand, and how to ask a backend."""

from __future__ import annotations

from typing import NamedTuple

import torch

from tapout_kernels import BanditState, Proposal, StopRules, StopState, Verdict
from tapout_kernels.reference.bandit import POLICIES, REWARDS
from tapout_kernels.reference.stats import ENTROPY

from .raw import Call

NONE, RULE, MAX_LENGTH, PRE_DRAFT = range(4)


class Round(NamedTuple):
    """One round of an arm, and what it remembers afterwards."""

    drafted: int
    accepted: int
    memory: tuple[float, ...]
    entropies: tuple[float, ...] = ()
    reason: int = RULE


class Episode(NamedTuple):
    """Numbers that float32 has, so that memories are equal, not close; K draft slots."""

    rule: str
    params: dict[str, float]
    slots: int
    rounds: tuple[Round, ...]


NOTHING = Round(0, 0, ())  # of which nobody learns: no memory is the one before
_GAMMATUNE = (
    Round(4, 4, (6, 4)),  # all of gamma: longer by delta, the mean stays
    Round(6, 6, (8, 4)),
    Round(8, 8, (8, 4)),  # never beyond K
    NOTHING,
    Round(8, 1, (3, 2.5)),  # 4/2 + 1/2
    Round(2, 2, (3, 2.25)),  # cut before gamma: what was accepted counts
    Round(3, 0, (2, 1.125)),
    Round(2, 0, (1, 1)),  # .5625 is below 1
    Round(1, 1, (3, 1)),
)
EPISODES = {
    "adaedl": Episode("adaedl", {"initial_threshold": 0.5}, 4, (
        # AR = 1/8 < .9: lambda' = .51, lambda = .45 + .051
        Round(4, 1, (0.501, 0.125)),
        NOTHING,
        Round(0, 0, (0.501, 0.125), reason=PRE_DRAFT),
    )),
    "gammatune": Episode("gammatune", {"eta": 0.5}, 8, _GAMMATUNE),
    "gammatune_plus": Episode("gammatune_plus", {"eta": 0.5}, 8, _GAMMATUNE),
    # 1 + .3 (11 - 1) with a float32 eta is 1.2e-7 more than 4; as it is kept, 4
    "gammatune, rounding": Episode("gammatune", {"initial_length": 1, "delta": 12}, 16, (
        Round(1, 1, (13, 1)), Round(13, 11, (4, 4)), Round(4, 4, (16, 4)),
    )),
    "gammatune, short K": Episode("gammatune", {"eta": 0.5}, 2, (
        Round(2, 2, (2, 2)),  # gamma = 4 was never reached: 4/2 + 2/2 = 3, at most K
        Round(2, 2, (2, 2)),
    )),
    "heuristic": Episode("heuristic", {}, 8, (
        Round(5, 5, (7,)), Round(7, 7, (8,)), Round(8, 8, (8,)), Round(8, 7, (7,)), NOTHING,
        Round(7, 0, (6,)), Round(2, 2, (8,)), *(Round(8, 0, (n,)) for n in range(7, 0, -1)),
        Round(1, 0, (1,)),
    )),
    "hysteresis": Episode("hysteresis", {"high": 1, "low": 0.5, "alpha": 0.5}, 4, (
        # the first rejected token is judged, what follows it not: 1/2, then 1/4 + 3/2
        Round(3, 1, (1.75, 1, 0), (1, 3, 100)),
        Round(0, 0, (1.75, 1, 1), reason=PRE_DRAFT),
        Round(0, 0, (1.75, 1, 1), reason=MAX_LENGTH),  # the request had no room: not refused
        Round(0, 0, (1.75, 1, 2), reason=PRE_DRAFT),
        Round(1, 0, (0.875, 1, 0), (0,)),  # a probe; between low and high nothing changes
        Round(1, 1, (0.4375, 0, 0), (0,)),  # below low: on
        Round(2, 2, (0.859375, 0, 0), (1, 1)),  # between them, and on
        Round(1, 1, (1.4296875, 1, 0), (2,)),
    )),
    "adasd_entropy": Episode("adasd_entropy", {}, 4, (
        Round(3, 2, (2, 1.5, 1, 4), (1, 2, 4)),
        Round(2, 2, (4, 0.875, 1, 4), (0, 0.5)),  # 1.5 - .5 = 1, then 1 - .125
        NOTHING,
        Round(2, 0, (4, 0.875, 2, 3), (2, 100)),  # what follows a rejection is not judged
    )),
    "predicted_length": Episode("predicted_length", {}, 4, (
        Round(2, 1, (float("inf"),)), Round(0, 0, (float("inf"),), reason=PRE_DRAFT),
    )),
    "adl": Episode("adl", {"delta": 2, "shortest": 3, "longest": 6}, 8, (
        Round(6, 6, (5, 3, 3)),  # 3 + delta
        Round(5, 5, (6, 4, 4)),
        Round(6, 6, (6, 5, 5)),  # at most the longest
        NOTHING,
        Round(6, 0, (6, 5.5, 2.5)),  # ceil 5.5
        Round(1, 0, (4, 3.25, 1.25)),
        Round(1, 1, (3, 2.125, 1.125)),
        Round(1, 0, (3, 1.5625, 0.5625)),  # ceil is 2: at least the shortest
    )),
}  # fmt: skip


class Learner:
    """One request and a table of which arm 1 runs."""

    def __init__(self, call: Call, rules: StopRules, slots: int, level: str = "sequence"):
        self.call, self.rules, self.slots = call, rules, slots
        self.bandit = BanditState.create(len(rules), slots=slots, level=level)
        per_slot = slots if level == "token" else None
        self.state = StopState.of(1, rules, arm=1, slots=per_slot)

    @property
    def memory(self) -> list[list[float]]:
        return self.state.memory[0].tolist()

    def learn(self, round_: Round, **changed: object) -> None:
        """``changed``: arguments of ``bandit_update`` that are not those of a plain round."""
        b, p, v = self.bandit, Proposal.empty(1, self.slots), Verdict.empty(1, self.slots)
        p.live.fill_(True)
        p.length.fill_(round_.drafted)
        p.stop_reason.fill_(round_.reason)
        v.num_accepted.fill_(round_.accepted)
        p.stats[0, : len(round_.entropies), ENTROPY] = torch.tensor(round_.entropies)
        self.call("bandit_update", **{
            "arm": self.state.arm, "rows": None, "draft_tokens": p.tokens, "length": p.length,
            "stats": p.stats, "live": p.live, "stop_reason": p.stop_reason,
            "num_accepted": v.num_accepted, "status": v.status, "group": None, "params": b.params,
            "cost_ratio": b.cost_ratio, "reward": REWARDS[b.reward],
            "rule_kind": self.rules.kind, "rule_param": self.rules.param, "count": b.count,
            "reward_sum": b.reward_sum, "reward_sq": b.reward_sq, "tokens": b.tokens,
            "cost": b.cost, "memory": self.state.memory, "policy": POLICIES[b.policy],
            "arm_prob": None, "overlap": None, **changed,
        })  # fmt: skip


def check_episode(call: Call, name: str) -> None:
    """Arm 1 learns as it should, and its twin, which never runs, nothing."""
    episode = EPISODES[name]
    arm = (episode.rule, episode.params)
    learner = Learner(call, StopRules(arm, arm), episode.slots)
    untouched = learner.memory[0]
    for number, round_ in enumerate(episode.rounds):
        before = learner.memory[1]
        learner.learn(round_)
        expected = list(round_.memory) or before
        expected = torch.tensor(expected + before[len(expected) :]).tolist()  # as float32
        found = learner.memory
        assert found[1] == expected, f"{name}, round {number}: {found[1]} is not {expected}"
        assert found[0] == untouched, f"{name}, round {number}: an arm that did not run learnt"
