"""``bandit_update``: what the round taught about its arm."""

from __future__ import annotations

from torch import Tensor

from ..backends import call
from ..bandit_state import BanditState
from ..proposal import Proposal
from ..stop_rules import StopRules, StopState
from ..types import Verdict
from ._bandit import round_arguments


def bandit_update(
    bandit: BanditState,
    arm: Tensor,  # [B], or [B, K] at token level; [R] or [R, K] with rows
    proposal: Proposal,
    verdict: Verdict,
    group: Tensor | None = None,  # [B]
    *,
    rules: StopRules | None = None,
    state: StopState | None = None,
    rows: Tensor | None = None,  # [B]
    backend: str | None = None,
) -> None:
    r"""Credit each row's arm with its round, and update its stop rule's memory.

    With n accepted of d drafted tokens, a level ``sequence`` reward is

    ``simple``: n / K.
    ``blend``: ``alpha * n / K + (1 - alpha) * n / d``; both are 0 when nothing was drafted.
    ``overlap``: the sum of ``verdict.overlap`` over the draft, / K: 1 less the total variation of
    target and draft, slot by slot. It needs ``verify(overlap=True)``.
    ``throughput``: the mean of arm a is
    :math:`1/2 + (tokens_a - \rho \, cost_a) / (2 (K+1) n_a)`, clipped to [0, 1], from tokens
    :math:`n + 1` and cost ``1 + cost_ratio * d`` summed over rounds, :math:`\rho` the group's
    tokens per cost. (Means of each round's own quotient rank arms wrongly.)

    Level ``token`` credits the arm of every slot j up to the first rejection.
    ``decision``: it let drafting go on: 1 if token j+1 was accepted; it stopped: 1 if token j was
    rejected; no credit where K or ``max_length`` cut the draft.
    ``token_accept``: 1 if token j was accepted, TapOut's own credit, which an arm cannot influence.
    Both: an arm that drafts nothing gets 0. Tokens and cost go to the arm of the last drafted slot.

    ``exp3`` and ``exp3spec`` also add (1 - reward) / the probability the arm was drawn with to its
    estimated losses; a row whose arm was not drawn with any probability teaches nothing.
    ``hedge`` and ``normalhedge`` learn of every stop rule i. With :math:`s_i` the length at which
    it would have stopped on the drafted prefix (its own memory, the proposal's ``stats``), its loss
    :math:`f_i` is 1 - the reward of min(n, s_i) of s_i tokens, and its estimate is
    :math:`f_i / \sum_j p_j 1\{s_j \ge s_i\}` if the draft was as long or was cut by ``max_length``,
    else 0, with p of the draw: unbiased. ``normalhedge`` adds up regrets, the loss of its own
    weights less the rule's. They need ``rules`` and ``state``, and arms of one drafter: a shorter
    draft is judged by the longer one's tokens.

    Stop rules that learn (``adaedl``, ``gammatune``, ``gammatune_plus``, ``heuristic``,
    ``hysteresis``, ``adasd_entropy``, ``adl``) do so in rounds their arm (of the last drafted slot)
    drafted something; ``hysteresis`` counts the rounds it refused to draft, too. The formulas:
    docs/algorithms.md.

    Parameters
    ----------
    bandit : BanditState
        Accumulated in row order: the credited table (at level ``token`` that of the slot) is
        discounted, then credited. Rows not live, with a status other than OK, or with an arm,
        group or row of state outside its range are skipped.
    arm : Tensor
        [B] int32, at level ``token`` [B, K]: the arms that ran.
    proposal, verdict : Proposal, Verdict
        Of one round, as :func:`verify` left them.
    group : Tensor, optional
        [B] int32; None: group 0.
    rules, state : StopRules, StopState, optional
        Given, ``state.memory`` of the arm that ran is updated too.
    rows : Tensor, optional
        [B] int32, the row of ``arm`` and ``state`` that belongs to each batch row; ``arm`` is then
        [R] or [R, K]. No two batch rows may name the same.
    backend : {"reference", "cpu", "triton", "cuda"}, optional

    Raises
    ------
    TypeError, ValueError
        For a tensor of the wrong dtype, shape, device or layout, or proposals of another K than
        ``bandit.slots`` where that matters (level ``token``, reward ``throughput``); nothing is
        written.

    Notes
    -----
    Source: TapOut, arXiv 2511.02017 (``simple``, ``blend``, ``token_accept``); ``throughput`` and
    ``decision`` are this project's.

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
    arguments = round_arguments(
        "bandit_update", bandit, arm, proposal, verdict, group, rules, state, rows
    )
    call("bandit_update", backend, **arguments)
