"""The emulator of CUDA's threads: it runs right kernels right and finds what is wrong with others.

The kernels are those of ``tests/emulation/probes.cu``.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
from helpers import emulation
from helpers.core_probe import ROOT

PROBES = Path("tests/emulation/probes.cu")
ORDERS = [(seed, in_flight) for seed, in_flight in enumerate((1, 2, 3, 5, 8, 2, 3, 12))]
pytestmark = pytest.mark.xdist_group("emulation")


class Sum(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("values", "partial", "ticket", "total")]


@pytest.fixture(scope="module")
def probes() -> emulation.Emulator:
    return emulation.Emulator(emulation.compiled("probes.so", [PROBES]))


def at(array: np.ndarray) -> ctypes.c_void_p:
    """The address of an array that lives on."""
    return ctypes.c_void_p(array.ctypes.data)


def line(name: str) -> list[str]:
    """Where ``name`` is reported, as messages say it."""
    lines = (ROOT / PROBES).read_text().splitlines()
    ends = f"// reported by {name}"
    return [f"{PROBES}:{number}:" for number, text in enumerate(lines, 1) if text.endswith(ends)]


def reported(probes: emulation.Emulator, name: str, *arguments: object) -> str:
    """What is said of a kernel, the same in kind under every order."""
    function = getattr(probes.library, f"probe_{name}")
    for order in ORDERS:
        probes.configure(*order)
        assert function(*arguments) == 719, f"{name} runs"
        assert any(probes.error().startswith(place) for place in line(name)), probes.error()
    return probes.error()


def run_right(probes: emulation.Emulator, blocks: int, threads: int) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(blocks, threads, 4)).astype("f")
    partial, ticket, total = np.zeros(blocks, "f"), np.zeros(1, "u4"), np.zeros(1, "f")
    arguments = Sum(*map(at, (values, partial, ticket, total)))
    assert probes.library.probe_right(arguments, blocks, threads) == 0, probes.error()
    assert ticket[0] == 0
    np.testing.assert_allclose(partial, values.sum(axis=(1, 2)), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(total, partial.sum() * threads, rtol=1e-5)
    return np.concatenate([partial, total])


@pytest.mark.parametrize(("blocks", "threads"), [(1, 32), (7, 64), (12, 256), (3, 1024)])
def test_a_right_kernel_gives_the_same_bits_in_every_order(probes, blocks, threads):
    first, switches = None, set()
    for order in ORDERS:
        probes.configure(*order)
        result = run_right(probes, blocks, threads)
        first = result if first is None else first
        assert result.tobytes() == first.tobytes()
        switches.add(probes.switches())
    assert len(switches) > 1  # the orders differ


def test_an_order_repeats_itself(probes):
    counts = []
    for _ in range(2):
        probes.configure(5, 3)
        run_right(probes, 9, 128)
        counts.append(probes.switches())
    assert counts[0] == counts[1]


def test_launches_are_counted(probes):
    probes.launches()
    for _ in range(3):
        run_right(probes, 2, 32)
    assert probes.launches() == 3
    assert probes.launches() == 0


def test_a_missing_barrier_reads_what_nobody_has_written(probes):
    out = np.zeros(4, "f")
    for order in ORDERS:
        probes.configure(*order)
        assert probes.library.probe_missing_barrier(at(out)) == 0
        assert np.isnan(out).any()


def test_a_missing_ticket_gives_other_results_in_other_orders(probes):
    seen = set()
    for order in ORDERS:
        probes.configure(*order)
        out = np.zeros(9, "f")
        assert probes.library.probe_missing_ticket(at(out)) == 0
        seen.add(float(out[-1]))
    assert len(seen) > 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("divergent_barrier", "reaches __syncthreads, but"),
        ("divergent_collective", "waits in warp_m"),
        ("partial_collective", "warp_ballot waits for thread 5 of block 0, which has ended"),
        ("barrier_in_warp", "warp_or waits for thread 5 of block 0, which waits at the barrier"),
        ("early_return", "__syncthreads waits for thread 40 of block 0, which has ended"),
        ("too_much_shared", "with more a block has 53248 bytes of static shared memory"),
    ],
)
def test_a_wrong_kernel_is_reported(probes, name, said):
    out = np.zeros(1024, "u4")
    assert said in reported(probes, name, at(out))


@pytest.mark.parametrize("beyond", [1, -1, 15])
def test_writing_beyond_shared_memory_is_reported(probes, beyond):
    assert "shared memory around values" in reported(probes, "out_of_bounds", beyond)


def test_a_misaligned_access_is_reported(probes):
    values, out = np.zeros(64, "f"), np.zeros(64, "f")
    assert "accesses 16 bytes" in reported(probes, "misaligned", at(values), at(out))


def test_waiting_for_nothing_ends(probes):
    flag = np.zeros(1, "i4")
    assert "what does not happen" in reported(probes, "livelock", at(flag))


def test_a_launch_that_overlaps_the_one_before_waits_for_it(probes):
    out = np.zeros(64, "f")
    assert probes.library.probe_missing_wait(at(out)) == 719
    assert "did not call wait_for_previous_kernel" in probes.error()
    assert "thread 9" in probes.error() or "thread 41" in probes.error()


def test_after_an_error_the_next_launch_runs(probes):
    out = np.zeros(64, "u4")
    probes.library.probe_early_return(at(out))
    assert probes.error()
    run_right(probes, 3, 64)
    assert not probes.error()


@pytest.mark.parametrize("threads", [0, 48, 2048])
def test_launches_that_are_not_possible_are_refused(probes, threads):
    assert probes.library.probe_right(Sum(), 1, threads) == 9
    assert "is not possible" in probes.error()
