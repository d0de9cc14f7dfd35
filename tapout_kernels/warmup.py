"""``warmup``: everything a server needs exists before its first request, or its first capture."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .backends import default_backend
from .bandit_state import BanditState
from .ops import (
    bandit_select,
    bandit_step,
    bandit_update,
    draft_step,
    row_stats,
    sample,
    verify,
)
from .proposal import Proposal
from .reference.accept import RULES
from .stop_rules import StopRules, StopState
from .types import RngState, SamplingParams


def warmup(
    device: torch.device | str,
    vocab: int,
    dtype: torch.dtype,
    slots: int,
    batch_sizes: Sequence[int],
) -> tuple[str, ...]:
    """Run one throwaway round of every operator for each batch size, on the default backend.

    Kernels that are compiled per process, workspaces and tickets exist afterwards, so that no
    request waits for them and a graph can be captured. Nothing of the caller's is touched.

    Parameters
    ----------
    device : torch.device or str
    vocab : int
        Target vocabulary.
    dtype : torch.dtype
        Of the logits: float32, bfloat16 or float16.
    slots : int
        K, the draft slots of the proposals.
    batch_sizes : sequence of int

    Returns
    -------
    tuple of str
        What is ready: ``"verify gumbel, batch 8: cpu"``.

    Raises
    ------
    ValueError, TypeError
        For sizes below 1 or a dtype no operator takes.

    Examples
    --------
    >>> ready = warmup("cpu", vocab=100, dtype=torch.float32, slots=2, batch_sizes=[1])
    >>> [line for line in ready if line.startswith("verify block")]
    ['verify block, batch 1: cpu']
    """
    ready: list[str] = []
    for batch in batch_sizes:
        for rule in RULES:
            for filtered in (False, True):
                _round(torch.device(device), vocab, dtype, slots, batch, rule, filtered)
            ready += [
                _line(f"{op} {rule}", op, batch, device)
                for op in ("draft_step", "verify", "sample")
            ]
        ready += [
            _line(op, op, batch, device)
            for op in (
                "row_stats",
                "proposal_reset",
                "proposal_load",
                "bandit_select",
                "bandit_update",
                "bandit_step",
            )
        ]
    return tuple(ready)


def _line(what: str, op: str, batch: int, device: torch.device | str) -> str:
    return f"{what}, batch {batch}: {default_backend(op, device)}"


def _round(
    device: torch.device,
    vocab: int,
    dtype: torch.dtype,
    slots: int,
    batch: int,
    rule: str,
    filtered: bool,
) -> None:
    off = {"top_k": 2, "top_p": 0.9, "min_p": 0.1} if filtered else {}
    sampling = SamplingParams.of(batch, device=device, **off)
    rng = RngState.of(range(batch), device=device)
    rules = StopRules(("fixed_length", {"n": slots}), device=device)
    state, bandit = StopState.of(batch, rules), BanditState.create(1, slots=slots, device=device)
    proposal = Proposal.empty(batch, slots, vocab, dtype, device)
    logits = torch.zeros(batch, slots + 1, vocab, dtype=dtype, device=device)
    bandit_select(bandit, out=state.arm)
    proposal.reset(rng, rules, state)
    draft_step(logits[:, 0], proposal, sampling, rng, rules=rules, state=state, rule=rule)
    verdict = verify(logits, proposal, sampling, rng, rule=rule)
    bandit_update(bandit, state.arm, proposal, verdict, rules=rules, state=state)
    bandit_step(bandit, state.arm, proposal, verdict, out=state.arm, rules=rules, state=state)
    sample(logits[:, 0], sampling, rng, rule=rule)
    loaded = proposal.tokens.clamp(min=0)
    Proposal.from_tokens(loaded, rng, logits=logits[:, 1:].clone(), sampling=sampling)
    row_stats(logits[:, 0], sampling)
