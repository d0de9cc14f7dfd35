"""Loops of rounds for the engine's tests: requests, models, and graphs that need no GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from tapout_engine import Controller, Request
from tapout_engine.adapters.static import StaticModel
from tapout_engine.models.weights import decoder_of

from .conftest import tiny_llama

ARMS = (
    ("fixed_length", {"n": 0}), ("fixed_length", {"n": 3}), ("svip", {"threshold": 1.0}),
    ("max_confidence", {"threshold": 0.3}), ("adaedl", {}),
)  # fmt: skip
LENGTHS = (2, 40, 1, 7)  # the first rounds of a row of one token draft: its arm is svip


class Recorded:
    """What a captured graph is: the operators of one run, on the memory they had then."""

    def __init__(self, piece: Callable[[], None]):
        def run() -> torch.Tensor:
            piece()
            return torch.zeros(())

        self.graph = make_fx(run)()

    def replay(self) -> None:
        self.graph()


def record(pieces, idle, keep):
    """In place of :func:`tapout_engine.graph_loop.runners.captured`."""
    idle(pieces)
    return replace(
        pieces, before=Recorded(pieces.before), body=Recorded(pieces.body),
        verify={width: Recorded(piece) for width, piece in pieces.verify.items()},
        after=Recorded(pieces.after),
    )  # fmt: skip


def target_model() -> StaticModel:
    return StaticModel(decoder_of(tiny_llama(seed=1, layers=2)).pack())


def draft_model() -> StaticModel:
    """Often of another opinion than the target."""
    model = StaticModel(decoder_of(tiny_llama(seed=1, layers=2, perturb=0.15)).pack())
    model.cost = 0.3
    return model


def requests(temperature: float = 0.0, lengths=LENGTHS, new: int = 9, **fields) -> list[Request]:
    generator = torch.Generator().manual_seed(3)
    return [
        Request(torch.randint(2, 96, (n,), generator=generator).tolist(), new + 4 * i, temperature,
                **fields)
        for i, n in enumerate(lengths)
    ]  # fmt: skip


def facts(results) -> list[dict]:
    """Everything but the time."""
    return [{name: value for name, value in result.to_dict().items() if name != "times"}
            for result in results]  # fmt: skip


def learnt(controller: Controller) -> list[torch.Tensor]:
    bandit = controller.bandit
    return [bandit.calls, bandit.count, bandit.reward_sum, bandit.tokens, bandit.cost]
