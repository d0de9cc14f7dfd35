"""Reference ``tree_verify``: walk down from the root, emit one more token, advance positions."""

from __future__ import annotations

import torch
from torch import Tensor

from .accept import BLOCK, TOKEN, accept
from .draft import kept_draft, over_target
from .rng import ACCEPT, RESIDUAL, uniform
from .rows import StateRows
from .sampling import sample_index
from .stats import BAD_DRAFT, OK, Processed, Sampling
from .tree import next_child, rejected_draft, rejected_target
from .tree_rows import Child, Given, Row, Walk, child_at, row_at
from .tree_traverse import traverse


def step(given: Given, walk: Walk) -> Walk:
    """Look at one child of every row: accept it and go to its row, or go to its sibling."""
    row, node = walk.row, walk.row.child
    child = child_at(given, node, row.p_draft)
    here = torch.arange(node.shape[0], device=node.device)
    looked = (node >= 0) & ~row.spent
    bad = looked & ~(child.p_draft > 0)
    u = uniform(given.seed, 0, node.clamp(min=0), given.round, ACCEPT)
    index = torch.where(child.inside, child.token, 0)[:, None]
    p_target = torch.where(child.inside, row.p_target.gather(-1, index)[:, 0], 0.0)
    same = child.token == row.chosen
    good = accept(u, child.p_draft, p_target) if given.rule == TOKEN else same
    taken = looked & ~bad & good
    refused = looked & ~bad & ~good
    sibling = given.next_sibling[here, node.clamp(min=0)]
    sibling = torch.where(refused, next_child(sibling, node + 1, given.tokens.shape[1]), -1)
    row = _after_rejection(given, row, child, refused)._replace(child=sibling)
    slot = torch.arange(walk.path.shape[1], device=node.device) == walk.count[:, None]
    path = torch.where(slot & taken[:, None], node[:, None], walk.path)
    count = walk.count + taken
    below = row_at(given, torch.where(taken, node + 1, row.at), count)
    return Walk(_choose(taken, below, row), count, walk.bad | bad | (refused & ~child.inside), path)


def _after_rejection(given: Given, row: Row, child: Child, refused: Tensor) -> Row:
    """Rule ``tree_token``: p_target without p_draft, p_draft without the child."""
    if given.rule != TOKEN:
        return row
    if row.p_draft is None:
        vocab = row.p_target.shape[-1]
        drawn = torch.nn.functional.one_hot(child.token.clamp(0, vocab - 1), vocab).double()
        left, spent = None, row.spent
    else:
        drawn = over_target(row.p_draft, given.draft)
        left = rejected_draft(row.p_draft, child.id.clamp(min=0))
        left = torch.where(refused[:, None], left, row.p_draft)
        spent = row.spent | refused & (left.sum(-1) == 0)
    p_target = rejected_target(row.p_target, drawn)
    p_target = torch.where(refused[:, None], p_target, row.p_target)
    return row._replace(p_target=p_target, p_draft=left, spent=spent)


def _choose(condition: Tensor, left: Row, right: Row) -> Row:
    """Row by row."""

    def pick(a: Tensor | None, b: Tensor | None) -> Tensor | None:
        return None if a is None else torch.where(condition.view(-1, *[1] * (a.dim() - 1)), a, b)

    pairs = zip(left, right, strict=True)
    return Row(*(
        Processed(*map(pick, a, b)) if isinstance(a, Processed) else pick(a, b) for a, b in pairs
    ))  # fmt: skip


def last_token_of(given: Given, row: Row) -> Tensor:
    """[B] the token emitted at the row where the walk ends."""
    if given.rule not in (TOKEN, BLOCK):
        return row.chosen
    left = row.p_target.sum(-1, keepdim=True) > 0  # nothing left: rounding; p_target is right then
    u = uniform(given.seed, 0, row.at, given.round, RESIDUAL)
    return sample_index(torch.where(left, row.p_target, row.target.probs), u)


def walk_down(given: Given) -> Walk:
    batch, nodes = given.tokens.shape
    none = torch.zeros(batch, dtype=torch.int64, device=given.tokens.device)
    path = torch.full_like(given.tokens, -1)
    walk = Walk(row_at(given, none, none), none, torch.zeros_like(none, dtype=torch.bool), path)
    for _ in range(nodes):  # every step looks at a later node
        walk = step(given, walk)
    return walk


