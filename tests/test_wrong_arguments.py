"""Every tensor of every operator, wrong in every way: one clear error, and nothing written."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import pytest
import torch
from helpers import public, raw
from helpers.device import is_refused
from torch import Tensor

import tapout_kernels as tk
from tapout_kernels import _check, _library, _specs
from tapout_kernels.testing import Case

OTHER_DTYPE = {
    torch.float64: torch.float32, torch.float32: torch.float64, torch.int64: torch.int32,
    torch.int32: torch.int64, torch.bool: torch.uint8,
}  # fmt: skip
# Bools may be bytes of eight; a mask may have many dtypes.
NO_MASK = {("tree_mask_flat", "mask"): torch.int32, ("tree_mask", "mask"): torch.uint8}
# from_tokens begins a round first, and hands its tokens and limit to operators by other names.
SPEAKS_AS = {"proposal_load": ("proposal_load", "proposal_reset", "from_tokens"),
             "tree_mask_flat": ("tree_mask_flat", "tree_mask")}  # fmt: skip
PUBLIC_NAME = {
    ("proposal_load", "max_length"): "out_max_length", ("proposal_load", "source"): "tokens",
    ("bandit_select", "arm"): "out",
}  # fmt: skip


ANY_MASK = ("draft_step", "proposal_load", "tree_expand")  # V is known to none of them
OPTIONS = ("masked", "draft_vocab", "ragged", "rows", "extras")
EVERY = {**dict.fromkeys(OPTIONS, True), "bandit": "exp3_rows"}


def rule_with(name: str) -> str:
    """The rule of verify that has an argument."""
    return "lossy_adasd" if name == "lossy_memory" else "token"


def fresh(op: str, name: str = "") -> dict[str, object]:
    """Every optional tensor given, of those that only some rules have ``name``."""
    rule = rule_with(name)
    args = Case(op, batch=4, slots=3, vocab=70, sampling="all", rule=rule, **EVERY).inputs()
    for name, value in {"live": torch.ones(4).bool(), "position": torch.arange(4)}.items():
        if args.get(name, 0) is None:
            args[name] = value
    return args


def dims(op: str, name: str) -> tuple[_specs.Dimension, ...]:
    """Of the ragged layout, at sequence level."""
    spec = _specs.TENSORS[op][name]
    return spec.ragged or spec.dims[0]


def binds(op: str, name: str, symbol: str, args: dict) -> tuple[bool, bool]:
    """Whether the argument is the first to use a dimension, and whether another one uses it."""
    users = [n for n in _specs.TENSORS[op] if symbol in (dim.symbol for dim in dims(op, n))]
    users = [n for n in users if isinstance(args[n], Tensor)]
    return users[0] == name, len(users) > 1


def wrong_shapes(op: str, name: str, args: dict) -> Iterator[tuple[str, Tensor]]:
    value = args[name]
    level = "another: it may say that the level is another" if op.startswith("bandit") else name
    yield f"one more dimension ({level})", value[None]
    yield "one dimension less", value[0].clone()
    for d, dim in enumerate(dims(op, name)):
        shape = list(value.shape)
        shape[d] += 40 if dim.symbol == "V" and not dim.words else 1  # more words of a mask too
        first, shared = (False, True) if dim.symbol == "" else binds(op, name, dim.symbol, args)
        same = [s for s in dims(op, name) if s.symbol == dim.symbol]
        repeated = len([s for s in same if dim.words or not s.words]) > 1
        blames_of_zero = "another" if first else name
        free_mask = dim.words and op in ANY_MASK
        if (shared or repeated) and not free_mask:
            blames = "another" if first else name
            yield f"dimension {d} + 1 ({blames})", torch.zeros(shape, dtype=value.dtype)
        if dim.symbol != "C":
            shape[d] = 0
            # K is never free: a bandit's rewards are divided by it.
            free = free_mask or not (shared or repeated or dim.symbol == "K")
            blames = "free" if free else blames_of_zero
            yield f"dimension {d} = 0 ({blames})", value.new_zeros(shape)


def strided(value: Tensor) -> Tensor:
    """The same numbers with a stride of 2 in the last dimension."""
    wide = torch.stack([value, value], -1).flatten(-2)
    return wide[..., ::2]


def spoiled(op: str, name: str) -> Iterator[tuple[str, dict, object]]:
    args = fresh(op, name)
    value = args[name]
    wrong: list[tuple[str, object]] = [
        ("dtype", value.to(NO_MASK.get((op, name), OTHER_DTYPE[value.dtype]))),
        ("device", value.to("meta")),
        ("a list", value.tolist()),
        ("a number", 3),
        ("sparse", value.to_sparse()),
        *wrong_shapes(op, name, args),
    ]
    if value.numel() > 1:
        wrong.append(("layout", strided(value)))
    if name not in OPTIONAL[op] | ALLOCATED.get(op, set()):
        wrong.append(("None", None))
    for what, bad in wrong:
        yield what, fresh(op, name), bad


def optional(op: str) -> set[str]:
    schema = getattr(torch.ops.tapout_kernels, op).default._schema
    return {a.name for a in schema.arguments if a.type.kind() == "OptionalType"}


# The public function makes these itself where its `out` is None.
ALLOCATED = {
    "row_stats": {"stats"}, "sample": {"tokens"}, "draft_step": {"next_token"},
    "bandit_select": {"arm"}, "bandit_step": {"next_arm"}, "tree_attention": {"mixed"},
}  # fmt: skip
OPTIONAL = {op: optional(op) for op in raw.ALL_OPS}
ARGUMENTS = [(op, name) for op in raw.ALL_OPS for name in _specs.TENSORS[op]]


def unchanged(args: dict, before: dict, context: str) -> None:
    for name, value in before.items():
        if isinstance(value, Tensor) and value.device.type == "cpu" and not value.is_sparse:
            assert raw.equal_bits(args[name], value), f"{context}: {name} was written"


def snapshot(args: dict) -> dict:
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in args.items()}


def test_every_tensor_of_every_schema_is_checked():
    for op in raw.ALL_OPS:
        schema = getattr(torch.ops.tapout_kernels, op).default._schema
        tensors = {a.name for a in schema.arguments if "Tensor" in str(a.type)}
        assert tensors == set(_specs.TENSORS[op])


@pytest.mark.parametrize(("op", "name"), ARGUMENTS)
@pytest.mark.sliced(3)
def test_right_arguments_pass_the_public_function(op, name):
    """What the next test spoils is sound before it is spoiled."""
    public.call(op, fresh(op, name), "reference")


@pytest.mark.parametrize(("op", "name"), ARGUMENTS)
@pytest.mark.sliced(5)
def test_public_functions_name_op_argument_expected_and_got(backend, op, name):
    if rule_with(name) != "token" and is_refused(backend, Case(op, rule=rule_with(name))):
        return
    for what, args, bad in spoiled(op, name):
        args[name] = bad
        before, rng = snapshot(args), tk.RngState.of(range(64))
        context = f"{op} with {name}: {what}"
        with pytest.raises((TypeError, ValueError)) as error:
            public.call(op, args, backend, rng)
        message = str(error.value)
        blamed_op, _, rest = message.partition(": ")
        assert blamed_op in SPEAKS_AS.get(op, (op,)), f"{context}: {message}"
        assert " must " in message, f"{context}: {message}"
        assert ", got " in message, f"{context}: {message}"
        blamed = rest.split()[0]
        allowed = {name, PUBLIC_NAME.get((op, name), name)}
        if "another" in what or what == "device":
            allowed |= set(_specs.TENSORS[op])
        assert blamed in allowed, f"{context}: {message}"
        unchanged(args, before, context)
        assert not rng.round.any(), f"{context}: a round was taken"


@pytest.mark.parametrize(("op", "name"), ARGUMENTS)
@pytest.mark.sliced(3)
def test_raw_operators_refuse_and_write_nothing(library, op, name):
    """Whoever calls torch.ops meets the library's own checks."""
    if is_refused(library, Case(op, rule=rule_with(name))):
        return
    for what, args, bad in spoiled(op, name):
        args[name] = bad
        before, context = snapshot(args), f"{op} with {name}: {what}"
        if "free" in what:  # a size that nothing else shares: 0 is refused, or nothing of it read
            with contextlib.suppress(RuntimeError):
                raw.caller(library)(op, **args)
            continue
        if what == "device":  # alone it asks for shapes: the fake kernel may take the call
            with contextlib.suppress(RuntimeError):
                raw.caller(library)(op, **args)
        else:
            with pytest.raises((RuntimeError, TypeError, ValueError)) as error:
                raw.caller(library)(op, **args)
            if what in ("dtype", "layout") or "dimension" in what:
                message = str(error.value)
                named = any(f"{op}: {n} must " in message for n in _specs.TENSORS[op])
                assert named, f"{context}: {message}"
        unchanged(args, before, context)


