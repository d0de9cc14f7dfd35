"""Trees on the CPU beside the PyTorch reference: check, time, one JSON row each.

python bench/bench_trees.py --out bench/results/trees.jsonl
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import checks
import torch
from harness import environment, read_gb_s, summary, times_us, write_rows
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import tapout_kernels as tk

Row = dict[str, object]
SETS = 3  # buffers in rotation


def binary(nodes: int) -> list[int]:
    """Two children a row, level by level."""
    return [i // 2 - 1 for i in range(nodes)]


def bench_layout(batch: int, nodes: int) -> Row:
    """Layout, then the bool mask: what one verify forward needs."""
    parents = torch.tensor([binary(nodes)] * batch, dtype=torch.int32)
    position = torch.zeros(batch, dtype=torch.int64)
    layout = tk.TreeLayout.empty(batch, nodes)
    mask = torch.empty(batch, nodes, nodes, dtype=torch.bool)

    def run(_: int, backend: str | None = None) -> Tensor:
        tk.tree_layout(parents, position=position, out=layout, backend=backend)
        return tk.tree_mask(layout, out=mask, backend=backend)

    expected = run(0, "reference").clone()
    if not torch.equal(run(0), expected):
        checks.refuse("tree_layout + tree_mask", "wrong result")
    shape = {"B": batch, "N": nodes}
    return _row("tree_layout + tree_mask", shape, times_us(run), partial(run, backend="reference"))


def _children(
    probs: Tensor, count: int, one_hot: bool, generator: torch.Generator
) -> Tensor:  # fmt: skip
    """[B, count]: the most probable ids, or ids drawn without replacement."""
    if one_hot:
        return probs.topk(count).indices
    return torch.multinomial(probs, count, generator=generator)


class Trees:
    """Requests with binary trees, their children from rows much like the target's."""

    def __init__(self, batch: int, nodes: int, vocab: int, dtype: torch.dtype, one_hot: bool):
        generator = torch.Generator().manual_seed(0)
        layout = tk.tree_layout(torch.tensor([binary(nodes)] * batch, dtype=torch.int32))
        shape = (batch, nodes + 1, vocab)
        self.rng = tk.RngState.of(range(batch))
        self.position = self.rng.position.clone()
        self.sampling = tk.SamplingParams()
        self.target, self.trees = [], []
        for _ in range(SETS):
            draft = (3 * torch.randn(shape, generator=generator)).to(dtype)
            noise = torch.randn(shape, generator=generator)
            self.target.append((draft.float() + 0.7 * noise).to(dtype))
            probs = draft.float().softmax(-1)
            tokens = torch.empty(batch, nodes, dtype=torch.int64)
            for row in range(nodes // 2 + 1):
                children = [i for i in (2 * row, 2 * row + 1) if i < nodes]
                if children:
                    tokens[:, children] = _children(
                        probs[:, row], len(children), one_hot, generator
                    )
            given = (None, None) if one_hot else (draft, self.sampling)
            self.trees.append(tk.TreeProposal.from_tokens(tokens, layout, self.rng, *given))
        self.out = tk.TreeVerdict.empty(batch, nodes)

    def verify(self, i: int, rule: str, backend: str | None = None) -> tk.TreeVerdict:
        self.rng.position.copy_(self.position)
        return tk.tree_verify(
            self.target[i % SETS], self.trees[i % SETS], self.sampling, self.rng, rule=rule,
            out=self.out, backend=backend,
        )  # fmt: skip


def bench_verify(rule: str, nodes: int, vocab: int, dtype: torch.dtype, one_hot: bool) -> Row:
    case = Trees(8, nodes, vocab, dtype, one_hot)
    accepted = []
    for i in range(SETS):
        expected = case.verify(i, rule, "reference").tokens.clone()
        found = case.verify(i, rule)
        if not torch.equal(found.tokens, expected):
            checks.refuse(f"tree_verify, rule {rule}", "wrong result")
        accepted.append(found.num_accepted.float().mean().item())
    mean = sum(accepted) / SETS
    shape = {"rule": rule, "B": 8, "N": nodes, "V": vocab, "accepted": round(mean, 2)}
    shape["drafts"] = "one-hot" if one_hot else "drawn"
    shape["dtype"] = str(dtype).removeprefix("torch.")
    # The target's rows on the path, each once; a rejection reads more.
    nbytes = int(8 * (mean + 1) * vocab * dtype.itemsize)
    run = partial(case.verify, rule=rule)
    reference = partial(case.verify, rule=rule, backend="reference")
    return _row("tree_verify", shape, times_us(run), reference, nbytes)


def bench_attention(batch: int, nodes: int, past: int, dtype: torch.dtype) -> Row:
    """Nine query heads, three of keys: the sizes of the demo's model. Beside torch's attention."""
    generator = torch.Generator().manual_seed(0)
    layout = tk.tree_layout(torch.tensor([binary(nodes)] * batch, dtype=torch.int32))
    bits = tk.tree_mask(layout, "bits", root=True)
    seen = torch.ones(batch, 1, nodes + 1, past + nodes + 1, dtype=torch.bool)
    seen[:, 0, :, past:] = tk.tree_mask(layout, root=True)
    shape = (SETS, 2, batch, 3, past + nodes + 1, 64)
    cache = torch.randn(shape, generator=generator).to(dtype)
    query = torch.randn(batch, 9, nodes + 1, 64, generator=generator).to(dtype)
    before, out = torch.full((batch,), past, dtype=torch.int32), torch.empty_like(query)

    def run(i: int, backend: str | None = None) -> Tensor:
        keys, values = cache[i % SETS]
        return tk.tree_attention(query, keys, values, before, bits, out=out, backend=backend)

    def plain(i: int) -> Tensor:
        keys, values = cache[i % SETS]
        return scaled_dot_product_attention(query, keys, values, attn_mask=seen, enable_gqa=True)

    expected = run(0, "reference").clone()
    if not torch.allclose(run(0), expected, atol=1e-2, rtol=1e-2):
        checks.refuse("tree_attention", "wrong result")
    size = {"B": batch, "N": nodes, "past": past, "dtype": str(dtype).removeprefix("torch.")}
    row = _row("tree_attention", size, times_us(run), partial(run, backend="reference"))
    row["sdpa_us"] = summary(times_us(plain))["median_us"]
    row["times_sdpa"] = round(row["sdpa_us"] / row["median_us"], 1)
    return row


class Growing:
    """Levels of a tree from one set of rows, again and again."""

    def __init__(
        self, shape: tk.TreeShape, batch: int, vocab: int, dtype: torch.dtype, drawn: bool
    ):
        generator = torch.Generator().manual_seed(0)
        rows = max(level.rows for level in shape.levels)
        sizes = (SETS, batch, rows, vocab)
        self.logits = (3 * torch.randn(sizes, generator=generator)).to(dtype)
        self.sampling = tk.SamplingParams() if drawn else None
        self.rng, self.seen = tk.RngState.of(range(batch)), tk.RngState.of(range(batch))
        kept = {"vocab": vocab, "dtype": dtype} if drawn else {}
        self.draft = tk.TreeDraft.empty(batch, shape, **kept)

    def reset(self) -> None:
        self.rng.round.copy_(self.seen.round)
        self.draft.reset(self.rng)

    def expand(self, i: int, level: int, backend: str | None = None) -> tk.TreeDraft:
        rows = self.draft.shape.levels[level].rows
        self.draft.active.fill_(True)
        tk.tree_expand(self.logits[i % SETS][:, :rows], self.draft, level, self.sampling, self.rng,
                       backend=backend)  # fmt: skip
        return self.draft

    def whole(self, i: int, backend: str | None = None) -> Tensor:
        """The tokens of a tree: all its levels and the rerank."""
        self.reset()
        for level in range(self.draft.shape.depth):
            self.expand(i, level, backend)
        return tk.tree_rerank(self.draft, backend=backend).tokens


def bench_expand(shape: tk.TreeShape, vocab: int, drawn: bool, level: int) -> Row:
    """One level; the tree is checked whole."""
    case = Growing(shape, 8, vocab, torch.bfloat16, drawn)
    if not torch.equal(case.whole(0), case.whole(0, "reference")):
        checks.refuse("tree_expand", "wrong result")
    rows, children = shape.levels[level].rows, shape.levels[level].children
    sizes = {"B": 8, "W": rows, "children": children, "V": vocab}
    sizes |= {"drafts": "drawn" if drawn else "one-hot", "dtype": "bfloat16"}
    nbytes = 8 * rows * vocab * 2 * (2 if drawn else 1)
    run = partial(case.expand, level=level)
    return _row("tree_expand", sizes, times_us(run), partial(run, backend="reference"), nbytes)


def bench_rerank(shape: tk.TreeShape) -> Row:
    case = Growing(shape, 32, 1000, torch.float32, False)
    case.whole(0)

    def run(_: int, backend: str | None = None) -> Tensor:
        return tk.tree_rerank(case.draft, backend=backend).tokens

    if not torch.equal(run(0).clone(), run(0, "reference")):
        checks.refuse("tree_rerank", "wrong result")
    sizes = {"B": 32, "candidates": shape.candidates, "N": shape.nodes}
    reference = partial(run, backend="reference")
    return _row("tree_rerank + tree_layout", sizes, times_us(run), reference)


def bench_compact(accepted: int) -> Row:
    """Half of the accepted nodes, the later ones, do not lie where they belong."""
    batch, nodes, layers, heads, slots, width = 8, 32, 32, 8, 192, 128
    generator = torch.Generator().manual_seed(0)
    sizes = (layers, 2, batch, heads, slots, width)
    cache = torch.randn(sizes, generator=generator).bfloat16()
    stays = accepted // 2
    path = torch.full((batch, nodes), -1, dtype=torch.int32)
    path[:, :stays] = torch.arange(stays)
    path[:, stays:accepted] = torch.arange(accepted - stays) * 3 + stays + 5
    count = torch.full((batch,), accepted, dtype=torch.int32)
    starts = [torch.full((batch,), x, dtype=torch.int32) for x in (20, 80, 140)]
    length = torch.zeros_like(count)

    def run(i: int, backend: str | None = None) -> Tensor:
        start = starts[i % SETS]
        return tk.compact_kv(cache, path, count, start, length=length, backend=backend)

    kept = cache.clone()
    expected = run(0, "reference").clone()
    cache.copy_(kept)
    if not torch.equal(run(0), expected):
        checks.refuse("compact_kv", "wrong result")
    shape = {"B": batch, "N": nodes, "layers": layers, "heads": heads, "width": width}
    shape |= {"accepted": accepted, "dtype": "bfloat16"}
    moved = batch * (accepted - stays) * layers * 2 * heads * width * cache.itemsize
    reference = partial(run, backend="reference")
    return _row("compact_kv", shape, times_us(run), reference, 2 * moved)


def _row(op: str, shape: Row, ours: list[float], reference, nbytes: int = 0) -> Row:
    row: Row = {"op": op, **shape, **summary(ours)}
    if nbytes:
        row |= {"bytes": nbytes, "gb_s": round(nbytes / row["median_us"] / 1e3, 2)}
    row["reference_us"] = summary(times_us(reference, budget_s=0.0, least=2))["median_us"]
    row["times_reference"] = round(row["reference_us"] / row["median_us"], 1)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench/results/trees.jsonl"))
    arguments = parser.parse_args()
    bf16 = torch.bfloat16
    cases = [
        partial(bench_layout, 32, 64),
        partial(bench_verify, "tree_token", 32, 128256, bf16, False),
        partial(bench_verify, "tree_token", 32, 128256, bf16, True),
        partial(bench_verify, "tree_gumbel", 32, 128256, bf16, True),
        partial(bench_verify, "tree_greedy", 32, 128256, bf16, True),
        *(partial(bench_attention, 1, nodes, 256, bf16) for nodes in (1, 7, 31)),
        partial(bench_attention, 8, 31, 2048, bf16),
        partial(bench_expand, tk.TreeShape.dynamic(3, 8, 32), 128256, False, 1),
        partial(bench_expand, tk.TreeShape.static(binary(30)), 128256, True, 2),
        partial(bench_rerank, tk.TreeShape.dynamic(6, 10, 60)),
        partial(bench_compact, 4),
    ]
    shared, rows = {**environment(), "read_gb_s": round(read_gb_s(), 1)}, []
    for case in cases:
        row = {**case(), **shared}
        if "gb_s" in row:
            row["of_read"] = round(row["gb_s"] / shared["read_gb_s"], 3)
        rows.append(row)
        print(f"{row['op']}: {row['median_us']} us", flush=True)
    write_rows(arguments.out, rows)


if __name__ == "__main__":
    main()
