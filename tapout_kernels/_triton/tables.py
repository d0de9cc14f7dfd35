"""The tables of a bandit: every program has those of one group and one slot, lanes are arms."""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from .core.bandit import EXP3, HEDGE, NORMALHEDGE, OVERLAP, Arms
from .core.rows import state_row
from .params import Pointer


class Tables(NamedTuple):
    count: Pointer  # [G, A] or [G, A, S] f64, and the next two
    reward_sum: Pointer
    reward_sq: Pointer
    tokens: Pointer  # [G, A] f64
    cost: Pointer  # [G, A] f64
    params: Pointer  # [8] f64


class Requests(NamedTuple):
    """Which batch rows take part: [B] each."""

    rows: Pointer  # i32
    group: Pointer  # i32
    live: Pointer  # bool


class Sizes(NamedTuple):
    """S: K at token level, else 1."""

    batch: int
    states: int  # R
    groups: int
    arms: int
    table_slots: int  # S
    slots: int  # K


def sizes(arm: Tensor, rows: Tensor | None, count: Tensor, slots: int) -> Sizes:
    states = arm.shape[0]
    batch = states if rows is None else rows.shape[0]
    table_slots = count.shape[2] if count.dim() == 3 else 1
    return Sizes(batch, states, count.shape[0], count.shape[1], table_slots, slots)


def check_reward(op: str, reward: int, count: Tensor) -> None:
    """The level is read off the tables; a kernel reads it off the reward."""
    known, what = (3, 4), "3 (decision) or 4 (token_accept) at token level"
    if count.dim() == 2:
        what = "0 (simple), 1 (blend), 2 (throughput) or 5 (overlap) at sequence level"
        known = (0, 1, 2, 5)
    if reward not in known:
        raise RuntimeError(f"{op}: reward must be {what}, got {reward}")


def check_overlap(op: str, reward: int, overlap: Tensor | None) -> None:
    if reward == OVERLAP.value and overlap is None:
        raise RuntimeError(f"{op}: overlap must be a Tensor with this reward, got None")


def check_policy(op: str, policy: int, count: Tensor, arm_prob: Tensor | None) -> None:
    known = "0 (fixed) to 9 (normalhedge)"
    last = NORMALHEDGE.value
    if count.dim() == 3 and policy >= HEDGE.value:
        known, last = "0 (fixed) to 7 (exp3) at token level", EXP3.value
    if not 0 <= policy <= last:
        raise RuntimeError(f"{op}: policy must be {known}, got {policy}")
    if policy >= EXP3.value and arm_prob is None:
        raise RuntimeError(f"{op}: arm_prob must be a Tensor with this policy, got None")


@triton.jit
def read_arms(tables, size, group, slot, lane):
    """``tokens`` and ``cost`` belong to slot 0."""
    known = lane < size.arms
    row = group * size.arms + lane
    cell = row * size.table_slots + slot
    paid = known & (slot == 0)
    return Arms(
        tl.load(tables.count + cell, mask=known, other=0.0),
        tl.load(tables.reward_sum + cell, mask=known, other=0.0),
        tl.load(tables.reward_sq + cell, mask=known, other=0.0),
        tl.load(tables.tokens + row, mask=paid, other=0.0),
        tl.load(tables.cost + row, mask=paid, other=0.0),
    )


@triton.jit
def write_arms(tables, arms, size, group, slot, lane):
    known = lane < size.arms
    row = group * size.arms + lane
    cell = row * size.table_slots + slot
    paid = known & (slot == 0)
    tl.store(tables.count + cell, arms.count, mask=known)
    tl.store(tables.reward_sum + cell, arms.reward_sum, mask=known)
    tl.store(tables.reward_sq + cell, arms.reward_sq, mask=known)
    tl.store(tables.tokens + row, arms.tokens, mask=paid)
    tl.store(tables.cost + row, arms.cost, mask=paid)


@triton.jit
def group_of(requests, size, b):
    """The row of state and the group of each batch row; group -1 where it takes no part."""
    row = state_row(requests.rows, size.states, b, b < size.batch)
    known = row >= 0
    group = b * 0
    if requests.group is not None:
        group = tl.load(requests.group + b, mask=known, other=-1).to(tl.int64)
    if requests.live is not None:
        known = known & (tl.load(requests.live + b, mask=known, other=0) != 0)
    return row, tl.where(known & (group >= 0) & (group < size.groups), group, -1)
