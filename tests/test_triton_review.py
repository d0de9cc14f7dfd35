"""Triton's kernels as a GPU sees them: what is compiled, what graphs keep, who launches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import weakref
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from helpers import raw

from tapout_kernels._triton import launch
from tapout_kernels.testing import Case


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> dict[str, dict[str, object]]:
    offline = Path(__file__).parent / "helpers" / "offline.py"
    paths = os.pathsep.join(path for path in sys.path if path)
    without = ("TRITON_INTERPRET", "TAPOUT_BACKEND")
    variables = {key: value for key, value in os.environ.items() if key not in without}
    variables |= {"PYTHONPATH": paths, "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("cache"))}
    done = subprocess.run(
        [sys.executable, str(offline)], env=variables, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_no_batch_size_or_draft_length_compiles_anything(compiled):
    assert compiled["verify_rows_kernel"]["compiled"] == 1
    assert {name: found["compiled"] for name, found in compiled.items()} == dict.fromkeys(
        compiled, 1
    )
    assert len(compiled) == 10  # nine operators, verify has two


def test_no_thread_reads_alone_what_other_programs_change(compiled):
    """The threads of a program would branch apart and wait at different barriers."""
    assert not any(found["volatile"] for found in compiled.values())


def grown(device: torch.device) -> weakref.ref:
    """A reference to the memory handed out before the workspace was outgrown."""
    launch.workspace(device, 1, ((4,), torch.float32))
    (key,) = launch._arenas
    memory = weakref.ref(launch._arenas[key].bytes)
    launch.workspace(device, 1, ((memory().numel() + 1,), torch.float32))
    return memory


@pytest.mark.parametrize("captures", [False, True])
def test_memory_that_a_graph_has_captured_outlives_growth(monkeypatch, captures):
    monkeypatch.setattr(launch, "_arenas", {})
    monkeypatch.setattr(launch, "_outgrown", [])
    device = torch.device("cpu")
    launch.workspace(device, 1, ((4,), torch.float32))
    with monkeypatch.context() as during:
        during.setattr(launch, "_capturing", lambda device: captures)
        launch.workspace(device, 1, ((4,), torch.float32))
        if captures:  # more than there is: for this launch alone
            launch.workspace(device, 1, ((4096,), torch.float32))
    assert (grown(device)() is not None) == captures


def test_the_device_of_the_tensors_launches(monkeypatch):
    seen = []
    monkeypatch.setattr(torch.cuda, "device_of", lambda x: seen.append(x) or nullcontext())
    raw.run(raw.caller("triton"), "proposal_reset", Case("proposal_reset").inputs())
    assert [type(x) for x in seen] == [torch.Tensor]
