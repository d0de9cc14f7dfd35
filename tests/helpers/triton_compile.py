"""Compile every Triton kernel without a GPU and say what came out, as JSON.

Started by tests/test_triton_compile.py, once per target, without TRITON_INTERPRET, for the usual
cases or all: the operators run on tensors of the host down to ``launch``, which compiles instead of
launching.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from tapout_kernels._triton import OPS
from tapout_kernels._triton import launch as launching
from tapout_kernels.reference.accept import RULES
from tapout_kernels.testing import BANDITS, Case

from .launching import modules_that_launch

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
# Batch, slots, vocabulary: what a server may see; none of them is in any kernel.
SIZES = (
    (1, 1, 32000), (3, 4, 128256), (8, 7, 151936), (16, 1, 49152), (32, 4, 152064), (1, 7, 151936),
    (3, 1, 32000), (8, 4, 49152), (16, 7, 128256), (32, 1, 32000),
)  # fmt: skip
OPTIONS = {"masked": True, "draft_vocab": True, "rows": True, "extras": True}
_LOGITS = ("logits", "target_logits", "draft_logits", "kept_logits")


class Driver:
    """What Triton asks of a GPU before it compiles for one."""

    def __init__(self, target: GPUTarget):
        self.target = target

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


class Compiler:
    """Stands where ``launch`` stands, and keeps what it was asked to launch."""

    def __init__(self):
        self.kernels: dict[str, dict[str, object]] = {}  # by name, then by what they are made of
        self.launches = 0

    def launch(self, kernel, programs: int, *args: object, warps: int, **constants: object):
        assert programs > 0
        self.launches += 1
        compiled = kernel.run(
            *args, grid=(programs,), warmup=True, num_warps=warps, enable_fp_fusion=False,
            **constants,
        )  # fmt: skip
        self.kernels.setdefault(kernel.__name__, {})[compiled.hash] = compiled

    def install(self) -> None:
        launching.INTERPRETER = launching.GPU  # the tensors are the host's, the plan is a GPU's
        for module in modules_that_launch():
            module.launch = self.launch

    def count(self) -> int:
        return sum(map(len, self.kernels.values()))


FILTERED = {"sample": ("token",), "draft_step": ("gumbel",), "verify": ("block",)}


def cases(everything: bool) -> Iterator[Case]:
    """Every operator as a server calls it: each rule, without options and with all of them.

    The usual cases are without those whose code is nearly another one's.
    """
    base = Case("row_stats", batch=2, slots=2, vocab=64, dtype=torch.bfloat16)
    for op in ("row_stats", "proposal_load"):
        yield base.with_(op=op)
        if everything or op == "row_stats":
            yield base.with_(op=op, sampling="all", **OPTIONS)
    for op in ("sample", "draft_step", "verify"):
        for rule in RULES:
            yield base.with_(op=op, rule=rule)
            if everything or rule in FILTERED[op]:
                yield base.with_(op=op, rule=rule, sampling="all", **OPTIONS)
    for dtype, seed in ((torch.bfloat16, 11), (torch.bfloat16, 12), (torch.float32, 12)):
        yield base.with_(op="tree_attention", dtype=dtype, seed=seed)
    yield base.with_(op="tree_verify")
    for rule in ("token", "gumbel", "greedy") if everything else ():
        yield base.with_(op="tree_verify", rule=rule, sampling="all", **OPTIONS)
    for op in ("verify", "tree_verify"):
        yield base.with_(op=op, drafts="one_hot")
    yield base.with_(op="proposal_load", drafts="one_hot")
    yield base.with_(op="proposal_reset")
    yield base.with_(op="proposal_reset", rows=True, level="token")
    policies = {BANDITS[name]["policy"]: name for name in reversed(BANDITS)}.values()
    for op in ("bandit_select", "bandit_update", "bandit_step"):
        step_has_it = op != "bandit_step" and not everything
        for bandit in ("hedge", "ucb1_token") if step_has_it else (*policies, "ucb1_token"):
            yield base.with_(op=op, bandit=bandit)
    yield from (base.with_(op="tree_layout", seed=seed) for seed in range(2))
    yield from (base.with_(op="tree_mask", seed=seed) for seed in range(3))
    yield from (base.with_(op="tree_mask_flat", seed=seed) for seed in range(2))
    yield base.with_(op="tree_expand", sampling="all", **OPTIONS)
    yield base.with_(op="tree_expand", drafts="one_hot")
    yield base.with_(op="tree_rerank")
    yield base.with_(op="compact_kv", dtype=torch.uint8)
    yield base.with_(op="compact_kv", dtype=torch.bfloat16, ragged=True, extras=True)


def sized(case: Case, vocab: int) -> dict[str, object]:
    """The case's arguments with rows of another vocabulary, or heads of the usual width, which
    nobody reads."""
    args = case.inputs()
    for name in _LOGITS:
        if args.get(name) is not None:
            args[name] = torch.empty(*args[name].shape[:-1], vocab, dtype=case.dtype)
    if args.get("token_mask") is not None:
        shape = (*args["token_mask"].shape[:-1], vocab // 32)
        args["token_mask"] = torch.empty(shape, dtype=torch.int32)
    if args.get("keys") is not None:  # room for several spans
        pages, heads, slots, size = args["keys"].shape
        slots = slots if args["block_table"] is not None else 5000
        for name in ("keys", "values"):
            args[name] = torch.empty(pages, heads, slots, size, dtype=case.dtype)
        if args["block_table"] is not None:
            args["block_table"] = torch.empty(case.batch, 500, dtype=torch.int32)
    if args.get("cache") is not None:
        args["cache"] = torch.empty(*args["cache"].shape[:-1], 128, dtype=case.dtype)
    return args


def resources(cubin: bytes) -> dict[str, int]:
    """Registers, stack and local memory of one kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        shown = subprocess.run(
            [TOOLS / "cuobjdump", "--dump-resource-usage", file.name],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
    return {key.lower(): int(n) for key, n in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", shown)}


def report(compiler: Compiler) -> dict[str, list[dict[str, object]]]:
    found = {}
    for name, kernels in compiler.kernels.items():
        found[name] = []
        for kernel in kernels.values():
            entry: dict[str, object] = {"shared": kernel.metadata.shared}
            if "cubin" in kernel.asm:
                entry.update(resources(kernel.asm["cubin"]))
                entry["volatile"] = kernel.asm["ptx"].count("volatile")
                entry["atomics"] = re.findall(r"\b(?:atom|red)\.[\w.:]+", kernel.asm["ptx"])
            found[name].append(entry)
    return found


def main(target: str, everything: bool) -> dict[str, object]:
    driver.set_active(Driver(TARGETS[target]))
    compiler, by_op = Compiler(), {op: set() for op in OPS}
    compiler.install()
    for case in cases(everything):
        before = {name: len(kernels) for name, kernels in compiler.kernels.items()}
        OPS[case.op](**sized(case, 1024))
        after = {name: len(kernels) for name, kernels in compiler.kernels.items()}
        by_op[case.op] |= {name for name in after if after[name] != before.get(name)}
    compiled, launches = compiler.count(), compiler.launches
    if target == "sm_90":
        for case in cases(everything):
            for batch, slots, vocab in SIZES:
                OPS[case.op](**sized(case.with_(batch=batch, slots=slots), vocab))
    return {
        "kernels": report(compiler), "by_op": {op: sorted(names) for op, names in by_op.items()},
        "compiled": compiled, "after_other_sizes": compiler.count(),
        "launches": launches, "launches_of_other_sizes": compiler.launches - launches,
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2] == "all")))
