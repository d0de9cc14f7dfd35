"""Any Hugging Face causal language model as target or drafter, one request at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import transformers
from torch import Tensor, nn
from transformers import DynamicCache

from ..errors import INSTALL, EngineError
from .history import History


class HFModel:
    """A causal LM with a key-value cache that is kept from round to round and cropped.

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
        if len(prompts) != 1:
            raise EngineError(
                f"HFModel: decodes one request at a time in this version, got {len(prompts)}"
            )
        self.cache = DynamicCache(config=self.model.config)
        self.cache.activate_past_recording()
        if not self.cache.is_croppable:
            name = type(self.model).__name__
            raise EngineError(f"HFModel: the cache of {name} cannot drop rejected drafts")
        self.history = History(prompts[0])
        if len(prompts[0]) > 1:
            self._run(self.history.feed([]), logits=1)
            self.cache.crop(0)

    def forward(self, input_ids: Tensor) -> Tensor:
        new = input_ids[0].tolist()
        return self._run(self.history.feed(new), logits=len(new))  # [1, n, V]

    def step(self, token: Tensor) -> Tensor:
        return self.forward(token[:, None])[:, 0]

    def commit(self, emitted: Sequence[Sequence[int]]) -> None:
        self.cache.crop(-self.history.commit(emitted[0]))

    @torch.no_grad()
    def _run(self, tokens: list[int], logits: int) -> Tensor:
        if self.max_length is not None and len(self.history.cached) > self.max_length:
            raise EngineError(
                f"HFModel: {type(self.model).__name__} reads at most {self.max_length} tokens, "
                f"got {len(self.history.cached)}"
            )
        ids = torch.tensor([tokens], device=self.device)
        output = self.model(ids, past_key_values=self.cache, use_cache=True, logits_to_keep=logits)
        return output.logits


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
