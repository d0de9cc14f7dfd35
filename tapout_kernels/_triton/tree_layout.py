"""tree_layout: depths, links and ancestors from parent pointers, one launch.

A program has NODES nodes of one request.  It looks at all of the request's pointers to know whether
they are a tree, and climbs from its nodes to the root, all of them at once.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from .core.tree import ABSENT, FAR, MOST_WORDS, ROOT
from .launch import launch, tuning
from .params import Pointer

NODES = tl.constexpr(32)  # of a program
COMPARED = tl.constexpr(64)  # pointers looked at together


class Layout(NamedTuple):
    size: Pointer  # [B] i32
    valid: Pointer  # [B] bool
    depth: Pointer  # [B, N] i32
    position_ids: Pointer  # [B, N+1] i64
    first_child: Pointer  # [B, N+1] i32
    next_sibling: Pointer  # [B, N] i32
    ancestors: Pointer  # [B, N, words] i32


@triton.jit
def tree_size(parents, nodes):
    """Nodes before the first absent one, and whether the pointers are a tree."""
    absent, last = tl.full([], 0, tl.int32) + nodes, tl.full([], -1, tl.int32)
    wrong = tl.full([], 0, tl.int32)
    for first in range(0, nodes, COMPARED):
        index = first + tl.arange(0, COMPARED)
        known = index < nodes
        parent = tl.load(parents + index, mask=known, other=ROOT)
        missing = parent == ABSENT
        absent = tl.minimum(absent, tl.min(tl.where(known & missing, index, FAR), 0))
        last = tl.maximum(last, tl.max(tl.where(known & (missing == 0), index, -1), 0))
        astray = (missing == 0) & ((parent < ROOT) | (parent >= index))
        wrong += tl.sum((known & astray).to(tl.int32), 0)
    valid = (wrong == 0) & (last < absent)
    return tl.where(valid, absent, 0), valid


@triton.jit
def climb(parents, node, size):
    """Depth and ancestors of every node; one that is absent sees itself alone."""
    here = node < size
    word = tl.arange(0, MOST_WORDS)[None, :]
    depth, at = tl.where(here, 1, 0), node
    seen = tl.where((node >> 5)[:, None] == word, (1 << (node & 31))[:, None], 0)
    while tl.max(at, 0) >= 0:
        at = tl.load(parents + at, mask=here & (at >= 0), other=ROOT)
        depth += (at >= 0).to(tl.int32)
        bit = tl.where(at >= 0, 1 << (at & 31), 0)
        seen |= tl.where((at >> 5)[:, None] == word, bit[:, None], 0)
    return depth, seen


@triton.jit
def links(parents, node, size):
    """First child and next sibling of every node, -1: none."""
    here = node < size
    own = tl.load(parents + node, mask=here, other=ABSENT)
    child, sibling = node * 0 + FAR, node * 0 + FAR
    for first in range(0, size, COMPARED):
        index = first + tl.arange(0, COMPARED)
        parent = tl.load(parents + index, mask=index < size, other=ABSENT)[None, :]
        index = index[None, :]
        hangs = (parent == node[:, None]) & here[:, None]
        child = tl.minimum(child, tl.min(tl.where(hangs, index, FAR), 1))
        beside = (parent == own[:, None]) & (index > node[:, None]) & here[:, None]
        sibling = tl.minimum(sibling, tl.min(tl.where(beside, index, FAR), 1))
    return tl.where(child == FAR, -1, child), tl.where(sibling == FAR, -1, sibling)


@triton.jit(do_not_specialize=["nodes", "blocks"])
def tree_layout_kernel(parents, position, layout, nodes: tl.int64, blocks: tl.int32):
    b = (tl.program_id(0) // blocks).to(tl.int64)
    block = (tl.program_id(0) % blocks).to(tl.int32)
    parents += b * nodes
    size, valid = tree_size(parents, nodes.to(tl.int32))
    begin = tl.full([], 0, tl.int64)
    if position is not None:
        begin = tl.load(position + b)
    if block == 0:  # the first node always hangs on the root
        tl.store(layout.size + b, size)
        tl.store(layout.valid + b, valid)
        tl.store(layout.position_ids + b * (nodes + 1), begin)
        tl.store(layout.first_child + b * (nodes + 1), tl.where(size > 0, 0, -1))
    node = block * NODES + tl.arange(0, NODES)
    known = node < nodes
    depth, seen = climb(parents, node, size)
    child, sibling = links(parents, node, size)
    at = b * nodes + node
    tl.store(layout.depth + at, depth, mask=known)
    tl.store(layout.position_ids + b + at + 1, begin + depth, mask=known)
    tl.store(layout.first_child + b + at + 1, child, mask=known)
    tl.store(layout.next_sibling + at, sibling, mask=known)
    words = tl.cdiv(nodes, 32)
    word = tl.arange(0, MOST_WORDS)
    rows = layout.ancestors + (at * words)[:, None] + word[None, :]
    tl.store(rows, seen, mask=known[:, None] & (word < words)[None, :])


def tree_layout(
    parents: Tensor,
    position: Tensor | None,
    size: Tensor,
    valid: Tensor,
    depth: Tensor,
    position_ids: Tensor,
    first_child: Tensor,
    next_sibling: Tensor,
    ancestors: Tensor,
) -> None:
    batch, nodes = parents.shape
    layout = Layout(size, valid, depth, position_ids, first_child, next_sibling, ancestors)
    blocks = triton.cdiv(nodes, NODES.value)
    launch(
        tree_layout_kernel, batch * blocks, parents, position, layout, nodes, blocks,
        warps=tuning(parents.device).warps,
    )  # fmt: skip
