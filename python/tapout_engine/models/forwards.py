"""Forwards of few tokens on a CPU: in memory that stays, so that each is recorded once.

A decoder's forward is some seventy operators. Called from Python they take a millisecond that is
not reading weights, and a head of one layer takes longer to call than to compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

import tapout_kernels as tk

from ..repeated import Repeated
from . import native
from .cache import StaticCache
from .decoder import Decoder
from .linear import Panels
from .rotary import Rotary

MOST = 64  # tokens of a forward that is recorded: of more, Python is a small part


class Places(NamedTuple):
    """Where tokens of trees stand and whom they see, in memory that stays."""

    position: Tensor  # [T] int64
    mask: Tensor  # [B, n, ceil(among/32)] int32, as of `tapout_kernels.tree_attention`
    among: int  # tokens of each tree, the new ones the last of them


class Tokens:
    """The tokens of a forward, and where they stand, in memory that grows but for that stays.

    Parameters
    ----------
    batch : int
    rotary : Rotary
    """

    def __init__(self, batch: int, rotary: Rotary):
        self.rotary = rotary
        self.start = torch.zeros(batch + 1, dtype=torch.int32)
        self.past = torch.zeros(batch, dtype=torch.int32)
        self._start, self._past = self.start.numpy(), self.past.numpy()
        self.room = 0

    def hold(self, count: int) -> bool:
        """Make room for ``count`` tokens; whether memory has moved."""
        if count <= self.room:
            return False
        self.room = max(count, 2 * self.room, 8)
        self.ids, self.slot = torch.zeros(2, self.room, dtype=torch.int64).unbind()
        self._ids, self._slot = self.ids.numpy(), self.slot.numpy()
        self.cos, self.sin = self.rotary.both.new_empty(2, self.room, self.rotary.both.shape[2])
        return True

    def fill(self, rows: Sequence[Sequence[int]], past: Sequence[int], grown: int = 0) -> None:
        """Tokens of each row after ``past[b]`` others, and ``grown`` of its tree; there must be
        room for them."""
        count = sum(map(len, rows))
        self._ids[:count] = [token for row in rows for token in row]
        self._slot[:count] = slots_of(rows, [at + grown for at in past])
        self._start[:] = [0, *accumulate(map(len, rows))]
        self._past[:] = past

    def turned(self, count: int, places: Places | None = None) -> native.Tokens:
        """What layers are told of the first ``count`` tokens."""
        slot, cos, sin = self.slot[:count], self.cos[:count], self.sin[:count]
        position, mask, among = (slot, None, 1) if places is None else places
        for table, own in zip(self.rotary.both, (cos, sin), strict=True):
            native.copy_rows(table, own, take=position)
        return native.Tokens(cos, sin, slot, self.start, self.past, mask, among)


def slots_of(rows: Sequence[Sequence[int]], past: Sequence[int]) -> list[int]:
    """Of every token in turn, where it stands in its row."""
    spans = (range(at, at + len(row)) for row, at in zip(rows, past, strict=True))
    return [slot for span in spans for slot in span]


class Forwards:
    """Of a decoder over one cache.

    Parameters
    ----------
    decoder : Decoder
        One that they :meth:`serve`.
    cache : StaticCache
    """

    def __init__(self, decoder: Decoder, cache: StaticCache):
        self.decoder, self.cache = decoder, cache
        self.tokens = Tokens(cache.entries.shape[2], decoder.rotary)
        self.repeated = Repeated(decoder.embedding.device)
        self.memory: tuple[int, ...] = ()

    @staticmethod
    def serve(decoder: Decoder) -> bool:
        """Whether there are kernels for all of it."""
        layers = all(layer.native is not None for layer in decoder.layers)
        here = Repeated(decoder.embedding.device).enabled and native.serves(decoder.embedding)
        return here and layers and isinstance(decoder.head.packed, Panels)

    def __call__(
        self,
        rows: Sequence[Sequence[int]],
        past: Sequence[int],
        wanted: Sequence[int],
        states: Tensor | None = None,
        layout: tk.TreeLayout | None = None,
    ) -> Tensor:
        """Feed tokens to each row.

        Parameters
        ----------
        rows : sequence of sequence of int
            The new tokens of each; the cache has room for them.
        past : sequence of int
            How many tokens of each row are in the cache.
        wanted : sequence of int
            After how many of them there are to be logits, the last ones of each row.
        states : Tensor, optional
            [B, slots, hidden], where hidden states are kept.
        layout : TreeLayout, optional
            The tokens of each row are a tree, its root first; made with the root's position.

        Returns
        -------
        Tensor
            [sum(wanted), V], until the next call.
        """
        count, most = sum(map(len, rows)), sum(wanted)
        self._hold(count, states)
        self.tokens.fill(rows, past)
        ends = list(accumulate(map(len, rows)))
        rest = (range(end - n, end) for end, n in zip(ends, wanted, strict=True))
        self._take[:most] = [token for span in rest for token in span]
        if states is not None:
            width = states.shape[1]
            self._place[:count] = [
                row * width + slot
                for row, (own, at) in enumerate(zip(rows, past, strict=True))
                for slot in slots_of([own], [at])
            ]
        places = None if layout is None else self._places(layout)
        key = (count, most, layout is None) if count <= MOST else None
        self.repeated(key, lambda: self._compute(count, most, states, places))
        return self.outputs[most]

    def _places(self, layout: tk.TreeLayout) -> Places:
        among, kept = layout.nodes + 1, self.repeated.kept
        mask = kept(f"mask of {among}", tk.tree_mask(layout, "bits", root=True))
        return Places(kept(f"position of {among}", layout.position_ids).view(-1), mask, among)

    def _hold(self, count: int, states: Tensor | None) -> None:
        """Make room for ``count`` tokens, and notice what has moved."""
        if self.tokens.hold(count):
            like, room = self.decoder.embedding, self.tokens.room
            self.x, self.normed, self.chosen = like.new_empty(3, room, like.shape[1]).unbind()
            self.logits = like.new_empty(room, self.decoder.config.vocab_size)
            self.outputs = [self.logits[:most] for most in range(room + 1)]
            self.take, self.place = torch.zeros(2, room, dtype=torch.int64).unbind()
            self._take, self._place = self.take.numpy(), self.place.numpy()
            self.repeated.forget()
        memory = tuple(0 if x is None else x.data_ptr() for x in (self.cache.entries, states))
        if memory != self.memory:
            self.memory = memory
            self.repeated.forget()

    def _compute(self, count: int, most: int, states: Tensor | None, places: Places | None) -> None:
        decoder, x, normed = self.decoder, self.x[:count], self.normed[:count]
        native.copy_rows(decoder.embedding, x, take=self.tokens.ids[:count])
        tokens = self.tokens.turned(count, places)
        for layer, kept in zip(decoder.layers, self.cache.kinds, strict=True):
            native.decoder_layer(x, tokens, kept, layer.native)
        native.rms_norm(x, None, decoder.norm.weight, decoder.norm.eps, normed)
        if states is not None:
            native.copy_rows(normed, states.flatten(0, 1), place=self.place[:count])
        if most < count:
            native.copy_rows(normed, self.chosen[:most], take=self.take[:most])
            normed = self.chosen[:most]
        decoder.head.packed.product(normed, self.outputs[most])
