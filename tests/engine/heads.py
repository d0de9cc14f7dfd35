"""Draft heads for the engine's tests: random ones, and one that is often right."""

from __future__ import annotations

import torch

from tapout_engine.models import DraftHead, HeadConfig
from tapout_engine.training.head import TrainableHead

from .conftest import tiny_llama

VOCAB, SIZE = 96, 48


def guessable_llama():
    """A target whose next word depends mostly on the last one, so that a head can guess it."""
    model = tiny_llama(seed=1, layers=2, positions=1024)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight *= 0.15
            layer.mlp.down_proj.weight *= 0.15
    return model


def trainable(decoder, layers: int = 1, seed: int = 0) -> TrainableHead:
    """Every weight random, also norms, which start at 1."""
    torch.manual_seed(seed)
    head = TrainableHead(HeadConfig.of(decoder.config, layers), decoder)
    with torch.no_grad():
        for weight in head.parameters():
            weight.copy_(0.2 * torch.randn_like(weight) + (weight.dim() == 1))
    return head


def guessing(decoder, d2t: torch.Tensor | None = None, layers: int = 1) -> DraftHead:
    """A head that is often right about the target of this file, by its token alone."""
    head = trainable(decoder, layers)
    with torch.no_grad():
        head.fuse.weight *= 0.1
        head.fuse.weight[:, :SIZE] += torch.eye(SIZE)
        for layer in head.layers:
            layer.out.weight *= 0.1
            layer.down.weight *= 0.1
    d2t = torch.arange(VOCAB) if d2t is None else d2t
    return DraftHead(head.config, head.weights(), decoder, d2t.int())


def prompts(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(len(lengths))
    return [torch.randint(2, VOCAB, (n,), generator=generator).tolist() for n in lengths]
