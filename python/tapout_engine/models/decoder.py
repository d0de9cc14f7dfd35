"""A Llama-family decoder in plain PyTorch: static cache, rows of their own length, trees.

Every token's numbers depend on its own row alone and not on how many tokens, up to 64, are fed with
it: the products are the same for any width, and ``tree_attention`` takes the cache in one order.
That keeps greedy decoding of one token at a time and of a verified draft the same in bf16 too,
where other fused attention kernels order their sums by the width.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

import tapout_kernels as tk

from ..skipping import kept_layers
from .branches import Branches
from .cache import StaticCache, visible
from .config import DecoderConfig
from .linear import Linear, at_least_fewest
from .rotary import Rotary, rotate

WIDE = 64  # a forward over more tokens reads a prompt: its sums may be in any order
FUSED = ("cpu",)  # devices on which ``tree_attention`` has a kernel


class RMSNorm(nn.Module):
    def __init__(self, weight: Tensor, eps: float):
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.eps = eps
        self.least = torch.full((1,), eps)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return functional.rms_norm(x, self.weight.shape, self.weight, self.eps)
        # The same in a third of the operators that it has there.
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = torch.addcmul(self.least, norm, norm, value=1 / x.shape[-1]).rsqrt_()
        return torch.mul(x, scale, out=torch.empty_like(x)).mul_(self.weight)


class Step:
    """What every layer of one forward of ``n`` tokens a row shares; see :class:`Decoder`.

    Hidden states inside are [B n, hidden], padded to ``FEWEST`` where products want it.
    """

    def __init__(
        self,
        rotary: Rotary,
        input_ids: Tensor,
        start: Tensor,
        cache: StaticCache,
        length: int | None = None,
        branches: Branches | None = None,
    ):
        self.batch, self.n = input_ids.shape
        self.tokens = self.batch * self.n
        self.past, self.branches = start.int(), branches
        self.among = self.n if branches is None else branches.among
        first = start + self.among - self.n
        self.slots = first[:, None] + torch.arange(self.n, device=start.device)  # [B, n]
        self.visible = cache.slots if length is None else min(visible(length), cache.slots)
        positions = self.slots if branches is None else branches.position_ids
        self.cos, self.sin = rotary(positions)  # [B, 1, n, head_dim]
        self.fused = start.device.type in FUSED and self.n <= WIDE
        self.tree_mask: Tensor | None = None  # bits
        if self.fused and branches is not None:
            self.tree_mask = branches.bits()
        self.biases: dict[tuple[int, int], Tensor] = {}

    def flat(self, x: Tensor) -> Tensor:
        """[B, n, size] -> [B n or more, size]."""
        return at_least_fewest(x.view(self.tokens, -1))

    def unflat(self, x: Tensor) -> Tensor:
        """[B n or more, size] -> [B, n, size]."""
        return x[: self.tokens].view(self.batch, self.n, -1)

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
        c, product = self.config, self.qkv(x)
        heads = step.unflat(product).unflatten(2, (-1, c.head_dim)).transpose(1, 2)
        turned = heads[:, : c.num_heads + c.num_kv_heads]
        rotate(self._normed(turned), step.cos, step.sin, out=turned)
        cache.store(layer, step.slots, heads[:, c.num_heads :])
        mixed = x.new_zeros(len(x), c.num_heads * c.head_dim)
        to = step.unflat(mixed).unflatten(2, (-1, c.head_dim)).transpose(1, 2)
        self.attend(heads[:, : c.num_heads], *cache.load(layer, step.visible), step, to)
        return self.out(mixed)

    def _normed(self, heads: Tensor) -> Tensor:
        """Queries and keys of the models that norm them."""
        if self.q_norm is None:
            return heads
        query, key = heads.split((self.config.num_heads, self.config.num_kv_heads), dim=1)
        return torch.cat((self.q_norm(query), self.k_norm(key)), dim=1)

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

    def forward(self, x: Tensor, layer: int, step: Step, cache: StaticCache) -> Tensor:
        x = x + self.attention(self.before(x), layer, step, cache)
        return x + self.feed(self.between(x))


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
        for module in self.modules():
            if isinstance(module, Linear):
                module.pack(rows)
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

        Returns
        -------
        Tensor
            [B, n, hidden]: the last hidden state, normed; see :meth:`logits`.
        """
        step = Step(self.rotary, input_ids, start, cache, length, branches)
        x = step.flat(functional.embedding(input_ids, self.embedding))
        for index, layer in enumerate(self.layers):
            x = layer(x, index, step, cache)
        return step.unflat(self.norm(x))

    def logits(self, hidden: Tensor) -> Tensor:
        """[.., hidden] -> [.., vocab]."""
        return self.head(hidden)
