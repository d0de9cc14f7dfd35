"""Training batches: texts of like length together, kinds mixed, some texts kept for judging."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..errors import EngineError
from .samples import Sample
from .shards import Shard, Shards

POOL = 8  # files whose texts are mixed
FIRST = 8  # positions of a text that have too few before them for every step
JUDGED = 2048  # tokens of each kind that acceptance is measured on


@dataclass(frozen=True)
class Batch:
    """Texts side by side: ``tokens`` [B, T] int64, ``hidden`` [B, T, hidden], ``taught`` [B, T]
    bool where something is to be learnt: neither padding nor what every text begins with."""

    tokens: Tensor
    hidden: Tensor
    taught: Tensor

    @classmethod
    def of(cls, samples: Sequence[Sample], skip: Sequence[int]) -> Batch:
        tokens = pad_sequence([sample.tokens for sample in samples], batch_first=True)
        hidden = pad_sequence([sample.hidden for sample in samples], batch_first=True)
        at = torch.arange(tokens.shape[1])
        first = torch.tensor(skip).clamp(min=FIRST)[:, None]
        end = torch.tensor([len(sample.tokens) for sample in samples])[:, None]
        return cls(tokens, hidden, (at >= first) & (at < end))

    def to(self, device: torch.device) -> Batch:
        return Batch(self.tokens.to(device), self.hidden.to(device), self.taught.to(device))


def split(shards: Shards) -> tuple[list[Path], dict[str, list[Batch]]]:
    """Files to train on; of the first of each kind, which is not, batches to judge by.

    Raises
    ------
    EngineError
        If that leaves no file to train on.
    """
    judged: dict[str, list[Batch]] = {}
    train = []
    for path in shards.files():
        shard = Shard(path)
        if not shard.spans:
            continue
        if shard.kind in judged:
            train.append(path)
        else:
            judged[shard.kind] = [Batch.of(*zip(*group, strict=True)) for group in _judged(path)]
    if not train:
        raise EngineError(
            "train-draft: minutes must be enough for at least two batches of a kind of text, one "
            f"to train on and one to judge by, got {len(judged)} of as many kinds"
        )
    return train, judged


def _judged(path: Path) -> Iterator[list[tuple[Sample, int]]]:
    left = JUDGED
    for group in _batches([path], JUDGED // 4):
        if left > 0:
            yield group
        left -= sum(len(sample.tokens) for sample, _ in group)


def epoch(paths: Sequence[Path], tokens: int, seed: int) -> Iterator[Batch]:
    """Every text once, in batches of about ``tokens`` tokens."""
    draw = random.Random(seed)
    order = draw.sample(list(paths), len(paths))
    for first in range(0, len(order), POOL):
        batches = list(_batches(order[first : first + POOL], tokens))
        for group in draw.sample(batches, len(batches)):
            yield Batch.of(*zip(*group, strict=True))


def _batches(paths: Sequence[Path], tokens: int) -> Iterator[list[tuple[Sample, int]]]:
    texts = sorted(
        ((sample, shard.shared) for shard in map(Shard, paths) for sample in shard.samples()),
        key=lambda pair: len(pair[0].tokens),
    )
    while texts:
        longest = len(texts[-1][0].tokens)
        count = max(1, tokens // longest)
        yield texts[-count:]
        del texts[-count:]
