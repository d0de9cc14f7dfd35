"""Steps of a draft head on a CPU, as :mod:`.forwards` has them of decoders."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from ..repeated import Repeated
from . import native
from .cache import StaticCache
from .forwards import MOST, Tokens
from .head import DraftHead
from .linear import Panels


class HeadForwards:
    """Of a head over one cache; ``feature`` [B, hidden] and ``logits`` [B, D] are of each row's
    last token, until the next call.

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
        self.feature = head.embedding.new_zeros(self.batch, head.embedding.shape[1])
        self.features = self.feature[:, None]
        self.logits = head.embedding.new_empty(self.batch, len(head.d2t))
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
        key = ("read", count) if count <= MOST else None
        self.repeated(key, lambda: self._read(count, states))

    def step(self, tokens: Sequence[int], past: Sequence[int]) -> None:
        """A token for each row, beside ``feature``."""
        self._hold(self.batch)
        self.tokens.fill([[token] for token in tokens], past)
        self.repeated("step", self._step)

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
        x = self._layers(self.feature, self.batch)
        norm = self.head.norm
        native.rms_norm(x, None, norm.weight, norm.eps, self.feature)
        self.head.head.packed.product(self.feature, self.logits)

    def _layers(self, states: Tensor, count: int) -> Tensor:
        head = self.head
        norms = head.token_norm.weight, head.state_norm.weight, head.config.norm_eps
        inputs = native.head_inputs(self.tokens.ids[:count], head.embedding, states, *norms)
        x = head.fuse.packed.product(inputs)
        tokens = self.tokens.turned(count)
        for layer, kept in zip(head.layers, self.cache.kinds, strict=True):
            native.decoder_layer(x, tokens, kept, layer.native)
        return x
