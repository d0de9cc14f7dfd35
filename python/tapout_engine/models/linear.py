"""Matrix products whose weights are laid out once for the machine they run on.

A forward of a few tokens reads every weight and does little with it.  oneDNN reads weights that lie
in its own blocks faster than those of a plain ``linear``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

FEWEST = 4  # rows of a packed product


def _packed_dtype(weight: Tensor) -> torch.dtype | None:
    """What oneDNN multiplies here; None: not these weights.

    Where the CPU has no bf16 it is float32, in twice the memory: products in bf16 gain nothing
    there from rows that share the weights.
    """
    there = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    if weight.device.type != "cpu" or not there:
        return None
    if weight.dtype == torch.bfloat16:
        return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32
    return torch.float32 if weight.dtype == torch.float32 else None


def at_least_fewest(x: Tensor) -> Tensor:
    """[rows, size] -> [``FEWEST`` rows or more, size] on a CPU: what packed products take as it is.

    oneDNN has other kernels for fewer rows: a single one is summed in another order, so one token
    would not get the numbers that it gets beside others, and two cost more than four.
    """
    rows = len(x)
    if rows >= FEWEST or x.device.type != "cpu":
        return x
    return x.expand(FEWEST, -1) if rows == 1 else functional.pad(x, (0, 0, 0, FEWEST - rows))


class Linear(nn.Module):
    """y = x W^T + b for inference; ``pack`` once the weights are final.

    Parameters
    ----------
    weight : Tensor
        [out, in].
    bias : Tensor, optional
        [out].
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.packed: Tensor | None = None
        self.dtype = weight.dtype
        self.size = weight.numel()  # weights one product reads

    def pack(self, rows: int) -> None:
        """Lay the weights out for products of about ``rows`` rows; frees the plain ones."""
        dtype = _packed_dtype(self.weight)
        if dtype is not None:
            weight = self.weight.data.to(dtype)
            self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
            if self.bias is not None:
                self.bias = nn.Parameter(self.bias.to(dtype), requires_grad=False)
            self.weight = None

    def rows(self, index: Tensor) -> Tensor:
        """A copy of some rows of the weights: [n] int64 -> [n, in]."""
        rows = (self.weight if self.packed is None else self.packed.to_dense())[index]
        return rows.to(self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        if self.packed is None:
            return functional.linear(x, self.weight, self.bias)
        rows = x.numel() // x.shape[-1]
        if rows < FEWEST:
            few = at_least_fewest(x.reshape(rows, -1))
            return self._product(few)[:rows].view(*x.shape[:-1], -1)
        return self._product(x)

    def _product(self, x: Tensor) -> Tensor:
        x = x.to(self.packed.dtype)
        y = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return y.to(self.dtype)


def weights_read(module: nn.Module) -> int:
    """Weights of all products in ``module``: where few tokens are fed, time goes by them."""
    return sum(part.size for part in module.modules() if isinstance(part, Linear))
