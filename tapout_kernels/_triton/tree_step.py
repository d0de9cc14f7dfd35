"""One step of the walk of tree_verify: what a row, and what rejections have left of it, decide."""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from .core.rng import ACCEPT, RESIDUAL, uniform_at
from .core.sampling import GUMBEL, TOKEN
from .core.stats import BAD_DRAFT, OK
from .core.tree import accepts_child, next_slope
from .drafts import draft_row, p_draft_of
from .draw import Masses, total_mass
from .law import column_log_probability, draw, draw_gumbel
from .residual import Pair, draw_excess, pair_listed, pair_tiles
from .tree_left import draw_left, put_back, sum_draft, take_out
from .tree_links import child_of, first_child, is_certain, next_sibling, token_of
from .tree_outputs import end_walk
from .tree_state import (
    LAST,
    LEFT,
    NEXT,
    SLOPE,
    SUMMED,
    code,
    keep_walk,
    kept_law,
    number,
    set_code,
    set_number,
)

LITTLE_LEFT = tl.constexpr(0.25)  # of p_draft: below, a difference has lost too much


class Look(NamedTuple):
    """How far the children of a row were looked at."""

    taken: object  # i32 the accepted one, -1: none
    bad: object
    waits: object  # one was rejected from what was drawn without replacement: sums are needed
    last: object  # i32 the last rejected one, -1: none
    next: object  # i32 the child after it, -1: none
    slope: object  # f64
    left: object  # f64


# ---- rejections of drawn children ----------------------------------------------------------------


@triton.jit
def kept_row(tree, drafts, walk):
    """What the children of a row were drawn from, its first child known to have been."""
    first = token_of(tree, walk.b, first_child(tree, walk.b, walk.at))
    return draft_row(drafts, walk.b, walk.at, first)


@triton.jit
def sum_rejected(
    tree, drafts, row, drawn, own, state, walk, share, shares, tiles,
    TILE: tl.constexpr, LISTED: tl.constexpr,
):  # fmt: skip
    """This share of the sums that a rejected child asks for."""
    law, b = kept_law(state, walk.b), walk.b
    kept, rate = kept_row(tree, drafts, walk), drawn.inv_temperature.to(tl.float32)
    pair = Pair(row, law, rate, kept, 1.0 / number(state, b, SLOPE))
    residual = state.residual + b.to(tl.int64) * state.chunks
    if drawn.filtered:
        if own.arrays.groups is not None:
            if share == 0:
                pair_listed(pair, drafts, own, residual, None, LISTED)
    elif drawn.one_hot == 0:
        each = tl.cdiv(tiles, shares)
        last = tl.minimum(share * each + each, tiles)
        pair_tiles(pair, drafts, residual, None, share * each, last, TILE)
    if code(state, b, SUMMED) != 0:
        sums = state.draft + b.to(tl.int64) * state.draft_tiles
        last = code(state, b, LAST)
        sum_draft(tree, drafts, kept, b, walk.at, last, sums, share, shares, TILE)


@triton.jit
def mass_after(tree, drafts, drawn, law, state, walk, slope, tiles):
    """M: what is left of p_target, by the sums of the step."""
    if drawn.one_hot:
        kept = kept_row(tree, drafts, walk)
        p_draft = p_draft_of(drafts, kept, law.argmax, law.argmax >= 0)
        mass = tl.maximum(1.0 / slope - p_draft.to(tl.float64), 0.0)
    else:
        residual = state.residual + walk.b.to(tl.int64) * state.chunks
        chunks = tl.where(drawn.filtered, law.count, tiles)
        mass = total_mass(Masses(residual, chunks, None, None), False)
    return slope * mass


@triton.jit
def left_after(state, b):
    """R: what is left of p_draft."""
    left = number(state, b, LEFT)
    if code(state, b, SUMMED) != 0:
        sums = state.draft + b.to(tl.int64) * state.draft_tiles
        left = total_mass(Masses(sums, state.draft_tiles.to(tl.int32), None, None), False)
    return left


# ---- children ------------------------------------------------------------------------------------


@triton.jit
def one_by_one(drafts, walk):
    """Children that are one-hot each, or all of whose p_draft is on the first."""
    found = walk.at >= 0
    if drafts.logits is not None:
        found = is_certain(drafts, walk.b, walk.at)
    return found


@triton.jit
def look_at_children(
    tree, drafts, row, drawn, own, law, walk, node, last, slope, mass, left, tiles,
    TILE: tl.constexpr, LISTED: tl.constexpr,
):  # fmt: skip
    """Rule tree_token: from ``node`` on, to one that is accepted, is bad, or asks for sums."""
    b, bad = walk.b, walk.bad
    taken, waits = tl.full([], -1, tl.int32), node < -1
    looking = (node >= 0) & (left > 0.0)
    while looking:
        child = child_of(tree, drafts, b, walk.at, node, row.vocab)
        bad = bad | child.bad | child.foreign
        looking = node < -1
        if child.bad == 0:
            p_target = tl.exp(column_log_probability(row, drawn, law, child.token))
            p_target = tl.where(child.lost, 0.0, p_target)
            uniform = uniform_at(walk.seed, node.to(tl.int64), walk.round, ACCEPT)
            if accepts_child(uniform, p_target, child.p_draft, slope, mass, left):
                taken = node
            else:
                last = node
                node = next_sibling(tree, b, node)
                if one_by_one(drafts, walk):
                    mass = take_out(
                        tree, row, drawn, own, law, b, walk.at, last, tiles, TILE, LISTED
                    )
                    if drafts.logits is not None:
                        left = left * 0.0
                    looking = (node >= 0) & (left > 0.0)
                else:
                    slope, left = next_slope(slope, mass, left), left - child.p_draft
                    waits = node >= -1
    return Look(taken, bad, waits, last, node, slope, left)


