"""Arguments of the operators of the engine's decoder, and the layer they were made of."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor

from tapout_engine.models import Branches, StaticCache, native
from tapout_engine.models.decoder import Attention, FeedForward, Layer, RMSNorm, Step
from tapout_engine.models.linear import Linear
from tapout_engine.models.rotary import Rotary
from tapout_kernels._schema import DECODER_SCHEMAS

from . import raw

POSITIONS = 160
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def call(op: str, **arguments: object) -> None:
    """As those of ``raw.caller``; these operators have one kernel each."""
    getattr(torch.ops.tapout_kernels, op).default(*(arguments[name] for name in NAMES[op]))


NAMES = {op: raw.names(op) for op in DECODER_SCHEMAS}


def randn(*shape: int, seed: int, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(shape, generator=generator)).to(dtype)


def linear(
    rows: int, inputs: int, outputs: int, dtype: torch.dtype, biased: bool = False, seed: int = 0,
    rounded: bool = False,
) -> dict[str, object]:  # fmt: skip
    """``rounded``: weights of eight bits."""
    weight, scale = randn(outputs, inputs, seed=seed, dtype=dtype), None
    if rounded:
        weight, scale = native.in_bytes(weight)
    return {
        "x": randn(rows, inputs, seed=seed + 1, dtype=dtype), "panels": native.panels_of(weight),
        "scale": scale,
        "bias": randn(outputs, seed=seed + 2, dtype=torch.float32) if biased else None,
        "y": torch.full((rows, outputs), -7.0, dtype=dtype),
    }  # fmt: skip


def dense(panels: Tensor, scale: Tensor | None, outputs: int, inputs: int) -> Tensor:
    """The weights [out, in] in panels, float64."""
    weight = native.rows_of(panels, torch.arange(outputs), inputs).double()
    return weight if scale is None else weight * scale[:, None].double()


def rms_norm(
    rows: int, size: int, dtype: torch.dtype, more: bool = False, seed: int = 0
) -> dict[str, object]:
    return {
        "x": randn(rows, size, seed=seed, dtype=dtype, scale=3.0),
        "delta": randn(rows, size, seed=seed + 1, dtype=dtype) if more else None,
        "weight": 1 + randn(size, seed=seed + 2, dtype=dtype, scale=0.3), "eps": 1e-5,
        "normed": torch.full((rows, size), -7.0, dtype=dtype),
    }  # fmt: skip


def head_inputs(rows: int, size: int, dtype: torch.dtype, seed: int = 0) -> dict[str, object]:
    vocab = 11
    generator = torch.Generator().manual_seed(seed)
    norms = (1 + randn(2, size, seed=seed + 3, dtype=dtype, scale=0.3)).unbind()
    return {
        "ids": torch.randint(vocab, (rows,), generator=generator),
        "embedding": randn(vocab, size, seed=seed + 1, dtype=dtype),
        "states": randn(rows, size, seed=seed + 2, dtype=dtype, scale=3.0),
        "token_norm": norms[0].clone(), "state_norm": norms[1].clone(), "eps": 1e-5,
        "normed": torch.full((rows, 2 * size), -7.0, dtype=dtype),
    }  # fmt: skip


def copy_rows(rows: int, dtype: torch.dtype, size: int = 5) -> dict[str, object]:
    """Some of what is taken does not exist, and some places do not."""
    return {
        "source": randn(rows, size, seed=1, dtype=dtype),
        "take": torch.tensor([rows - 1, 0, -1, 3, rows, 3]),
        "place": torch.tensor([2, rows + 4, 0, -1, 6, 3]),
        "out": randn(rows + 4, size, seed=2, dtype=dtype),
    }


@dataclass(frozen=True)
class LayerCase:
    """Sizes of a layer and what it is fed; ``among`` > 0: trees of so many nodes."""

    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    hidden: int = 33
    feed: int = 22
    qk_norm: bool = False
    qkv_bias: bool = False
    counts: tuple[int, ...] = (3, 0, 5)
    past: tuple[int, ...] = (7, 2, 40)
    slots: int = 64
    among: int = 0
    padding: int = 0  # columns of tokens beyond those of any request
    rounded: bool = False  # weights of eight bits
    dtype: torch.dtype = torch.float32

    @property
    def width(self) -> int:
        return max(self.counts) + self.padding

    def layer(self) -> Layer:
        """Not packed; every weight is random."""
        heads, dim = self.heads + 2 * self.kv_heads, self.head_dim
        sizes = SimpleNamespace(num_heads=self.heads, num_kv_heads=self.kv_heads, head_dim=dim)
        bias = randn(heads * dim, seed=9, dtype=self.dtype) if self.qkv_bias else None
        qkv = Linear(self._weight(heads * dim, self.hidden, 1), bias)
        attention = Attention(sizes, qkv, Linear(self._weight(self.hidden, self.heads * dim, 2)))
        if self.qk_norm:
            attention.q_norm, attention.k_norm = self._norm(dim, 3), self._norm(dim, 4)
        feed = FeedForward(
            Linear(self._weight(2 * self.feed, self.hidden, 5)),
            Linear(self._weight(self.hidden, self.feed, 6)),
        )
        return Layer(attention, feed, self._norm(self.hidden, 7), self._norm(self.hidden, 8))

    def x(self) -> Tensor:
        """[T, hidden]"""
        return randn(sum(self.counts), self.hidden, seed=10, dtype=self.dtype)

    def cache(self) -> StaticCache:
        """Full of what requests were fed before."""
        batch, dim = len(self.counts), self.head_dim
        cache = StaticCache(1, batch, self.kv_heads, self.slots, dim, self.dtype)
        cache.entries.copy_(randn(*cache.entries.shape, seed=11, dtype=self.dtype))
        return cache

    def step(self, cache: StaticCache) -> Step:
        """Of the dtype of ``cache``, with the angles rounded to this one's."""
        frequencies = 0.5 ** torch.arange(self.head_dim // 2)
        rotary = Rotary(frequencies, 1.0, POSITIONS, self.dtype).to(cache.entries.dtype)
        ids = torch.zeros(len(self.counts), self.width, dtype=torch.int64)
        past = torch.tensor(self.past)
        return Step(rotary, ids, past, cache, None, self.branches(), self.counts)

    def branches(self) -> Branches | None:
        """The last nodes of random trees."""
        if not self.among:
            return None
        generator, nodes = torch.Generator().manual_seed(12), self.among
        seen = torch.zeros(len(self.counts), nodes, nodes, dtype=torch.bool)
        for tree in seen:
            tree[0, 0] = True
            for node in range(1, nodes):
                parent = int(torch.randint(node, (), generator=generator))
                tree[node] = tree[parent]
                tree[node, node] = True
        seen = seen[:, -self.width :]
        depth = seen.sum(-1) - 1
        return Branches(torch.tensor(self.past)[:, None] + depth, seen)

    def arguments(self) -> dict[str, object]:
        """Of the operator."""
        cache, layer = self.cache(), self.layer()
        layer.pack(8, self.rounded)
        values = (self.x(), *self.step(cache).tokens, *cache.kinds[0], *layer.native)
        return dict(zip(NAMES["decoder_layer"], values, strict=True))

    def _weight(self, outputs: int, inputs: int, seed: int) -> Tensor:
        return randn(
            outputs, inputs, seed=seed, dtype=self.dtype, scale=1.5 * max(inputs, 1) ** -0.5
        )

    def _norm(self, size: int, seed: int) -> RMSNorm:
        return RMSNorm(1 + randn(size, seed=seed, dtype=self.dtype, scale=0.3), 1e-5)
