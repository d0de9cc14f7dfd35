"""A replay as a loop over the public operators: one decision after the other, in Python."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import torch

import tapout_kernels as tk
from tapout_kernels.reference.stop import (
    MAX_LENGTH,
    NONE,
    PRE_DRAFT,
    RULE,
    Rules,
    Slot,
    arm_of_slot,
    should_stop,
    stop_before_drafting,
)
from tapout_kernels.replay import DraftTable, RoundCosts, Rounds


class SlowReplay:
    """The arguments of :func:`tapout_kernels.replay.replay`."""

    def __init__(
        self, table: DraftTable, rules, bandit, costs: RoundCosts, drafters, batch: int,
        horizon: int | None = None,
    ):  # fmt: skip
        self.table, self.rules, self.bandit, self.costs = table, rules, bandit, costs
        self.drafters, self.batch = drafters, batch
        slots = table.slots if bandit.level == "token" else None
        self.state = tk.StopState.of(batch, rules, slots=slots)
        self.position, self.end = [0] * batch, [0] * batch
        self.read = [[0] * table.drafters for _ in range(batch)]
        self.turns, self.cost = [], []
        self.ring = horizon and tk.DrafterRing.empty(batch, bandit.arms, horizon)
        empty = torch.zeros_like(bandit.count)
        tally = {"count": empty, "reward_sum": empty.clone(), "reward_sq": empty.clone()}
        self.taught = replace(bandit, policy="fixed", **tally) if horizon else bandit

    def run(self, requests) -> Rounds:
        waiting = list(requests)
        while True:
            live = [self._admit(b, waiting) for b in range(self.batch)]
            if not any(live):
                break
            self._round(live)
        columns = np.array(self.turns, dtype=np.int32).reshape(-1, 8).T
        return Rounds(*columns, cost=np.array(self.cost))

    def _admit(self, b: int, waiting: list) -> bool:
        while self.position[b] == self.end[b] and waiting:
            request = waiting.pop(0)
            self.position[b], self.end[b] = map(int, self.table.start[request : request + 2])
            self.read[b] = [self.position[b]] * self.table.drafters
            self.state.reset_rows(torch.arange(self.batch) == b)
            if self.ring:
                self.ring.reset_rows(torch.arange(self.batch) == b)
        return self.position[b] < self.end[b]

    def _round(self, live: list[bool]) -> None:
        tk.bandit_select(
            self.bandit, live=torch.tensor(live), out=self.state.arm, backend="reference"
        )
        played = {b: self._draft(b) for b in range(self.batch) if live[b]}
        for drafter in range(self.table.drafters):
            self._learn(drafter, played, sum(live))
        self._charge(played, sum(live))
        if self.ring:
            self._observe(played)

    def _observe(self, played: dict) -> None:
        """Which drafters' first drafts were right where the rows that go on have been."""
        gamma = torch.zeros(self.batch, self.bandit.arms, self.table.slots + 1).double()
        count = torch.zeros(self.batch, dtype=torch.int32)
        for turn in self.turns[-len(played) :]:
            _, b, p, *_, emitted = turn
            if self.position[b] < self.end[b]:
                right = self.table.accepted[p : p + emitted, self.drafters[:, 0]] > 0
                gamma[b, :, :emitted] = torch.from_numpy(right.T)
                count[b] = emitted
        tk.observe_drafters(self.bandit, self.ring, gamma, count)

    def _drafter(self, b: int) -> int:
        turns = self.drafters[max(0, int(self.state.arm.view(self.batch, -1)[b, 0]))]
        for drafter in turns:
            if self.table.always[drafter] or self.table.offered[self.position[b], drafter]:
                return int(drafter)
        return int(turns[-1])

    def _draft(self, b: int) -> tuple[int, int, int, int]:
        """Drafter, drafted, stop reason, accepted."""
        p, drafter = self.position[b], self._drafter(b)
        limit = min(int(self.table.budget[p]), self.table.slots)
        drafted, reason = self._walk(b, p, drafter, limit)
        return drafter, drafted, reason, min(drafted, int(self.table.accepted[p, drafter]))

    def _walk(self, b: int, p: int, drafter: int, limit: int) -> tuple[int, int]:
        rules = Rules(
            self.rules.kind, self.rules.param, self.state.arm[b : b + 1],
            self.state.memory[b : b + 1],
        )  # fmt: skip
        first = arm_of_slot(rules, torch.zeros(1, dtype=torch.int64))
        if stop_before_drafting(first.kind, first.param, first.memory).item():
            return 0, PRE_DRAFT
        if limit == 0:
            return 0, MAX_LENGTH
        stats = torch.from_numpy(self.table.stats[p, drafter])[None].double()
        for slot in range(min(limit, int(self.table.offered[p, drafter]))):
            index = torch.tensor([slot])
            arm = arm_of_slot(rules, index)
            if should_stop(arm.kind, Slot(index, stats, arm.param, arm.memory)).item():
                return slot + 1, RULE
            if slot + 1 == limit:
                return limit, MAX_LENGTH
        return int(self.table.offered[p, drafter]), NONE

    def _learn(self, drafter: int, played: dict, alive: int) -> None:
        mine = [played.get(b, (-1,))[0] == drafter for b in range(self.batch)]
        if not any(mine):
            return
        proposal = tk.Proposal.empty(self.batch, self.table.slots)
        verdict = tk.Verdict.empty(self.batch, self.table.slots)
        proposal.live.copy_(torch.tensor(mine))
        for b in (b for b in played if mine[b]):
            _, drafted, reason, accepted = played[b]
            proposal.length[b], proposal.stop_reason[b] = drafted, reason
            stats = self.table.stats[self.position[b], drafter, :drafted]
            proposal.stats[b, :drafted] = torch.from_numpy(stats)
            verdict.num_accepted[b] = accepted
        ratio = torch.tensor([self.costs.ratio[alive - 1, drafter]])
        tk.bandit_update(
            replace(self.taught, cost_ratio=ratio), self.state.arm, proposal, verdict,
            rules=self.rules, state=self.state, backend="reference",
        )  # fmt: skip

    def _charge(self, played: dict, alive: int) -> None:
        verify, lengths = self.costs.verify[alive - 1], [n for _, n, _, _ in played.values()]
        if self.costs.padded:
            cost = verify[max(lengths)]
        else:
            cost = verify[0] + sum(verify[n] - verify[0] for n in lengths) / alive
        for drafter, slot in product(range(self.table.drafters), range(self.table.slots)):
            rows = sum(n > slot for d, n, _, _ in played.values() if d == drafter)
            if rows:
                together = alive if self.costs.padded else rows
                cost += self.costs.draft[together - 1, drafter]
        for b, (drafter, drafted, _, accepted) in played.items():
            p = self.position[b]
            emitted = min(accepted + 1, self.end[b] - p)
            self.position[b] += emitted
            arm = int(self.state.arm.view(self.batch, -1)[b, 0])
            self.turns.append((len(self.cost), b, p, arm, drafter, drafted, accepted, emitted))
            if self.ring:
                follows = self.position[b] < self.end[b]
                cost += follows * emitted * self.costs.catch_up[self.drafters[:, 0]].sum()
            elif drafted:
                cost += (p - self.read[b][drafter]) * self.costs.catch_up[drafter]
                self.read[b][drafter] = self.position[b]
        self.cost.append(cost)
