"""tree_mask_flat: masks of a ragged batch one after the other, one launch.

What every element becomes is a function of the trees of the call before and of this one: entries of
a tree of this call say who sees whom, other entries of one before are ones again, the rest stays.
So programs need not wait for each other, nor mind if two write one byte.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .core.tree import sees
from .finish import arrives_last
from .launch import launch, splits, tuning, workspace
from .params import Pointer

REQUESTS = tl.constexpr(32)  # looked at together


class Trees(NamedTuple):
    """Those of a batch, and how they lie in the mask."""

    ancestors: Pointer  # [B, N, words] i32
    batch: object  # i32
    nodes: object  # i32
    rows: object  # i32 Q
    most: object  # i64 tokens before a tree that there is room for
    unit: object  # i32 entries of an element


class Place(NamedTuple):
    """Where elements lie among the segments of a call."""

    request: object  # i32, -1 behind them all
    begin: object  # i64 first element of the segment
    past: object  # i64
    written: object  # whether the request has a tree there


@triton.jit
def segment(past, trees):
    """Elements of a request."""
    return (trees.rows * (past + trees.rows) + trees.unit - 1) // trees.unit


@triton.jit
def pasts(at, b, trees):
    found = tl.load(at + b, mask=b < trees.batch, other=-1)
    return found, tl.minimum(tl.maximum(found, 0).to(tl.int64), trees.most)


@triton.jit
def place_of(at, element, trees):
    """[T] elements -> where they are; ``at``: [B] tokens before each tree."""
    none = element * 0
    begin, past, request = none, none, none.to(tl.int32) - 1
    written = none < 0
    end = tl.full([], 0, tl.int64)
    for first in range(0, trees.batch, REQUESTS):
        b = first + tl.arange(0, REQUESTS)
        found, before = pasts(at, b, trees)
        length = tl.where(b < trees.batch, segment(before, trees), 0)
        after = end + tl.cumsum(length, 0)
        start = after - length
        mine = (element[:, None] >= start[None, :]) & (element[:, None] < after[None, :])
        begin += tl.sum(tl.where(mine, start[None, :], 0), 1)
        past += tl.sum(tl.where(mine, before[None, :], 0), 1)
        request += tl.sum(tl.where(mine, b[None, :] + 1, 0), 1)
        written = written | (tl.sum((mine & (found >= 0)[None, :]).to(tl.int32), 1) > 0)
        end += tl.sum(length, 0)
    return Place(request, begin, past, written)


@triton.jit
def begin_of(at, request, trees):
    """First element of a request's segment."""
    begin = tl.full([], 0, tl.int64)
    for first in range(0, trees.batch, REQUESTS):
        b = first + tl.arange(0, REQUESTS)
        _, before = pasts(at, b, trees)
        begin += tl.sum(tl.where(b < request, segment(before, trees), 0), 0)
    return begin


@triton.jit
def tree_entry(place, element, bit, trees):
    """Row and column of an entry, and whether it is one of its request's tree."""
    entry = (element - place.begin) * trees.unit + bit
    width = place.past + trees.rows
    row = entry // width
    column = entry - row * width - place.past
    return row, column, (place.request >= 0) & (row < trees.rows) & (column >= 0)


@triton.jit
def entry_value(old, now, kept, element, bit, trees):
    """Entry number ``bit`` of elements, of which ``kept`` are what is there."""
    q, k, mine = tree_entry(now, element, bit, trees)
    words = tl.cdiv(trees.nodes, 32)
    ancestors = trees.ancestors + now.request.to(tl.int64) * trees.nodes * words
    seen = sees(ancestors, trees.nodes, trees.rows - trees.nodes, q, k, mine)
    _, _, theirs = tree_entry(old, element, bit, trees)
    return tl.where(mine, seen, (theirs & old.written) | kept)


@triton.jit
def write_elements(mask, written, past, element, known, trees, PACKED: tl.constexpr):
    old, now = place_of(written, element, trees), place_of(past, element, trees)
    value = tl.load(mask + element, mask=known, other=0)
    if PACKED:
        packed = element.to(tl.int32) * 0
        for bit in tl.static_range(8):
            kept = ((value.to(tl.int32) >> bit) & 1) != 0
            seen = entry_value(old, now, kept, element, bit, trees)
            packed |= seen.to(tl.int32) << bit
        tl.store(mask + element, packed.to(tl.uint8), mask=known)
    else:
        seen = entry_value(old, now, value != 0, element, 0, trees)
        tl.store(mask + element, seen, mask=known)


@triton.jit
def write_places(past, written, start, trees):
    """By the last program: nobody reads what the call before has written any more."""
    end = tl.full([], 0, tl.int64)
    for first in range(0, trees.batch, REQUESTS):
        b = first + tl.arange(0, REQUESTS)
        known = b < trees.batch
        _, before = pasts(past, b, trees)
        length = tl.where(known, segment(before, trees), 0)
        tl.store(written + b, before.to(tl.int32), mask=known)
        tl.store(start + b, (end + tl.cumsum(length, 0) - length).to(tl.int32), mask=known)
        end += tl.sum(length, 0)
    tl.store(start + trees.batch, end.to(tl.int32))


@triton.jit(do_not_specialize=["batch", "nodes", "rows", "size", "most", "each", "share"])
def tree_mask_flat_kernel(
    ancestors, past, mask, written, start, ticket, batch: tl.int64, nodes: tl.int64,
    rows: tl.int64, size: tl.int64, most: tl.int64, each: tl.int64, share: tl.int32,
    PACKED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    unit = tl.full([], 8 if PACKED else 1, tl.int32)
    trees = Trees(ancestors, batch.to(tl.int32), nodes.to(tl.int32), rows.to(tl.int32), most, unit)
    job = tl.program_id(0) // share  # requests of the call before, then of this one
    b = (job % batch).to(tl.int32)
    at = past
    if job < batch:
        at = written
    begin = begin_of(at, b, trees)
    found, before = pasts(at, b, trees)
    width = before + rows
    # Row q of a tree lies in at most ``each`` elements from the one of its first entry on.
    first = (tl.program_id(0) % share).to(tl.int64) * BLOCK
    if found >= 0 or job >= batch:
        for i in range(first, rows * each, share * BLOCK):
            index = i + tl.arange(0, BLOCK)
            q = index // each
            element = begin + (q * width + before) // unit + index % each
            known = (q < rows) & (element < size)
            write_elements(mask, written, past, element, known, trees, PACKED)
    if arrives_last(ticket, tl.num_programs(0)):
        write_places(past, written, start, trees)


def tree_mask_flat(
    ancestors: Tensor, past: Tensor, root: bool, mask: Tensor, written: Tensor, start: Tensor
) -> None:
    (batch, nodes), plan = ancestors.shape[:2], tuning(mask.device)
    packed, rows = mask.dtype == torch.uint8, nodes + root
    most = mask.shape[0] // batch * (8 if packed else 1) // rows - rows
    each = rows // 8 + 2 if packed else rows  # a row may begin and end inside a byte
    block = plan.tile // 32
    share = splits(2 * batch, rows * each, plan._replace(tile=block))
    launch(
        tree_mask_flat_kernel, 2 * batch * share, ancestors, past, mask, written, start,
        workspace(mask.device, 1).tickets, batch, nodes, rows, mask.shape[0], most, each, share,
        warps=plan.warps, PACKED=packed, BLOCK=block,
    )  # fmt: skip
