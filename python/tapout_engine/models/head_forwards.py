"""Steps of a draft head on a CPU, as :mod:`.forwards` has them of decoders."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from ..repeated import Repeated
from . import native
from .cache import StaticCache
from .forwards import MOST, Places, Tokens
from .head import DraftHead
from .linear import Panels


class HeadForwards:
    """Of a head over one cache; ``feature`` [n, hidden] and ``logits`` [n, D] are of the n last
    tokens, one or a tree's level of each row, until the next call.

    Parameters
    ----------
    head : DraftHead
        One that they :meth:`serve`.
    cache : StaticCache
    """

    def __init__(self, head: DraftHead, cache: StaticCache):
        self.head, self.cache = head, cache
        self.batch = cache.entries.shape[2]
        self.tokens = Tokens(self.batch, head.rotary)
        self.outputs: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}
        self.feature, self.logits = self._outputs(())
        self.last = torch.zeros(self.batch, dtype=torch.int64)
        self._last = self.last.numpy()
        self.repeated = Repeated(head.embedding.device)
        self.memory: tuple[int, ...] = ()

    @staticmethod
    def serve(head: DraftHead) -> bool:
        """Whether there are kernels for all of it."""
        layers = all(layer.native is not None for layer in head.layers)
        here = Repeated(head.embedding.device).enabled and native.serves(head.embedding)
        products = all(isinstance(part.packed, Panels) for part in (head.fuse, head.head))
        return here and layers and products

    def read(self, rows: Sequence[Sequence[int]], past: Sequence[int], states: Tensor) -> None:
        """Confirmed tokens of each row, at least one, each beside the target's state before it.

        ``states`` [B, slots, hidden] are those of all tokens; there is none before the first.
        """
        count = sum(map(len, rows))
        self.states = states
        self._hold(count)
        self.tokens.fill(rows, past)
        self._last[:] = [end - 1 for end in accumulate(map(len, rows))]
        width = states.shape[1]
        self._before[:count] = [
            row * width + slot - 1 if slot else -1
            for row, (own, at) in enumerate(zip(rows, past, strict=True))
            for slot in range(at, at + len(own))
        ]
        self.feature, self.logits = self._outputs(())
        # Of trees: how wide the levels are that are grown, and whom of it the last one's rows see.
        self.widths, self.seen = (), [[0]] * self.batch
        key = ("read", count) if count <= MOST else None
        self.repeated(key, lambda: self._read(count, states))

    def step(self, tokens: Sequence[int], past: Sequence[int]) -> None:
        """A token for each row, beside its feature."""
        self._hold(self.batch)
        self.tokens.fill([[token] for token in tokens], past)
        self.repeated("step", self._step)

    def expand(
        self, tokens: Sequence[Sequence[int]], past: Sequence[int], parents: Sequence[Sequence[int]]
    ) -> None:
        """The next level of each row's tree: W tokens, each beside the feature of its parent.

        Parameters
        ----------
        tokens : sequence of sequence of int
        past : sequence of int
            How many tokens before the tree are in the cache, which has room for the level.
        parents : sequence of sequence of int
            Of each token, which of the level before.
        """
        width, before, grown = len(tokens[0]), len(self.seen[0]), sum(self.widths)
        source, self.widths = self.feature, (*self.widths, width)
        self._hold(width * self.batch)
        self.tokens.fill(tokens, past, grown)
        self.seen = [
            [seen[at] | 1 << (grown + i) for i, at in enumerate(own)]
            for seen, own in zip(self.seen, parents, strict=True)
        ]
        self.feature, self.logits = self._outputs(self.widths)
        rows = [row * before + at for row, own in enumerate(parents) for at in own]
        parent = self.repeated.tensor(f"parents of {self.widths}", rows, torch.int64)
        places = self._places(past)
        self.repeated(self.widths, lambda: self._expand(source, parent, places))

    def _places(self, past: Sequence[int]) -> Places:
        """Of the level that was filled in last."""
        widths, among, tensor = self.widths, sum(self.widths), self.repeated.tensor
        words = -(-among // 32)
        mask = [word for own in self.seen for seen in own for word in words_of(seen, words)]
        mask = tensor(f"mask of {widths}", mask, torch.int32).view(self.batch, widths[-1], words)
        stands = [at + len(widths) - 1 for at in past for _ in range(widths[-1])]
        return Places(tensor(f"position of {widths}", stands, torch.int64), mask, among)

    def _outputs(self, widths: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Memory for features and logits of the last of some levels."""
        if widths not in self.outputs:
            like, count = self.head.embedding, self.batch * (widths[-1] if widths else 1)
            feature = like.new_zeros(count, like.shape[1])
            self.outputs[widths] = feature, like.new_empty(count, len(self.head.d2t))
        return self.outputs[widths]

    def _hold(self, count: int) -> None:
        """Make room for ``count`` tokens, and notice what has moved."""
        if self.tokens.hold(count):
            self.before = torch.zeros(self.tokens.room, dtype=torch.int64)
            self._before = self.before.numpy()
            self.repeated.forget()
        memory = self.cache.entries.data_ptr(), self.states.data_ptr()
        if memory != self.memory:
            self.memory = memory
            self.repeated.forget()

    def _read(self, count: int, states: Tensor) -> None:
        every = states.flatten(0, 1)
        before = every.new_empty(count, every.shape[1])
        native.copy_rows(every, before, take=self.before[:count])
        x = self._layers(before, count)
        norm = self.head.norm
        normed = native.rms_norm(x, None, norm.weight, norm.eps)
        native.copy_rows(normed, self.feature, take=self.last)
        self.head.head.packed.product(self.feature, self.logits)

    def _step(self) -> None:
        self._finish(self._layers(self.feature, self.batch))

    def _expand(self, source: Tensor, parent: Tensor, places: Places) -> None:
        states = torch.empty_like(self.feature)
        native.copy_rows(source, states, take=parent)
        self._finish(self._layers(states, len(states), places))

    def _finish(self, x: Tensor) -> None:
        norm = self.head.norm
        native.rms_norm(x, None, norm.weight, norm.eps, self.feature)
        self.head.head.packed.product(self.feature, self.logits)

    def _layers(self, states: Tensor, count: int, places: Places | None = None) -> Tensor:
        head = self.head
        norms = head.token_norm.weight, head.state_norm.weight, head.config.norm_eps
        inputs = native.head_inputs(self.tokens.ids[:count], head.embedding, states, *norms)
        x = head.fuse.packed.product(inputs)
        tokens = self.tokens.turned(count, places)
        for layer, kept in zip(head.layers, self.cache.kinds, strict=True):
            native.decoder_layer(x, tokens, kept, layer.native)
        return x


def words_of(bits: int, words: int) -> list[int]:
    """The lowest bits, 32 to an int32."""
    each = ((bits >> 32 * word) & 0xFFFFFFFF for word in range(words))
    return [word - (1 << 32) if word >> 31 else word for word in each]
