"""Rotary positions (Su et al., 2104.09864), from the frequencies a model was trained with."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Rotary(nn.Module):
    """Tables of cosines and sines, the latter with the sign that :func:`rotate` needs.

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
        cos, sin = angles.cos() * factor, angles.sin() * factor
        both = torch.stack((torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)))
        self.register_buffer("both", both.to(dtype), persistent=False)  # [2, length, head_dim]

    @property
    def length(self) -> int:
        return self.both.shape[1]

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """[..] -> two of [.., head_dim]. Padding may lie beyond the last position."""
        return self.both[:, positions.clamp(max=self.length - 1)].unbind()


def rotate(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor | None = None) -> Tensor:
    """[.., head_dim], halves paired as Hugging Face pairs them; ``out`` may be ``x``."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin, out=out)
