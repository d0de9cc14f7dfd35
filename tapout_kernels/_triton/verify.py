"""verify: two launches, one over the target rows, one over the requests."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from .core.sampling import BLOCK, GREEDY
from .launch import Shape, launch, splits, tuning
from .params import Rng, Sampling
from .row import GROUP
from .scratch import draft_layout, layout, mask_layout, rows_of
from .verify_end import verify_end_kernel
from .verify_outputs import Verdict
from .verify_rows import NUM_CODES, NUM_NUMBERS, Found, verify_rows_kernel


def verify(
    target_logits: Tensor,
    row_start: Tensor | None,
    temperature: Tensor | None,
    top_k: Tensor | None,
    top_p: Tensor | None,
    min_p: Tensor | None,
    token_mask: Tensor | None,
    seed: Tensor,
    rows: Tensor | None,
    draft_tokens: Tensor,
    length: Tensor,
    live: Tensor,
    round: Tensor,
    draft_logits: Tensor | None,
    logits_row: Tensor | None,
    t2d: Tensor | None,
    stats: Tensor,
    rule: int,
    raw_logprobs: bool,
    position: Tensor,
    tokens: Tensor,
    num_accepted: Tensor,
    num_emitted: Tensor,
    last_token: Tensor,
    status: Tensor,
    accept_prob: Tensor,
    overlap: Tensor | None,
    logprobs: Tensor | None,
    lossy_memory: Tensor | None,
) -> None:
    if not 0 <= rule <= GREEDY.value:
        raise ValueError(f"verify: rule must be 0 to 3 on a GPU, got {rule}")
    if lossy_memory is not None:
        raise ValueError("verify: lossy_memory must be None on a GPU, got a Tensor")
    batch, slots = draft_tokens.shape
    if rule == GREEDY.value:  # takes every draft as one-hot
        draft_logits = logits_row = t2d = None
    sampling = Sampling(temperature, top_k, top_p, min_p)
    plan, vocab, count = tuning(target_logits.device), target_logits.shape[-1], batch * (slots + 1)
    every_row = rule == BLOCK.value or overlap is not None
    levels = slots if every_row else 1
    raw = raw_logprobs and logprobs is not None
    tiles = triton.cdiv(vocab, plan.tile)
    chunks = tiles * (plan.tile // GROUP.value if any(x is not None for x in sampling[1:]) else 1)
    more: list[Shape] = [
        ((count, NUM_NUMBERS.value), torch.float64), ((count, NUM_CODES.value), torch.int32),
        ((batch * levels, chunks), torch.float32),
    ]  # fmt: skip
    more += [((batch * levels, chunks), torch.float32)] if overlap is not None else []
    more += [((count, tiles, 2), torch.float32)] if raw else []
    shares = [triton.cdiv(n, 4) * 4 for n in (count, batch, batch)]  # aligned: see ``launch``
    space = rows_of(count, target_logits, sampling, rule, sum(shares), tuple(more))
    numbers, codes, residual, *rest = space.more
    shared = rest.pop(0) if overlap is not None else None
    row_tickets, decided, tickets = space.tickets[: sum(shares)].split(shares)
    found = Found(numbers, codes, rest.pop(0) if raw else None, decided)
    given = (
        target_logits, row_start, token_mask, *layout(target_logits), target_logits.shape[0],
        *mask_layout(token_mask), draft_tokens, stats, draft_logits, logits_row, t2d,
        *draft_layout(draft_logits), 0 if t2d is None else t2d.shape[0], sampling,
        Rng(seed, position, round), length, live, rows, seed.shape[0], found, space.scratch,
    )  # fmt: skip
    launch(
        verify_rows_kernel, space.programs, *given, row_tickets, batch, slots, space.splits,
        RULE=rule, EVERY_ROW=every_row, **space.constants,
    )  # fmt: skip
    share = 1
    if draft_logits is not None:
        share = splits(batch * levels, vocab, plan._replace(programs=plan.last_programs))
    verdict = Verdict(
        tokens, num_accepted, num_emitted, last_token, status, accept_prob, overlap, logprobs
    )
    try:
        launch(
            verify_end_kernel, batch * levels * share, *given, tickets, batch, slots, share,
            residual, shared, chunks, verdict, levels,
            RULE=rule, RAW=raw, EVERY_ROW=every_row, **space.constants,
        )  # fmt: skip
    except BaseException:
        decided.zero_()  # by this launch; left as it is, it would skip rows of the next call
        raise
