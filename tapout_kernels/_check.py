"""The one argument check in front of every backend: names op, argument, expected and got.

``TENSORS[op]`` lists each tensor's dimensions and dtypes in the order in which they bind the
symbols, so the message blames the tensor that disagrees with the state, not the state.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from ._schema import SCHEMAS

LOGITS = (torch.float32, torch.bfloat16, torch.float16)
F64, F32, I64, I32, BOOL = (
    (dtype,) for dtype in (torch.float64, torch.float32, torch.int64, torch.int32, torch.bool)
)


class Spec:
    """Dimensions ("B K+1 V"), allowed dtypes (or the dtype of another argument, where that is
    given), and whether rows may be strided."""

    def __init__(
        self, dims: str, dtypes: tuple[torch.dtype, ...], rows: bool = False, like: str = ""
    ):
        self.dims = tuple(_dimension(dim) for dim in dims.split())
        self.dtypes = dtypes
        self.rows = rows
        self.like = like


def _dimension(text: str) -> tuple[str, int]:
    """A dimension as symbol + extra; a number has the empty symbol."""
    if text.isdigit():
        return "", int(text)
    symbol, _, extra = text.partition("+")
    return symbol, int(extra or 0)


_SAMPLING = {
    "temperature": Spec("B", F32),
    "top_k": Spec("B", I32),
    "top_p": Spec("B", F32),
}
_RULES = {
    "rule_kind": Spec("A", I32),
    "rule_param": Spec("A 4", F32),
    "arm": Spec("B", I32),
    "memory": Spec("B A 4", F32),
}
_PROPOSAL = {
    "tokens": Spec("B K", I64),
    "length": Spec("B", I32),
    "active": Spec("B", BOOL),
    "num_active": Spec("1", I32),
    "stats": Spec("B K 8", F32),
    "stop_reason": Spec("B", I32),
}

TENSORS: dict[str, dict[str, Spec]] = {
    "row_stats": {
        "logits": Spec("B V", LOGITS, rows=True),
        **_SAMPLING,
        "token": Spec("B", I64),
        "stats": Spec("B 8", F32),
    },
    "sample": {
        "seed": Spec("B", I64),
        "rng_round": Spec("B", I64),
        "position": Spec("B", I64),
        "tokens": Spec("B", I64),
        "live": Spec("B", BOOL),
        **_SAMPLING,
        "logits": Spec("B V", LOGITS, rows=True),
    },
    "proposal_reset": {
        **_PROPOSAL,
        "out_max_length": Spec("B", I32),
        "out_live": Spec("B", BOOL),
        "round": Spec("B", I64),
        "rng_round": Spec("B", I64),
        "max_length": Spec("B", I32),
        "live": Spec("B", BOOL),
        **_RULES,
    },
    "proposal_load": {
        **_PROPOSAL,
        "max_length": Spec("B", I32),
        **_SAMPLING,
        **_RULES,
        "source": Spec("B N", I64),
        "source_length": Spec("B", I32),
        "logits": Spec("B N V", LOGITS, rows=True),
    },
    "draft_step": {
        **_PROPOSAL,
        "round": Spec("B", I64),
        "max_length": Spec("B", I32),
        "seed": Spec("B", I64),
        "next_token": Spec("B", I64),
        **_SAMPLING,
        **_RULES,
        "kept_logits": Spec("B K V", LOGITS),
        "logits": Spec("B V", LOGITS, rows=True, like="kept_logits"),
    },
    "verify": {
        "draft_tokens": Spec("B K", I64),
        "length": Spec("B", I32),
        "live": Spec("B", BOOL),
        "round": Spec("B", I64),
        "stats": Spec("B K 8", F32),
        "seed": Spec("B", I64),
        "position": Spec("B", I64),
        **_SAMPLING,
        "draft_logits": Spec("B K V", LOGITS, rows=True),
        "target_logits": Spec("B K+1 V", LOGITS, rows=True),
        "tokens": Spec("B K+1", I64),
        "num_accepted": Spec("B", I32),
        "num_emitted": Spec("B", I32),
        "last_token": Spec("B", I64),
        "status": Spec("B", I32),
        "accept_prob": Spec("B K", F32),
    },
    "bandit_select": {
        "count": Spec("G A", F64),
        "reward_sum": Spec("G A", F64),
        "params": Spec("8", F64),
        "calls": Spec("1", I64),
        "arm": Spec("B", I32),
        "group": Spec("B", I32),
        "live": Spec("B", BOOL),
    },
    "bandit_update": {
        "count": Spec("G A", F64),
        "reward_sum": Spec("G A", F64),
        "reward_sq": Spec("G A", F64),
        "tokens": Spec("G A", F64),
        "cost": Spec("G A", F64),
        "params": Spec("8", F64),
        "cost_ratio": Spec("1", F32),
        "draft_tokens": Spec("B K", I64),
        "arm": Spec("B", I32),
        "length": Spec("B", I32),
        "live": Spec("B", BOOL),
        "num_accepted": Spec("B", I32),
        "status": Spec("B", I32),
        "group": Spec("B", I32),
        "rule_kind": Spec("A", I32),
        "rule_param": Spec("A 4", F32),
        "memory": Spec("B A 4", F32),
    },
}

_OPTIONAL = {
    op: frozenset(re.findall(r"Tensor(?:\(\w!\))?\? (\w+)", schema))
    for op, schema in SCHEMAS.items()
}


def check(op: str, arguments: dict[str, object]) -> torch.device:
    """Raise TypeError or ValueError unless every tensor of ``op`` is what its spec says.

    All tensors must share one device, which is returned; optional tensors that are None are
    skipped.  Nothing is cast, moved or copied.
    """
    symbols: dict[str, int] = {"": 0}
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
        if not _fits(spec, value.shape, symbols):
            raise ValueError(_wrong_shape(op, name, spec, value, symbols))
        if not (_rows_contiguous(value) if spec.rows else value.is_contiguous()):
            raise ValueError(_wrong_layout(op, name, spec, value))
        device = device or value.device
        if value.device != device:
            raise ValueError(f"{op}: {name} must be on {device}, got {value.device}")
    return device


def require_tensor(op: str, name: str, value: object) -> None:
    """For functions that look at an argument's shape before the operator is called."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{op}: {name} must be a Tensor, got {type(value).__name__}")


