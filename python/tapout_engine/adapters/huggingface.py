"""Any Hugging Face causal language model as target or drafter of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature

import torch
import transformers
from torch import Tensor, nn
from transformers import DynamicCache

from ..errors import INSTALL, EngineError
from .batches import padded, scored
from .history import History
from .ragged import RaggedCache


class HFModel:
    """A causal LM with a key-value cache that is kept from round to round.

    Rejected drafts are dropped from its end. Rows of a batch advance by different numbers of
    tokens, see :class:`~tapout_engine.adapters.ragged.RaggedCache`; a model whose forward takes no
    ``position_ids`` decodes one request at a time.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Not modified. A target and a drafter may share it or its weights; each keeps a cache of
        its own.
    """

    def __init__(self, model: nn.Module):
        _check_transformers()
        self.model = model.eval()
        self.device = next(model.parameters()).device
        with torch.no_grad():
            probe = model(torch.zeros(1, 1, dtype=torch.int64, device=self.device)).logits
        self.vocab_size: int = probe.shape[-1]
        text = model.config.get_text_config()
        self.max_length: int | None = getattr(text, "max_position_embeddings", None)
        self.dtype: torch.dtype = probe.dtype  # of the logits, which may not be the weights'
        self.cache: DynamicCache | None = None

    def prefill(self, prompts: Sequence[Sequence[int]]) -> None:
        self.cache = self._new_cache(len(prompts))
        self.ragged = RaggedCache(self.cache, len(prompts))
        self.rows = [History(prompt) for prompt in prompts]
        runs = [row.feed([]) for row in self.rows]
        self._check_length(max(map(len, runs)))
        if any(runs):
            self._run(runs, logits=1)
            self._drop()

    def forward(self, input_ids: Tensor) -> Tensor:
        new = input_ids.shape[1]
        runs = [row.feed(ids) for row, ids in zip(self.rows, input_ids.tolist(), strict=True)]
        self._check_length(min(len(row.cached) for row in self.rows))  # others may be padding
        shortest = min(map(len, runs))
        spread = max(map(len, runs)) - shortest
        logits = self._run(runs, new + spread)
        if not spread:
            return logits  # [B, n, V]
        self._drop()  # the padding
        first = torch.tensor([len(run) - shortest for run in runs], device=logits.device)
        columns = first[:, None] + torch.arange(new, device=logits.device)
        return logits.take_along_dim(columns[:, :, None], dim=1)

    def step(self, token: Tensor) -> Tensor:
        return self.forward(token[:, None])[:, 0]

    def commit(self, emitted: Sequence[Sequence[int]]) -> None:
        for row, tokens in zip(self.rows, emitted, strict=True):
            row.commit(tokens)
        self._drop()

    def score(self, emitted: Sequence[Sequence[int]]) -> Tensor:
        return scored(self, [row.tokens[-1] for row in self.rows], emitted)

    def _drop(self) -> None:
        """Leave in the cache what the rows say is in it."""
        self.ragged.keep([len(row.cached) for row in self.rows])

    @torch.no_grad()
    def _run(self, runs: list[list[int]], logits: int) -> Tensor:
        ids = padded(runs).to(self.device)
        return self.model(
            ids, past_key_values=self.cache, use_cache=True, logits_to_keep=logits,
            **self.ragged.inputs(ids.shape[1], self.max_length, self.device),
        ).logits  # fmt: skip

    def _new_cache(self, batch: int) -> DynamicCache:
        name = type(self.model).__name__
        if batch > 1 and "position_ids" not in signature(self.model.forward).parameters:
            raise EngineError(
                f"HFModel: {name} takes no position_ids, so it decodes one request at a time, "
                f"got {batch}"
            )
        cache = DynamicCache(config=self.model.config)
        cache.activate_past_recording()
        if not cache.is_croppable:
            raise EngineError(f"HFModel: the cache of {name} cannot drop rejected drafts")
        return cache

    def _check_length(self, length: int) -> None:
        if self.max_length is not None and length > self.max_length:
            raise EngineError(
                f"HFModel: {type(self.model).__name__} reads at most {self.max_length} tokens, "
                f"got {length}"
            )


def _check_transformers() -> None:
    needed = ("activate_past_recording", "is_croppable", "crop")
    if not all(hasattr(DynamicCache, name) for name in needed):
        raise EngineError(
            "HFModel: needs transformers >= 5.23, whose caches can drop rejected drafts, "
            f"got {transformers.__version__}: {INSTALL}"
        )


class HFTokenizer:
    """A Hugging Face tokenizer, with the chat template of instruction-tuned models."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def encode(self, prompt: str) -> list[int]:
        """Token ids of a user's prompt, in the model's chat format if it has one."""
        if self.tokenizer.chat_template is None:
            return self.tokenizer(prompt).input_ids
        chat = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        return self.tokenizer(chat, add_special_tokens=False).input_ids

    def decode(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
