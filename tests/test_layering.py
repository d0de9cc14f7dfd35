"""One direction only: what may import, or include, what."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
KERNELS = ROOT / "tapout_kernels"
ENGINE = ROOT / "python/tapout_engine"

# Lower layers first; a module imports from layers before its own, or from its own.
KERNEL_LAYERS = [
    {"_schema", "_specs", "reference", "_check", "_triton"},
    {"_library"},
    {"backends"},
    {"types", "tree", "tree_shape", "stop_rules", "draft_vocab", "policies"},
    {"proposal", "tree_proposal", "tree_draft", "bandit_state"},
    {"ops", "replay", "_replay_checks", "round_graph", "full_information", "recording"},
    {"warmup"},
    {"__init__", "testing"},
]
# adapters -> decode -> controller -> tapout_kernels; programs on top.
ENGINE_LAYERS = [
    {
        "errors",
        "engine",
        "progress",
        "prompts",
        "requests",
        "arms",
        "text",
        "skipping",
        "rules",
        "repeated",
    },
    {"controller", "rows", "loading", "divergence", "models", "slot_cost"},
    {"lanes", "depth"},
    {"scoring"},
    {"decode", "summary"},
    {"plain_decode", "tree_decode", "graph_loop"},
    {"adapters"},
    {"session"},
    {"generate", "demo", "training", "profiling"},
    {"bench"},
    {"traces"},
    {"replay"},
    {"cli"},
    {"__init__", "__main__"},
]


def modules(package: Path) -> list[Path]:
    return sorted(package.rglob("*.py"))


def imports(path: Path, package: Path, everywhere: bool) -> Iterator[str]:
    """Absolute dotted names; those inside functions only if ``everywhere``."""
    tree = ast.parse(path.read_text())
    here = [package.name, *path.relative_to(package).with_suffix("").parts]
    for node in ast.walk(tree) if everywhere else _top_level(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: -node.level] if node.level else []
            module = ".".join([*base, *(node.module.split(".") if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _top_level(tree: ast.Module) -> Iterator[ast.AST]:
    """Statements that run at import: not those of functions, nor of `if TYPE_CHECKING`."""
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        waiting.extend(ast.iter_child_nodes(node))


def layer(part: str, layers: list[set[str]], package: str) -> int:
    for index, names in enumerate(layers):
        if part in names:
            return index
    return pytest.fail(f"{package}.{part} is in no layer: add it to tests/test_layering.py")


@pytest.mark.parametrize(
    ("package", "layers"), [(KERNELS, KERNEL_LAYERS), (ENGINE, ENGINE_LAYERS)], ids=lambda x: ""
)
def test_nothing_imports_upward(package: Path, layers: list[set[str]]):
    children = {path.stem for path in package.iterdir()}
    seen = 0
    for path in modules(package):
        part = path.relative_to(package).with_suffix("").parts[0]
        own = layer(part, layers, package.name)
        for name in imports(path, package, everywhere=True):
            top, _, rest = name.partition(".")
            target = rest.split(".")[0]
            if top != package.name or target not in children:
                continue
            assert layer(target, layers, package.name) <= own, f"{path} imports {name}"
            seen += 1
    assert seen > 20


def test_kernels_know_nothing_of_the_engine_and_need_torch_and_numpy_only():
    needed = {"torch", "numpy", "tapout_kernels"} | set(sys.stdlib_module_names)
    for path in modules(KERNELS):
        allowed = needed | ({"triton"} if path.is_relative_to(KERNELS / "_triton") else set())
        for name in imports(path, KERNELS, everywhere=False):
            assert name.split(".")[0] in allowed, f"{path} imports {name}"
        for name in imports(path, KERNELS, everywhere=True):
            assert not name.startswith("tapout_engine"), f"{path} imports {name}"


def test_reference_is_plain_torch():
    for path in modules(KERNELS / "reference"):
        for name in imports(path, KERNELS, everywhere=True):
            top = name.split(".")[0]
            inside = name.startswith("tapout_kernels.reference.")
            assert inside or top in {"torch", *sys.stdlib_module_names}, f"{path} imports {name}"


def test_triton_is_imported_by_its_kernels_only_and_when_they_first_run():
    for path in modules(KERNELS):
        inside = path.is_relative_to(KERNELS / "_triton")
        for name in imports(path, KERNELS, everywhere=True):
            assert inside or name.split(".")[0] != "triton", f"{path} imports {name}"
        for name in imports(path, KERNELS, everywhere=False):
            lazily = inside or not name.startswith("tapout_kernels._triton")
            assert lazily, f"{path} imports {name} at once"
    for path in modules(ENGINE):
        for name in imports(path, ENGINE, everywhere=True):
            assert name.split(".")[0] != "triton", f"{path} imports {name}"


def test_triton_kernels_import_each_other_only():
    for path in modules(KERNELS / "_triton"):
        for name in imports(path, KERNELS, everywhere=True):
            top, core = name.split(".")[0], path.parent.name == "core"
            inside = name.startswith("tapout_kernels._triton." + ("core." if core else ""))
            outside = {"triton"} if core else {"triton", "torch"}
            assert inside or top in outside | set(sys.stdlib_module_names), f"{path} imports {name}"


def test_engine_reaches_kernels_through_public_names_only():
    for path in modules(ENGINE):
        for name in imports(path, ENGINE, everywhere=True):
            assert not re.match(r"tapout_kernels\.\w", name) or re.match(
                r"tapout_kernels\.(?!_|reference|backends)", name
            ), f"{path} imports {name}"


# ---- C++ ---------------------------------------------------------------------------------------

INCLUDE = re.compile(r"^\s*#\s*include\s*([<\"])([^>\"]+)[>\"]", re.MULTILINE)
C_HEADERS = {"math.h", "stdint.h", "string.h"}
CUDA_API = "cuda_runtime_api.h"
STANDARD = re.compile(r"[a-z_0-9]+(\.h)?")  # <vector>, <stdlib.h>, never a path
# Compiled once per instruction set: C headers only, or the linker could keep one instruction set's
# copy of a standard library template for all of them.
PER_ISA_EXCEPTIONS = {"dispatch.cpp"}


def includes(folder: str) -> list[tuple[Path, str, str]]:
    suffixes = {".h", ".cpp", ".cu", ".cuh"}
    files = [p for p in (ROOT / "csrc" / folder).iterdir() if p.suffix in suffixes]
    assert files
    return [(p, kind, name) for p in files for kind, name in INCLUDE.findall(p.read_text())]


def test_core_is_freestanding():
    for path, kind, name in includes("core"):
        allowed = name in C_HEADERS if kind == "<" else "/" not in name
        assert allowed, f"{path} includes {name}"


def test_cpu_kernels_include_core_and_c_headers_only():
    for path, kind, name in includes("cpu"):
        if kind == '"':
            assert "/" not in name or name.startswith("../core/"), f"{path} includes {name}"
        elif path.name in PER_ISA_EXCEPTIONS:
            assert STANDARD.fullmatch(name), f"{path} includes {name}"
        else:
            assert name in C_HEADERS | {"immintrin.h"}, f"{path} includes {name}"


def test_cuda_kernels_include_core_and_what_only_the_chip_has():
    """CUDA's own headers in two files: the emulator of the tests has a twin of each name there."""
    chip = {"device.h": {"cuda_runtime.h", "stddef.h", "utility"}, "runtime.h": {CUDA_API}}
    twins = {"device.h": {"emulator.h"}, "runtime.h": {"emulated_runtime.h"}}
    for path, kind, name in includes("cuda"):
        if kind == "<":
            allowed = name in C_HEADERS | chip.get(path.name, set())
        else:
            below = name.startswith("../core/") or (ROOT / "csrc/cuda" / name).exists()
            allowed = below or name in twins.get(path.name, set())
        assert allowed, f"{path} includes {name}"


