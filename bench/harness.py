"""Timing: rotated buffers, median and spread, one JSON row per measurement."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch

import tapout_kernels as tk
from tapout_kernels.backends import cpu_isa

WARM = 2  # calls before the first one that counts


def times_us(
    function: Callable[[int], object],
    before: Callable[[int], object] | None = None,
    budget_s: float = 1.5,
    least: int = 5,
    most: int = 400,
) -> list[float]:
    """Sorted microseconds of ``function(i)``; i selects the buffer set in rotation.

    ``before(i)`` runs outside the clock.
    """
    samples: list[float] = []
    end = time.perf_counter() + budget_s
    while (n := len(samples) - WARM) < least or (time.perf_counter() < end and n < most):
        if before is not None:
            before(len(samples))
        start = time.perf_counter()
        function(len(samples))
        samples.append((time.perf_counter() - start) * 1e6)
    return sorted(samples[WARM:])


def summary(samples: list[float]) -> dict[str, float]:
    def at(fraction: float) -> float:
        return round(samples[int(fraction * (len(samples) - 1))], 2)

    return {"median_us": at(0.5), "p20_us": at(0.2), "p80_us": at(0.8), "runs": len(samples)}


def read_gb_s(nbytes: int = 512 << 20) -> float:
    """A streaming read of memory with every thread: what a pass over logits is held against."""
    buffer = torch.ones(nbytes // 4, dtype=torch.int32)
    best = times_us(lambda _: buffer.sum(dtype=torch.int32), budget_s=2.0)
    return nbytes / best[len(best) // 2] / 1e3


def environment() -> dict[str, object]:
    return {
        "torch": torch.__version__,
        "tapout_kernels": tk.__version__,
        "backend": f"cpu ({cpu_isa()})",
        "threads": torch.get_num_threads(),
        "cpu": _cpu_name(),
        "commit": _commit(),
        "command": "python " + shlex.join(sys.argv),
    }


def gpu_environment() -> dict[str, object]:
    device = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "torch": torch.__version__,
        "triton": version("triton"),
        "tapout_kernels": tk.__version__,
        "gpu": device.name,
        "multiprocessors": device.multi_processor_count,
        "l2_mib": device.L2_cache_size >> 20,
        "commit": _commit(),
        "command": "python " + shlex.join(sys.argv),
    }


def _commit() -> str:
    """Empty where there is no git, or no repository: a copy of the sources."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return found.stdout.strip()


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"


def write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
