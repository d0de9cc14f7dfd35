"""Compiles Triton's kernels for sm_90 where there is no GPU: what would be launched is counted.

Run as a program, without TRITON_INTERPRET: prints one JSON object, of each kernel the number of
compilations and whether all of its loads may be repeated or moved.
"""

from __future__ import annotations

import importlib
import json
import sys

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from tapout_kernels import _triton
from tapout_kernels._triton import launch as launching
from tapout_kernels.testing import Case

BATCHES = (1, 2, 3, 4, 8, 16, 32)
SLOTS = (3, 4)


class Nvidia:
    """A driver that compiles and cannot launch."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def main() -> None:
    driver.set_active(Nvidia())
    compiled: dict[str, dict[str, str]] = {}

    def compile_only(kernel, programs, *args, warps, **constants):
        binary = kernel.run(
            *args, grid=(programs,), warmup=True, num_warps=warps, enable_fp_fusion=False,
            **constants,
        )  # fmt: skip
        compiled.setdefault(kernel.fn.__name__, {})[binary.hash] = binary.asm["ptx"]

    for name in list(sys.modules):
        if name.startswith(_triton.__name__ + ".") and hasattr(sys.modules[name], "launch"):
            importlib.import_module(name).launch = compile_only
    launching.INTERPRETER = launching.GPU
    for op in _triton.OPS:
        for batch in BATCHES:
            for slots in SLOTS:
                case = Case(op, batch=batch, slots=slots, vocab=1024, dtype=torch.bfloat16)
                _triton.OPS[op](**case.inputs())
    result = {
        name: {"compiled": len(texts), "volatile": any("volatile" in x for x in texts.values())}
        for name, texts in compiled.items()
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
