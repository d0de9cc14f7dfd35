"""Rows of different lengths in one Hugging Face cache, each ending at its last column.

A forward adds the same columns to every row; padding and rejected drafts leave dead ones among
them. Masks alone would not do: sliding windows and local attention count columns, and so a hole
would shorten them. So whenever rows have got out of line they are moved to the end again, which
leaves dead columns only before a row's first token and the cache as long as its longest row. A
DynamicCache copies itself in every forward; one copy more is not dearer than reading dead columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, cache_utils

from ..errors import EngineError


class RaggedCache:
    """Where each row's tokens are in a :class:`transformers.DynamicCache`.

    The layers' ``keys`` and ``values`` [B, heads, columns, size] are replaced when rows move; all
    else goes through the cache's own methods. A batch of one never moves: it is cropped.

    Parameters
    ----------
    cache : transformers.DynamicCache
        Empty. With more than one row its sliding layers are made to keep every column.
    batch : int
    """

    def __init__(self, cache: DynamicCache, batch: int):
        if batch > 1:
            cache.layers = [_whole(layer) for layer in cache.layers]
        self.cache = cache
        self.begin = [0] * batch  # the column of each row's first token

    def inputs(self, width: int, max_length: int | None, device: torch.device) -> dict[str, Tensor]:
        """What the model must be told of the next ``width`` columns; nothing for a single row.

        All of them count as tokens: padding that comes last is read by no token before it, and no
        query is without a key.
        """
        if len(self.begin) == 1:
            return {}
        columns = self.cache.get_seq_length()
        begin = torch.tensor(self.begin)[:, None]
        mask = torch.arange(columns + width) >= begin  # [B, columns + width]
        positions = torch.arange(columns, columns + width) - begin  # [B, width]
        if max_length is not None:
            positions.clamp_(max=max_length - 1)  # of padding
        return {"attention_mask": mask.long().to(device), "position_ids": positions.to(device)}

    def keep(self, lengths: Sequence[int]) -> None:
        """Drop what each row holds beyond its first ``lengths`` tokens."""
        ends = [begin + length for begin, length in zip(self.begin, lengths, strict=True)]
        if len(set(ends)) == 1:
            self.cache.crop(ends[0] - self.cache.get_seq_length())
        else:
            self._move(ends, max(lengths))
        self.begin = [max(lengths) - length for length in lengths]

    def _move(self, ends: list[int], columns: int) -> None:
        """Keep the ``columns`` columns before each row's end, be they its own or dead."""
        index = torch.tensor(ends)[:, None] - columns + torch.arange(columns)
        index = index.clamp(min=0)[:, None, :, None]
        for layer in self.cache.layers:
            if layer.keys is not None:
                here = index.to(layer.keys.device)
                layer.keys = layer.keys.take_along_dim(here, dim=2)
                layer.values = layer.values.take_along_dim(here, dim=2)


def _whole(layer: object) -> object:
    """The layer, or one that keeps what a sliding layer would forget."""
    if type(layer) is cache_utils.DynamicSlidingWindowLayer:
        return cache_utils.DynamicLayer()
    if type(layer) not in (cache_utils.DynamicLayer, cache_utils.DummyLayer):
        raise EngineError(
            f"HFModel: a cache with a {type(layer).__name__} decodes one request at a time"
        )
    return layer
