"""The pointers of each operator in groups, as ``csrc/core/params.h`` has them; None: not given."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

Pointer = Tensor | None  # inside a kernel: a pointer, or None at compile time


class Sampling(NamedTuple):
    """[R] each."""

    temperature: Pointer
    top_k: Pointer
    top_p: Pointer
    min_p: Pointer


class Rules(NamedTuple):
    """Arms are ``arms`` integers next to it; ``arm`` is [R] or, at token level, [R, K]."""

    kind: Pointer  # [A] i32
    param: Pointer  # [A, 4] f32
    arm: Pointer  # [R] or [R, K] i32
    memory: Pointer  # [R, A, 4] f32


class Rng(NamedTuple):
    """[R] each; ``round`` is [B] where the proposal keeps it."""

    seed: Pointer
    position: Pointer
    round: Pointer


class Proposal(NamedTuple):
    """What the operators that write a proposal see of it."""

    tokens: Pointer  # [B, K] i64
    length: Pointer  # [B] i32
    active: Pointer  # [B] bool
    num_active: Pointer  # [1] i32
    stats: Pointer  # [B, K, 8] f32
    stop_reason: Pointer  # [B] i32
    max_length: Pointer  # [B] i32
