"""Short ways to a proposal, a choice of the bandit, and an update with given outcomes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tapout_kernels import (
    BanditState,
    Proposal,
    RngState,
    SamplingParams,
    StopRules,
    StopState,
    Verdict,
    bandit_select,
    bandit_update,
    draft_step,
)

select = bandit_select


def drafted(
    logits: Tensor,  # [B, V], the same for every slot, or [B, K, V]
    slots: int,
    rng: RngState,
    sampling: SamplingParams | None = None,
    rules: StopRules | None = None,
    state: StopState | None = None,
    rule: str = "token",
    backend: str | None = None,
) -> Proposal:
    """A proposal drafted from given logits with the real noise."""
    proposal = Proposal.empty(logits.shape[0], slots, logits.shape[-1], logits.dtype)
    proposal.reset(rng, rules, state, backend=backend)
    for slot in range(slots):
        row = logits if logits.dim() == 2 else logits[:, slot]
        draft_step(
            row, proposal, sampling or SamplingParams(), rng, rules=rules, state=state, rule=rule,
            backend=backend,
        )  # fmt: skip
    return proposal


@dataclass
class Update:
    """A round with a known outcome, ready to be learnt from."""

    bandit: BanditState
    arm: Tensor
    proposal: Proposal
    verdict: Verdict
    group: Tensor | None = None

    @property
    def live(self) -> Tensor:
        return self.proposal.live

    def run(self, backend: str | None, **rules: object) -> None:
        bandit_update(
            self.bandit, self.arm, self.proposal, self.verdict, self.group, backend=backend, **rules
        )


def update_arguments(
    bandit: BanditState, arm: Tensor, accepted: list[int], length: list[int], slots: int
) -> Update:
    batch = len(accepted)
    proposal, verdict = Proposal.empty(batch, slots), Verdict.empty(batch, slots)
    proposal.live.fill_(True)
    proposal.length.copy_(torch.tensor(length))
    verdict.num_accepted.copy_(torch.tensor(accepted))
    return Update(bandit, arm, proposal, verdict)