def test_what_a_library_takes_is_not_checked_twice(library, monkeypatch):
    """The check in Python costs more than many an operator: it is for what is refused."""
    monkeypatch.setattr(_library, "checks", lambda op, backend, device: True)  # emulated or not
    asked = []
    monkeypatch.setattr(_check, "check", lambda op, arguments: asked.append(op))
    args = fresh("row_stats")
    public.call("row_stats", args, library)
    assert not asked
    args["stats"] = args["stats"][:, :7]
    with pytest.raises(RuntimeError, match="row_stats: stats must be"):
        public.call("row_stats", args, library)
    assert asked == ["row_stats"]


@pytest.mark.parametrize("rule", [9, -1, 1 << 40])
@pytest.mark.parametrize("op", ["sample", "draft_step", "verify", "tree_verify"])
def test_raw_operators_refuse_unknown_rules(library, op, rule):
    if is_refused(library, Case(op)):
        return
    args = {**fresh(op), "rule": rule}
    before = snapshot(args)
    with pytest.raises(RuntimeError, match=f"{op}: rule must be"):
        raw.caller(library)(op, **args)
    unchanged(args, before, op)


@pytest.mark.parametrize(
    ("op", "name"),
    [
        ("bandit_select", "policy"),
        ("bandit_update", "policy"),
        ("bandit_update", "reward"),
        ("bandit_step", "policy"),
        ("bandit_step", "reward"),
    ],
)
@pytest.mark.parametrize("value", [-1, 10, 1 << 40])
def test_raw_operators_refuse_unknown_policies_and_rewards(library, op, name, value):
    args = {**fresh(op), name: value}
    before = snapshot(args)
    with pytest.raises(RuntimeError, match=f"{op}: {name} must be"):
        raw.caller(library)(op, **args)
    unchanged(args, before, op)