def given_tree(
    target_logits: Tensor, sampling: Sampling, token_mask: Tensor | None, seed: Tensor,
    rows: Tensor | None, draft_tokens: Tensor, first_child: Tensor, next_sibling: Tensor,
    valid: Tensor, round: Tensor, draft_logits: Tensor | None, logits_row: Tensor | None,
    t2d: Tensor | None, stats: Tensor, rule: int, position: Tensor,
) -> tuple[Given, StateRows]:  # fmt: skip
    """Read the arguments of ``tree_verify``; a tree that is not valid has no nodes."""
    state = StateRows(rows, seed.shape[0], seed.device)
    nodes, vocab = draft_tokens.shape[1], target_logits.shape[-1]
    first_child = torch.where(valid[:, None], first_child, -1)
    draft = None
    if draft_logits is not None:
        row = torch.arange(nodes + 1, device=seed.device)
        first = next_child(first_child, row, nodes)
        anchor = torch.where(first >= 0, draft_tokens.gather(-1, first.clamp(min=0)), -1)
        draft = kept_draft(anchor, draft_logits, logits_row, stats, t2d, rule, vocab)
        known = draft.known[:, None, None]
        draft = draft._replace(stats=torch.where(known, draft.stats, torch.nan))
    given = Given(
        target_logits, sampling.map(state.of), token_mask, state.of(seed), round,
        state.of(position), draft_tokens, first_child, next_sibling, draft, rule,
    )  # fmt: skip
    return given, state


def tree_verify(
    target_logits: Tensor,  # [B, N+1, V]
    temperature: Tensor | None,  # [R], and the other sampling parameters
    top_k: Tensor | None,
    top_p: Tensor | None,
    min_p: Tensor | None,
    token_mask: Tensor | None,  # [B, N+1, W] i32
    seed: Tensor,  # [R] i64
    rows: Tensor | None,  # [B] i32
    draft_tokens: Tensor,  # [B, N] i64
    first_child: Tensor,  # [B, N+1] i32
    next_sibling: Tensor,  # [B, N] i32
    valid: Tensor,  # [B] bool
    live: Tensor,  # [B] bool
    round: Tensor,  # [B] i64
    draft_logits: Tensor | None,  # [L, N+1, D]
    logits_row: Tensor | None,  # [B] i32
    t2d: Tensor | None,  # [T] i32
    stats: Tensor,  # [B, N+1, 8] f32
    rule: int,
    position: Tensor,  # [R] i64, advanced
    tokens: Tensor,  # [B, N+1] i64, and everything below: written
    path: Tensor,  # [B, N] i32
    num_accepted: Tensor,
    num_emitted: Tensor,
    last_token: Tensor,
    status: Tensor,
) -> None:
    given, state = given_tree(
        target_logits, Sampling(temperature, top_k, top_p, min_p), token_mask, seed, rows,
        draft_tokens, first_child, next_sibling, valid, round, draft_logits, logits_row, t2d,
        stats, rule, position,
    )  # fmt: skip
    walk = traverse(given) if rule == BLOCK else walk_down(given)
    live = live & state.known
    fine = walk.row.target.status == OK
    count = torch.where(live, walk.count, 0)
    total = count + (live & fine)
    path.copy_(torch.where(live[:, None], walk.path, -1))
    drafted = torch.where(path >= 0, draft_tokens.gather(-1, path.clamp(min=0).long()), -1)
    emitted = torch.nn.functional.pad(drafted, (0, 1), value=-1)
    last = last_token_of(given, walk.row)
    here = torch.arange(emitted.shape[1], device=seed.device) == count[:, None]
    tokens.copy_(torch.where(here & (live & fine)[:, None], last[:, None], emitted))
    num_accepted.copy_(count)
    num_emitted.copy_(total)
    final = tokens.gather(-1, (total - 1).clamp(min=0)[:, None])[:, 0]
    last_token.copy_(torch.where(total > 0, final, 0))
    seen = torch.where(fine, torch.where(walk.bad | ~valid, BAD_DRAFT, OK), walk.row.target.status)
    status.copy_(torch.where(live, seen, OK))
    state.add(position, total)
