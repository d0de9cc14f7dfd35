"""Every operator on small cases, by the CUDA kernels: what compute-sanitizer looks at (gpu.sh)."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from tapout_kernels._library import NO_KERNEL
from tapout_kernels._schema import SCHEMAS
from tapout_kernels.reference.accept import RULES
from tapout_kernels.testing import Case

WITH_RULES = ("verify", "sample", "draft_step", "tree_verify")
TREE_RULES = ("token", "gumbel", "greedy")
BANDITS = ("ucb1", "ucb_tuned_token", "beta")


def cases() -> Iterator[Case]:
    """Rows of a few chunks, the last one incomplete; plain, and with everything."""
    for op in (op for op in SCHEMAS if op not in NO_KERNEL["cuda"]):
        plain = Case(op, batch=3, slots=3, vocab=4099, dtype=torch.bfloat16)
        full = plain.with_(vocab=2500, dtype=torch.float32, sampling="all", masked=True)
        if op.startswith("bandit"):
            yield from (plain.with_(batch=40, bandit=bandit) for bandit in BANDITS)
        elif op in WITH_RULES:
            rules = TREE_RULES if op.startswith("tree") else RULES
            yield from (case.with_(rule=rule) for case in (plain, full) for rule in rules)
        else:
            yield from (plain, full)
    yield Case("verify", batch=3, slots=3, vocab=4099, drafts="one_hot", extras=True)


def run(backend: str, device: str) -> int:
    """The number of calls."""
    count = 0
    for case in cases():
        args = {name: value.to(device) if isinstance(value, torch.Tensor) else value
                for name, value in case.inputs().items()}  # fmt: skip
        getattr(getattr(torch.ops.tapout_kernels, case.op), backend)(**args)
        count += 1
    return count


if __name__ == "__main__":
    calls = run("cuda", "cuda")
    torch.cuda.synchronize()
    print(f"{calls} calls")
