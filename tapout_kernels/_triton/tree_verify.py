"""tree_verify: walks down from the root as long as a child is accepted, one launch.

The programs of a request take one step after the other together (``turns``): the pass over a row of
the path, or the sums that a rejected child asks for.  So only rows on the path are read, each by
all of them, and whoever finishes a step decides what comes next.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .core.sampling import BLOCK, TOKEN, row_sampling
from .core.stats import OK
from .drafts import Drafts
from .finish import arrives_last
from .gumbel import Noise
from .launch import Shape, launch, splits, tuning
from .law import finish_row
from .params import Rng, Sampling
from .row import GROUP, Row, RowScratch, known_row
from .scan import scan_row
from .scratch import draft_layout, layout, mask_layout, rows_of
from .tree_links import Tree
from .tree_outputs import Path, end_walk, write_dead
from .tree_state import (
    ACCEPTED,
    AT,
    BAD,
    NUM_CODES,
    NUM_NUMBERS,
    SUMS,
    State,
    Walk,
    code,
    keep_law,
    kept_law,
)
from .tree_step import decide, sum_rejected
from .turns import DONE, Turns, claim, leave, let_begin, wait_for
from .verify_rows import Target, target_at

COUNTERS = 4  # of a request


@triton.jit
def walk_at(tree, state, b, r, step, seed, round_):
    """Where a step finds its request, and whether it is one of sums; the first is at the root."""
    at, accepted = tl.full([], 0, tl.int32), tl.full([], 0, tl.int32)
    bad, sums = tl.load(tree.valid + b) == 0, step < 0
    if step > 0:
        at, accepted = code(state, b, AT), code(state, b, ACCEPTED)
        bad, sums = code(state, b, BAD) != 0, code(state, b, SUMS) != 0
    return Walk(b, r, at, accepted, bad, seed, round_), sums


@triton.jit
def finish_step(
    path, position, tree, drafts, row, drawn, own, state, walk, noise, sums, tiles,
    RULE: tl.constexpr,
    TILE: tl.constexpr, PRECISION: tl.constexpr, PIVOTS: tl.constexpr, LISTED: tl.constexpr,
):  # fmt: skip
    """In one program, after all shares; whether there is another step."""
    status, goes_on = tl.full([], OK, tl.int32), sums
    if sums == 0:
        found = finish_row(row, drawn, own, tiles, False, TILE, PRECISION, PIVOTS, LISTED)
        keep_law(state, walk.b, found)
        status = found.status
    if status == OK:
        law = kept_law(state, walk.b)
        goes_on = decide(
            path, position, tree, drafts, row, drawn, own, state, walk, law, noise, sums, tiles,
            RULE, TILE, LISTED,
        )  # fmt: skip
    else:
        end_walk(path, position, tree, walk, walk.at < 0, tl.full([], -1, tl.int32), status)
    return goes_on


@triton.jit(
    do_not_specialize=[
        "mask_batch_stride", "mask_row_stride", "words", "draft_rows", "target_ids", "state_rows",
        "nodes", "shares", "chunks", "draft_tiles",
    ]
)  # fmt: skip
def tree_verify_kernel(
    logits, mask, batch_stride: tl.int64, row_stride: tl.int64, vocab: tl.int64,
    mask_batch_stride: tl.int64, mask_row_stride: tl.int64, words: tl.int64,
    tokens, first_child, next_sibling, valid, nodes: tl.int64,
    stats, draft_logits, logits_row, t2d, draft_batch_stride: tl.int64,
    draft_row_stride: tl.int64, draft_rows: tl.int64, draft_vocab: tl.int64, target_ids: tl.int64,
    sampling, rng, live, rows, state_rows: tl.int64, scratch, numbers, codes, residual, draft_sums,
    chunks: tl.int64, draft_tiles: tl.int64, turns, path, shares: tl.int32,
    RULE: tl.constexpr,
    TILE: tl.constexpr, PRECISION: tl.constexpr, PIVOTS: tl.constexpr, LISTED: tl.constexpr,
):  # fmt: skip
    b = (tl.program_id(0) // shares).to(tl.int32)
    tree = Tree(tokens, first_child, next_sibling, valid, nodes.to(tl.int32))
    r, known = known_row(rows, b, state_rows)
    if known & tl.load(live + b):
        target = Target(
            logits, None, mask, batch_stride, row_stride, vocab, None, mask_batch_stride,
            mask_row_stride, words,
        )  # fmt: skip
        drafts = Drafts(
            None, stats, draft_logits, logits_row, t2d, tree.nodes + 1, draft_batch_stride,
            draft_row_stride, draft_rows, draft_vocab.to(tl.int32), target_ids.to(tl.int32),
        )  # fmt: skip
        state = State(numbers, codes, residual, draft_sums, chunks, draft_tiles)
        seed, round_ = tl.load(rng.seed + r), tl.load(rng.round + b)
        position = tl.load(rng.position + r)
        tiles, home = tl.cdiv(vocab, TILE).to(tl.int32), b.to(tl.int64)
        own = RowScratch(scratch, home * tiles, home * tiles * (TILE // GROUP))
        drawn = row_sampling(sampling, r, vocab, RULE)
        runs = b >= 0
        while runs:
            step, share = claim(turns, b, shares)
            runs = wait_for(turns, b, step) < DONE
            if runs:
                walk, sums = walk_at(tree, state, b, r, step, seed, round_)
                start, mask_at, _ = target_at(target, b, walk.at)
                row = Row(
                    logits + start, vocab.to(tl.int32), mask, mask_at, words.to(tl.int32), None
                )
                noise = Noise(seed, position + walk.accepted)
                if sums:
                    if draft_logits is not None:
                        sum_rejected(
                            tree, drafts, row, drawn, own, state, walk, share, shares, tiles,
                            TILE, LISTED,
                        )  # fmt: skip
                else:
                    scan_row(
                        row, drawn, own, noise, None, None, share, shares, tiles, RULE, False, TILE
                    )
                if arrives_last(turns.arrived + b, shares):
                    goes_on = finish_step(
                        path, rng.position, tree, drafts, row, drawn, own, state, walk, noise,
                        sums, tiles, RULE, TILE, PRECISION, PIVOTS, LISTED,
                    )  # fmt: skip
                    let_begin(turns, b, tl.where(goes_on, step + 1, DONE))
        leave(turns, b, shares)
    elif tl.program_id(0) % shares == 0:
        write_dead(path, b, tree.nodes)


def tree_verify(
    target_logits: Tensor,
    temperature: Tensor | None,
    top_k: Tensor | None,
    top_p: Tensor | None,
    min_p: Tensor | None,
    token_mask: Tensor | None,
    seed: Tensor,
    rows: Tensor | None,
    draft_tokens: Tensor,
    first_child: Tensor,
    next_sibling: Tensor,
    valid: Tensor,
    live: Tensor,
    round: Tensor,
    draft_logits: Tensor | None,
    logits_row: Tensor | None,
    t2d: Tensor | None,
    stats: Tensor,
    rule: int,
    position: Tensor,
    tokens: Tensor,
    path: Tensor,
    num_accepted: Tensor,
    num_emitted: Tensor,
    last_token: Tensor,
    status: Tensor,
) -> None:
    if rule == BLOCK.value:  # tree_traversal
        raise ValueError("tree_verify: rule must be 0, 2 or 3 on a GPU, got 1")
    batch, nodes = draft_tokens.shape
    if rule != TOKEN.value:  # goes by the target's own token
        draft_logits = logits_row = t2d = None
    sampling = Sampling(temperature, top_k, top_p, min_p)
    plan, vocab = tuning(target_logits.device), target_logits.shape[-1]
    tiles = triton.cdiv(vocab, plan.tile)
    chunks = tiles * (plan.tile // GROUP.value if any(x is not None for x in sampling[1:]) else 1)
    width = 0 if draft_logits is None else draft_logits.shape[-1]
    draft_tiles = triton.cdiv(width, plan.tile)
    more: list[Shape] = [
        ((batch, NUM_NUMBERS.value), torch.float64), ((batch, NUM_CODES.value), torch.int32)
    ]  # fmt: skip
    if width:
        more += [((batch, chunks), torch.float32), ((batch, draft_tiles), torch.float32)]
    each = triton.cdiv(batch, 4) * 4  # aligned: see ``launch``
    space = rows_of(batch, target_logits, sampling, rule, COUNTERS * each, tuple(more))
    numbers, codes, *sums = space.more
    residual, draft_sums = sums or (None, None)
    shares = splits(batch, vocab, plan._replace(programs=plan.last_programs))
    turns = Turns(*space.tickets[: COUNTERS * each].split(each))
    launch(
        tree_verify_kernel, batch * shares, target_logits, token_mask, *layout(target_logits),
        *mask_layout(token_mask), draft_tokens, first_child, next_sibling, valid, nodes, stats,
        draft_logits, logits_row, t2d, *draft_layout(draft_logits),
        0 if t2d is None else t2d.shape[0], sampling, Rng(seed, position, round), live, rows,
        seed.shape[0], space.scratch, numbers, codes, residual, draft_sums, chunks, draft_tiles,
        turns, Path(tokens, path, num_accepted, num_emitted, last_token, status), shares,
        RULE=rule, **space.constants,
    )  # fmt: skip
