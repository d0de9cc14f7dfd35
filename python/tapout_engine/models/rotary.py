"""Rotary positions (Su et al., 2104.09864), from the frequencies a model was trained with."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Rotary(nn.Module):
    """Tables of cosines and sines.

    Parameters
    ----------
    frequencies : Tensor
        [head_dim / 2] float32, scaled already where the model scales them.
    factor : float
        What scaled variants multiply cosines and sines by.
    length : int
        Positions there are.
    dtype : torch.dtype
    """

    def __init__(self, frequencies: Tensor, factor: float, length: int, dtype: torch.dtype):
        super().__init__()
        angles = torch.outer(
            torch.arange(length, device=frequencies.device).float(), frequencies.float()
        )
        both = torch.cat((angles, angles), dim=-1)
        self.register_buffer("cos", (both.cos() * factor).to(dtype), persistent=False)
        self.register_buffer("sin", (both.sin() * factor).to(dtype), persistent=False)

    @property
    def length(self) -> int:
        return self.cos.shape[0]

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """[B, n] -> two of [B, 1, n, head_dim]. Padding may lie beyond the last position."""
        positions = positions.clamp(max=self.length - 1)
        return self.cos[positions][:, None], self.sin[positions][:, None]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """[B, heads, n, head_dim], halves paired as Hugging Face pairs them."""
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cos + turned * sin
