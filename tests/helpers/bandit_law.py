"""The exact law of two rounds under one bandit: the second's arm is what the first taught it.

Round one is integrated (helpers/round_law.py) down to every outcome: the draft, how much of it was
accepted, what was emitted.  For each outcome the real bandit is updated and selects the arm of
round two, which is integrated from there with the memory the first round left.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tapout_kernels import (
    BanditState,
    Proposal,
    StopState,
    Verdict,
    bandit_select,
    bandit_update,
)  # fmt: skip

from .law import Config, Paths, Setup
from .mutants import Reference
from .oracle import markov
from .round_law import outcomes, round_law


class Outcome(NamedTuple):
    emitted: tuple[int, ...]
    mass: float
    next: Config  # of the round after it


def two_rounds(
    reference: Reference, setup: Setup, bandit: BanditState, steps: int
) -> tuple[np.ndarray, set[tuple[int, ...]]]:
    """[V] * steps law of the tokens, the target completing each outcome; the arms of round two.

    ``setup`` holds one configuration, whose arms the bandit chooses.
    """
    first = replace(setup, configs=[setup.configs[0]._replace(arms=_select(bandit, setup))])
    found = list(_outcomes(reference, first, bandit))
    distinct = {_key(outcome.next): outcome.next for outcome in found}
    laws, _ = round_law(reference, replace(setup, configs=list(distinct.values())))
    block_of = dict(zip(distinct, laws, strict=True))
    vocab, table = len(setup.target), setup.probs("target", 0)
    law = np.zeros((vocab,) * steps)
    for outcome in found:
        left = steps - len(outcome.emitted)
        law[outcome.emitted] += outcome.mass * _fit(block_of[_key(outcome.next)], left, table)
    return law, {outcome.next.arms for outcome in found}


def _key(config: Config) -> tuple:
    return config.start, config.arms, tuple(config.memory.view(-1).tolist())


def _fit(block: np.ndarray, steps: int, table: np.ndarray) -> np.ndarray:
    """The law of the first ``steps`` tokens of a block, or of more, completed by the target."""
    if steps <= block.ndim:
        return block.sum(tuple(range(steps, block.ndim)))
    vocab = block.shape[0]
    law = np.zeros((vocab,) * steps)
    for tokens in itertools.product(range(vocab), repeat=block.ndim):
        law[tokens] = block[tokens] * markov(table, tokens[-1], steps - block.ndim)
    return law


def _outcomes(reference: Reference, setup: Setup, bandit: BanditState) -> Iterator[Outcome]:
    paths, row, end, mass = outcomes(reference, setup)
    for r, accepted, masses in zip(row.tolist(), end.tolist(), mass.tolist(), strict=True):
        if not any(masses):
            continue
        arms, memory = _learnt(setup, bandit, paths, r, accepted)
        for token, m in enumerate(masses):
            if m > 0:
                emitted = (*paths.tokens[r, :accepted].tolist(), token)
                then = setup.configs[0]._replace(arms=arms, memory=memory, start=token)
                yield Outcome(emitted, m, then)


def _state(bandit: BanditState, setup: Setup) -> StopState:
    return StopState.of(1, setup.rules, slots=setup.slots if bandit.level == "token" else None)


def _select(bandit: BanditState, setup: Setup) -> tuple[int, ...]:
    """[K] arms; at sequence level K times the same."""
    arm = _state(bandit, setup).arm
    bandit_select(_copy(bandit), out=arm, backend="reference")
    return tuple(arm.view(1, -1).expand(1, setup.slots)[0].tolist())


def _learnt(
    setup: Setup, bandit: BanditState, paths: Paths, row: int, accepted: int
) -> tuple[tuple[int, ...], Tensor]:
    """The arms of the next round and the rules' memory, after one draft and its verdict."""
    taught, state = _copy(bandit), _state(bandit, setup)
    arms = torch.tensor([setup.configs[0].arms], dtype=torch.int32)
    state.arm.copy_(arms if bandit.level == "token" else arms[:, 0])
    verdict = Verdict.empty(1, setup.slots)
    verdict.num_accepted.fill_(accepted)
    draft = Proposal.empty(1, setup.slots)
    draft.live.fill_(True)
    for name in ("tokens", "length", "stop_reason"):
        getattr(draft, name).copy_(getattr(paths.proposal, name)[row : row + 1])
    bandit_update(
        taught, state.arm, draft, verdict, rules=setup.rules, state=state, backend="reference"
    )
    return _select(taught, setup), state.memory[0]


def _copy(bandit: BanditState) -> BanditState:
    fields = vars(bandit).items()
    return BanditState(**{k: v.clone() if isinstance(v, Tensor) else v for k, v in fields})
