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


def check_nothing_beside(call: Call, op: str, arguments: dict[str, object]) -> None:
    """Every tensor in the middle of a larger one: what lies around it does not matter and stays."""
    expected = run(call, op, arguments)
    around, inside = {}, dict(arguments)
    for name, value in arguments.items():
        if isinstance(value, Tensor):
            size = value.numel()
            fill = torch.nan if value.is_floating_point() else 1
            wide = torch.full((size + 256,), fill, dtype=value.dtype)
            wide[128 : 128 + size] = value.reshape(-1)
            around[name] = wide
            inside[name] = wide[128 : 128 + size].view(value.shape)
    call(op, **inside)
    for name, value in expected.items():
        assert equal_bits(inside[name], value), f"{op} {name}"
    for name, wide in around.items():
        edge = torch.cat([wide[:128], wide[128 + arguments[name].numel() :]])
        untouched = edge.isnan() if wide.is_floating_point() else edge == 1
        assert untouched.all(), f"{op}: written beside {name}"


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
