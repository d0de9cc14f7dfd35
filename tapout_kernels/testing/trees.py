"""Arguments of the raw operators of trees, for :mod:`tapout_kernels.testing`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..reference.accept import GREEDY, GUMBEL, RULES
from ..reference.gumbel import gumbel_index, gumbel_noise
from ..reference.rows import StateRows
from ..reference.stats import NUM_STATS, TOP1_PROB, Processed, Sampling, process, row_stats_of
from ..reference.tree import ABSENT, ROOT, pack_bits
from ..reference.tree_layout import tree_layout as layout_of
from ..reference.tree_mask_flat import tree_mask_flat as write_flat
from ..reference.vocab import allowed_ids, target_ids
from ..tree import FlatMask, TreeLayout, TreeVerdict
from .inputs import _mask, _rows, _seeds, _vocab, draw_logits, sampling_columns

if TYPE_CHECKING:
    from .cases import Case

MASK_TYPES = (torch.bool, torch.int32, torch.float32, torch.bfloat16, torch.float16)


def _parents(case: Case, generator: torch.Generator) -> Tensor:
    """Trees of every size down to none; every seventh request has pointers that are no tree."""
    batch, nodes = case.batch, case.slots
    limit = torch.arange(nodes) + 1
    share = torch.rand(batch, nodes, generator=generator)
    parents = (share * limit).int().clamp(max=limit.int() - 1) + ROOT
    size = nodes - torch.arange(batch) % (nodes + 1)
    parents = torch.where(torch.arange(nodes) < size[:, None], parents, ABSENT)
    wrong = torch.arange(batch) % 7 == 3
    parents[wrong, -1] = torch.tensor([nodes - 1, nodes, -3, 1 << 30])[case.seed % 4].int()
    return parents.int()


def _layout(case: Case, generator: torch.Generator) -> TreeLayout:
    layout = TreeLayout.empty(case.batch, case.slots)
    layout_of(_parents(case, generator), None, **vars(layout))
    return layout


def tree_layout(case: Case, generator: torch.Generator) -> dict[str, object]:
    position = None
    if case.seed % 2:
        position = torch.randint(0, 1 << 40, (case.batch,), generator=generator)
    empty = TreeLayout.empty(case.batch, case.slots)
    return {"parents": _parents(case, generator), "position": position, **vars(empty)}


def tree_mask(case: Case, generator: torch.Generator) -> dict[str, object]:
    """The seed chooses one of the forms, and whether the root is in it."""
    dtype, rows = MASK_TYPES[case.seed % 5], case.slots + case.seed // 5 % 2
    columns = -(-rows // 32) if dtype == torch.int32 else rows
    mask = torch.zeros(case.batch, rows, columns, dtype=dtype)
    return {"ancestors": _layout(case, generator).ancestors, "mask": mask}


def tree_mask_flat(case: Case, generator: torch.Generator) -> dict[str, object]:
    """A second call: the one before was for other lengths; one is more than there is room for."""
    packed, root, most = case.seed % 2 == 1, case.seed // 2 % 2 == 1, 40
    mask = FlatMask.empty(case.batch, case.slots, most, packed, root)
    arguments = {
        "ancestors": _layout(case, generator).ancestors,
        "past": torch.randint(0, most + 1, (case.batch,), generator=generator).int(),
        "root": root, "mask": mask.data, "written": mask.written, "start": mask.start,
    }  # fmt: skip
    write_flat(**arguments)
    arguments["past"] = torch.randint(-2, most + 3, (case.batch,), generator=generator).int()
    return arguments


def tree_verify(case: Case, generator: torch.Generator) -> dict[str, object]:
    batch, nodes = case.batch, case.slots
    layout = _layout(case, generator)
    draft, target = draw_logits(case, generator, nodes + 1)
    vocab, seed = _vocab(case, generator), _seeds(case.state, generator)
    position = torch.arange(case.state) + 10
    masks = [_mask(case, generator, batch, nodes + 1) for _ in range(2)]
    ids = target_ids(vocab["d2t"], case.vocab, draft.device)
    kept = draft[..., ids]
    if masks[0] is not None:
        kept = kept.masked_fill(~allowed_ids(masks[0], ids), -torch.inf)
    tokens, stats = _draw_trees(case, generator, layout, kept, ids, seed, position)
    if batch > 2:
        tokens[2, 0] = case.vocab + 5  # nothing can have drawn it
    if batch > 1:
        target[1, layout.first_child[1, 0] + 1] = torch.nan  # the row after a likely node
    if masks[1] is not None:
        masks[1][0, 1] = 0  # nothing allowed: EMPTY
    full, state = case.drafts == "full", StateRows(_rows(case), case.state, kept.device)
    kept = kept.contiguous()
    if full and case.rows:  # row b of the draft is kept in its request's slot
        slots = torch.zeros(case.state, *kept.shape[1:], dtype=kept.dtype)
        slots[state.index[state.known]] = kept[state.known]
        kept = slots
    if not full:
        stats = torch.zeros_like(stats)
        stats[..., TOP1_PROB] = 1.0
    return {
        "target_logits": target, **sampling_columns(case.sampling, case.state),
        "token_mask": masks[1], "seed": seed, "rows": _rows(case), "draft_tokens": tokens,
        "first_child": layout.first_child, "next_sibling": layout.next_sibling,
        "valid": layout.valid, "live": torch.arange(batch) % 5 != 4,
        "round": torch.arange(batch) + 3, "draft_logits": kept if full else None,
        "logits_row": _rows(case) if full else None, "t2d": vocab["t2d"] if full else None,
        "stats": stats, "rule": RULES[case.rule], "position": position,
        **vars(TreeVerdict.empty(batch, nodes)),
    }  # fmt: skip


def tree_attention(case: Case, generator: torch.Generator) -> dict[str, object]:
    """The seed chooses tree or chain, pages or none, and the sizes of heads.

    A tree has three slots more than are fed. What lies beyond it is NaN, some requests have no
    past or one that leaves no room, some pages do not exist.
    """
    batch, tokens, seed = case.batch, case.slots, case.seed
    size, group = ((16, 2), (20, 1), (64, 3), (128, 2))[seed // 4 % 4]
    among = tokens + 3 if seed % 2 == 0 else tokens
    slots, page = among + 150, 16
    shape = (batch, 2, slots, size)
    past = torch.randint(0, 150, (batch,), generator=generator).int()
    past[:2] = torch.tensor([0, slots - among + 1])[:batch].int()
    table = None
    if seed // 2 % 2 == 0:
        pages = batch * -(-slots // page)
        shape, table = (pages, 2, page, size), torch.randperm(pages, generator=generator)
        table = table.view(batch, -1).int()
        table[0, -1], table[-1, 0] = pages, -1
    keys, values = (torch.randn(shape, generator=generator) for _ in range(2))
    if table is None:
        beyond = torch.arange(slots) >= past[:, None] + among
        for entries in (keys, values):
            entries.masked_fill_(beyond[:, None, :, None], torch.nan)
    mask = None
    if seed % 2 == 0:
        seen = torch.rand(batch, tokens, among, generator=generator) < 0.5
        mask = pack_bits(seen & (torch.arange(tokens)[:, None] > 0))  # the first sees no new token
    query = torch.randn(batch, tokens, 2 * group, size, generator=generator).transpose(1, 2)
    query, keys, values = (x.to(case.dtype) for x in (query, keys, values))
    return {
        "query": query, "keys": keys, "values": values, "past": past, "block_table": table,
        "tree_mask": mask, "among": among, "scale": size**-0.5,
        "mixed": torch.zeros(query.shape, dtype=case.dtype),
    }  # fmt: skip


def tree_expand(case: Case, generator: torch.Generator) -> dict[str, object]:
    """Three rows of a tree of four nodes, then their children, and two nodes of other levels.

    ``drafts`` "full": drawn, of a static shape; else the best ones, of a dynamic one. Odd seeds:
    the first row is the root's.
    """
    batch, most, drawn, width = case.batch, case.slots, case.drafts == "full", 3
    counts = (most, 1, max(1, most - 1)) if drawn else (most,) * width
    start = torch.tensor([4, *counts]).cumsum(0).int()
    nodes, vocab = int(start[-1]) + 2, _vocab(case, generator)
    logits = draw_logits(case, generator, width)[0]
    ids = target_ids(vocab["d2t"], case.vocab, logits.device)
    masks, seed = _mask(case, generator, batch, width), _seeds(case.state, generator)
    logits = logits[..., ids].contiguous()
    if batch > 1:
        logits[1, 1] = torch.nan
    if masks is not None:
        masks[0, 1] = 0  # EMPTY
    score = -3 * torch.rand(batch, nodes, generator=generator)
    tokens = torch.randint(0, case.vocab, (batch, nodes), generator=generator)
    beam = torch.tensor([-1 if case.seed % 2 else 0, 2, 3]).repeat(batch, 1)
    if batch > 2:
        beam[2, 1], tokens[2, 3] = -2, -1  # no row; a node without a token
    absent = {"next_beam": (batch, 4), "next_row": (batch, 4), "next_token": (batch, 4)}
    following = {name: torch.zeros(size, dtype=torch.int32) for name, size in absent.items()}
    following["next_token"] = following["next_token"].long()
    return {
        "logits": logits, **sampling_columns(case.sampling, case.state), "token_mask": masks,
        "d2t": vocab["d2t"], "seed": seed, "rows": _rows(case), "round": torch.arange(batch) + 3,
        "beam": beam.int(), "child_start": start, "children": most, "drawn": drawn,
        "next_node": torch.tensor([4, 5, nodes, 6]).int() if drawn else None,
        "threshold": -torch.arange(batch).float() if case.extras else None,
        "active": torch.arange(batch) % 5 != 4, "depth": torch.arange(batch).int(),
        "tokens": tokens, "parents": torch.full((batch, nodes), -2).int(), "score": score,
        "kept_logits": torch.zeros(batch, nodes + 1, len(ids), dtype=case.dtype) if drawn else None,
        "stats": torch.zeros(batch, nodes + 1, NUM_STATS) if drawn else None, **following,
    }  # fmt: skip


def tree_rerank(case: Case, generator: torch.Generator) -> dict[str, object]:
    """Scores that fall on the way down, some of them equal; every fifth request's are any, and
    every third has pointers that are no tree."""
    batch, nodes = case.batch, case.slots
    size = 3 * nodes
    parents = _parents(case.with_(slots=size), generator).long()
    chance = -torch.randint(0, 4, (batch, size), generator=generator).float()
    score = chance.clone()
    for i in range(size):
        above = score.gather(1, parents[:, i : i + 1].clamp(0, size - 1))[:, 0]
        inside = (parents[:, i] >= 0) & (parents[:, i] < i)
        score[:, i] += torch.where(inside, above, 0.0)
    score = torch.where(parents < ROOT, -torch.inf, score)
    score[::5] = chance[::5]
    return {
        "tokens": torch.randint(0, 99, (batch, size), generator=generator),
        "parents": parents.int(), "score": score,
        "out_tokens": torch.zeros(batch, nodes, dtype=torch.int64),
        "out_parents": torch.zeros(batch, nodes, dtype=torch.int32),
        "node": torch.zeros(batch, nodes, dtype=torch.int32),
    }  # fmt: skip


def compact_kv(case: Case, generator: torch.Generator) -> dict[str, object]:
    """Paths of every length; the last requests have no room, or no path. ``ragged``: pages."""
    batch, nodes, page = case.batch, case.slots, 4
    count = torch.arange(batch) % (nodes + 1)
    order = torch.rand(batch, nodes, generator=generator).argsort(-1)
    chosen = torch.where(torch.arange(nodes) < count[:, None], order, nodes).sort(-1).values
    path = torch.where(chosen < nodes, chosen, -1).int()
    path[batch // 2, : nodes // 2] = 2  # no path: only the first of them counts
    pages = -(-(nodes + 9) // page)
    start = torch.randint(0, 10, (batch,), generator=generator)
    start[-1] = pages * page - 2
    rows, slots = (batch * pages, page) if case.ragged else (batch, pages * page)
    table = torch.randperm(batch * pages, generator=generator).view(batch, pages).int()
    table[batch // 3, -1] = rows  # no page of the cache
    sizes = (3, 2, rows, 2, slots, 5)
    entries = torch.randint(0, 120, sizes, generator=generator).float().to(case.dtype)
    return {
        "path": path, "num_accepted": count.int(), "start": start.int(),
        "block_table": table if case.ragged else None, "cache": entries,
        "length": torch.zeros(batch, dtype=torch.int32) if case.extras else None,
    }  # fmt: skip


def _draw_trees(
    case: Case, generator: torch.Generator, layout: TreeLayout, kept: Tensor, ids: Tensor,
    seed: Tensor, position: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """[B, N] tokens, children drawn without replacement, [B, N+1, 8] statistics of their rows.

    Where nothing is left to draw a token is any id.
    """
    batch, nodes = case.batch, case.slots
    state = StateRows(_rows(case), case.state, kept.device)
    sampling = Sampling(**sampling_columns(case.sampling, case.state)).map(state.of)
    each = sampling.map(lambda x: x.repeat_interleave(nodes + 1))
    rows = process(kept.reshape(-1, len(ids)), each, greedy=RULES[case.rule] == GREEDY)
    weights = rows.weights.clone().view(batch, nodes + 1, -1)
    shared = _shared_tokens(rows, layout, state.of(seed), state.of(position), ids)
    column = torch.zeros(batch, nodes, dtype=torch.int64)
    first = torch.zeros(batch, nodes + 1, dtype=torch.int64)
    for b, parent, node in _links(layout):
        left = weights[b, parent]
        some = left if left.sum() > 0 else torch.ones_like(left)
        drawn = torch.multinomial(some, 1, generator=generator)[0]
        if RULES[case.rule] == GUMBEL and layout.first_child[b, parent] == node:
            drawn = shared[b, parent]
        if layout.first_child[b, parent] == node:
            first[b, parent] = drawn
        left[drawn] = 0
        column[b, node] = drawn
    stats = row_stats_of(rows, first.view(-1)).view(batch, nodes + 1, NUM_STATS)
    stats[layout.first_child < 0] = torch.nan
    return ids[column], stats


def _shared_tokens(
    rows: Processed, layout: TreeLayout, seed: Tensor, position: Tensor, ids: Tensor
) -> Tensor:
    """[B, N+1] columns that the noise of ``gumbel`` chooses in every row."""
    depth = torch.nn.functional.pad(layout.depth, (1, 0))
    at = (position[:, None] + depth).view(-1)
    noise = gumbel_noise(seed.repeat_interleave(depth.shape[1]), at, ids)
    return gumbel_index(rows, noise).view(depth.shape)


def _links(layout: TreeLayout) -> list[tuple[int, int, int]]:
    """(request, row, child) with children after their earlier siblings."""
    found = []
    for b in range(layout.batch):
        for row in range(layout.nodes + 1):
            child = int(layout.first_child[b, row])
            while child >= 0:
                found.append((b, row, child))
                child = int(layout.next_sibling[b, child])
    return found
