"""Loops over the schema table: an operator that is added there cannot skip these."""

from __future__ import annotations

import doctest
import importlib
import inspect
import os
import pkgutil
import re
import statistics
import subprocess
import sys

import pytest
import torch
import torch._dynamo.testing
from helpers import public, raw
from helpers.device import interpreted_if, is_refused
from helpers.rounds import drafted, select
from torch._subclasses.fake_tensor import FakeTensorMode

import tapout_kernels as tk
from tapout_kernels import _library, ops
from tapout_kernels._schema import SCHEMAS
from tapout_kernels.backends import default_backend, unavailable_reason
from tapout_kernels.reference import OPS
from tapout_kernels.testing import Case

# ---- registration ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "drafts"),
    [interpreted_if(drafts == "full" or not op.startswith("tree"), op, drafts)
     for op in SCHEMAS for drafts in ("full", "one_hot")],
)  # fmt: skip
@pytest.mark.sliced(5)
def test_opcheck(backend, op, drafts):
    if is_refused(backend, Case(op)):
        return
    overload = getattr(getattr(torch.ops.tapout_kernels, op), backend)
    args = Case(op, vocab=7, sampling="all", drafts=drafts).inputs()
    torch.library.opcheck(overload, (), args)
    torch.library.opcheck(getattr(torch.ops.tapout_kernels, op).default, (), args)


def test_every_schema_has_its_layers():
    assert set(SCHEMAS) == set(OPS) == {case.op for case in map(Case, SCHEMAS)}
    for op in SCHEMAS:
        packet = getattr(torch.ops.tapout_kernels, op)
        assert set(packet.overloads()) == {"default", "reference", "cpu", "triton", "cuda"}
        signature = inspect.signature(OPS[op])
        assert [a.name for a in packet.default._schema.arguments] == list(signature.parameters)
        assert not packet.default._schema.returns


def test_triton_has_every_operator_with_the_references_signature(triton):
    assert set(triton.OPS) == set(SCHEMAS) - _library.NO_KERNEL["triton"]
    for op, function in triton.OPS.items():
        assert inspect.signature(function) == inspect.signature(OPS[op])


def test_default_is_the_compiled_backend(native):
    """What a call without `backend` runs is bit for bit what backend="cpu" runs."""
    for op in SCHEMAS:
        args = Case(op, vocab=1025, sampling="mixed").inputs()
        raw.same(raw.run(raw.caller("default"), op, args), raw.run(raw.caller(native), op, args))


@pytest.mark.parametrize("op", SCHEMAS)
@pytest.mark.sliced(3)
def test_state_carries_no_graph(backend, op):
    """An engine outside no_grad must not grow a graph from round to round."""
    if is_refused(backend, Case(op)):
        return
    args = Case(op, vocab=7, sampling="all").inputs()
    for name, value in args.items():
        if name.endswith("logits") and name not in raw.written(op):
            args[name] = value.requires_grad_()
    found = raw.run(raw.caller(backend), op, args)
    assert not [name for name, value in found.items() if value.requires_grad]


@pytest.mark.parametrize("op", SCHEMAS)
@pytest.mark.parametrize("drafts", ["full", "one_hot"])
@pytest.mark.sliced(3)
def test_the_reference_never_reads_a_tensor_on_the_host(op, drafts):
    """Fake tensors have no values: an .item() or a branch on data would raise."""
    mode = FakeTensorMode(allow_non_fake_inputs=False)
    args = Case(op, vocab=7, sampling="all", drafts=drafts).inputs()
    fakes = {k: mode.from_tensor(v) if isinstance(v, torch.Tensor) else v for k, v in args.items()}
    with mode:
        OPS[op](**fakes)


def test_a_library_built_for_another_schema_is_not_loaded(native, monkeypatch, tmp_path):
    """Not even to be asked: its kernels would be registered."""
    older = tmp_path / "_C.so"
    older.write_bytes(b"no hash")
    for path in (_library.NATIVE_PATH, older):
        with monkeypatch.context() as patch:
            patch.setattr(_library, "NATIVE_PATH", path)
            if path != older:
                patch.setattr(_library, "_schema_hash", lambda: "0" * 64)
            patch.setattr(torch.ops, "load_library", pytest.fail)
            patch.setattr(_library.ctypes, "CDLL", pytest.fail)
            assert "built for another version" in _library._load_native()
            assert _library._isa_error() == ""