def test_bindings_alone_see_torch():
    params = {"../core/tree_params.h", "../core/decoder_params.h"}
    below = params | {"../cpu/ops.h", "../cpu/dispatch.h", "../cuda/ops.h"}
    for path, kind, name in includes("bind"):
        if kind == '"':
            assert "/" not in name or name in below, f"{path} includes {name}"
        else:
            stable = name.startswith(("torch/csrc/stable/", "torch/headeronly/"))
            assert stable or STANDARD.fullmatch(name), f"{path} includes {name}"


def test_host_module_sees_pybind11_and_no_torch():
    """And of the operators what a replay runs: semantics and function declarations."""
    own = {path.name for path in (ROOT / "csrc/host").iterdir()} | {"build_info.h"}
    below = {"../core/params.h", "../core/stop.h", "../core/graph_loop.h", "../cpu/ops.h"}
    for path, kind, name in includes("host"):
        if kind == '"':
            assert name in own | below, f"{path} includes {name}"
        else:
            python = name.startswith("pybind11/")
            assert python or STANDARD.fullmatch(name), f"{path} includes {name}"


def test_every_op_has_one_name_in_every_layer():
    from tapout_kernels._library import NO_KERNEL
    from tapout_kernels._schema import SCHEMAS

    for op in SCHEMAS:
        own_kernel = [] if op == "bandit_step" else [f"csrc/cpu/{op}.cpp"]  # the other two in turn
        for path in (*own_kernel, f"csrc/bind/{op}.cpp", f"tapout_kernels/reference/{op}.py"):
            assert (ROOT / path).exists(), path
        for backend, path in {
            "cuda": f"csrc/cuda/{op}.cu", "triton": f"tapout_kernels/_triton/{op}.py"
        }.items():  # fmt: skip
            assert (ROOT / path).exists() == (op not in NO_KERNEL[backend]), path
