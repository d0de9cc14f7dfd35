"""Rows of the GPU benchmark about trees: layouts, verification, compaction."""

from __future__ import annotations

from functools import partial

import checks
import gpu_timing
import torch
from gpu_bench import Bench, Row
from gpu_cases import Case
from harness import summary
from rounds import Required
from torch import Tensor

import tapout_kernels as tk

LAYERS, HEADS, WIDTH, SLOTS = 32, 8, 128, 256  # of the cache
STAYS, MOVES = 2, 4  # accepted nodes that lie where they belong, and the others


def binary(nodes: int) -> list[int]:
    """Two children a row, level by level."""
    return [i // 2 - 1 for i in range(nodes)]


def layout_row(bench: Bench, case: Case) -> Row:
    parents = torch.tensor([binary(case.nodes)] * case.batch, dtype=torch.int32)
    parents = parents.to(bench.device)
    layout = tk.TreeLayout.empty(case.batch, case.nodes, device=bench.device)

    def run(_: int, backend: str = bench.backend) -> Tensor:
        return tk.tree_layout(parents, out=layout, backend=backend).ancestors

    if not torch.equal(run(0).clone(), run(0, "reference")):
        checks.refuse("tree_layout", "wrong result")
    return {**case.shape(), **summary(bench.times_us(run, gpu_timing.calls_for(1)))}


class TreeRounds:
    """Requests with binary trees, their children from rows much like the target's."""

    def __init__(self, case: Case, sets: int, device: str):
        generator = torch.Generator(device).manual_seed(0)
        shape = (case.batch, case.nodes + 1, case.vocab)
        parents = torch.tensor([binary(case.nodes)] * case.batch, dtype=torch.int32)
        layout = tk.tree_layout(parents.to(device), backend="reference")
        self.rng = tk.RngState.of(range(case.batch), device=device)
        self.position = self.rng.position.clone()
        self.sampling, self.case = tk.SamplingParams(), case
        self.target, self.trees = [], []
        for _ in range(sets):
            draft = 3 * torch.randn(shape, generator=generator, device=device)
            noise = torch.randn(shape, generator=generator, device=device)
            self.target.append((draft + 0.7 * noise).to(case.dtype))
            rows = torch.arange(case.nodes // 2 + 1, device=device)
            pairs = torch.multinomial(
                draft[:, rows].softmax(-1).flatten(0, 1), 2, generator=generator
            )
            tokens = pairs.view(case.batch, -1)[:, : case.nodes].contiguous()
            kept = draft.to(case.dtype)
            self.trees.append(
                tk.TreeProposal.from_tokens(tokens, layout, self.rng, kept, self.sampling)
            )
        self.out = tk.TreeVerdict.empty(case.batch, case.nodes, device=device)

    def verify(self, i: int, backend: str) -> tk.TreeVerdict:
        i %= len(self.target)
        return tk.tree_verify(
            self.target[i], self.trees[i], self.sampling, self.rng,
            rule=f"tree_{self.case.rule}", out=self.out, backend=backend,
        )  # fmt: skip

    def rewind(self) -> None:
        self.rng.position.copy_(self.position)

    def required(self, i: int) -> Required:
        """The target's rows on the path; what a rejection reads again is not among them."""
        self.rewind()
        path, rows = self.verify(i, "reference").path.tolist(), self.case.nodes + 1
        on_path = [[0, *(node + 1 for node in one if node >= 0)] for one in path]
        return Required([b * rows + row for b, one in enumerate(on_path) for row in one], [])


def verify_row(bench: Bench, case: Case) -> Row:
    row_bytes = case.vocab * case.dtype.itemsize
    sets = bench.sets_for(2 * case.batch * row_bytes)
    calls = gpu_timing.calls_for(sets)
    rounds = TreeRounds(case, sets, bench.device)
    required = []
    for i in range(sets):
        required.append(rounds.required(i))
        expected = rounds.out.tokens.clone()
        rounds.rewind()
        if not torch.equal(rounds.verify(i, bench.backend).tokens, expected):
            checks.refuse(f"tree_verify, rule {case.rule}", "wrong result")
    call = partial(rounds.verify, backend=bench.backend)
    times = bench.times_us(call, calls, rounds.rewind)
    rows = sum(len(one.target) for one in required) / sets
    row = {**case.shape(), "accepted": round(rows / case.batch - 1, 2), **summary(times)}
    row["bytes"] = int(rows * row_bytes)
    return row | bench.read_floor(rounds.target, rounds.target, required, calls)


def compact_row(bench: Bench, case: Case) -> Row:
    """What moves goes by the bytes of all layers, read and written."""
    batch, device = case.batch, bench.device
    cache = torch.zeros(LAYERS, 2, batch, HEADS, SLOTS, WIDTH, dtype=case.dtype, device=device)
    cache.copy_(torch.arange(SLOTS, device=device)[:, None])  # every slot its number
    path = torch.full((batch, case.nodes), -1, dtype=torch.int32)
    path[:, :STAYS] = torch.arange(STAYS)
    path[:, STAYS : STAYS + MOVES] = torch.arange(MOVES) * 3 + STAYS + 5
    path = path.to(device)
    count = torch.full((batch,), STAYS + MOVES, dtype=torch.int32, device=device)
    starts = [torch.full_like(count, x) for x in range(0, SLOTS - case.nodes, case.nodes)]

    def run(i: int, backend: str = bench.backend) -> Tensor:
        return tk.compact_kv(cache, path, count, starts[i % len(starts)], backend=backend)

    before = cache.clone()
    expected = run(0, "reference").clone()
    cache.copy_(before)
    if not torch.equal(run(0), expected):
        checks.refuse("compact_kv", "wrong result")
    calls = gpu_timing.calls_for(len(starts))
    rows = batch * MOVES * LAYERS * 2
    row = {**case.shape(), **summary(bench.times_us(run, calls))}
    row["bytes"] = 2 * rows * HEADS * WIDTH * case.dtype.itemsize
    shape = (rows, HEADS * WIDTH)
    source = [torch.full(shape, i, dtype=case.dtype, device=device) for i in range(2)]
    return row | bench.copy_floor(source, [x + 2 for x in source], calls)
