"""tree_attention: new tokens over what was before them and over their own tree.

A program has ROWS queries that share a head of keys, pairs of a query head of the group and a new
token, and ``span`` slots.  Spans and the tiles in them lie at fixed slots, so that the numbers of a
token depend neither on what is fed with it nor on the batch, and what it does not see adds 0.  A
second launch merges the spans, where a cache has room for more than one.  Weights multiply values
of 16 bits as such, in float32 sums.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import launch, tuning, workspace
from .params import Pointer

LOG2_E = 1.4426950408889634
MERGED = tl.constexpr(16)  # spans looked at together


class Heads(NamedTuple):
    """[.., heads, rows, D]."""

    data: object
    batch_stride: object
    head_stride: object
    row_stride: object


class Cache(NamedTuple):
    past: Pointer  # [B] i32
    table: Pointer  # [B, T] i32 or None
    tree: Pointer  # [B, N, words] i32 or None: a chain
    pages: object  # rows of keys and values
    slots: object  # of a page, or of a request
    table_pages: object  # 1 without a table
    among: object
    tokens: object  # N


class Parts(NamedTuple):
    """What a span leaves of each query, [rows, spans] and [rows, spans, D] f32."""

    top: Pointer
    sum: Pointer
    mixed: Pointer


@triton.jit
def bounds(cache, b):
    """Slots before the tree, and the end of what may be seen; i32, as ``past`` is."""
    most = cache.slots.to(tl.int64) * cache.table_pages
    past = tl.minimum(tl.maximum(tl.load(cache.past + b).to(tl.int64), 0), most)
    end = tl.minimum(past + cache.among, most)
    return past.to(tl.int32), tl.minimum(end, 2**31 - 1).to(tl.int32)


@triton.jit
def rows_of_slots(cache, heads, b, slot, known):
    """Where slots lie in keys or values, and whether there is a page of them."""
    row, within = b + slot * 0, slot  # i64, i32
    if cache.table is not None:
        page = tl.load(cache.table + b * cache.table_pages + slot // cache.slots, known, -1)
        known = known & (page >= 0) & (page < cache.pages)
        row, within = tl.where(known, page.to(tl.int64), 0), slot % cache.slots
    return row * heads.batch_stride + within.to(tl.int64) * heads.row_stride, known


@triton.jit
def load_heads(heads, at, known, column, SIZE: tl.constexpr):
    inside = known[:, None] & (column < SIZE)[None, :]
    return tl.load(heads.data + at[:, None] + column[None, :], mask=inside, other=0.0)


@triton.jit
def tree_sees(cache, b, token, known, first, past, SLOTS: tl.constexpr):
    """[ROWS, SLOTS] whether tokens see the slots of their tree from ``first`` on, or before it."""
    k = first + tl.arange(0, SLOTS) - past
    if cache.tree is not None:
        words = (cache.among + 31) // 32
        at = (first - past) >> 5
        row = cache.tree + (b * cache.tokens + token) * words + at
        word = tl.zeros([1, 1], tl.int32)
        for i in tl.static_range((SLOTS + 30) // 32 + 1):
            one = tl.load(row + i, mask=known & (at + i >= 0) & (at + i < words), other=0)
            word = tl.where(((k >> 5) == at + i)[None, :], one[:, None], word)
        own = ((word >> (k & 31)[None, :]) & 1) != 0
        own = own & (k < cache.among)[None, :]
    else:
        own = k[None, :] <= token[:, None]
    return own | (k < 0)[None, :]


@triton.jit
def product(left, right, WIDE: tl.constexpr):
    """``WIDE``: of float32, to which 16 bits convert exactly.  The interpreter needs it: it keeps
    bfloat16 as bits, and would multiply those."""
    if WIDE:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, input_precision="ieee")


@triton.jit
def fold(query, key, value, seen, top, total, mixed, rate, WIDE: tl.constexpr):
    """Adds a tile of slots to the running softmax, in powers of 2."""
    score = product(query, tl.trans(key), WIDE) * rate
    score = tl.where(seen, score, float("-inf"))
    most = tl.maximum(top, tl.max(score, 1))
    base = tl.where(most == float("-inf"), 0.0, most)
    weight, rest = tl.exp2(score - base[:, None]), tl.exp2(top - base)
    total = total * rest + tl.sum(weight, 1)
    return most, total, mixed * rest[:, None] + product(weight.to(value.dtype), value, WIDE)


@triton.jit
def write_rows(mixed, at, column, value, known, SIZE: tl.constexpr):
    inside = known[:, None] & (column < SIZE)[None, :]
    value = value.to(mixed.data.dtype.element_ty)
    tl.store(mixed.data + at[:, None] + column[None, :], value, mask=inside)


@triton.jit
def query_rows(heads, b, head, token):
    return b * heads.batch_stride + head * heads.head_stride + token * heads.row_stride


@triton.jit(
    do_not_specialize=[
        "pages", "slots", "table_pages", "among", "tokens", "group", "kv_heads", "blocks", "spans",
        "rate",
    ]
)  # fmt: skip
def tree_attention_kernel(
    query, query_batch: tl.int64, query_head: tl.int64, query_row: tl.int64,
    keys, key_batch: tl.int64, key_head: tl.int64, key_row: tl.int64,
    values, value_batch: tl.int64, value_head: tl.int64, value_row: tl.int64,
    mixed, mixed_batch: tl.int64, mixed_head: tl.int64, mixed_row: tl.int64,
    past, table, tree, pages: tl.int64, slots: tl.int64, table_pages: tl.int64, among: tl.int64,
    tokens: tl.int64, group: tl.int64, kv_heads: tl.int32, blocks: tl.int32,
    spans: tl.int32, rate: tl.float32, parts,
    SIZE: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, SLOTS: tl.constexpr,
    SPAN: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    cache = Cache(
        past, table, tree, pages, slots.to(tl.int32), table_pages, among.to(tl.int32),
        tokens.to(tl.int32),
    )  # fmt: skip
    block = (tl.program_id(0) % blocks).to(tl.int32)
    span = ((tl.program_id(0) // blocks) % spans).to(tl.int32)
    home = tl.program_id(0) // blocks // spans
    b, kv_head = (home // kv_heads).to(tl.int64), (home % kv_heads).to(tl.int64)
    before, end = bounds(cache, b)
    begin = span * SPAN
    if (begin < end) | (span == 0):
        row = block * ROWS + tl.arange(0, ROWS)
        head, token = kv_head * group + row // cache.tokens, row % cache.tokens
        known = row < group * tokens
        column = tl.arange(0, WIDTH)
        asked = Heads(query, query_batch, query_head, query_row)
        own = load_heads(asked, query_rows(asked, b, head, token), known, column, SIZE)
        key_heads = Heads(keys + kv_head * key_head, key_batch, key_head, key_row)
        value_heads = Heads(values + kv_head * value_head, value_batch, value_head, value_row)
        top = tl.full([ROWS], float("-inf"), tl.float32)
        total, sums = tl.zeros([ROWS], tl.float32), tl.zeros([ROWS, WIDTH], tl.float32)
        last = tl.minimum(begin + SPAN, end)
        whole = begin + tl.maximum(tl.minimum(before, last) - begin, 0) // SLOTS * SLOTS
        for first in range(begin, whole, SLOTS):  # all of it before the tree
            slot = first + tl.arange(0, SLOTS)
            key_at, there = rows_of_slots(cache, key_heads, b, slot, slot >= 0)
            value_at, _ = rows_of_slots(cache, value_heads, b, slot, slot >= 0)
            key = load_heads(key_heads, key_at, there, column, SIZE)
            value = load_heads(value_heads, value_at, there, column, SIZE)
            top, total, sums = fold(own, key, value, there[None, :], top, total, sums, rate, WIDE)
        for first in range(whole, last, SLOTS):
            slot = first + tl.arange(0, SLOTS)
            key_at, there = rows_of_slots(cache, key_heads, b, slot, slot < last)
            value_at, _ = rows_of_slots(cache, value_heads, b, slot, slot < last)
            key = load_heads(key_heads, key_at, there, column, SIZE)
            value = load_heads(value_heads, value_at, there, column, SIZE)
            seen = tree_sees(cache, b, token, known, first, before, SLOTS) & there[None, :]
            top, total, sums = fold(own, key, value, seen, top, total, sums, rate, WIDE)
        if spans == 1:
            written = Heads(mixed, mixed_batch, mixed_head, mixed_row)
            sums = tl.where((total == 0.0)[:, None], 0.0, sums / total[:, None])
            write_rows(written, query_rows(written, b, head, token), column, sums, known, SIZE)
        else:
            at = ((b * kv_heads * group + head) * tokens + token) * spans + span
            tl.store(parts.top + at, top, mask=known)
            tl.store(parts.sum + at, total, mask=known)
            inside = known[:, None] & (column < SIZE)[None, :]
            tl.store(parts.mixed + at[:, None] * WIDTH + column[None, :], sums, mask=inside)


@triton.jit(
    do_not_specialize=[
        "slots", "table_pages", "among", "tokens", "heads", "spans",
    ]
)  # fmt: skip
def tree_attention_merge_kernel(
    mixed, mixed_batch: tl.int64, mixed_head: tl.int64, mixed_row: tl.int64, past,
    slots: tl.int64, table_pages: tl.int64, among: tl.int64, tokens: tl.int64,
    heads: tl.int64, spans: tl.int32, parts,
    SIZE: tl.constexpr, WIDTH: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    cache = Cache(past, None, None, None, slots, table_pages, among.to(tl.int32), tokens)
    row = tl.program_id(0).to(tl.int64)
    b, head, token = row // tokens // heads, row // tokens % heads, row % tokens
    _, end = bounds(cache, b)
    count = tl.maximum(tl.cdiv(end, SPAN), 1).to(tl.int32)
    column = tl.arange(0, WIDTH)
    top, total = tl.full([], float("-inf"), tl.float32), tl.full([], 0.0, tl.float32)
    sums = tl.zeros([WIDTH], tl.float32)
    for first in range(0, count, MERGED):
        span = first + tl.arange(0, MERGED)
        known, at = span < count, row * spans + span
        part = tl.load(parts.top + at, mask=known, other=float("-inf"))
        most = tl.maximum(top, tl.max(part, 0))
        base = tl.where(most == float("-inf"), 0.0, most)
        weight, rest = tl.exp2(part - base), tl.exp2(top - base)
        total = total * rest + tl.sum(weight * tl.load(parts.sum + at, mask=known, other=0.0), 0)
        inside = known[:, None] & (column < SIZE)[None, :]
        some = tl.load(parts.mixed + at[:, None] * WIDTH + column[None, :], mask=inside, other=0.0)
        sums = sums * rest + tl.sum(weight[:, None] * some, 0)
        top = most
    found = tl.where(total == 0.0, 0.0, sums / total).to(mixed.dtype.element_ty)
    to = mixed + b * mixed_batch + head * mixed_head + token * mixed_row
    tl.store(to + column, found, mask=column < SIZE)


class Shape(NamedTuple):
    """What a program has, by dtype and head: fixed, so that bits depend on neither batch nor N."""

    ROWS: int
    SLOTS: int
    num_stages: int
    warps: int


def shape_of(dtype: torch.dtype, width: int) -> Shape:
    """Not measured yet.  float32 takes no tensor cores; its factors stand in registers."""
    if dtype == torch.float32:
        return Shape(16, 32 if width < 128 else 16, 1, 4 if width <= 128 else 8)
    return Shape(128 if width <= 128 else 64, 64 if width < 128 else 32, 2, 8)


def tree_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    past: Tensor,
    block_table: Tensor | None,
    tree_mask: Tensor | None,
    among: int,
    scale: float,
    mixed: Tensor,
) -> None:
    (batch, heads, tokens, size), plan = query.shape, tuning(query.device)
    pages, kv_heads, slots = keys.shape[:3]
    width = max(16, triton.next_power_of_2(size))
    shape, group = shape_of(query.dtype, width), heads // kv_heads
    table_pages = 1 if block_table is None else block_table.shape[1]
    spans = max(1, triton.cdiv(slots * table_pages, plan.span))
    blocks, parts = triton.cdiv(group * tokens, shape.ROWS), Parts(None, None, None)
    if spans > 1:
        one = (batch * heads * tokens, spans)
        space = workspace(
            query.device, 0, (one, torch.float32), (one, torch.float32),
            ((*one, width), torch.float32),
        )  # fmt: skip
        parts = Parts(*space.arrays)
    launch(
        tree_attention_kernel, batch * kv_heads * spans * blocks, *_layout(query), *_layout(keys),
        *_layout(values), *_layout(mixed), past, block_table, tree_mask, pages, slots, table_pages,
        among, tokens, group, kv_heads, blocks, spans, scale * LOG2_E, parts,
        SIZE=size, WIDTH=width, SPAN=plan.span, WIDE=_is_interpreted(), **shape._asdict(),
    )  # fmt: skip
    if spans > 1:
        launch(
            tree_attention_merge_kernel, batch * heads * tokens, *_layout(mixed), past, slots,
            table_pages, among, tokens, heads, spans, parts, warps=plan.warps,
            SIZE=size, WIDTH=width, SPAN=plan.span,
        )  # fmt: skip


def _is_interpreted() -> bool:
    return not isinstance(tree_attention_kernel, triton.JITFunction)


def _layout(heads: Tensor) -> tuple[Tensor, int, int, int]:
    return heads, heads.stride(0), heads.stride(1), heads.stride(2)
