"""What tree_verify writes of each request."""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from .core.stats import OK
from .tree_links import token_of

LANES = tl.constexpr(32)  # slots written together


class Path(NamedTuple):
    """Outputs."""

    tokens: object  # [B, N+1] i64
    path: object  # [B, N] i32
    num_accepted: object  # [B] i32, and the next
    num_emitted: object
    last_token: object  # [B] i64
    status: object  # [B] i32


@triton.jit
def end_walk(path, position, tree, walk, emits, token, status):
    """Writes what follows the accepted nodes, and the counts."""
    b, emitted = walk.b.to(tl.int64), walk.accepted + emits.to(tl.int32)
    for first in range(0, tree.nodes + 1, LANES):
        slot = first + tl.arange(0, LANES)
        rest = slot >= walk.accepted
        value = tl.where(slot < emitted, token, -1).to(tl.int64)
        tl.store(path.tokens + b * (tree.nodes + 1) + slot, value, rest & (slot <= tree.nodes))
        nothing = tl.full([LANES], -1, tl.int32)
        tl.store(path.path + b * tree.nodes + slot, nothing, rest & (slot < tree.nodes))
    last = tl.full([], 0, tl.int64)
    if walk.at > 0:
        last = token_of(tree, walk.b, walk.at - 1)
    write_counts(path, b, walk.accepted, emitted, tl.where(emits, token.to(tl.int64), last), status)
    tl.store(position + walk.r, tl.load(position + walk.r) + emitted)


@triton.jit
def write_counts(path, b, accepted, emitted, last, status):
    tl.store(path.num_accepted + b, accepted)
    tl.store(path.num_emitted + b, emitted)
    tl.store(path.last_token + b, last)
    tl.store(path.status + b, status)


@triton.jit
def write_dead(path, b, nodes):
    b = b.to(tl.int64)
    for first in range(0, nodes + 1, LANES):
        slot = first + tl.arange(0, LANES)
        nothing = tl.full([LANES], -1, tl.int32)
        tl.store(path.tokens + b * (nodes + 1) + slot, nothing.to(tl.int64), slot <= nodes)
        tl.store(path.path + b * nodes + slot, nothing, slot < nodes)
    write_counts(path, b, 0, 0, tl.full([], 0, tl.int64), OK)
