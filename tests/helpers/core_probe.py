"""csrc/core, compiled alone and called through ctypes."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent.parent
FLAGS = (
    "-O1",
    "-std=c++17",
    "-fPIC",
    "-shared",
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-Werror",
)
F64 = ctypes.c_double
F32 = ctypes.c_float
I64 = ctypes.c_int64
U32 = ctypes.c_uint32
SIGNATURES = {
    "probe_uniform": (F64, [U32, U32]),
    "probe_uniform_at": (F64, [I64, U32, I64, I64, ctypes.c_int]),
    "probe_merge": (None, [ctypes.c_void_p, ctypes.c_void_p, F64, ctypes.c_void_p]),
    "probe_entropy": (F64, [ctypes.c_void_p]),
    "probe_top2": (None, [ctypes.c_void_p, I64, ctypes.c_void_p]),
    "probe_exp2": (None, [ctypes.c_void_p, F32, ctypes.c_void_p, I64]),
    "probe_reduce_add": (F32, [ctypes.c_void_p]),
    "probe_order_key": (U32, [F32]),
    "probe_key_value": (F32, [U32]),
    "probe_search": (U32, [U32, U32, U32, ctypes.c_void_p]),
    "probe_inverse_cdf": (I64, [ctypes.c_void_p, I64, F64, ctypes.c_void_p]),
    "probe_row_sampling": (None, [F32, ctypes.c_int32, F32, F32, ctypes.c_int, I64,
                                  ctypes.c_void_p]),
    "probe_mask_allows": (ctypes.c_int, [ctypes.c_void_p, I64, I64]),
    "probe_reaches": (ctypes.c_int, [F64, F64, F64, F64]),
    "probe_state_row": (I64, [ctypes.c_void_p, I64, I64]),
    "probe_bin": (F32, [F32, F32, ctypes.c_int, F32, ctypes.c_void_p, ctypes.c_void_p]),
    "probe_gumbel_word": (U32, [I64, I64, I64]),
    "probe_gumbel_noise": (F64, [U32]),
    "probe_offset_position": (I64, [I64, I64]),
    "probe_slot_stops": (ctypes.c_int, [ctypes.c_void_p, I64, I64, I64]),
    "probe_stored_estimate": (F32, [F32]),
    "probe_stops": (ctypes.c_int, [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int,
                                   I64, ctypes.c_void_p]),
    "probe_stops_before": (ctypes.c_int, [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p,
                                          ctypes.c_int]),
    "probe_predicted_length": (F32, [F32, I64]),
    "probe_update_memory": (None, [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, F64, F64, F64,
                                   ctypes.c_int, ctypes.c_void_p]),
    "probe_accepts": (ctypes.c_int, [F64, F64, F64]),
    "probe_accept_probability": (F64, [F64, F64]),
    "probe_block_weight": (F64, [F64, F64, F64]),
    "probe_one_hot_residual": (F64, [F64, F64]),
    "probe_block_accepts": (ctypes.c_int, [F64, F64, F64]),
    "probe_block_may_accept": (ctypes.c_int, [F64, F64]),
    "probe_block_accepts_all": (ctypes.c_int, [F64, F64]),
    "probe_residual": (F64, [F64, F64]),
    "probe_draft_probability": (F64, [F32]),
    "probe_ucb1": (F64, [F64, F64, F64, F64]),
    "probe_ucb_tuned": (F64, [F64, F64, F64, F64]),
    "probe_ucbspec": (F64, [F64, F64, F64, F64, F64]),
    "probe_throughput_mean": (F64, [F64, F64, F64, F64, F64]),
    "probe_token_rate": (F64, [ctypes.c_void_p, ctypes.c_void_p, I64, I64]),
    "probe_thompson": (F64, [ctypes.c_int, F64, F64, F64, I64, U32, U32, I64]),
    "probe_reward": (F64, [ctypes.c_int, F64, F64, F64, F64]),
    "probe_fixed_arm": (ctypes.c_int, [F64]),
}  # fmt: skip


def compiler() -> str:
    """The C++ compiler of the build; a machine without one has no native part to test."""
    found = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if not found:
        pytest.skip("no C++ compiler")
    return found


def load(folder: Path) -> ctypes.CDLL:
    library = folder / "core_probe.so"
    source = ROOT / "tests/native/core_probe.cpp"
    subprocess.run([compiler(), *FLAGS, source, "-o", library], check=True)
    loaded = ctypes.CDLL(str(library))
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


def doubles(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)
