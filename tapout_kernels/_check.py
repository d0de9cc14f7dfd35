"""The one argument check in front of every backend: names op, argument, expected and got."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from ._schema import SCHEMAS
from ._specs import TENSORS, Dimension, Spec

# B rows of the batch; R rows of per-request state (B without `rows`); L rows of kept logits (B
# without `logits_row`); V target ids; D draft ids (V without a draft vocabulary); P pages (B
# without `block_table`).
_SAME_WITHOUT = {
    ("R", "B"): ("rows",), ("L", "B"): ("logits_row",), ("D", "V"): ("d2t", "t2d"),
    ("P", "B"): ("block_table",),
}  # fmt: skip

_OPTIONAL = {
    op: frozenset(re.findall(r"Tensor(?:\(\w!\))?\? (\w+)", schema))
    for op, schema in SCHEMAS.items()
}


def check(op: str, arguments: dict[str, object]) -> torch.device:
    """Raise TypeError or ValueError unless every tensor of ``op`` is what its spec says.

    All tensors must share one device, which is returned; optional tensors that are None are
    skipped.  Nothing is cast, moved or copied.
    """
    shapes = _Shapes(arguments)
    device = None
    for name, spec in TENSORS[op].items():
        value = arguments[name]
        if value is None and name in _OPTIONAL[op]:
            continue
        require_tensor(op, name, value)
        like = arguments.get(spec.like)
        dtypes = spec.dtypes if like is None else (like.dtype,)
        if value.dtype not in dtypes:
            raise TypeError(_wrong_dtype(op, name, dtypes, value))
        dims = shapes.dimensions(spec, value.dim())
        if not shapes.fit(dims, value.shape):
            raise ValueError(f"{op}: {name} must be {shapes.show(dims)}, got {list(value.shape)}")
        if not (_rows_contiguous(value) if spec.rows else value.is_contiguous()):
            raise ValueError(_wrong_layout(op, name, spec, value))
        device = device or value.device
        if value.device != device:
            raise ValueError(f"{op}: {name} must be on {device}, got {value.device}")
    return device


class _Shapes:
    """The symbols of one call, bound as its tensors are looked at."""

    def __init__(self, arguments: dict[str, object]):
        self.bound: dict[str, int] = {"": 0}
        self.alias = dict(
            same
            for same, names in _SAME_WITHOUT.items()
            if all(arguments.get(name) is None for name in names)
        )
        self.ragged = any(arguments.get(x) is not None for x in ("row_start", "block_table"))
        self.alternative: int | None = None

    def dimensions(self, spec: Spec, dims: int) -> tuple[Dimension, ...]:
        if self.ragged and spec.ragged:
            return spec.ragged
        if len(spec.dims) == 1:
            return spec.dims[0]
        if self.alternative is None:
            self.alternative = int(dims == len(spec.dims[1]))
        return spec.dims[self.alternative]

    def _size(self, dim: Dimension) -> int | None:
        """None while the symbol is free."""
        bound = self.bound.get(self.alias.get(dim.symbol, dim.symbol))
        if bound is None:
            return None
        return -(-bound // 32) if dim.words else bound + dim.extra

    def fit(self, dims: tuple[Dimension, ...], shape: torch.Size) -> bool:
        if len(shape) != len(dims):
            return False
        for dim, size in zip(dims, shape, strict=True):
            expected = self._size(dim)
            if expected is None and not dim.words:
                self.bound[self.alias.get(dim.symbol, dim.symbol)] = size - dim.extra
            elif expected is not None and expected != size:
                return False
            if size == 0 and dim.symbol != "C":  # only a table of drafts made elsewhere
                return False
        return True

    def show(self, dims: tuple[Dimension, ...]) -> str:
        return f"[{', '.join(map(self._show, dims))}]"

    def _show(self, dim: Dimension) -> str:
        size = self._size(dim)
        if size is not None and size > 0:
            return str(size)
        return f"{self.alias.get(dim.symbol, dim.symbol)} > 0"


def require_tensor(op: str, name: str, value: object) -> None:
    """For functions that look at an argument's shape before the operator is called."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: {name} must be a Tensor, got {type(value).__name__}")


def _rows_contiguous(value: Tensor) -> bool:
    return value.shape[-1] == 1 or value.stride(-1) == 1


def _wrong_dtype(op: str, name: str, dtypes: tuple[torch.dtype, ...], value: Tensor) -> str:
    expected = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
    return f"{op}: {name} must be {expected}, got {str(value.dtype).removeprefix('torch.')}"


def _wrong_layout(op: str, name: str, spec: Spec, value: Tensor) -> str:
    what = "have a contiguous last dimension" if spec.rows else "be contiguous"
    return f"{op}: {name} must {what}, got strides {list(value.stride())}"
