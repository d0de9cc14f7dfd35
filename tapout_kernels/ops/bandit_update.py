"""``bandit_update``: what the round taught about its arm."""

from __future__ import annotations

from torch import Tensor

from ..backends import call
from ..bandit_state import BanditState
from ..proposal import Proposal
from ..reference.bandit import REWARDS
from ..stop_rules import StopRules, StopState, rule_arguments
from ..types import Verdict


def bandit_update(
    bandit: BanditState,
    arm: Tensor,  # [B]
    proposal: Proposal,
    verdict: Verdict,
    group: Tensor | None = None,  # [B]
    *,
    rules: StopRules | None = None,
    state: StopState | None = None,
    backend: str | None = None,
) -> None:
    """Credit each row's arm with its round, and update its stop rule's memory.

    Reward ``simple``: accepted / K. ``blend``: ``alpha * accepted / K + (1 - alpha) * accepted /
    drafted``; 0 when nothing was drafted (TapOut, arXiv 2511.02017). ``adaedl`` moves its
    threshold as the Draft & Verify code does, in rounds its arm drafted something.

    Parameters
    ----------
    bandit : BanditState
        Accumulated in row order; rows not live, with a status other than OK, or with an arm or
        group outside the table are skipped.
    arm : Tensor
        [B] int32, the arms that ran.
    proposal, verdict : Proposal, Verdict
    group : Tensor, optional
        [B] int32; None: group 0.
    rules, state : StopRules, StopState, optional
        Given, ``state.memory`` of the arm that ran is updated too.
    backend : {"reference", "cpu"}, optional

    Raises
    ------
    TypeError, ValueError
        For a tensor of the wrong dtype, shape, device or layout; nothing is written.

    Examples
    --------
    >>> rng, bandit = RngState.of(0), BanditState.create(arms=2, slots=2)
    >>> draft = Proposal.from_tokens(torch.tensor([[1, 2]]), rng)
    >>> logits = torch.nn.functional.one_hot(torch.tensor([[1, 2, 0]]), 3) * 100.0
    >>> verdict = verify(logits, draft, SamplingParams(), rng, rule="greedy")
    >>> bandit_update(bandit, torch.tensor([1], dtype=torch.int32), draft, verdict)
    >>> bandit.reward_sum.tolist()
    [[0.0, 1.0]]
    """
    table = rule_arguments("bandit_update", rules, state)
    call(
        "bandit_update", backend, arm=arm, draft_tokens=proposal.tokens,
        length=proposal.length, live=proposal.live, num_accepted=verdict.num_accepted,
        status=verdict.status, group=group, params=bandit.params, cost_ratio=bandit.cost_ratio,
        reward=REWARDS[bandit.reward], rule_kind=table["rule_kind"],
        rule_param=table["rule_param"], count=bandit.count, reward_sum=bandit.reward_sum,
        reward_sq=bandit.reward_sq, tokens=bandit.tokens, cost=bandit.cost,
        memory=table["memory"],
    )  # fmt: skip
