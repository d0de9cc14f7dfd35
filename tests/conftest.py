"""Backends under test. They are fixed: a backend that is missing is a failure, not a skip.

``TAPOUT_TEST_BACKENDS=reference`` says that this run has no compiled library on purpose.  Triton's
kernels run compiled where torch has a GPU, and interpreted where it has none or TRITON_INTERPRET
asks for it; CUDA's are ``cuda`` on a GPU and ``cuda_emulated`` anywhere.  Either way a test gives
them tensors of the host.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from ctypes import CDLL
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from helpers.emulation import Emulator
    from helpers.fake_driver import FakeDriver

sys.path.insert(0, str(Path(__file__).parent))

CUDA = "cuda" if torch.cuda.is_available() else "cuda_emulated"
BACKENDS = tuple(os.environ.get("TAPOUT_TEST_BACKENDS", f"reference,cpu,triton,{CUDA}").split(","))
if "triton" in BACKENDS and not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports triton


def pytest_configure() -> None:
    from helpers import device, emulation

    if "triton" in BACKENDS and device.INTERPRETED:
        from helpers import interpreter

        interpreter.hasten()
    elif "triton" in BACKENDS:
        device.install("triton", "cuda")
    if "cuda" in BACKENDS:
        device.install("cuda", "cuda")
    elif "cuda_emulated" in BACKENDS:
        emulation.installed()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``trees``: the backends with kernels of all of the module's ``OPS``; that the others refuse
    is a test of its own."""
    if "trees" not in metafunc.fixturenames:
        return
    from tapout_kernels._library import NO_KERNEL

    missing = {name: NO_KERNEL.get(name.removesuffix("_emulated"), ()) for name in BACKENDS}
    able = [name for name in BACKENDS if not set(metafunc.module.OPS) & set(missing[name])]
    metafunc.parametrize("trees", parameters(able), indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What Triton's interpreter takes too long for is slow there, and only there."""
    from helpers import device, slices

    for item in items:
        values = item.callspec.params.values() if hasattr(item, "callspec") else ()
        if (
            device.INTERPRETED
            and "triton" in values
            and item.get_closest_marker("interpreted_slow")
        ):
            item.add_marker(pytest.mark.slow)
    slices.mark(items, [name.removesuffix("_emulated") for name in BACKENDS])


collect_ignore = []
if "triton" not in BACKENDS:
    collect_ignore += [path.name for path in Path(__file__).parent.glob("test_triton_*.py")]
elif not os.environ.get("TRITON_INTERPRET"):
    collect_ignore.append("test_triton_mutants.py")  # a minute of compilation for each

if "cuda_emulated" not in BACKENDS:
    collect_ignore.append("test_cuda_mutants.py")

CUDA_LIBRARY = Path(__file__).parent.parent / "tapout_kernels/_C_cuda.so"
if not CUDA_LIBRARY.exists():
    collect_ignore.append("test_cuda_build.py")


def pytest_report_header() -> list[str]:
    """Without nvcc its tests are not there; a build with TAPOUT_CUDA=ON says so at once."""
    if CUDA_LIBRARY.exists():
        return []
    return ["CUDA library not built: tests/test_cuda_build.py is left out"]


def parameters(names: Iterable[str]) -> list[object]:
    """Backends as values of a fixture: emulated or not, CUDA's has one name."""
    return [pytest.param(name.removesuffix("_emulated"), id=name) for name in names]


@pytest.fixture(params=parameters(BACKENDS))
def backend(request: pytest.FixtureRequest) -> str:
    """Every backend of this run; fails where one cannot run."""
    return require(request.param)


@pytest.fixture(params=parameters(name for name in BACKENDS if name != "reference"))
def compiled(request: pytest.FixtureRequest) -> str:
    """Every backend but the reference, which they are compared with."""
    return require(request.param)


@pytest.fixture(params=[name for name in BACKENDS if name == "cpu"])
def native(request: pytest.FixtureRequest) -> str:
    """The library of compiled kernels: for what only it has, such as threads."""
    return require(request.param)


@pytest.fixture(params=parameters(name for name in BACKENDS if name in ("cpu", "cuda_emulated")))
def library(request: pytest.FixtureRequest) -> str:
    """The libraries that take tensors of the host: for what their bindings say."""
    return require(request.param)


@pytest.fixture
def trees(request: pytest.FixtureRequest) -> str:
    """The backends with kernels of what a module tests, see ``pytest_generate_tests``."""
    return require(request.param)


@pytest.fixture(params=[name for name in BACKENDS if name == "triton"])
def triton(request: pytest.FixtureRequest) -> ModuleType:
    """The package of Triton's kernels."""
    require(request.param)
    from tapout_kernels import _triton

    return _triton


@pytest.fixture(scope="session")
def core(tmp_path_factory: pytest.TempPathFactory) -> CDLL:
    """``csrc/core``, compiled alone: functions without a state."""
    from helpers import core_probe

    return core_probe.load(tmp_path_factory.mktemp("core"))


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """The emulated CUDA backend, as it was at first."""
    from helpers import emulation

    found = emulation.installed()
    yield found
    found.configure()
    found.pretend()


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDriver]:
    """A CUDA driver on the host, for rounds that are one graph."""
    from helpers import fake_driver

    with fake_driver.in_place(monkeypatch, fake_driver.library()) as found:
        yield found


@pytest.fixture(params=[name for name in BACKENDS if name in ("triton", "cuda")])
def gpu(request: pytest.FixtureRequest) -> str:
    """The backends of a GPU, for tests that need one."""
    return require(request.param)


@pytest.fixture(params=[name for name in BACKENDS if name == "cuda"])
def cuda(request: pytest.FixtureRequest) -> str:
    """The CUDA library on a GPU, for what no other backend has."""
    return require(request.param)


def require(backend: str) -> str:
    from tapout_kernels.backends import unavailable_reason

    reason = unavailable_reason(backend)
    if reason is not None:
        pytest.fail(f"backend {backend!r} must run here but is off: {reason}")
    return backend


@pytest.fixture(autouse=True)
def _one_thread():
    """Small tensors gain nothing from threads; a test that wants two asks for them."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)
