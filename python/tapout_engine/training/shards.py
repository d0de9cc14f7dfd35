"""Texts with the target's hidden states, on disk: one safetensors file for each batch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from .samples import Sample


class Shards:
    """A folder of numbered files, written in order and never changed.

    Parameters
    ----------
    folder : Path
        Made if it does not exist; what it holds is kept, so a run that was cut off goes on.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def __len__(self) -> int:
        return len(self.files())

    def files(self) -> list[Path]:
        return sorted(self.folder.glob("*.safetensors"))

    def add(self, samples: Sequence[Sample], kind: str, seconds: float, dropped: int = 0) -> int:
        """Write a batch, of which ``dropped`` texts were not kept, maybe all; returns its tokens'
        number."""
        kept = samples or [Sample(torch.zeros(0), torch.zeros(0, 1))]  # files are numbered
        tensors = {
            "tokens": torch.cat([sample.tokens for sample in kept]).int(),
            "hidden": torch.cat([sample.hidden for sample in kept]).to("cpu", torch.bfloat16),
            "lengths": torch.tensor([len(sample.tokens) for sample in samples]).int(),
        }
        path = self.folder / f"{len(self):05}.safetensors"
        partial = path.with_suffix(".partial")
        about = {"kind": kind, "seconds": f"{seconds:.3f}", "dropped": str(dropped)}
        save_file(tensors, partial, about)
        os.replace(partial, path)
        return len(tensors["tokens"])


class Shard:
    """One file, read when asked.

    ``tokens`` [n] int32, ``hidden`` [n, hidden] bf16, ``spans`` the first and the last + 1 of each
    text.
    """

    def __init__(self, path: Path):
        self.path = path
        with safe_open(path, "pt") as file:
            self.kind: str = file.metadata()["kind"]
            self.seconds = float(file.metadata()["seconds"])
            self.dropped = int(file.metadata()["dropped"])
            self.tokens: Tensor = file.get_tensor("tokens")
            ends = file.get_tensor("lengths").long().cumsum(0).tolist()
        self.spans = list(zip([0, *ends][:-1], ends, strict=True))

    @property
    def shared(self) -> int:
        """How many tokens all its texts begin with: a chat's opening, 0 of plain texts."""
        texts = [self.tokens[first:end] for first, end in self.spans]
        if len(texts) <= 1:
            return 0
        shortest = min(map(len, texts))
        same = torch.stack([text[:shortest] for text in texts]).eq(texts[0][:shortest]).all(0)
        return int(same.long().cumprod(0).sum())

    def samples(self) -> Iterator[Sample]:
        """The texts, in order; all of them share one read."""
        with safe_open(self.path, "pt") as file:
            hidden = file.get_tensor("hidden")
        for first, end in self.spans:
            yield Sample(self.tokens[first:end].long(), hidden[first:end])