@triton.jit
def replace_one_hot(
    tree, row, drawn, own, law, walk, last, tiles, uniform, TILE: tl.constexpr, LISTED: tl.constexpr
):
    """-1 where nothing is left (rounding); then the masses are those of the whole row again."""
    b, at = walk.b, walk.at
    token = draw_left(tree, row, drawn, own, law, b, at, last, tiles, uniform, TILE)
    if token < 0:
        put_back(tree, row, drawn, own, law, b, at, last, TILE, LISTED)
    return token


@triton.jit
def replacement(
    tree, drafts, row, drawn, own, law, state, walk, last, slope, tiles,
    TILE: tl.constexpr, LISTED: tl.constexpr,
):  # fmt: skip
    """The token of a row none of whose children was accepted, the last one looked at ``last``."""
    uniform = uniform_at(walk.seed, walk.at.to(tl.int64), walk.round, RESIDUAL)
    token = tl.full([], -1, tl.int32)
    if (last >= 0) & (drawn.one_hot == 0):
        if one_by_one(drafts, walk):
            token = replace_one_hot(
                tree, row, drawn, own, law, walk, last, tiles, uniform, TILE, LISTED
            )
        elif drafts.logits is not None:
            kept, rate = kept_row(tree, drafts, walk), drawn.inv_temperature.to(tl.float32)
            pair = Pair(row, law, rate, kept, 1.0 / slope)
            masses = state.residual + walk.b.to(tl.int64) * state.chunks
            token = draw_excess(pair, drafts, own, masses, tiles, uniform, drawn.filtered, TILE)
    if token < 0:
        token = draw(row, drawn, own, law, tiles, uniform * law.kept, -1, TILE)
    return token


@triton.jit
def child_equal_to(tree, walk, token, vocab):
    """Rules tree_gumbel, tree_greedy: the first child that is the target's own token, -1: none."""
    b, bad = walk.b, walk.bad
    taken, node = tl.full([], -1, tl.int32), first_child(tree, walk.b, walk.at)
    while node >= 0:
        drafted = token_of(tree, b, node)
        inside = (drafted >= 0) & (drafted < vocab)
        same = inside & (drafted == token)
        bad = bad | (inside == 0)
        taken = tl.where(same, node, taken)
        node = tl.where(inside & (same == 0), next_sibling(tree, b, node), -1)
    return taken, bad


# ---- ends of steps -------------------------------------------------------------------------------


@triton.jit
def ask_for_sums(state, walk, look):
    set_number(state, walk.b, SLOPE, look.slope)
    set_number(state, walk.b, LEFT, look.left)
    set_code(state, walk.b, LAST, look.last)
    set_code(state, walk.b, NEXT, look.next)
    summed = (look.left < LITTLE_LEFT) & (look.next >= 0)
    set_code(state, walk.b, SUMMED, summed.to(tl.int32))
    keep_walk(state, walk, walk.at, walk.accepted, look.bad, 1)


@triton.jit
def go_down(path, tree, state, walk, taken, bad):
    b = walk.b.to(tl.int64)
    tl.store(path.path + b * tree.nodes + walk.accepted, taken)
    tl.store(path.tokens + b * (tree.nodes + 1) + walk.accepted, token_of(tree, walk.b, taken))
    keep_walk(state, walk, taken + 1, walk.accepted + 1, bad, 0)


@triton.jit
def decide(
    path, position, tree, drafts, row, drawn, own, state, walk, law, noise, sums, tiles,
    RULE: tl.constexpr, TILE: tl.constexpr, LISTED: tl.constexpr,
):  # fmt: skip
    """What a row of a law, or what rejections have left of it, leads to; whether to go on."""
    waits = walk.at < 0
    if RULE == TOKEN:
        slope, mass = tl.full([], 0.0, tl.float64), tl.full([], 1.0, tl.float64)
        left, last = tl.full([], 1.0, tl.float64), tl.full([], -1, tl.int32)
        node = first_child(tree, walk.b, walk.at)
        if drafts.logits is not None:
            if sums:
                slope, last = number(state, walk.b, SLOPE), code(state, walk.b, LAST)
                mass = mass_after(tree, drafts, drawn, law, state, walk, slope, tiles)
                left, node = left_after(state, walk.b), code(state, walk.b, NEXT)
        look = look_at_children(
            tree, drafts, row, drawn, own, law, walk, node, last, slope, mass, left, tiles,
            TILE, LISTED,
        )  # fmt: skip
        taken, bad, waits = look.taken, look.bad, look.waits
        token = tl.full([], -1, tl.int32)
        if waits:
            ask_for_sums(state, walk, look)
        elif taken < 0:
            token = replacement(
                tree, drafts, row, drawn, own, law, state, walk, look.last, look.slope, tiles,
                TILE, LISTED,
            )  # fmt: skip
    else:
        token = law.argmax
        if RULE == GUMBEL:
            token = draw_gumbel(row, drawn, own, law, tiles, noise, LISTED)
        taken, bad = child_equal_to(tree, walk, token, row.vocab)
    goes_on = waits | (taken >= 0)
    if taken >= 0:
        go_down(path, tree, state, walk, taken, bad)
    elif goes_on == 0:
        status = tl.where(bad, BAD_DRAFT, OK)
        end_walk(path, position, tree, walk, walk.at >= 0, token, status)
    return goes_on
