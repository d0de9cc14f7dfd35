"""A target, its tokenizer, and the drafters that can be made for it by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .adapters.prompt_lookup import PromptLookupDrafter
from .arms import DRAFTER_ARMS, HEAD_ARMS, LENGTH_ARMS, TAPOUT_ARMS, Arm
from .engine import Drafter
from .errors import EngineError
from .loading import DEFAULT_TARGET, HEAD_FILE, Notify, load
from .skipping import middle_layers

SHIPPED_HEAD = Path(__file__).parent / "data" / "smollm2-135m-head" / HEAD_FILE
"""Trained for the default model; its card lies beside it."""


def head_folder(name: str) -> Path:
    """The folder of a draft head by path, or of the shipped one by the name ``head``."""
    return SHIPPED_HEAD.parent if name == "head" else Path(name)


class NamedDrafter(NamedTuple):
    """A drafter or several, the name for a table, and the arms and the bandit that suit it."""

    drafter: Drafter | dict[str, Drafter]
    name: str
    arms: tuple[Arm, ...]
    reward: str = "blend"

    @property
    def policy(self) -> str:
        """Thompson sampling learns faster from tokens per cost: docs/drafters.md, docs/study.md."""
        return "thompson_gaussian" if self.reward == "throughput" else "ucb1"


class Session:
    """One loaded target, ready to be decoded with.

    Parameters
    ----------
    target : str
        As :func:`tapout_engine.loading.load`.
    dtype : str
    notify : callable, optional
    device : str
        Of the target and of every drafter; controllers belong there too.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        dtype: str = "float32",
        notify: Notify | None = None,
        device: str = "cpu",
    ):
        self.path, self.dtype, self.device = target, dtype, device
        loaded = load(target, dtype, notify, device)
        from .adapters.huggingface import HFTokenizer
        from .adapters.models import model_of

        self.model_name, self.eos = loaded.name, loaded.eos
        self.target = model_of(loaded.model)
        self.tokenizer = HFTokenizer(loaded.tokenizer)

    @property
    def name(self) -> str:
        return f"{self.model_name}, {str(self.target.dtype).removeprefix('torch.')}"

    def drafter(self, kind: str, skip: Sequence[int] | None = None) -> NamedDrafter:
        """``auto``, ``head``, ``self``, ``prompt-lookup``, or the folder of a head or a model.

        ``auto`` is prompt lookup beside the shipped head for the default model, beside ``self`` for
        others.
        """
        if kind == "auto":
            return self._with_lookup("head" if self.path == DEFAULT_TARGET else "self", skip)
        if kind == "head" or (Path(kind) / HEAD_FILE).is_file():
            return self._head(head_folder(kind) / HEAD_FILE)
        if kind == "prompt-lookup":
            vocab, device = self.target.vocab_size, self.target.device
            return NamedDrafter(PromptLookupDrafter(vocab, device=device), kind, LENGTH_ARMS)
        if kind == "self":
            return self._self_draft(skip)
        return self._other_model(kind)

    def _with_lookup(self, kind: str, skip: Sequence[int] | None) -> NamedDrafter:
        draft, lookup = self.drafter(kind, skip), self.drafter("prompt-lookup")
        drafters = {"draft": draft.drafter, "prompt-lookup": lookup.drafter}
        return NamedDrafter(drafters, f"{draft.name}, prompt-lookup", DRAFTER_ARMS, "throughput")

    def _head(self, path: Path) -> NamedDrafter:
        from .adapters.head import HeadDrafter
        from .adapters.static import StaticModel
        from .models import load_head

        if not isinstance(self.target, StaticModel):
            raise EngineError(f"draft: {self.model_name} has no hidden states for {path}")
        head = load_head(path, self.target.decoder).pack()
        return NamedDrafter(HeadDrafter(head, self.target), "head", HEAD_ARMS, "throughput")

    def _self_draft(self, skip: Sequence[int] | None) -> NamedDrafter:
        from .adapters.models import num_layers, relative_cost, shallower

        total = num_layers(self.target)
        skip = middle_layers(total) if skip is None else skip
        name = f"self, {total - len(set(skip))} of {total} layers"
        drafter = shallower(self.target, skip)
        drafter.cost = relative_cost(drafter, self.target)
        return NamedDrafter(drafter, name, TAPOUT_ARMS)

    def _other_model(self, path: str) -> NamedDrafter:
        from .adapters.models import model_of, relative_cost

        if path != DEFAULT_TARGET and not Path(path).is_dir():
            raise EngineError(
                "draft: expected auto, head, self, prompt-lookup or the directory of a head or a "
                f"model, got {path}"
            )
        loaded = load(path, self.dtype, device=self.device)
        if loaded.tokenizer.get_vocab() != self.tokenizer.tokenizer.get_vocab():
            raise EngineError(
                f"draft: {loaded.name} must share the vocabulary of {self.model_name}, "
                "their tokenizers differ"
            )
        drafter = model_of(loaded.model)
        drafter.cost = relative_cost(drafter, self.target)
        return NamedDrafter(drafter, loaded.name, TAPOUT_ARMS)