def _fits(spec: Spec, shape: torch.Size, symbols: dict[str, int]) -> bool:
    if len(shape) != len(spec.dims):
        return False
    for (symbol, extra), size in zip(spec.dims, shape, strict=True):
        if symbols.setdefault(symbol, size - extra) + extra != size:
            return False
        if size == 0 and symbol != "N":  # only a table of drafts made elsewhere may be empty
            return False
    return True


def _rows_contiguous(value: Tensor) -> bool:
    return value.shape[-1] == 1 or value.stride(-1) == 1


def _wrong_dtype(op: str, name: str, dtypes: tuple[torch.dtype, ...], value: Tensor) -> str:
    expected = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
    return f"{op}: {name} must be {expected}, got {str(value.dtype).removeprefix('torch.')}"


def _wrong_shape(op: str, name: str, spec: Spec, value: Tensor, symbols: dict[str, int]) -> str:
    def shown(symbol: str, extra: int) -> str:
        if symbols.get(symbol, 0) + extra > 0:
            return str(symbols.get(symbol, 0) + extra)
        return f"{symbol} > 0"

    expected = ", ".join(shown(*dim) for dim in spec.dims)
    return f"{op}: {name} must be [{expected}], got {list(value.shape)}"


def _wrong_layout(op: str, name: str, spec: Spec, value: Tensor) -> str:
    what = "have a contiguous last dimension" if spec.rows else "be contiguous"
    return f"{op}: {name} must {what}, got strides {list(value.stride())}"