def test_the_cuda_library_needs_a_torch_with_cuda(monkeypatch, tmp_path):
    """Each obstacle is one line, and the library is not touched."""
    library = tmp_path / "_C_cuda.so"
    monkeypatch.setattr(_library, "CUDA_PATH", library)
    monkeypatch.setattr(_library, "_build_info", lambda: {"cuda": {"reason": "nvcc was not found"}})
    monkeypatch.setattr(torch.version, "cuda", None)
    assert _library._load_cuda() == "nvcc was not found"
    library.write_bytes(b"")
    assert _library._load_cuda() == "torch has no CUDA"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert _library._load_cuda() == "_C_cuda.so was built for another version: run `pip install .`"
    library.write_bytes(_library._schema_hash().encode())
    assert _library._load_cuda().startswith("_C_cuda.so did not load: ")


# ---- Triton where it cannot run ------------------------------------------------------------------

WITHOUT_INTERPRETER = """
import sys, torch, tapout_kernels as tk
try:
    tk.row_stats(torch.zeros(1, 3))
except tk.BackendUnavailable as error:
    print(error)
assert not [name for name in sys.modules if name.partition(".")[0] == "triton"], "triton imported"
print(tk.backend_report())
"""


def test_triton_is_refused_on_the_host_without_its_interpreter():
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TAPOUT_BACKEND"] = "triton"
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_INTERPRETER], env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    error, *report = run.stdout.splitlines()
    reason = "it runs on GPU tensors, these are on cpu (TRITON_INTERPRET=1 interprets it there)"
    assert error.startswith(f"row_stats: backend 'triton' is off: {reason}; available: reference")
    assert [line for line in report if line.split()[:2] == ["triton", "off:"]]
    assert "TAPOUT_BACKEND=triton is the default" in report[-1]


@pytest.mark.parametrize(
    ("installed", "reason"),
    [
        ({}, "triton is not installed (pip install triton)"),
        ({"triton": "3.5.1"}, "it needs triton >= 3.6, found 3.5.1"),
        ({"pytorch-triton-rocm": "3.4.0+git1"}, "it needs triton >= 3.6, found 3.4.0+git1"),
        ({"triton": "3.6.0"}, None),
        ({"triton": "3.10.0.dev1"}, None),
        ({"triton-rocm": "4.0"}, None),
    ],
)
def test_a_missing_or_old_triton_is_the_reason(monkeypatch, installed, reason):
    monkeypatch.setattr(_library, "_version_of", installed.get)
    assert _library._triton_unavailable() == reason
    monkeypatch.setattr(_library, "TRITON_UNAVAILABLE", reason)
    monkeypatch.setattr(_library, "TRITON_INTERPRETED", True)
    for device in ("cpu", "cuda"):
        assert unavailable_reason("triton", device) == reason
        assert ("triton" in tk.available_backends("verify", device)) == (reason is None)
    if reason is not None:
        assert f"off: {reason}" in tk.backend_report()
        with pytest.raises(tk.BackendUnavailable, match=re.escape(reason)):
            tk.row_stats(torch.zeros(1, 3), backend="triton")


def test_interpreted_triton_is_never_the_default():
    """It is there to be asked for: everything else is faster."""
    for op in SCHEMAS:
        assert default_backend(op, "cpu") != "triton"


# ---- torch.compile -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "op", [interpreted_if(op not in ("tree_expand", "tree_verify"), op) for op in SCHEMAS]
)
@pytest.mark.sliced(4)
def test_compiled_graph_equals_eager(backend, op):
    """fullgraph=True through the public function; state is mutated alike."""
    if is_refused(backend, Case(op)):
        return
    torch._dynamo.reset()
    case = Case(op, vocab=7, sampling="all")
    written = raw.written(op)

    eager, traced = case.inputs(), case.inputs()
    public.call(op, eager, backend)
    run = public.prepare(op, traced, backend)
    torch.compile(run, fullgraph=True, backend="aot_eager")()
    written = [name for name in written if eager[name] is not None]
    raw.same({n: traced[n] for n in written}, {n: eager[n] for n in written}, op)


