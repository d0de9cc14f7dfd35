"""Arguments of the bandit's raw operators, for :mod:`tapout_kernels.testing`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..bandit_state import BanditState
from ..policies import LEVELS
from ..reference.bandit import DISCOUNT, POLICIES, REWARDS
from ..reference.stats import NUM_STATS
from ..reference.stop import PRE_DRAFT
from ..stop_rules import StopRules
from .inputs import TABLES, remembered

if TYPE_CHECKING:
    from .cases import Case

_GROUPS = 3
# Each bandit is one way through both operators; "rows" keeps its state per request slot.
BANDITS: dict[str, dict[str, object]] = {
    "ucb1": {"policy": "ucb1", "reward": "blend"},
    "ucb1_rows": {"policy": "ucb1", "reward": "simple", "rows": True},
    "ucb1_throughput": {"policy": "ucb1", "reward": "throughput", "discount": 0.9},
    "ucb1_token": {"policy": "ucb1", "reward": "decision", "rows": True, "discount": 0.9},
    "ucb_tuned": {"policy": "ucb_tuned", "reward": "blend", "discount": 0.9},
    "ucb_tuned_token": {"policy": "ucb_tuned", "reward": "token_accept"},
    "gaussian": {"policy": "thompson_gaussian", "reward": "throughput"},
    "gaussian_token": {"policy": "thompson_gaussian", "reward": "decision", "rows": True},
    "beta": {"policy": "thompson_beta", "reward": "simple", "rows": True},
    "beta_token": {"policy": "thompson_beta", "reward": "token_accept", "discount": 0.9},
    "epsilon": {"policy": "epsilon_greedy", "reward": "blend"},
    "epsilon_token": {"policy": "epsilon_greedy", "reward": "decision"},
    "fixed": {"policy": "fixed", "reward": "simple"},
    "ucbspec": {"policy": "ucbspec", "reward": "simple", "rows": True, "discount": 0.9},
    "exp3": {"policy": "exp3", "reward": "blend", "discount": 0.9, "epsilon": 0.25},
    "exp3_rows": {"policy": "exp3", "reward": "overlap", "rows": True},
    "exp3_token": {"policy": "exp3", "reward": "decision", "rows": True, "discount": 0.9},
    "hedge": {"policy": "hedge", "reward": "blend", "rows": True},
    "overlap": {"policy": "metasd", "reward": "overlap", "rows": True, "discount": 0.9},
    "hedge_overlap": {"policy": "hedge", "reward": "overlap"},
    "normalhedge": {"policy": "normalhedge", "reward": "simple", "discount": 0.9},
}


def bandit_select_inputs(
    rules: StopRules, case: Case, generator: torch.Generator
) -> dict[str, object]:
    state = _state(rules, case, generator)
    return {
        **_tables(state, generator), **_rows(case), "seed": state.seed, "slots": case.slots,
        "policy": POLICIES[state.policy], "reward": REWARDS[state.reward],
        "calls": torch.full((1,), 7), "arm": torch.full_like(_arms(rules, case, generator), -1),
        "arm_prob": _arm_prob(state, generator),
    }  # fmt: skip


def bandit_update_inputs(case: Case, generator: torch.Generator) -> dict[str, object]:
    rules, batch, slots = TABLES[case.arms], case.batch, case.slots
    state = _state(rules, case, generator)
    arm, row = _arms(rules, case, generator), torch.arange(batch)
    length = ((slots - row) % (slots + 1)).int()
    accepted = (torch.rand(batch, generator=generator) * (length + 1)).int()
    return {
        **_tables(state, generator), **_rows(case), "policy": POLICIES[state.policy],
        "reward": REWARDS[state.reward], "arm": arm, "arm_prob": _arm_prob(state, generator),
        "draft_tokens": torch.zeros(batch, slots, dtype=torch.int64), "length": length,
        "stats": torch.rand(batch, slots, NUM_STATS, generator=generator),
        "num_accepted": accepted, "status": (row % 7 == 6).int(),
        "overlap": _overlap(state, length, slots, generator),
        "stop_reason": torch.where(length == 0, PRE_DRAFT, row % 3).int(),
        "cost_ratio": torch.full((1,), 0.25), "rule_kind": rules.kind, "rule_param": rules.param,
        "memory": remembered(len(arm), rules),
    }  # fmt: skip


def bandit_step_inputs(case: Case, generator: torch.Generator) -> dict[str, object]:
    """Other rows are live in the coming round; at token level arms of other slots are looked up."""
    update = bandit_update_inputs(case, generator)
    state = _state(TABLES[case.arms], case, generator)
    return {
        **update, "seed": state.seed,
        "calls": torch.full((1,), 7), "next_live": torch.arange(case.batch) % 5 != 3,
        "next_arm": torch.full_like(update["arm"], -1),
    }  # fmt: skip


def _state(rules: StopRules, case: Case, generator: torch.Generator) -> BanditState:
    bandit = BANDITS[case.bandit]
    rows = 2 * case.batch if "rows" in bandit else case.batch
    return BanditState.create(
        len(rules), _GROUPS, case.slots, "token" if token_level(case) else "sequence",
        bandit["policy"], bandit["reward"],
        seed=int(torch.randint(-(1 << 62), 1 << 62, (1,), generator=generator)),
        discount=bandit.get("discount", 1.0), rows=rows,
        **{name: bandit[name] for name in ("epsilon",) if name in bandit},
    )  # fmt: skip


def token_level(case: Case) -> bool:
    return BANDITS[case.bandit]["reward"] in LEVELS["token"]


def _tables(state: BanditState, generator: torch.Generator) -> dict[str, Tensor]:
    """Some pulls, of rewards that can be: 0 or 1 at token level; fractions if discounted."""

    def random(shape: torch.Size) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    count = torch.randint(0, 4, state.count.shape, generator=generator).double()
    share = random(count.shape)
    if state.level == "token":
        share = torch.where(count > 0, (count * share).round() / count, 0.0)
    if state.params[DISCOUNT] < 1:
        count = count * random(count.shape)
    rounds = count if state.level == "sequence" else count.sum(-1)
    tokens = rounds * (1 + state.slots * random(rounds.shape))
    if state.reward == "simple":  # the two say the same of the accepted tokens
        tokens = count + state.slots * (count * share)
    squares = count * share * share
    if state.policy == "normalhedge":  # regrets
        squares = squares - squares.mean(1, keepdim=True)
    return {
        "count": count, "reward_sum": count * share, "reward_sq": squares, "tokens": tokens,
        "cost": rounds * 1.5, "params": state.params,
    }  # fmt: skip


def _arm_prob(state: BanditState, generator: torch.Generator) -> Tensor | None:
    """Of earlier draws; some arms could not be drawn."""
    if not len(state.arm_prob):
        return None
    weight = torch.rand(state.arm_prob.shape, generator=generator, dtype=torch.float64)
    weight = (weight - 0.2).clamp(min=0)
    return weight / weight.sum(1, keepdim=True)


def _overlap(
    state: BanditState, length: Tensor, slots: int, generator: torch.Generator
) -> Tensor | None:
    """Now and then a row that could not be verified: -1 from there on."""
    if state.reward != "overlap":
        return None
    known = torch.rand(len(length), slots, generator=generator)
    missing = (torch.arange(slots) >= length[:, None]) | (known < 0.1).cumsum(1).bool()
    return known.masked_fill(missing, -1.0)


def _rows(case: Case) -> dict[str, Tensor | None]:
    """A group too many, dead rows, and rows of state that do not exist."""
    row = torch.arange(case.batch)
    index = (2 * row.flip(0) - 1).int() if "rows" in BANDITS[case.bandit] else None
    return {"group": (row % (_GROUPS + 1)).int(), "live": row % 5 != 4, "rows": index}


def _arms(rules: StopRules, case: Case, generator: torch.Generator) -> Tensor:
    """[R] or [R, K], now and then outside the table on either side; R > B with ``rows``."""
    rows = 2 * case.batch if "rows" in BANDITS[case.bandit] else case.batch
    shape = (rows, case.slots) if token_level(case) else (rows,)
    return torch.randint(-1, len(rules) + 1, shape, generator=generator).int()
