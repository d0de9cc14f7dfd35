"""Run every operator of the cpu backend on one instruction set and print a digest per case.

Started by tests/test_isa.py once per instruction set (``TAPOUT_CPU_ISA``), with the argument n:
of the matrix, every n-th case. The operators of the engine's decoder are among them.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator

import torch

from tapout_kernels.backends import cpu_isa
from tapout_kernels.reference.accept import LOSSY_RULES
from tapout_kernels.testing import CASES, Case

from . import decoder_inputs, raw

LARGEST = 8193  # the scalar kernels are slow; 49152 runs once per operator below


def cases() -> Iterator[tuple[str, dict[str, object], str]]:
    """(name, arguments, operator)"""
    for case in CASES[:: int(sys.argv[1])]:
        if case.vocab <= LARGEST:
            yield case.name, case.inputs(), case.op
    for op in ("row_stats", "draft_step", "verify"):
        case = Case(op, 2, 2, 49152, torch.bfloat16, sampling="top_p", seed=9)
        yield case.name, case.inputs(), case.op
    for sampling in ("plain", "mixed"):
        case = Case("draft_step", 4, 2, 49152, torch.bfloat16, sampling=sampling, rule="gumbel")
        yield case.name, case.inputs(), case.op
    for rule in LOSSY_RULES:
        case = Case("verify", 8, 8, 2500, torch.bfloat16, sampling="mixed", rule=rule)
        yield case.name, case.inputs(), case.op
    yield from hard_rows()


def hard_rows() -> Iterator[tuple[str, dict[str, object], str]]:
    """Every 16-bit value, signed zeros, subnormals, ties, gaps, NaN in any place, temperatures."""
    for dtype in (torch.bfloat16, torch.float16):
        bits = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(dtype)
        finite = bits[bits.isfinite()]
        yield f"values-{dtype}", _row_stats(finite[None]), "row_stats"
        yield f"values-warm-{dtype}", _row_stats(finite[None], temperature=1e4), "row_stats"
    rows = torch.zeros(8, 3001)
    rows[0] = -0.0
    rows[1, ::2] = -0.0
    rows[2] = 3e38 * torch.linspace(-1, 1, 3001)
    rows[3] = torch.linspace(-1e-44, 1e-44, 3001)
    rows[4, 1500:] = -torch.inf
    rows[5, 3000] = torch.nan
    rows[6, 17] = torch.inf
    rows[7] = -torch.inf
    for temperature in (1e-5, 0.3, 1.0, torch.inf, 0.0):
        yield f"rows-{temperature}", _row_stats(rows, temperature), "row_stats"
        yield f"filtered-{temperature}", _row_stats(rows, temperature, 700, 0.8), "row_stats"
        yield f"min_p-{temperature}", _row_stats(rows, temperature, min_p=0.3), "row_stats"


def decoder_cases() -> Iterator[tuple[str, dict[str, object], str]]:
    """Blocks of rows of every instruction set, and sizes that are no multiple of anything."""
    for dtype in decoder_inputs.DTYPES:
        for rows in (1, 7, 13, 31):
            args = decoder_inputs.linear(rows, 131, 45, dtype, biased=rows == 7)
            yield f"linear-{rows}-{dtype}", args, "linear"
        rounded = decoder_inputs.linear(13, 131, 45, dtype, rounded=True)
        yield f"linear-rounded-{dtype}", rounded, "linear"
        yield f"rms_norm-{dtype}", decoder_inputs.rms_norm(3, 83, dtype, more=True), "rms_norm"
        yield f"copy_rows-{dtype}", decoder_inputs.copy_rows(6, dtype), "copy_rows"
        yield f"head_inputs-{dtype}", decoder_inputs.head_inputs(3, 83, dtype), "head_inputs"
        for head_dim, among in ((16, 0), (80, 5)):
            case = decoder_inputs.LayerCase(
                head_dim=head_dim, qk_norm=True, qkv_bias=True, among=among, dtype=dtype
            )
            yield f"decoder_layer-{head_dim}-{dtype}", case.arguments(), "decoder_layer"
        case = decoder_inputs.LayerCase(rounded=True, dtype=dtype)
        yield f"decoder_layer-rounded-{dtype}", case.arguments(), "decoder_layer"


def _row_stats(
    logits: torch.Tensor,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> dict[str, object]:
    batch = len(logits)
    return {
        "logits": logits, "temperature": torch.full((batch,), temperature),
        "top_k": torch.full((batch,), top_k, dtype=torch.int32),
        "top_p": torch.full((batch,), top_p), "min_p": torch.full((batch,), min_p),
        "token_mask": None, "token": torch.arange(batch) * 400,
        "stats": torch.zeros(batch, 8),
    }  # fmt: skip


def digest(tensors: dict[str, torch.Tensor]) -> str:
    state = hashlib.sha256()
    for name, value in tensors.items():
        state.update(name.encode())
        state.update(value.contiguous().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def main() -> None:
    torch.set_num_threads(1)
    call = raw.caller("cpu")
    found = {name: digest(raw.run(call, op, arguments)) for name, arguments, op in cases()}
    for name, arguments, op in decoder_cases():
        found[name] = digest(raw.run(decoder_inputs.call, op, arguments))
    json.dump({"isa": cpu_isa(), "digests": found}, sys.stdout)


if __name__ == "__main__":
    main()
