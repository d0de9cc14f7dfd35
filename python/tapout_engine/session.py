"""A target, its tokenizer, and the drafters that can be made for it by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .adapters.prompt_lookup import PromptLookupDrafter
from .arms import LENGTH_ARMS, TAPOUT_ARMS, Arm
from .engine import Drafter
from .errors import EngineError
from .loading import DEFAULT_TARGET, LoadedModel, Notify, load


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
        self.loaded: LoadedModel = load(target, dtype, notify)
        from .adapters.huggingface import HFModel, HFTokenizer

        self.target = HFModel(self.loaded.model)
        self.tokenizer = HFTokenizer(self.loaded.tokenizer)

    @property
    def name(self) -> str:
        return f"{self.loaded.name}, {str(self.target.dtype).removeprefix('torch.')}"

    def drafter(self, kind: str, skip: Sequence[int] | None = None) -> NamedDrafter:
        """``self``, ``prompt-lookup``, or the path of a model."""
        if kind == "prompt-lookup":
            vocab, device = self.target.vocab_size, self.target.device
            return NamedDrafter(PromptLookupDrafter(vocab, device=device), kind, LENGTH_ARMS)
        if kind == "self":
            return self._self_draft(skip)
        return self._other_model(kind)

    def _self_draft(self, skip: Sequence[int] | None) -> NamedDrafter:
        from .adapters.huggingface import HFModel
        from .adapters.self_draft import middle_layers, skip_layers

        model = self.loaded.model
        total = model.config.num_hidden_layers
        skip = middle_layers(total) if skip is None else skip
        name = f"self, {total - len(set(skip))} of {total} layers"
        return NamedDrafter(HFModel(skip_layers(model, skip)), name, TAPOUT_ARMS)

    def _other_model(self, path: str) -> NamedDrafter:
        from .adapters.huggingface import HFModel

        if path != DEFAULT_TARGET and not Path(path).is_dir():
            raise EngineError(
                f"draft: expected self, prompt-lookup or a model directory, got {path}"
            )
        loaded = load(path, self.dtype)
        if loaded.tokenizer.get_vocab() != self.loaded.tokenizer.get_vocab():
            raise EngineError(
                f"draft: {loaded.name} must share the vocabulary of {self.loaded.name}, "
                "their tokenizers differ"
            )
        return NamedDrafter(HFModel(loaded.model), loaded.name, TAPOUT_ARMS)
