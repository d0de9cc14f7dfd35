"""Reference ``bandit_update``: credit each row's arm, then update its stop rule's memory."""

from __future__ import annotations

import torch
from torch import Tensor

from . import bandit, hedge, weights
from .rows import StateRows, write_rows
from .stats import OK
from .stop import PRE_DRAFT, updated_memory
from .stop_memory import FinishedRound


def bandit_update(
    arm: Tensor,  # [R] i32, or [R, K] at token level
    rows: Tensor | None,  # [B] i32
    draft_tokens: Tensor,  # [B, K] i64, for K alone
    length: Tensor,  # [B] i32
    stats: Tensor,  # [B, K, 8] f32
    live: Tensor,  # [B] bool
    stop_reason: Tensor,  # [B] i32
    num_accepted: Tensor,  # [B] i32
    overlap: Tensor | None,  # [B, K] f32
    status: Tensor,  # [B] i32
    group: Tensor | None,  # [B] i32
    params: Tensor,  # [8] f64
    cost_ratio: Tensor,  # [1] f32
    policy: int,
    reward: int,
    rule_kind: Tensor | None,  # [A] i32
    rule_param: Tensor | None,  # [A, 4] f32
    arm_prob: Tensor | None,  # [R, A] f64 or [R, A, K]
    count: Tensor,  # [G, A] f64 or [G, A, K], and the next two: accumulated
    reward_sum: Tensor,
    reward_sq: Tensor,
    tokens: Tensor,  # [G, A] f64, and the next: accumulated
    cost: Tensor,
    memory: Tensor | None,  # [R, A, 4] f32
) -> None:
    weights.require_prob("bandit_update", policy, arm_prob)
    hedge.require_rules("bandit_update", policy, rule_kind, memory)
    slots, arms = draft_tokens.shape[1], count.shape[1]
    state = StateRows(rows, arm.shape[0], arm.device)
    index, known = bandit.groups_of(group, state.index, count.shape[0])
    learns = live & (status == OK) & known & state.known
    picked = arm.view(arm.shape[0], -1)[state.index].long()  # [B, S]
    if arm.dim() == 1:
        r = _sequence_reward(reward, params, num_accepted, overlap, length, slots)[:, None]
        taught, ran = torch.ones_like(r, dtype=torch.bool), picked[:, 0]
    else:
        r, taught = bandit.slot_credit(reward, num_accepted, length, stop_reason, slots)
        ran = picked.gather(1, length.clamp(1, slots)[:, None].long() - 1)[:, 0]
    square = r * r
    if policy in weights.WEIGHTED:
        chance = weights.chance_of(arm_prob, state.index, picked)
        taught, square = taught & (chance > 0), weights.loss_estimate(r, chance)
    slot_arm = _one_hot(picked, taught & learns[:, None], arms)  # [B, A, S]
    square_arm = slot_arm
    if policy in weights.HEDGES:  # before the memories move
        who = state.index
        said = hedge.Finished(num_accepted, length.clamp(0, slots), stop_reason, stats, overlap)
        stops = hedge.would_stop(rule_kind, rule_param, memory[who], said)
        square = hedge.loss_estimates(policy, reward, params, arm_prob[who], stops, said)
        square_arm = slot_arm.any(1, keepdim=True).double().expand_as(slot_arm)
        square = torch.where(square_arm[..., 0] > 0, square, 0.0)
    row_arm = _one_hot(ran[:, None], learns[:, None], arms)  # [B, A, 1]
    emitted, spent = num_accepted.double() + 1, 1 + cost_ratio.double() * length
    r, emitted, spent = (x.view(len(index), 1, -1) for x in (r, emitted, spent))
    square = square.view(len(index), -1, slot_arm.shape[2])
    _accumulate([(count, slot_arm, 1.0), (reward_sum, slot_arm, r), (reward_sq, square_arm, square),
                 (tokens, row_arm, emitted), (cost, row_arm, spent)],
                index, params[bandit.DISCOUNT])  # fmt: skip
    if memory is not None and rule_kind is not None:
        ran = torch.where(row_arm.any(1)[:, 0], ran, -1)
        finished = (num_accepted.double(), length.double(), stop_reason == PRE_DRAFT, stats)
        _remember(memory, rule_kind, rule_param, state.index, ran, *finished)


def _sequence_reward(
    reward: int,
    params: Tensor,
    num_accepted: Tensor,
    overlap: Tensor | None,
    length: Tensor,
    slots: int,
) -> Tensor:
    """[B]"""
    if reward != bandit.OVERLAP:
        return bandit.reward_of(reward, num_accepted, length, slots, params[bandit.ALPHA])
    if overlap is None:
        raise RuntimeError("bandit_update: overlap must be a Tensor with this reward, got None")
    return bandit.overlap_reward(overlap, length)


def _one_hot(arm: Tensor, learns: Tensor, arms: int) -> Tensor:
    """[B, S] arms as [B, A, S] f64; all zeros where nothing is learnt or the arm is none."""
    every = torch.arange(arms, device=arm.device)[:, None]
    return ((arm[:, None] == every) & learns[:, None]).double()


def _accumulate(
    credits: list[tuple[Tensor, Tensor, Tensor | float]], index: Tensor, discount: Tensor
) -> None:
    """Row after row: a table's columns that a row credits are discounted, then credited.

    ``credits``: a table, who is credited [B, A, S] and with what.  The tables are worked on as
    one, [G, A, columns].
    """
    tables = [table.view(*table.shape[:2], -1) for table, _, _ in credits]
    work = torch.cat(tables, -1)
    add = torch.cat([who * what for _, who, what in credits], -1)
    credited = torch.cat([who.any(1, keepdim=True) for _, who, _ in credits], -1)
    keep = torch.where(credited, discount, 1.0)
    for b in range(len(index)):
        g = index[b : b + 1]
        work[g] = work[g] * keep[b] + add[b]
    for table, part in zip(tables, work.split([t.shape[-1] for t in tables], -1), strict=True):
        table.copy_(part)


def _remember(
    memory: Tensor,  # [R, A, 4]
    rule_kind: Tensor,
    rule_param: Tensor,
    row: Tensor,  # [B]
    arm: Tensor,  # [B] that ran, -1 where none is known or the round teaches nothing
    accepted: Tensor,  # [B] f64
    drafted: Tensor,
    refused: Tensor,
    stats: Tensor,  # [B, K, 8]
) -> None:
    known = arm.clamp(min=0)
    cell = row * memory.shape[1] + known
    flat = memory.view(-1, memory.shape[-1])
    finished = FinishedRound(
        rule_param[known].double(), flat[cell].double(), accepted, drafted,
        refused & (drafted <= 0), stats.double(),
    )  # fmt: skip
    new = updated_memory(rule_kind[known], finished).float()
    write_rows(flat, cell, arm >= 0, new)
