"""``compact_kv``: afterwards the cache is that of plain decoding, and nothing beside it moved."""

from __future__ import annotations

import pytest
import torch
from helpers import raw
from torch import Tensor

import tapout_kernels as tk
from tapout_kernels import RngState
from tapout_kernels.testing import Case

OPS = ("compact_kv", "tree_layout", "tree_verify")  # of the fixture `trees`
LAYERS, HEADS, WIDTH, NODES, PAGE = 3, 2, 8, 11, 4


def ints(*values) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def entries(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Every byte of them distinguishes where it came from, as far as a byte can."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-60, 60, shape, generator=generator).float().to(dtype)


def paths(batch: int, nodes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rising entries of every length down to none, padded with -1."""
    generator = torch.Generator().manual_seed(seed)
    count = torch.randint(0, nodes + 1, (batch,), generator=generator)
    count[:3] = torch.tensor([0, 1, nodes])
    path = torch.full((batch, nodes), -1)
    for b in range(batch):
        chosen = torch.randperm(nodes, generator=generator)[: count[b]]
        path[b, : count[b]] = chosen.sort().values
    return path.int(), count.int()


def same_bytes(left: Tensor, right: Tensor) -> bool:
    return left.view(torch.uint8).equal(right.view(torch.uint8))


def plain_decoding(logical: Tensor, path: Tensor, count: Tensor, start: Tensor) -> Tensor:
    """[layers, 2, B, heads, slots, width] by index: what decoding those tokens one by one stores,
    the slots behind them as they were."""
    expected = logical.clone()
    for b in range(len(path)):
        for j in range(int(count[b])):
            expected[:, :, b, :, start[b] + j] = logical[:, :, b, :, start[b] + path[b, j]]
    return expected


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2,
     torch.int8, torch.uint8],
)  # fmt: skip
def test_contents_are_those_of_plain_decoding(trees, dtype):
    batch, slots = 8, 30
    path, count = paths(batch, NODES)
    start = torch.randint(
        1, slots - NODES + 1, (batch,), generator=torch.Generator().manual_seed(1)
    )
    cache = entries(LAYERS, 2, batch, HEADS, slots, WIDTH, dtype=dtype)
    expected = plain_decoding(cache, path, count, start)
    length = torch.zeros(batch, dtype=torch.int32)
    found = tk.compact_kv(cache, path, count, start.int(), length=length, backend=trees)
    assert found is cache
    assert same_bytes(cache, expected)
    assert length.equal(start.int() + count)


@pytest.mark.parametrize("page", [1, 4, 32])
def test_pages_anywhere_hold_what_a_contiguous_cache_holds(trees, page):
    """Ragged requests over shuffled pages; pages of nobody keep their bytes."""
    batch, slots = 7, 32
    path, count = paths(batch, NODES, seed=2)
    start = torch.arange(batch) * 3 + 1
    logical = entries(LAYERS, 2, batch, HEADS, slots, WIDTH)
    pages = batch * slots // page
    order = torch.randperm(pages + 3, generator=torch.Generator().manual_seed(3))
    table = order[:pages].view(batch, -1)
    cache = entries(LAYERS, 2, pages + 3, HEADS, page, WIDTH, seed=9)
    spare = cache[:, :, order[pages:]].clone()
    cut = logical.unflatten(4, (slots // page, page)).transpose(3, 4)  # pages before heads
    cache[:, :, table] = cut
    tk.compact_kv(cache, path, count, start.int(), block_table=table.int(), backend=trees)
    whole = cache[:, :, table].transpose(3, 4).flatten(4, 5)
    assert whole.equal(plain_decoding(logical, path, count, start))
    assert cache[:, :, order[pages:]].equal(spare)


def test_caches_in_another_order_are_given_as_views(trees):
    """[pages, 2, page_size, heads, width] of one layer, as engines have them."""
    batch, slots = 3, 16
    path, count = paths(batch, 6, seed=4)
    start = ints(2, 5, 9)
    theirs = entries(batch, 2, slots, HEADS, WIDTH)
    logical = theirs.permute(1, 0, 3, 2, 4)[None]
    expected = plain_decoding(logical, path, count, start)
    tk.compact_kv(logical, path, count, start, backend=trees)
    assert theirs.permute(1, 0, 3, 2, 4)[None].equal(expected)


def test_it_is_the_path_that_tree_verify_accepted(trees):
    """Node 1, then node 2 of a tree; the root is in slot 5."""
    layout = tk.tree_layout(ints([-1, -1, 1]), backend=trees)
    tree = tk.TreeProposal.from_tokens(torch.tensor([[2, 1, 0]]), layout, RngState.of(0))
    logits = torch.nn.functional.one_hot(torch.tensor([[1, 0, 0, 2]]), 3) * 100.0
    found = tk.tree_verify(logits, tree, None, RngState.of(0), rule="tree_greedy", backend=trees)
    cache, length = torch.arange(10.0).view(1, 1, 1, 1, 10, 1).repeat(1, 2, 1, 1, 1, 1), ints(0)
    tk.compact_kv(cache, found.path, found.num_accepted, ints(6), length=length, backend=trees)
    assert cache[0, 1].flatten().tolist() == [0, 1, 2, 3, 4, 5, 7, 8, 8, 9]
    assert length.tolist() == [8]


def test_requests_do_not_depend_on_each_other(trees):
    batch, slots = 6, 24
    path, count = paths(batch, NODES, seed=5)
    start, cache = ints(1, 2, 3, 4, 5, 6), entries(LAYERS, 2, batch, HEADS, slots, WIDTH)
    together = tk.compact_kv(cache.clone(), path, count, start, backend=trees)
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    other = cache[:, :, order].contiguous()
    tk.compact_kv(other, path[order], count[order], start[order], backend=trees)
    assert other.equal(together[:, :, order])
    for threads in (1, 2):
        torch.set_num_threads(threads)
        again = tk.compact_kv(cache.clone(), path, count, start, backend=trees)
        assert again.equal(together)


@pytest.mark.parametrize(
    ("path", "count", "start", "moved"),
    [
        ((1, 3, 4), 2, 0, 2),  # entries behind the accepted ones
        ((1, 1, 4), 3, 0, 1),  # not rising
        ((2, 0, 1), 3, 0, 1),
        ((-1, 0, 1), 3, 0, 0),
        ((0, 1, 9), 3, 0, 2),  # no node
        ((0, 2, 4), 99, 0, 3),
        ((0, 2, 4), -5, 0, 0),
        ((0, 1, 4), 3, 4, 2),  # no slot
        ((0, 2, 4), 3, -1, 0),
        ((0, 2, 4), 3, (1 << 31) - 1, 0),
        ((0, 2, 4), 3, -(1 << 31), 0),
    ],
)
@pytest.mark.parametrize("paged", [False, True])
def test_a_path_is_taken_as_far_as_it_is_one(trees, path, count, start, moved, paged):
    """Eight slots; two pages, or one row."""
    rows = 3 if paged else 1
    cache = entries(1, 2, rows, 1, 8 // (1 + paged), 1)
    table = ints([2, 0]) if paged else None
    before, length = cache.clone(), ints(7)
    five = ints([*path, -1, -1])
    tk.compact_kv(cache, five, ints(count), ints(start), block_table=table, length=length,
                  backend=trees)  # fmt: skip
    assert length.tolist() == [(start + moved)]
    flat = [x[0, :, [2, 0]].flatten(1) if paged else x.flatten(2)[0] for x in (cache, before)]
    for j in range(8):
        source = start + path[j - start] if start <= j < start + moved else j
        assert flat[0][:, j].equal(flat[1][:, source])
    assert not paged or cache[:, :, 1].equal(before[:, :, 1])


@pytest.mark.parametrize("page", [-1, 3, 1 << 30, -(1 << 31)])
def test_pages_that_do_not_exist_are_not_touched(trees, page):
    cache, length = entries(1, 2, 3, 1, 4, 2), ints(0)
    before = cache.clone()
    tk.compact_kv(cache, ints([1, 3]), ints(2), ints(3), block_table=ints([1, page]),
                  length=length, backend=trees)  # fmt: skip
    assert cache.equal(before)
    assert length.tolist() == [3]


@pytest.mark.parametrize("ragged", [False, True])
def test_nothing_is_written_beside(trees, ragged):
    case = Case("compact_kv", 9, 12, ragged=ragged, extras=True)
    raw.check_nothing_beside(raw.caller(trees), case.op, case.inputs())
