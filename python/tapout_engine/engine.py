"""What the decode loop asks of models: three small protocols, all batch-first.

B rows advance together, each at its own length. A row's cache always *follows* its sequence: it
holds every confirmed token except the last one, which the next forward feeds. Whatever a
rejected draft left behind is dropped by ``commit``, the only form of rollback there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

import tapout_kernels as tk

from .errors import EngineError


@runtime_checkable
class Follower(Protocol):
    """Anything that follows B token sequences: a target, a drafter, a cache.

    It may have an attribute ``max_length``, the most tokens a row can have for it (None: any
    number). Only rows that have ended or drafted less than others are fed padding beyond it, whose
    logits are never read.
    """

    vocab_size: int

    def prefill(self, prompts: Sequence[Sequence[int]]) -> None:
        """Forget everything and read B prompts, each at least one token long."""

    def commit(self, emitted: Sequence[Sequence[int]]) -> None:
        """Append each row's newly confirmed tokens; drop what it was fed beyond them.

        What a row was fed begins as its tokens do, or there are none: then all of it is dropped
        but its last token, which is fed first.
        """


@runtime_checkable
class Target(Follower, Protocol):
    """The model whose law the output has."""

    device: torch.device
    dtype: torch.dtype

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits [B, n, V] after each of n tokens [B, n], the first being each row's last one."""


@runtime_checkable
class RaggedTarget(Target, Protocol):
    """A target that computes no padding."""

    def forward_ragged(self, input_ids: Tensor, counts: Sequence[int]) -> Tensor:
        """Logits [sum(counts), V] after the first ``counts[b]`` tokens of each row, row after row.

        As :meth:`forward`, of which it is a part; a row may have none.
        """


@runtime_checkable
class StatefulTarget(Target, Protocol):
    """A target whose hidden states can be seen."""

    def keep_states(self) -> None:
        """Said before the first ``prefill``: they will be asked for."""

    def last_states(self) -> Tensor:
        """Between rounds: the last hidden state [B, hidden] after the token before each row's last
        one, which has not been read yet; 0 where there is none."""


@runtime_checkable
class AutoregressiveDrafter(Follower, Protocol):
    """A drafter asked for one token after the other; its logits are sampled by ``draft_step``.

    One with a vocabulary of its own has an attribute ``draft_vocab``, a
    :class:`tapout_kernels.DraftVocab`; ``vocab_size`` is the target's all the same.
    """

    dtype: torch.dtype

    def step(self, token: Tensor) -> Tensor:
        """Logits after ``token`` [B]: each row's last token, then its drafts in turn.

        [B, V], or [B, D] with a draft vocabulary of D tokens.
        """


@runtime_checkable
class BlockDrafter(Follower, Protocol):
    """A drafter that proposes whole continuations at once, as token ids without a distribution."""

    def propose(self, slots: int) -> Tensor:
        """Up to ``slots`` tokens for each row: [B, slots] int64, -1 where it has none."""


Drafter = AutoregressiveDrafter | BlockDrafter


@runtime_checkable
class ScoredDrafter(Follower, Protocol):
    """A drafter that can say what it thought of tokens it did not draft."""

    def score(self, emitted: Sequence[Sequence[int]]) -> Tensor:
        """In place of ``commit``, what it says where each of the n longest new tokens stands.

        Logits [B, n, V], or [B, n, D] with a draft vocabulary, after all tokens before the place;
        of a block drafter the token that it would propose first there, [B, n] int64, -1 where it
        has none. What comes after a row's own tokens is never looked at; n is at least 1.
        """


@runtime_checkable
class TreeTarget(Target, Protocol):
    """A target that verifies trees."""

    def forward_tree(self, input_ids: Tensor, layout: tk.TreeLayout) -> Tensor:
        """Logits [B, N+1, V] after each row's last token and after the nodes that hang on it.

        ``layout`` has been made with the position of the last token. Nothing else is fed before
        the next ``commit``.
        """

    def keep_path(self, path: Tensor, num_accepted: Tensor) -> None:
        """Before that ``commit``: of the tree, what [B, N] and [B] say was accepted stays."""


@runtime_checkable
class TreeDrafter(AutoregressiveDrafter, Protocol):
    """A drafter that is asked for many continuations at once."""

    def expand(self, token: Tensor, draft: tk.TreeDraft, level: int) -> Tensor:
        """Logits [B, W, V or D] after the tokens [B, W] of the nodes ``draft.beam[level]``.

        Level 0 is each row's last token; the levels follow each other until ``commit``.
        """


def has_static_outputs(follower: Follower) -> bool:
    """Whether its logits lie in the same memory every time, with nothing of torch left to be done:
    an attribute ``static_outputs``. Kernels that read them can be recorded."""
    return getattr(follower, "static_outputs", False)


def max_length(follower: Follower) -> float:
    """The most tokens a row can have for ``follower``; infinity if it does not say."""
    limit = getattr(follower, "max_length", None)
    return float("inf") if limit is None else limit


def check_vocabulary(drafter: Follower, target: Target) -> None:
    """Raise an EngineError unless both speak of the same tokens."""
    if drafter.vocab_size != target.vocab_size:
        raise EngineError(
            f"the drafter must share the target's vocabulary of {target.vocab_size} tokens, "
            f"got one of {drafter.vocab_size}"
        )


def draft_cost(drafter: Drafter) -> float:
    """Its attribute ``cost``: the time of a draft step in target forwards; 0 if it does not say."""
    return getattr(drafter, "cost", 0.0)


class Tokenizer(Protocol):
    """How text is made of tokens; needed only for text, stop strings and streaming."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of ``tokens``, special tokens left out."""
