"""``warmup``: everything a server needs exists before its first request, or its first capture."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import product
from typing import NamedTuple

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
from .ops._rules import rule_id
from .proposal import Proposal
from .reference.accept import RULES
from .stop_rules import StopRules, StopState
from .types import RngState, SamplingParams, Verdict

_PER_RULE = ("draft_step", "verify", "sample")
_ONCE = (
    "row_stats", "proposal_reset", "proposal_load", "bandit_select", "bandit_update",
    "bandit_step",
)  # fmt: skip
_FILTERS = ({}, {"temperature": 0.9, "top_k": 2, "top_p": 0.9, "min_p": 0.1})
_FORMS = ("kept", "one_hot", "masked")  # draft logits kept; none; kept, with masks and ragged rows


def warmup(
    device: torch.device | str,
    vocab: int,
    dtype: torch.dtype,
    slots: int,
    batch_sizes: Sequence[int],
    *,
    rule: str | None = None,
) -> tuple[str, ...]:
    """Run throwaway rounds of every operator but those of trees for each batch size, by default.

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
        The largest decides how much memory workspaces hold. Batch sizes compile nothing.
    rule : {"token", "block", "gumbel", "greedy"}, optional
        The only rule that will be used. None: every rule, which takes as much longer.

    Returns
    -------
    tuple of str
        What is ready: ``"verify gumbel, batch 8: cpu"``.

    Raises
    ------
    ValueError, TypeError
        For sizes below 1, an unknown rule, or a dtype no operator takes.

    Notes
    -----
    Each rule runs without parameters and with all of temperature, top-k, top-p and min-p; each of
    these with the draft's logits kept, with one-hot drafts, and with token masks and ragged target
    rows. What else a call passes (only some of the parameters, ``rows``, a draft vocabulary, arms
    for each slot, predictions, ``overlap``, ``logprobs``, a policy other than ucb1) is another
    kernel where kernels are compiled per process: make that call once too.

    On a GPU the rounds run on the current stream and on the one ``torch.cuda.graph`` captures on
    unless told otherwise: each has a workspace of its own. Ends with a synchronization.

    Examples
    --------
    >>> ready = warmup("cpu", vocab=100, dtype=torch.float32, slots=2, batch_sizes=[1])
    >>> [line for line in ready if line.startswith("verify block")]
    ['verify block, batch 1: cpu']
    """
    device = torch.device(device)
    if rule is not None:
        rule_id("warmup", rule)
    rules = tuple(RULES) if rule is None else (rule,)
    for stream in _streams(device):
        with stream:
            for batch, *variant in product(batch_sizes, rules, _FILTERS, _FORMS):
                _round(_Shape(device, vocab, dtype, slots, batch), *variant)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    names = [(f"{op} {name}", op) for name in rules for op in _PER_RULE]
    names += [(op, op) for op in _ONCE]
    return tuple(
        f"{name}, batch {batch}: {default_backend(op, device)}"
        for batch in batch_sizes
        for name, op in names
    )


def _streams(device: torch.device) -> list[AbstractContextManager]:
    """The current stream, and the one that graphs are captured on."""
    if device.type != "cuda":
        return [nullcontext()]
    with torch.cuda.device(device):
        capture = torch.cuda.graph(torch.cuda.CUDAGraph()).capture_stream
    return [nullcontext(), torch.cuda.stream(capture)]


class _Shape(NamedTuple):
    device: torch.device
    vocab: int
    dtype: torch.dtype
    slots: int
    batch: int

    def logits(self) -> torch.Tensor:  # [B, K+1, V]
        shape = (self.batch, self.slots + 1, self.vocab)
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def masks(self) -> torch.Tensor:  # [B, K+1, ceil(V/32)], everything allowed
        shape = (self.batch, self.slots + 1, -(-self.vocab // 32))
        return torch.full(shape, -1, dtype=torch.int32, device=self.device)


def _round(shape: _Shape, rule: str, filters: dict[str, float], form: str) -> None:
    device, batch, slots = shape.device, shape.batch, shape.slots
    sampling = SamplingParams.of(batch, device=device, **filters)
    rng = RngState.of(range(batch), device=device)
    rules = StopRules(("fixed_length", {"n": slots}), device=device)
    state, bandit = StopState.of(batch, rules), BanditState.create(1, slots=slots, device=device)
    one_hot = form == "one_hot"
    kept = {} if one_hot else {"vocab": shape.vocab, "dtype": shape.dtype}
    proposal = Proposal.empty(batch, slots, **kept, device=device)
    logits, masks = shape.logits(), shape.masks() if form == "masked" else None
    row_mask = None if masks is None else masks[:, 0].contiguous()
    bandit_select(bandit, out=state.arm)
    proposal.reset(rng, rules, state)
    if not one_hot or rule in ("gumbel", "greedy"):  # the others need what they drew from
        draft_step(
            logits[:, 0], proposal, sampling, rng, rules=rules, state=state, rule=rule,
            token_mask=row_mask,
        )  # fmt: skip
    loaded = Proposal.from_tokens(
        proposal.tokens.clamp(min=0), rng,
        logits=None if one_hot else logits[:, 1:].clone(), sampling=sampling,
        token_mask=None if masks is None else masks[:, 1:].contiguous(),
    )  # fmt: skip
    given = loaded if one_hot else proposal
    verdict = _verify(shape, logits, masks, given, sampling, rng, rule)
    bandit_update(bandit, state.arm, given, verdict, rules=rules, state=state)
    bandit_step(bandit, state.arm, given, verdict, out=state.arm, rules=rules, state=state)
    sample(logits[:, 0], sampling, rng, rule=rule, token_mask=row_mask)
    row_stats(logits[:, 0], sampling, token_mask=row_mask)


def _verify(
    shape: _Shape,
    logits: torch.Tensor,
    masks: torch.Tensor | None,
    proposal: Proposal,
    sampling: SamplingParams,
    rng: RngState,
    rule: str,
) -> Verdict:
    """Ragged rows where there are masks."""
    row_start = None
    if masks is not None:
        rows = torch.arange(shape.batch + 1, dtype=torch.int32, device=shape.device)
        row_start = rows * (shape.slots + 1)
        logits, masks = logits.flatten(0, 1), masks.flatten(0, 1)
    return verify(logits, proposal, sampling, rng, rule=rule, row_start=row_start, token_mask=masks)