def one_round(last, draft_table, target_table, bandit, rules, state, proposal, rng, sampling):
    select(bandit, out=state.arm)
    proposal.reset(rng, rules, state)
    token = last
    for _ in range(proposal.slots):
        token = tk.draft_step(draft_table[token], proposal, sampling, rng, rules=rules, state=state)
    verdict = tk.verify(target_table[proposal.input_ids(last)], proposal, sampling, rng)
    tk.bandit_update(bandit, state.arm, proposal, verdict, rules=rules, state=state)
    return verdict.last_token, verdict.tokens


def rounds(function, count: int) -> list:
    generator = torch.Generator().manual_seed(4)
    tables = torch.randn(2, 6, 6, generator=generator)
    rules = tk.StopRules(("fixed_length", {"n": 0}), "svip", "adaedl", ("fixed_length", {"n": 2}))
    bandit = tk.BanditState.create(len(rules), slots=2)
    rng, state = tk.RngState.of(range(5)), tk.StopState.of(5, rules)
    proposal = tk.Proposal.empty(5, 2, 6)
    sampling = tk.SamplingParams.of(5, temperature=0.8, top_k=4)
    last, found = torch.zeros(5, dtype=torch.int64), []
    for _ in range(count):
        last, tokens = function(last, *tables, bandit, rules, state, proposal, rng, sampling)
        found += [tokens, bandit.reward_sum.clone(), state.arm.clone(), rng.position.clone()]
    return found


def test_a_whole_round_compiles_with_inductor():
    torch._dynamo.reset()
    compiled = torch.compile(one_round, fullgraph=True, backend="inductor")
    for eager, traced in zip(rounds(one_round, 4), rounds(compiled, 4), strict=True):
        assert torch.equal(eager, traced)


def test_drafting_does_not_recompile_for_another_slot():
    """The slot lives on the device: step after step is one graph."""
    torch._dynamo.reset()
    frames = torch._dynamo.testing.CompileCounter()
    rng, proposal = tk.RngState.of([1, 2]), tk.Proposal.empty(2, 4, 9)
    step = torch.compile(
        lambda logits: tk.draft_step(logits, proposal, tk.SamplingParams(), rng), backend=frames
    )
    proposal.reset(rng)
    for _ in range(4):
        step(torch.zeros(2, 9))
    assert frames.frame_count == 1
    assert proposal.tokens.equal(drafted(torch.zeros(2, 9), 4, tk.RngState.of([1, 2])).tokens)


# ---- documentation -----------------------------------------------------------------------------

MODULES = sorted(
    name for _, name, _ in pkgutil.walk_packages(tk.__path__, "tapout_kernels.")
    if not name.rsplit(".", 1)[-1].startswith("_")
)  # fmt: skip


@pytest.mark.parametrize("module", ["tapout_kernels", *MODULES])
def test_docstring_examples(module):
    """Examples run with `torch` and the public names imported."""
    module = importlib.import_module(module)
    names = {"torch": torch, **{name: getattr(tk, name) for name in tk.__all__}}
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in doctest.DocTestFinder().find(module, extraglobs=names):
        runner.run(test)
    assert runner.failures == 0


def test_every_public_function_shows_an_example():
    for name in ops.__all__:
        assert ">>>" in getattr(tk, name).__doc__, name
    for name in tk.__all__:
        assert getattr(tk, name).__doc__, name


# ---- import ------------------------------------------------------------------------------------

CHECK = """
import sys, time, torch
begin = time.perf_counter()
import tapout_kernels
took = time.perf_counter() - begin
assert not [name for name in sys.modules if name.partition(".")[0] == "triton"], "triton imported"
assert not torch.cuda.is_initialized(), "CUDA initialised"
assert not [name for name in sys.modules if name.startswith("tapout_engine")], "upward import"
print(took)
"""


def test_import_is_light():
    """No triton, no CUDA, and under 0.3 s on top of torch (median of three)."""
    seconds = []
    for _ in range(3):
        run = subprocess.run(
            [sys.executable, "-c", CHECK], capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stderr
        seconds.append(float(run.stdout))
    assert statistics.median(seconds) < 0.3, seconds
