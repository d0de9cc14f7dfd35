"""The two kinds of drafters that can be trained, behind what the training loop asks of them."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from ..loading import HEAD_FILE
from ..models import Decoder, HeadConfig, SavedHead, save_head
from .batches import Batch
from .head import TrainableHead


class Student(Protocol):
    """A drafter in training."""

    module: nn.Module
    head: Tensor  # [D, a]: makes logits of its features
    vocab: Tensor  # [D] int64: the target id of each logit
    steps: int
    trained: bool  # before: it goes on more gently

    def features(self, batch: Batch, steps: int) -> Tensor:
        """[steps, B, T, a] for the token after each position."""

    def save(self, folder: Path, target: str) -> None:
        """Write what decoding loads."""


class HeadStudent:
    """An EAGLE-style head on the target's hidden states.

    Parameters
    ----------
    target : Decoder
    d2t : Tensor
        [D] int64, the draft vocabulary.
    layers : int
    steps : int
        Steps it is trained for on its own features.
    begun : SavedHead, optional
        A head to go on with, whose layers it has then.
    """

    def __init__(
        self, target: Decoder, d2t: Tensor, layers: int = 1, steps: int = 3,
        begun: SavedHead | None = None,
    ):  # fmt: skip
        self.config = HeadConfig.of(target.config, layers) if begun is None else begun.config
        self.module = TrainableHead(self.config, target)
        if begun is not None:
            self.module.load(begun.weights)
        self.module.to(target.embedding.device)
        self.vocab, self.steps = d2t.to(target.embedding.device), steps
        self.head = target.head.rows(d2t)
        self.trained = begun is not None

    def features(self, batch: Batch, steps: int) -> Tensor:
        return torch.stack(self.module(batch.tokens, batch.hidden, steps))

    def save(self, folder: Path, target: str) -> None:
        save_head(
            folder / HEAD_FILE, self.config, self.module.weights(),
            self.vocab.cpu(), target,
        )  # fmt: skip


class LlamaStudent:
    """A small Llama of its own, with the target's tokenizer: loads as any other model.

    Parameters
    ----------
    target : Decoder
    tokenizer : transformers.PreTrainedTokenizerBase
    hidden_size : int
    layers : int
    """

    def __init__(self, target: Decoder, tokenizer, hidden_size: int = 192, layers: int = 4):
        from transformers import LlamaConfig, LlamaForCausalLM

        c = target.config
        config = LlamaConfig(
            vocab_size=c.vocab_size, hidden_size=hidden_size, num_hidden_layers=layers,
            intermediate_size=hidden_size * 8 // 3, num_attention_heads=hidden_size // 64,
            num_key_value_heads=hidden_size // 64, max_position_embeddings=c.max_length,
            tie_word_embeddings=True, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=None,
        )  # fmt: skip
        self.module, self.tokenizer = LlamaForCausalLM(config), tokenizer
        self.module.to(target.embedding.device)
        self.vocab = torch.arange(c.vocab_size, device=target.embedding.device)
        self.steps, self.trained = 1, False

    @property
    def head(self) -> Tensor:
        return self.module.lm_head.weight

    def features(self, batch: Batch, steps: int) -> Tensor:
        return self.module.model(batch.tokens, use_cache=False).last_hidden_state[None]

    def save(self, folder: Path, target: str) -> None:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar cannot be turned off
            self.module.to(torch.bfloat16).save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
