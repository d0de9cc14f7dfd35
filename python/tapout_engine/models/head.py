"""An EAGLE-style draft head: one or two decoder layers on the target's last hidden state.

Li et al., "EAGLE: speculative sampling requires rethinking feature uncertainty", arXiv 2401.15077;
training on its own features and norms before the first product: EAGLE-3, arXiv 2503.01840.

At position p it reads token p and the target's hidden state after token p - 1, which is what is
known when token p has been decided and not yet fed to the target.  Its output takes the place of
the target's hidden state: the target's own head makes logits of it, restricted to a draft
vocabulary, and the next step reads it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional

from ..errors import EngineError
from . import native
from .branches import Branches
from .cache import StaticCache
from .config import DecoderConfig
from .decoder import Attention, Decoder, FeedForward, Layer, RMSNorm, Step
from .linear import Linear

FORMAT = "tapout-draft-head-1"


@dataclass(frozen=True)
class HeadConfig:
    """Sizes of a draft head, and of the target it was trained for."""

    hidden_size: int
    vocab_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    norm_eps: float

    @classmethod
    def of(cls, target: DecoderConfig, num_layers: int = 1) -> HeadConfig:
        """Layers like the target's, ``num_layers`` of them."""
        return cls(
            hidden_size=target.hidden_size, vocab_size=target.vocab_size, num_layers=num_layers,
            num_heads=target.num_heads, num_kv_heads=target.num_kv_heads,
            head_dim=target.head_dim, intermediate_size=target.intermediate_size,
            norm_eps=target.norm_eps,
        )  # fmt: skip


class DraftHead(nn.Module):
    """A trained head beside its target's decoder.

    Parameters
    ----------
    config : HeadConfig
    weights : dict of str to Tensor
        As :func:`load_head` reads them.
    target : Decoder
        Lends its embedding, its rotary tables and the rows of its head.
    d2t : Tensor
        [D] int32: the target id of each draft id.
    """

    def __init__(
        self, config: HeadConfig, weights: dict[str, Tensor], target: Decoder, d2t: Tensor
    ):
        super().__init__()
        dtype, device = target.embedding.dtype, target.embedding.device
        weights = {name: weight.to(device, dtype) for name, weight in weights.items()}
        self.config, self.d2t = config, d2t.to(device)
        self.embedding, self.rotary = target.embedding, target.rotary
        eps = config.norm_eps
        self.token_norm = RMSNorm(weights["token_norm"], eps)
        self.state_norm = RMSNorm(weights["state_norm"], eps)
        self.fuse = Linear(weights["fuse"])
        self.layers = nn.ModuleList(
            _layer(config, weights, f"layers.{i}.") for i in range(config.num_layers)
        )
        self.norm = RMSNorm(weights["norm"], eps)
        self.head = Linear(target.head.rows(self.d2t.long()))

    def pack(self, rows: int = 1) -> DraftHead:
        """Lay out the weights for forwards of about ``rows`` tokens (see :class:`Linear`),
        rounded."""
        for part in (*self.layers, self.fuse, self.head):
            part.pack(rows, rounded=True)
        return self

    def cache(self, batch: int, slots: int) -> StaticCache:
        """An empty cache for ``batch`` rows of up to ``slots`` tokens."""
        return StaticCache.of(self.config, batch, slots, self.embedding)

    def forward(
        self,
        input_ids: Tensor,
        states: Tensor,
        start: Tensor,
        cache: StaticCache,
        length: int,
        branches: Branches | None = None,
        counts: Sequence[int] | None = None,
    ) -> Tensor:
        """Feed n tokens to each row.

        Parameters
        ----------
        input_ids : Tensor
            [B, n] int64.
        states : Tensor
            [B, n, hidden]: the target's hidden state, or this head's, after the token before each.
        start, cache, length, branches, counts
            As for :class:`Decoder`.

        Returns
        -------
        Tensor
            [B, n, hidden].
        """
        step = Step(self.rotary, input_ids, start, cache, length, branches, counts)
        x = self.fuse(self._inputs(step.flat(input_ids)[:, 0], step.flat(states)))
        for index, layer in enumerate(self.layers):
            x = layer(x, index, step, cache)
        return step.unflat(self.norm(x))

    def _inputs(self, ids: Tensor, states: Tensor) -> Tensor:
        """[T], [T, hidden] -> [T, 2 hidden]: normed, side by side."""
        token_norm, state_norm, eps = self.token_norm, self.state_norm, self.config.norm_eps
        if native.serves(states):
            norms = token_norm.weight, state_norm.weight, eps
            return native.head_inputs(ids.contiguous(), self.embedding, states.contiguous(), *norms)
        tokens = token_norm(functional.embedding(ids, self.embedding))
        return torch.cat((tokens, state_norm(states)), dim=-1)

    def logits(self, hidden: Tensor) -> Tensor:
        """[.., hidden] -> [.., D]."""
        return self.head(hidden)


def _layer(config: HeadConfig, weights: dict[str, Tensor], stem: str) -> Layer:
    def norm(name: str) -> RMSNorm:
        return RMSNorm(weights[stem + name], config.norm_eps)

    attention = Attention(config, Linear(weights[stem + "qkv"]), Linear(weights[stem + "out"]))
    feed = FeedForward(Linear(weights[stem + "gate_up"]), Linear(weights[stem + "down"]))
    return Layer(attention, feed, norm("before"), norm("between"))


def save_head(
    path: Path, config: HeadConfig, weights: dict[str, Tensor], d2t: Tensor, target: str
) -> None:
    """Write a head as one safetensors file, in bf16."""
    from safetensors.torch import save_file

    tensors = {name: weight.detach().to(torch.bfloat16) for name, weight in weights.items()}
    metadata = {"format": FORMAT, "config": json.dumps(asdict(config)), "target": target}
    save_file({**tensors, "d2t": d2t.int()}, path, metadata)


class SavedHead(NamedTuple):
    """What :func:`save_head` wrote."""

    config: HeadConfig
    weights: dict[str, Tensor]
    d2t: Tensor  # [D] int32


def load_head(path: Path, target: Decoder, vocab: int | None = None) -> DraftHead:
    """A head beside ``target``.

    Parameters
    ----------
    path : Path
    target : Decoder
    vocab : int, optional
        Score only so many of the tokens it was trained for, the most frequent ones.

    Raises
    ------
    EngineError
        If the file is no draft head, or one for another target.
    """
    config, weights, d2t = read_head(path, target.config)
    try:
        return DraftHead(config, weights, target, d2t[:vocab])
    except KeyError as error:
        raise EngineError(f"draft: {path} lacks the weights {error}") from None


def read_head(path: Path, target: DecoderConfig) -> SavedHead:
    """Read a head's file; raises as :func:`load_head` does."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise EngineError(f"draft: {path} cannot be read: {error}") from error
    if metadata.get("format") != FORMAT:
        raise EngineError(f"draft: {path} is no draft head: expected format {FORMAT!r}")
    config = HeadConfig(**json.loads(metadata["config"]))
    theirs = (config.hidden_size, config.vocab_size, config.head_dim)
    own = (target.hidden_size, target.vocab_size, target.head_dim)
    if theirs != own:
        raise EngineError(
            f"draft: {path} is for {metadata['target']}: expected hidden, vocabulary and head "
            f"sizes {own}, got {theirs}"
        )
    if "d2t" not in tensors:
        raise EngineError(f"draft: {path} lacks the draft vocabulary d2t")
    return SavedHead(config, weights=tensors, d2t=tensors.pop("d2t"))
