"""Raw operators by backend name, and copies of their arguments."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tapout_kernels._schema import SCHEMAS
from tapout_kernels.reference import OPS

Call = Callable[..., None]  # call(op, **arguments)


def caller(backend: str) -> Call:
    """The registered overload of a backend, without the Python argument check in front."""

    def call(op: str, **arguments: object) -> None:
        getattr(getattr(torch.ops.tapout_kernels, op), backend)(**arguments)

    return call


def caller_of(ops: dict[str, Callable[..., None]]) -> Call:
    """The functions of a (possibly mutated) copy of the reference."""

    def call(op: str, **arguments: object) -> None:
        ops[op](**arguments)

    return call


reference = caller_of(OPS)


def clone(arguments: dict[str, object]) -> dict[str, object]:
    """A deep copy that keeps strides (stride 0 included) where nothing is written."""
    return {
        name: value.clone() if isinstance(value, Tensor) and value.is_contiguous() else value
        for name, value in arguments.items()
    }


def written(op: str) -> list[str]:
    """Names of the arguments an operator mutates, from its schema."""
    schema = getattr(torch.ops.tapout_kernels, op).default._schema
    return [a.name for a in schema.arguments if a.alias_info is not None]


def names(op: str) -> list[str]:
    """Of all its arguments, in order."""
    schema = getattr(torch.ops.tapout_kernels, op).default._schema
    return [a.name for a in schema.arguments]


def run(call: Call, op: str, arguments: dict[str, object]) -> dict[str, Tensor]:
    """Run on copies; every tensor the operator may write, by name."""
    own = clone(arguments)
    call(op, **own)
    return {name: own[name] for name in written(op) if own[name] is not None}


def same(left: dict[str, Tensor], right: dict[str, Tensor], context: str = "") -> None:
    """Bit-equal, NaN equal to NaN."""
    for name, value in left.items():
        assert equal_bits(value, right[name]), f"{context} {name}: {value} != {right[name]}"


def equal_bits(left: Tensor, right: Tensor) -> bool:
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    bits = [side.contiguous().reshape(-1).clone().view(torch.uint8) for side in (left, right)]
    return bits[0].equal(bits[1])


ALL_OPS = tuple(SCHEMAS)
