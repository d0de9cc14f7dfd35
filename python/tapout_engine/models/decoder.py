"""A Llama-family decoder in plain PyTorch: static cache, rows of their own length, trees.

On a CPU with the native library a layer is one operator, and a token's numbers depend on its own
row alone, not on how many tokens are fed with it: products and attention sum in one order for any
width.  That keeps greedy decoding of one token at a time and of a verified draft the same in bf16
too, where kernels that order their sums by the width differ.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

import tapout_kernels as tk

from ..skipping import kept_layers
from . import native
from .branches import Branches
from .cache import StaticCache, visible
from .config import DecoderConfig
from .linear import Linear, Panels
from .rotary import Rotary, rotate

WIDE = 64  # more tokens of a row read a prompt: not as products of groups, where nothing is fused
FUSED = ("cpu",) if native.HERE else ()  # devices on which ``tree_attention`` has a kernel


class RMSNorm(nn.Module):
    def __init__(self, weight: Tensor, eps: float):
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.eps = eps

    def forward(self, x: Tensor, delta: Tensor | None = None) -> Tensor:
        """``x`` normed; ``delta`` is added to it before, in place."""
        if native.serves(x):
            rows = x if delta is not None else x.contiguous()
            return native.rms_norm(rows, delta, self.weight, self.eps)
        if delta is not None:
            x += delta
        return functional.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Step:
    """What every layer of one forward of ``n`` tokens a row shares; see :class:`Decoder`.

    Hidden states inside are [T, hidden]: those of the tokens that are computed.
    """

    def __init__(
        self,
        rotary: Rotary,
        input_ids: Tensor,
        start: Tensor,
        cache: StaticCache,
        length: int | None = None,
        branches: Branches | None = None,
        counts: Sequence[int] | None = None,
    ):
        self.batch, self.n = input_ids.shape
        self.rotary, self.start, self.branches = rotary, start, branches
        self.counted = counts is not None
        self.counts = counts if self.counted else [self.n] * self.batch
        self.kept = self._kept()
        self.among = self.n if branches is None else branches.among
        self.visible = cache.slots if length is None else min(visible(length), cache.slots)
        self.fused = start.device.type in FUSED
        self.biases: dict[tuple[int, int], Tensor] = {}

    @cached_property
    def past(self) -> Tensor:
        """[B] int32: tokens in the cache."""
        return self.start.int()

    @cached_property
    def slots(self) -> Tensor:
        """[B, n] int64: where the new tokens go."""
        first = self.start + self.among - self.n
        return first[:, None] + torch.arange(self.n, device=self.start.device)

    @cached_property
    def turn(self) -> tuple[Tensor, Tensor]:
        """Cosines and sines, [B, n, head_dim]."""
        return self.rotary(self.slots if self.branches is None else self.branches.position_ids)

    @cached_property
    def tree_mask(self) -> Tensor | None:
        """Bits, for ``tree_attention``."""
        return None if self.branches is None else self.branches.bits()

    def flat(self, x: Tensor) -> Tensor:
        """[B, n, size] -> [T, size]."""
        x = x.reshape(self.batch * self.n, -1)
        return x if self.kept is None else x[self.kept]

    def unflat(self, x: Tensor) -> Tensor:
        """[T, size] -> [B, n, size], zeros where nothing was computed."""
        if self.kept is not None:
            x = x.new_zeros(self.batch * self.n, x.shape[1]).index_copy_(0, self.kept, x)
        return x.view(self.batch, self.n, -1)

    def _kept(self) -> Tensor | None:
        """[T] int64, of [B n]: the tokens that are computed; None: all."""
        if all(count == self.n for count in self.counts):
            return None
        kept = [row * self.n + i for row, count in enumerate(self.counts) for i in range(count)]
        return torch.tensor(kept, dtype=torch.int64, device=self.past.device)

    @cached_property
    def tokens(self) -> native.Tokens:
        start = torch.tensor([0, *accumulate(self.counts)], dtype=torch.int32)
        mask = self.tree_mask
        if self.counted and mask is None:
            slot = self._slots_in_a_row()
            return native.Tokens(*self.rotary(slot), slot, start, self.past, mask, self.among)
        cos, sin = (self.flat(x) for x in self.turn)
        if mask is not None:
            mask = mask[:, : max(self.counts)].contiguous()
        slot = self.flat(self.slots)[:, 0]
        return native.Tokens(cos, sin, slot, start, self.past, mask, self.among)

    def _slots_in_a_row(self) -> Tensor:
        """[T] int64, by way of the host, which knows them: fewer operators."""
        first = self.start.tolist()
        spans = (range(at, at + n) for at, n in zip(first, self.counts, strict=True))
        return torch.tensor([slot for span in spans for slot in span], dtype=torch.int64)

    @cached_property
    def hidden(self) -> Tensor:
        """[B, n, visible] bool."""
        slot = torch.arange(self.visible, device=self.past.device)
        if self.branches is None:
            return slot > self.slots[..., None]
        offset = slot - self.past[:, None]  # which token of the tree a slot holds
        index = offset.clamp(0, self.among - 1)[:, None].expand(-1, self.n, -1)
        seen = self.branches.seen.gather(2, index) & (offset < self.among)[:, None]
        return (offset >= 0)[:, None] & ~seen

    def bias(self, kv_heads: int, group: int, dtype: torch.dtype) -> Tensor:
        """[B kv_heads, visible, group n]: -inf where hidden, 0 elsewhere; one for all layers."""
        if (kv_heads, group) not in self.biases:
            batch, n, slots = self.hidden.shape
            bias = torch.zeros(batch, 1, slots, 1, n, dtype=dtype, device=self.hidden.device)
            bias.masked_fill_(self.hidden.transpose(1, 2)[:, None, :, None], float("-inf"))
            bias = bias.expand(-1, kv_heads, -1, group, -1).reshape(-1, slots, group * n)
            self.biases[kv_heads, group] = bias
        return self.biases[kv_heads, group]


class AttentionSizes(Protocol):
    """What attention asks of a configuration."""

    num_heads: int
    num_kv_heads: int
    head_dim: int


class Attention(nn.Module):
    """Grouped-query attention over the cache; queries, keys and values in one product."""

    def __init__(self, config: AttentionSizes, qkv: Linear, out: Linear):
        super().__init__()
        self.config, self.qkv, self.out = config, qkv, out
        self.q_norm: RMSNorm | None = None
        self.k_norm: RMSNorm | None = None

    def forward(self, x: Tensor, layer: int, step: Step, cache: StaticCache) -> Tensor:
        c, product = self.config, step.unflat(self.qkv(x))
        query = self._place(product.unflatten(2, (-1, c.head_dim)), layer, step, cache)
        mixed = torch.empty_like(query)
        keys, values = cache.load(layer, step.visible)
        self.attend(query.transpose(1, 2), keys, values, step, mixed.transpose(1, 2))
        return self.out(step.flat(mixed.flatten(2)))

    def _place(self, qkv: Tensor, layer: int, step: Step, cache: StaticCache) -> Tensor:
        """Queries [B, n, heads, head_dim]; keys and values go into the cache."""
        c = self.config
        turned = qkv[:, :, : c.num_heads + c.num_kv_heads]
        if self.q_norm is not None:
            query, key = turned.split((c.num_heads, c.num_kv_heads), dim=2)
            turned.copy_(torch.cat((self.q_norm(query), self.k_norm(key)), dim=2))
        cos, sin = step.turn
        rotate(turned, cos[:, :, None], sin[:, :, None], out=turned)
        cache.store(layer, step.slots, qkv[:, :, c.num_heads :].transpose(1, 2))
        return qkv[:, :, : c.num_heads]

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, step: Step, out: Tensor) -> None:
        """[B, heads, n, head_dim] over [B, kv_heads, visible, head_dim]."""
        if step.fused:
            tk.tree_attention(
                query, keys, values, step.past, step.tree_mask, among=step.among, out=out
            )
        elif step.n > WIDE:
            out.copy_(functional.scaled_dot_product_attention(
                query, keys, values, attn_mask=~step.hidden[:, None], enable_gqa=True
            ))  # fmt: skip
        else:
            out.copy_(self._attend_in_groups(query, keys, values, step))

    def _attend_in_groups(self, query: Tensor, keys: Tensor, values: Tensor, step: Step) -> Tensor:
        """Queries of a group share their keys: they are rows of one product."""
        c = self.config
        group, dim = c.num_heads // c.num_kv_heads, c.head_dim
        folded = query.reshape(step.batch * c.num_kv_heads, group * step.n, dim)
        bias = step.bias(c.num_kv_heads, group, query.dtype)
        scores = torch.baddbmm(
            bias, keys.flatten(0, 1), folded.transpose(1, 2), alpha=dim**-0.5
        ).transpose(1, 2)  # [B kv_heads, group n, visible]
        weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
        return torch.bmm(weights, values.flatten(0, 1)).view_as(query)


class FeedForward(nn.Module):
    def __init__(self, gate_up: Linear, down: Linear):
        super().__init__()
        self.gate_up, self.down = gate_up, down

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(functional.silu(gate) * up)


class Layer(nn.Module):
    def __init__(self, attention: Attention, feed: FeedForward, before: RMSNorm, between: RMSNorm):
        super().__init__()
        self.attention, self.feed = attention, feed
        self.before, self.between = before, between
        self.native: native.LayerWeights | None = None

    def pack(self, rows: int, rounded: bool = False) -> None:
        """As :meth:`Linear.pack`."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.pack(rows, rounded)
        self.native = self._native_weights()

    def _native_weights(self) -> native.LayerWeights | None:
        """For ``decoder_layer``, if it computes such a layer."""
        a, feed = self.attention, self.feed
        packed = [linear.packed for linear in (a.qkv, a.out, feed.gate_up, feed.down)]
        norms = [n for n in (self.before, self.between, a.q_norm, a.k_norm) if n is not None]
        if not all(isinstance(p, Panels) for p in packed) or len({n.eps for n in norms}) > 1:
            return None
        qkv, *others = packed
        if any(p.bias is not None for p in others) or others[-1].padded:
            return None
        out, gate_up, down = (p.panels for p in others)
        scales = [p.scale for p in packed if p.scale is not None]
        scale = torch.cat(scales) if scales else None
        q_norm, k_norm = (None if n is None else n.weight for n in (a.q_norm, a.k_norm))
        return native.LayerWeights(
            self.before.weight, qkv.panels, qkv.bias, q_norm, k_norm, out, self.between.weight,
            gate_up, down, scale, a.config.num_heads, self.before.eps,
        )  # fmt: skip

    def forward(self, x: Tensor, layer: int, step: Step, cache: StaticCache) -> Tensor:
        """``x`` [T, hidden] is changed in place, and returned."""
        if self.native is not None and step.fused:
            native.decoder_layer(x, step.tokens, cache.kinds[layer], self.native)
            return x
        attended = self.attention(self.before(x), layer, step, cache)
        return x.add_(self.feed(self.between(x, attended)))


