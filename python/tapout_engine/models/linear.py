"""Matrix products whose weights are laid out once for the machine they run on.

A forward of a few tokens reads every weight and does little with it.  On a CPU our own product
reads them as fast as the memory gives them, and one token gets the bits that it gets beside others.
For many tokens in bf16, on a CPU that multiplies bf16, there is oneDNN's.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from . import native

FEWEST = 4  # rows of oneDNN's products
MANY = 16  # rows from which they are for, in bf16


class Packed(Protocol):
    """Weights laid out for products."""

    def product(self, x: Tensor) -> Tensor:
        """[rows, in] -> [rows, out]."""

    def rows(self, index: Tensor) -> Tensor:
        """A copy of some rows of the weights: [n] int64 -> [n, in]."""


class Panels:
    """For our own product."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        self.panels = native.panels_of(weight)
        self.outputs, self.inputs = weight.shape
        self.scale: Tensor | None = None
        self.bias = None if bias is None else bias.float()

    @property
    def padded(self) -> bool:
        """Whether there are weights of an input that is not there."""
        return self.inputs % native.inputs_together(self.panels.dtype) > 0

    def product(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        x = x.contiguous()
        return native.linear(x, self.panels, self.scale, self.bias, self.outputs, out)

    def rows(self, index: Tensor) -> Tensor:
        return native.rows_of(self.panels, index, self.inputs)


class Bytes(Panels):
    """Of weights rounded to eight bits, for drafts: half of the reading or less."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        rounded, scale = native.in_bytes(weight)
        super().__init__(rounded, bias)
        self.scale, self.dtype = scale, weight.dtype

    def rows(self, index: Tensor) -> Tensor:
        return (super().rows(index) * self.scale[index, None]).to(self.dtype)


class Blocks:
    """For oneDNN's, in blocks of its own."""

    def __init__(self, weight: Tensor, bias: Tensor | None, rows: int):
        self.dtype = weight.dtype
        dtype = self.dtype if multiplies(self.dtype) else torch.float32
        self.blocks = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype), rows)
        self.bias = None if bias is None else bias.to(dtype)

    def product(self, x: Tensor) -> Tensor:
        rows, x = len(x), at_least_fewest(x.to(self.blocks.dtype))
        y = torch.ops.mkldnn._linear_pointwise(x, self.blocks, self.bias, "none", [], "")
        return y[:rows].to(self.dtype)

    def rows(self, index: Tensor) -> Tensor:
        return self.blocks.to_dense()[index].to(self.dtype)


def at_least_fewest(x: Tensor) -> Tensor:
    """[rows, size] -> [``FEWEST`` rows or more, size].

    oneDNN has other kernels for fewer rows: a single one is summed in another order, so one token
    would not get the numbers that it gets beside others, and two cost more than four.
    """
    rows = len(x)
    if rows >= FEWEST:
        return x
    return x.expand(FEWEST, -1) if rows == 1 else functional.pad(x, (0, 0, 0, FEWEST - rows))


def multiplies(dtype: torch.dtype) -> bool:
    """Whether oneDNN has products of this dtype here; PyTorch's own in bf16 take several times
    as long as those in float32 on a CPU that has none."""
    return dtype == torch.float32 or (
        dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def packed(weight: Tensor, bias: Tensor | None, rows: int, rounded: bool) -> Packed | None:
    """The best layout of these weights; None where a plain product is."""
    if weight.device.type != "cpu":
        return None
    if rounded and native.serves(weight):
        return Bytes(weight, bias)
    available = torch.backends.mkldnn.is_available()
    one_dnn = available and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    many = one_dnn and rows >= MANY and weight.dtype == torch.bfloat16 and multiplies(weight.dtype)
    if native.serves(weight) and not many:
        return Panels(weight, bias)
    if one_dnn and weight.dtype in (torch.float32, torch.bfloat16):
        return Blocks(weight, bias, rows)
    return None


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
        self.packed: Packed | None = None
        self.size = weight.numel()  # weights one product reads

    def pack(self, rows: int, rounded: bool = False) -> None:
        """Lay the weights out for products of about ``rows`` rows; frees the plain ones.

        ``rounded``: to eight bits, where that saves reading.
        """
        self.packed = packed(self.weight.data, self.bias, rows, rounded)
        if self.packed is not None:
            self.weight = self.bias = None

    def rows(self, index: Tensor) -> Tensor:
        """A copy of some rows of the weights: [n] int64 -> [n, in]."""
        return self.weight[index] if self.packed is None else self.packed.rows(index)

    def forward(self, x: Tensor) -> Tensor:
        if self.packed is None:
            return functional.linear(x, self.weight, self.bias)
        y = self.packed.product(x.reshape(-1, x.shape[-1]))
        return y.view(*x.shape[:-1], y.shape[-1])


def weights_read(module: nn.Module) -> int:
    """Weights of all products in ``module``: where few tokens are fed, time goes by them."""
    return sum(part.size for part in module.modules() if isinstance(part, Linear))
