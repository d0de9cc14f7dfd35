"""Reference ``tree_mask``: who sees whom, in the form the tensor it is written to asks for."""

from __future__ import annotations

import torch
from torch import Tensor

from .tree import pack_bits, visible_rows


def tree_mask(
    ancestors: Tensor,  # [B, N, ceil(N/32)] i32
    mask: Tensor,  # [B, Q, Q] bool or float, [B, Q, ceil(Q/32)] i32; written. Q is N or N + 1
) -> None:
    visible = visible_rows(ancestors, mask.shape[1])
    if mask.dtype == torch.int32:
        mask.copy_(pack_bits(visible))
    elif mask.dtype == torch.bool:
        mask.copy_(visible)
    else:
        mask.copy_(torch.where(visible, 0.0, -torch.inf))
