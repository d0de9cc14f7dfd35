"""tree_expand: the children of every row of a level, then the rows of the next one; one launch.

Programs share a row; the last of them to arrive chooses its children, and the last row of a request
to be finished ends the level.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from .core.rng import DRAFT, uniform_at
from .core.sampling import TOKEN, row_sampling
from .core.stats import NUM_STATS, OK
from .core.tree import ABSENT, ROOT
from .finish import arrives_last
from .launch import launch
from .law import column_log_probability, finish_row, write_stats
from .params import Pointer, Sampling
from .row import GROUP, Row, RowScratch, known_row, target_ids
from .scan import scan_row
from .scratch import mask_layout, rows_of
from .tree_children import Taken, choose, take
from .tree_level import Level, end_level

CHILDREN = tl.constexpr(64)  # cleared together


class Grown(NamedTuple):
    """The tree, [B, N] each, and what its rows were drawn from."""

    tokens: Pointer  # i64
    parents: Pointer  # i32
    score: Pointer  # f32
    logits: Pointer  # [B, N+1, D] or None
    stats: Pointer  # [B, N+1, 8] f32 or None


class Place(NamedTuple):
    """Where the children of a row go."""

    node: object  # i32 the row's own, -1: the root
    first: object  # i32
    count: object  # i32
    exists: object  # the row is one of the tree's


@triton.jit
def place_of(grown, beam, child_start, b, w, width, children, nodes):
    node = tl.load(beam + b * width + w)
    first = tl.load(child_start + w)
    count = tl.load(child_start + w + 1).to(tl.int64) - first  # any numbers
    count = tl.minimum(tl.maximum(count, 0), children)
    fits = (first > node) & (first >= 0) & (first + count <= nodes)
    inside = (node >= 0) & (node < nodes)
    token = tl.load(grown.tokens + b * nodes + node, mask=inside, other=-1)
    exists = (node == ROOT) | (inside & (token >= 0))
    count = tl.where(fits, count, 0).to(tl.int32)
    return Place(node, first, count, exists & (count > 0))


@triton.jit
def clear_children(grown, place, begin):
    parent = tl.where(place.node >= ROOT, place.node, ABSENT)
    for c in range(0, place.count, CHILDREN):
        lane = c + tl.arange(0, CHILDREN)
        at, known = begin + place.first + lane, lane < place.count
        tl.store(grown.tokens + at, tl.full([CHILDREN], -1, tl.int64), mask=known)
        tl.store(grown.parents + at, lane * 0 + parent, mask=known)
        tl.store(grown.score + at, tl.full([CHILDREN], float("-inf"), tl.float32), mask=known)
    tl.debug_barrier()


@triton.jit
def write_row(grown, drawn, law, place, row_at, log_p):
    """Statistics of the row its children were drawn from."""
    if grown.stats is not None:
        none = tl.full([], 0.0, tl.float32)
        write_stats(grown.stats + row_at * NUM_STATS, drawn, law, log_p, none)


@triton.jit
def choose_children(
    grown, place, row, drawn, own, law, b, nodes, seed, round_, tiles,
    DRAWN: tl.constexpr, TILE: tl.constexpr, LISTED: tl.constexpr,
):  # fmt: skip
    begin = b * nodes
    above = tl.full([], 0.0, tl.float64)
    if place.node >= 0:
        above = tl.load(grown.score + begin + place.node).to(tl.float64)
    tokens = grown.tokens + begin + place.first
    count, choosing = tl.full([], 0, tl.int32), place.count > 0
    while choosing:
        taken = Taken(tokens, count)
        uniform = uniform_at(seed, (place.first + count).to(tl.int64), round_, DRAFT)
        column = choose(row, drawn, own, law, taken, tiles, uniform, DRAWN, TILE)
        log_p = column_log_probability(row, drawn, law, column)
        if count == 0:
            write_row(grown, drawn, law, place, b * (nodes + 1) + place.node + 1, log_p)
        choosing = column >= 0
        if choosing:
            tl.store(tokens + count, target_ids(row, column).to(tl.int64))
            score = (above + log_p).to(tl.float32)
            tl.store(grown.score + begin + place.first + count, score)
            tl.debug_barrier()
            count += 1
            choosing = count < place.count
            if choosing:
                take(row, drawn, own, law, Taken(tokens, count), column, TILE, LISTED)


@triton.jit(
    do_not_specialize=[
        "mask_batch_stride", "mask_row_stride", "words", "state_rows", "width", "nodes", "splits",
        "children", "following",
    ]
)  # fmt: skip
def tree_expand_kernel(
    logits, batch_stride: tl.int64, row_stride: tl.int64, vocab: tl.int64, mask,
    mask_batch_stride: tl.int64, mask_row_stride: tl.int64, words: tl.int64, d2t, sampling, seed,
    round, rows, state_rows: tl.int64, beam, child_start, width: tl.int64, nodes: tl.int64,
    children: tl.int64, grown, level, following: tl.int64, scratch, tickets, finished,
    splits: tl.int32, DRAWN: tl.constexpr,
    TILE: tl.constexpr, PRECISION: tl.constexpr, PIVOTS: tl.constexpr, LISTED: tl.constexpr,
):  # fmt: skip
    split = (tl.program_id(0) % splits).to(tl.int32)
    home = (tl.program_id(0) // splits).to(tl.int64)  # of a row
    b, w = home // width, home % width
    r, known = known_row(rows, b, state_rows)
    drafting = known & tl.load(level.active + b)
    ends = split == 0  # where nothing is read, its first program finishes a row
    if drafting:
        place = place_of(grown, beam, child_start, b, w, width, children, nodes)
        if place.exists:
            tiles = tl.cdiv(vocab, TILE).to(tl.int32)
            row = Row(
                logits + b * batch_stride + w * row_stride, vocab.to(tl.int32), mask,
                b * mask_batch_stride + w * mask_row_stride, words.to(tl.int32), d2t,
            )  # fmt: skip
            own = RowScratch(scratch, home * tiles, home * tiles * (TILE // GROUP))
            drawn = row_sampling(sampling, r, row.vocab, TOKEN)
            row_at = b * (nodes + 1) + place.node + 1
            kept = grown.logits
            if kept is not None:
                kept += row_at * vocab
            scan_row(row, drawn, own, None, kept, None, split, splits, tiles, TOKEN, DRAWN, TILE)
            ends = arrives_last(tickets + home, splits)
            if ends:
                law = finish_row(row, drawn, own, tiles, DRAWN, TILE, PRECISION, PIVOTS, LISTED)
                clear_children(grown, place, b * nodes)
                if law.status == OK:
                    choose_children(
                        grown, place, row, drawn, own, law, b, nodes, tl.load(seed + r),
                        tl.load(round + b), tiles, DRAWN, TILE, LISTED,
                    )  # fmt: skip
                else:
                    zero = tl.full([], 0.0, tl.float64)
                    write_row(grown, drawn, law, place, row_at, zero)
        elif split == 0:
            clear_children(grown, place, b * nodes)
    if ends:
        if arrives_last(finished + b, width.to(tl.int32)):
            end_level(
                level, grown.tokens, grown.score, child_start, b, width.to(tl.int32),
                nodes.to(tl.int32), following.to(tl.int32), drafting,
            )  # fmt: skip


def tree_expand(
    logits: Tensor,
    temperature: Tensor | None,
    top_k: Tensor | None,
    top_p: Tensor | None,
    min_p: Tensor | None,
    token_mask: Tensor | None,
    d2t: Tensor | None,
    seed: Tensor,
    rows: Tensor | None,
    round: Tensor,
    beam: Tensor,
    child_start: Tensor,
    next_node: Tensor | None,
    threshold: Tensor | None,
    children: int,
    drawn: bool,
    active: Tensor,
    depth: Tensor,
    tokens: Tensor,
    parents: Tensor,
    score: Tensor,
    kept_logits: Tensor | None,
    stats: Tensor | None,
    next_beam: Tensor | None,
    next_row: Tensor | None,
    next_token: Tensor | None,
) -> None:
    (batch, width), nodes = beam.shape, tokens.shape[1]
    sampling, count = Sampling(temperature, top_k, top_p, min_p), batch * width
    each = triton.cdiv(count, 4) * 4  # aligned: see ``launch``
    space = rows_of(count, logits, sampling, TOKEN.value, tickets=each + batch)
    level = Level(active, depth, threshold, next_node, next_beam, next_row, next_token)
    launch(
        tree_expand_kernel, space.programs, logits, logits.stride(0), logits.stride(1),
        logits.shape[2], token_mask, *mask_layout(token_mask), d2t, sampling, seed, round, rows,
        seed.shape[0], beam, child_start, width, nodes, children,
        Grown(tokens, parents, score, kept_logits, stats), level,
        0 if next_beam is None else next_beam.shape[1], space.scratch, space.tickets,
        space.tickets[each:], space.splits, DRAWN=drawn, **space.constants,
    )  # fmt: skip
