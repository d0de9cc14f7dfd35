"""compact_kv: keys and values of the accepted path to the slots behind the prefix, in place; one
launch over all layers.

Entry j of a path is node j or a later one, so that in order of j nothing is written before it was
read.  A program has some heads of one request in some layers; it reads ENTRIES of the path, waits
until all of its threads have, and writes them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .core.tree import FAR
from .launch import launch, tuning
from .params import Pointer

ENTRIES = tl.constexpr(8)  # of a path, moved together
HEADS = tl.constexpr(4)
WIDTH = tl.constexpr(128)  # numbers of a head moved together
LOOKED = tl.constexpr(128)  # entries of a path looked at together
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}  # entries are moved as they are


class Path(NamedTuple):
    nodes: Pointer  # [B, N] i32
    num_accepted: Pointer  # [B] i32
    start: Pointer  # [B] i32
    block_table: Pointer  # [B, M] i32 or None
    length: Pointer  # [B] i32 or None


class Cache(NamedTuple):
    """[layers, 2, rows, heads, slots, width]."""

    data: object
    rows: object
    slots: object
    row_stride: object
    slot_stride: object
    pages: object  # M; 1 without a block table


@triton.jit
def slot_offset(cache, table, b, slot, known):
    """Where slots of a request lie in a layer's keys or values, and whether they exist."""
    known = known & (slot >= 0)
    page = tl.where(known, slot, 0) // cache.slots
    known = known & (page < cache.pages)
    row = tl.where(known, b, 0)
    if table is not None:
        row = tl.load(table + b * cache.pages + page, mask=known, other=-1).to(tl.int64)
        known = known & (row >= 0) & (row < cache.rows)
    at = tl.where(known, row, 0) * cache.row_stride
    return at + (tl.where(known, slot, 0) % cache.slots) * cache.slot_stride, known


@triton.jit
def moved_nodes(path, cache, b, nodes):
    """Entries that are moved, or lie where they belong: up to the first that is none."""
    start, count = tl.load(path.start + b).to(tl.int64), tl.load(path.num_accepted + b)
    limit = tl.minimum(tl.maximum(count, 0), nodes)
    end = limit
    for first in range(0, limit, LOOKED):
        j = first + tl.arange(0, LOOKED)
        known = j < limit
        node = tl.load(path.nodes + b * nodes + j, mask=known, other=0)
        before = tl.load(path.nodes + b * nodes + j - 1, mask=known & (j > 0), other=-1)
        leads = known & (node > before) & (node < nodes)
        _, there = slot_offset(cache, path.block_table, b, start + j, leads)
        _, stands = slot_offset(cache, path.block_table, b, start + node, leads)
        end = tl.minimum(end, tl.min(tl.where(known & ((there & stands) == 0), j, FAR), 0))
    return end


@triton.jit
def move(path, cache, plane, b, nodes, first, count, head, heads, head_stride, width):
    """ENTRIES entries of a path in HEADS heads of one plane."""
    start = tl.load(path.start + b).to(tl.int64)
    j = first + tl.arange(0, ENTRIES)
    node = tl.load(path.nodes + b * nodes + j, mask=j < count, other=-1)
    moves = (j < count) & (node != j)
    source, _ = slot_offset(cache, path.block_table, b, start + node, moves)
    target, _ = slot_offset(cache, path.block_table, b, start + j, moves)
    h = head + tl.arange(0, HEADS)
    plane += h.to(tl.int64)[None, :, None] * head_stride
    some = moves[:, None, None] & (h < heads)[None, :, None]
    for begin in range(0, width, WIDTH):
        column = begin + tl.arange(0, WIDTH)[None, None, :]
        known = some & (column < width)
        value = tl.load(plane + source[:, None, None] + column, mask=known)
        tl.debug_barrier()  # another thread may write where this one reads
        tl.store(plane + target[:, None, None] + column, value, mask=known)


@triton.jit(
    do_not_specialize=["nodes", "pages", "rows", "slots", "heads", "planes", "shares", "blocks"]
)  # fmt: skip
def compact_kv_kernel(
    path, cache, nodes: tl.int64, pages: tl.int64, rows: tl.int64, slots: tl.int64,
    heads: tl.int64, width: tl.int64, planes: tl.int64, layer_stride: tl.int64,
    kind_stride: tl.int64, row_stride: tl.int64, head_stride: tl.int64, slot_stride: tl.int64,
    shares: tl.int32, blocks: tl.int32,
):  # fmt: skip
    share = (tl.program_id(0) % shares).to(tl.int32)
    block = ((tl.program_id(0) // shares) % blocks).to(tl.int32)
    b = (tl.program_id(0) // shares // blocks).to(tl.int64)
    places = Cache(cache, rows, slots, row_stride, slot_stride, pages)
    count = moved_nodes(path, places, b, nodes.to(tl.int32))
    if path.length is not None:
        if (share == 0) & (block == 0):
            tl.store(path.length + b, tl.load(path.start + b) + count)
    each = tl.cdiv(planes, shares)
    for i in range(share * each, tl.minimum(share * each + each, planes)):
        plane = cache + (i // 2) * layer_stride + (i % 2) * kind_stride
        for first in range(0, count, ENTRIES):
            move(path, places, plane, b, nodes, first, count, block * HEADS, heads, head_stride,
                 width)  # fmt: skip


def compact_kv(
    path: Tensor,
    num_accepted: Tensor,
    start: Tensor,
    block_table: Tensor | None,
    cache: Tensor,
    length: Tensor | None,
) -> None:
    (batch, nodes), plan = path.shape, tuning(cache.device)
    layers, _, rows, heads, slots, width = cache.shape
    blocks = triton.cdiv(heads, HEADS.value)
    shares = max(1, min(2 * layers, triton.cdiv(plan.programs, batch * blocks)))
    launch(
        compact_kv_kernel, batch * blocks * shares,
        Path(path, num_accepted, start, block_table, length),
        cache.view(_INTEGERS[cache.element_size()]), nodes,
        1 if block_table is None else block_table.shape[1], rows, slots, heads, width, 2 * layers,
        *cache.stride()[:5], shares, blocks, warps=plan.warps,
    )  # fmt: skip
