"""No probability tensor: `verify` allocates 1 MiB at most beyond its outputs.

Every byte it asks for is counted, also what it frees again, so the sum is no less than its peak.
The same count sees the softmax of a plain implementation: it can fail.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.core_probe import compiler

ROOT = Path(__file__).parent.parent
BATCH, SLOTS, VOCAB = 8, 5, 128256
LIMIT = 1 << 20
TARGET_F32 = BATCH * (SLOTS + 1) * VOCAB * 4  # bytes of one float32 copy of the target's logits

PLAIN = {"batch": BATCH, "slots": SLOTS, "vocab": VOCAB}
CASES = {
    "token": {"rule": "token"},
    "gumbel": {"rule": "gumbel"},
    "filters": {"sampling": "all", "draft_vocab": True},
    "block": {"rule": "block", "sampling": "all", "masked": True, "extras": True},
}

COUNT = """
import ctypes, json, os, sys, torch
import tapout_kernels
from tapout_kernels.testing import Case
torch.set_num_threads(2)
count = ctypes.CDLL(os.environ["LD_PRELOAD"]).allocated_bytes
count.restype = ctypes.c_longlong
plain, cases = json.loads(sys.argv[1]), json.loads(sys.argv[2])
verify = torch.ops.tapout_kernels.verify.cpu
found = {}
for name, fields in cases.items():
    case = Case("verify", dtype=torch.bfloat16, **plain, **fields)
    verify(**case.with_(vocab=64).inputs())  # threads and the dispatcher's first call
    args = case.inputs()
    before = count()
    verify(**args)
    found[name] = count() - before
before = count()
torch.softmax(args["target_logits"].float(), -1)
print(json.dumps({**found, "softmax": count() - before}))
"""


pytestmark = pytest.mark.xdist_group("memory")  # compiled once


@pytest.fixture(scope="module")
def allocated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    library = tmp_path_factory.mktemp("memory") / "count_bytes.so"
    source = ROOT / "tests/native/count_bytes.cpp"
    subprocess.run([compiler(), "-O1", "-fPIC", "-shared", source, "-o", library], check=True)
    run = subprocess.run(
        [sys.executable, "-c", COUNT, json.dumps(PLAIN), json.dumps(CASES)],
        env={**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("name", CASES)
def test_verify_needs_little_memory(native, allocated, name):
    assert 0 < allocated[name] <= LIMIT


def test_the_count_sees_a_probability_tensor(allocated):
    assert allocated["softmax"] >= 2 * TARGET_F32
