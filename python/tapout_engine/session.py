"""A target, its tokenizer, and the drafters that can be made for it by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .adapters.prompt_lookup import PromptLookupDrafter
from .arms import LENGTH_ARMS, TAPOUT_ARMS, Arm
from .engine import Drafter
from .errors import EngineError
from .loading import DEFAULT_TARGET, Notify, load
from .skipping import middle_layers


class NamedDrafter(NamedTuple):
    """A drafter, the name it goes by in a table, and the arms that suit it."""

    drafter: Drafter
    name: str
    arms: tuple[Arm, ...]


class Session:
    """One loaded target, ready to be decoded with.

    Parameters
    ----------
    target : str
        As :func:`tapout_engine.loading.load`.
    dtype : str
    notify : callable, optional
    """

    def __init__(
        self, target: str = DEFAULT_TARGET, dtype: str = "float32", notify: Notify | None = None
    ):
        self.dtype = dtype
        loaded = load(target, dtype, notify)
        from .adapters.huggingface import HFTokenizer
        from .adapters.models import model_of

        self.model_name, self.eos = loaded.name, loaded.eos
        self.target = model_of(loaded.model)
        self.tokenizer = HFTokenizer(loaded.tokenizer)

    @property
    def name(self) -> str:
        return f"{self.model_name}, {str(self.target.dtype).removeprefix('torch.')}"

    def drafter(self, kind: str, skip: Sequence[int] | None = None) -> NamedDrafter:
        """``self``, ``prompt-lookup``, or the path of a model."""
        if kind == "prompt-lookup":
            vocab, device = self.target.vocab_size, self.target.device
            return NamedDrafter(PromptLookupDrafter(vocab, device=device), kind, LENGTH_ARMS)
        if kind == "self":
            return self._self_draft(skip)
        return self._other_model(kind)

    def _self_draft(self, skip: Sequence[int] | None) -> NamedDrafter:
        from .adapters.models import num_layers, shallower

        total = num_layers(self.target)
        skip = middle_layers(total) if skip is None else skip
        name = f"self, {total - len(set(skip))} of {total} layers"
        return NamedDrafter(shallower(self.target, skip), name, TAPOUT_ARMS)

    def _other_model(self, path: str) -> NamedDrafter:
        from .adapters.models import model_of

        if path != DEFAULT_TARGET and not Path(path).is_dir():
            raise EngineError(
                f"draft: expected self, prompt-lookup or a model directory, got {path}"
            )
        loaded = load(path, self.dtype)
        if loaded.tokenizer.get_vocab() != self.tokenizer.tokenizer.get_vocab():
            raise EngineError(
                f"draft: {loaded.name} must share the vocabulary of {self.model_name}, "
                "their tokenizers differ"
            )
        return NamedDrafter(model_of(loaded.model), loaded.name, TAPOUT_ARMS)