def test_a_backend_that_cannot_run_says_why(monkeypatch):
    logits = torch.zeros(1, 3)
    monkeypatch.setattr(_library, "CUDA_UNAVAILABLE", "nvcc was not found")
    monkeypatch.setattr(_library, "CUDA_DEVICES", {"cuda"})
    for backend, reason in (("cuda", "nvcc was not found"), ("gpu", "no such backend")):
        with pytest.raises(tk.BackendUnavailable, match=f"(?s){reason}.*reference"):
            tk.row_stats(logits, backend=backend)
    with pytest.raises(ValueError, match="op must be one of"):
        tk.available_backends("softmax")


def later_features() -> dict[str, tuple]:
    """What is not here yet: (function, keyword arguments)."""
    return {
        "StopRules depth_logsumexp": (tk.StopRules, "depth_logsumexp", {}),
    }


@pytest.mark.parametrize("feature", later_features())
def test_later_features_say_so(feature):
    op, argument = feature.split()
    function, *positional, keywords = later_features()[feature]
    with pytest.raises(tk.NotYetSupported, match=rf"{op}: {argument} .*0\.1"):
        function(*positional, **keywords)


@pytest.mark.parametrize("rule", ["typical", "", None])
def test_unknown_rules_are_refused_by_name(rule):
    with pytest.raises(ValueError, match="sample: rule must be one of token, block, gumbel"):
        tk.sample(torch.zeros(1, 3), tk.SamplingParams(), tk.RngState.of(0), rule=rule)


def test_drafts_with_logits_need_the_sampling_they_were_drawn_with_and_every_slot():
    rng = tk.RngState.of(0)
    tokens, logits = torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 2, 5)
    with pytest.raises(ValueError, match="from_tokens: sampling must be given with logits"):
        tk.Proposal.from_tokens(tokens, rng, logits=logits)
    wider = tk.Proposal.empty(1, 3)
    with pytest.raises(ValueError, match=r"tokens must have .* exactly 3 columns"):
        tk.Proposal.from_tokens(tokens, rng, logits=logits, sampling=tk.SamplingParams(), out=wider)
    assert rng.round.tolist() == [0]
    assert not wider.live.any()


VALUES = {
    "SamplingParams.of: top_k must hold whole numbers": lambda: tk.SamplingParams.of(2, top_k=5.7),
    "SamplingParams.of: top_k must be [2], got [1]": lambda: tk.SamplingParams.of(2, top_k=[1]),
    "RngState.of: seeds must hold whole numbers": lambda: tk.RngState.of([1.7]),
    "BanditState: arm must be in [0, 2), got 7": lambda: tk.BanditState.create(
        2, policy="fixed", arm=7
    ),
    "BanditState: arm must be in [0, 2), got -0.5": lambda: tk.BanditState.create(
        2, policy="fixed", arm=-0.5
    ),
    "StopRules: parameters of svip must be numbers": lambda: tk.StopRules(
        ("svip", {"threshold": float("nan")})
    ),
    "row_stats: logits must be [B > 0, V > 0], got []": lambda: tk.row_stats(torch.tensor(1.0)),
    "bandit_select: group must be a Tensor, got list": lambda: tk.bandit_select(
        tk.BanditState.create(2), group=[0, 1]
    ),
}


@pytest.mark.parametrize("message", VALUES)
def test_values_that_make_no_sense_are_refused(message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        VALUES[message]()


def test_drafts_without_logits_do_not_take_the_buffer_of_drafts_with():
    out = tk.Proposal.empty(1, 2, vocab=5)
    with pytest.raises(ValueError, match="from_tokens: out must keep no logits"):
        tk.Proposal.from_tokens(torch.zeros(1, 2, dtype=torch.int64), tk.RngState.of(0), out=out)
    assert out.logits is not None