class Decoder(nn.Module):
    """Token ids to hidden states to logits.  See :func:`.weights.decoder_of` for where from.

    Examples
    --------
    >>> cache = decoder.cache(batch=1, slots=256)                      # doctest: +SKIP
    >>> hidden = decoder(torch.tensor([[1, 2, 3]]), torch.tensor([0]), cache, 3)  # doctest: +SKIP
    >>> decoder.logits(hidden).shape                                   # doctest: +SKIP
    torch.Size([1, 3, 49152])
    """

    def __init__(
        self,
        config: DecoderConfig,
        embedding: Tensor,
        layers: list[Layer],
        norm: RMSNorm,
        head: Linear,
        rotary: Rotary,
    ):
        super().__init__()
        self.config = config
        self.embedding = nn.Parameter(embedding, requires_grad=False)  # of the same memory
        self.layers = nn.ModuleList(layers)
        self.norm, self.head, self.rotary = norm, head, rotary

    def pack(self, rows: int = 8) -> Decoder:
        """Lay out the weights for forwards of about ``rows`` tokens (see :class:`Linear`)."""
        for layer in self.layers:
            layer.pack(rows)
        self.head.pack(rows)
        return self

    def without(self, skip: Collection[int]) -> Decoder:
        """A shallower decoder on the same weights, some layers left out.

        Raises
        ------
        EngineError
            For layers that do not exist, or if none is left.
        """
        kept = kept_layers(len(self.layers), skip)
        return Decoder(
            replace(self.config, num_layers=len(kept)), self.embedding,
            [self.layers[layer] for layer in kept], self.norm, self.head, self.rotary,
        )  # fmt: skip

    def cache(self, batch: int, slots: int) -> StaticCache:
        """An empty cache for ``batch`` rows of up to ``slots`` tokens."""
        return StaticCache.of(self.config, batch, slots, self.embedding)

    def forward(
        self,
        input_ids: Tensor,
        start: Tensor,
        cache: StaticCache,
        length: int | None = None,
        branches: Branches | None = None,
        counts: Sequence[int] | None = None,
    ) -> Tensor:
        """Feed n tokens to each row.

        Parameters
        ----------
        input_ids : Tensor
            [B, n] int64.
        start : Tensor
            [B] int64: tokens of each row that are in the cache; the new ones follow them, or the
            rest of their tree does.
        cache : StaticCache
        length : int, optional
            No row has more than ``length`` tokens in the cache after this forward. Fewer slots are
            looked at then; without it all of them are, whatever the rows hold.
        branches : Branches, optional
            How the new tokens are parts of trees. Without it each sees those before it.
        counts : sequence of int, optional
            Of each row's n tokens only so many are computed, the first ones. Given, the host knows
            what is fed; without it no value of a tensor is asked for.

        Returns
        -------
        Tensor
            [B, n, hidden]: the last hidden state, normed; see :meth:`logits`. Zeros where nothing
            was computed.
        """
        step = Step(self.rotary, input_ids, start, cache, length, branches, counts)
        x = step.flat(functional.embedding(input_ids, self.embedding))
        for index, layer in enumerate(self.layers):
            x = layer(x, index, step, cache)
        return step.unflat(self.norm(x))

    def logits(self, hidden: Tensor) -> Tensor:
        """[.., hidden] -> [.., vocab]."""
        return self.head(hidden)
