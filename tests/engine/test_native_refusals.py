"""Wrong arguments of the decoder's operators: one clear error, and nothing written."""

from __future__ import annotations

import pytest
import torch
from helpers import decoder_inputs as inputs
from helpers import raw
from helpers.decoder_inputs import LayerCase, call


def refused(op: str, args: dict[str, object], name: str, message: str) -> None:
    before = raw.clone(args)
    with pytest.raises(RuntimeError, match=rf"{op}: {name} must .*{message}"):
        call(op, **args)
    for key, value in before.items():
        if isinstance(value, torch.Tensor) and args[key].is_contiguous():
            assert raw.equal_bits(args[key], value), f"{key} was written"


WRONG = {
    "float64": (lambda x: x.double(), "got float64"),
    "another dtype": (lambda x: x.half(), "float16"),
    "a longer dimension": (lambda x: torch.cat([x, x[:1]]), r", got \["),
    "a dimension more": (lambda x: x[None], r"got \["),
    "strides": (lambda x: torch.stack([x, x], -1).flatten(-2)[..., ::2], "contiguous"),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize(
    ("op", "name"),
    [("linear", name) for name in ("x", "panels", "scale", "bias", "y")]
    + [("rms_norm", name) for name in ("x", "delta", "weight", "normed")]
    + [("copy_rows", name) for name in ("take", "place")]
    + [("head_inputs", name) for name in ("ids", "states", "token_norm", "state_norm", "normed")],
)
def test_wrong_rows_are_refused_and_nothing_is_written(op, name, wrong):
    args = {
        "linear": inputs.linear(3, 9, 20, torch.float32, biased=True, rounded=name == "scale"),
        "rms_norm": inputs.rms_norm(3, 9, torch.float32, more=True),
        "copy_rows": inputs.copy_rows(6, torch.float32),
        "head_inputs": inputs.head_inputs(3, 9, torch.float32),
    }[op]
    spoil, message = WRONG[wrong]
    args[name] = spoil(args[name])
    # What says how many there are of each.
    first = {
        "linear": ("x", "y"), "rms_norm": ("x",), "head_inputs": ("states",),
        "copy_rows": ("take",),
    }[op]  # fmt: skip
    blamed = r"\w+" if name in first else name
    refused(op, args, blamed, "" if blamed != name else message)


@pytest.mark.parametrize("wrong", [name for name in WRONG if name != "a longer dimension"])
@pytest.mark.parametrize(
    ("op", "name"), [("head_inputs", "embedding"), ("copy_rows", "source"), ("copy_rows", "out")]
)
def test_wrong_tables_are_refused_and_nothing_is_written(op, name, wrong):
    args = {
        "head_inputs": inputs.head_inputs(3, 9, torch.float32),
        "copy_rows": inputs.copy_rows(11, torch.float32, size=9),
    }[op]
    spoil, message = WRONG[wrong]
    blamed = name if name != "source" else r"\w+"
    refused(op, {**args, name: spoil(args[name])}, blamed, message if blamed == name else "")
    narrow = args[name][:, 1:].contiguous()
    blamed, rows = ("out", 15) if op == "copy_rows" else (name, 11)
    wide, slim = (8, 9) if name == "source" else (9, 8)
    expected = rf"\[{rows}, {wide}\], got \[{rows}, {slim}\]"
    refused(op, {**args, name: narrow}, blamed, expected)


@pytest.mark.parametrize("token", [-1, 11, 2**40])
def test_tokens_outside_the_embedding_are_refused(token):
    args = inputs.head_inputs(3, 9, torch.float32)
    args["ids"][2] = token
    refused("head_inputs", args, "ids", rf"in \[0, 11\), got {token}")


def test_weights_of_eight_bits_and_scales_come_together():
    args = inputs.linear(3, 9, 20, torch.float32, rounded=True)
    refused("linear", {**args, "scale": None}, "panels", "int8")
    floats = inputs.linear(3, 9, 20, torch.float32)
    refused("linear", {**floats, "scale": args["scale"]}, "panels", "float32")


def test_tensors_of_a_device_without_memory_are_not_read():
    args = inputs.linear(3, 9, 20, torch.float32)
    call("linear", **{**args, "x": args["x"].to("meta")})  # asks for shapes: the fake kernel
    assert args["y"].eq(-7).all()


FLOATS = (
    "x",
    "cos",
    "sin",
    "before",
    "qkv",
    "q_norm",
    "k_norm",
    "out",
    "between",
    "gate_up",
    "down",
)
OTHERS = ("slot", "start", "past", "tree_mask", "keys", "values", "qkv_bias", "scale")


@pytest.mark.parametrize("name", [*FLOATS, *OTHERS])
def test_wrong_parts_of_a_layer_are_refused_and_nothing_is_written(name):
    def args() -> dict[str, object]:
        rounded = name == "scale"
        case = LayerCase(qk_norm=True, qkv_bias=True, among=6, counts=(3, 0, 5), rounded=rounded)
        return case.arguments()

    value = args()[name]
    strided = torch.stack([value, value], -1).flatten(-2)[..., ::2]
    other = value.double() if value.is_floating_point() else value.bool()
    wrong = [other, value[None], torch.cat([value, value[:1]]), value[:-1].clone(), strided]
    if name in FLOATS[1:]:
        wrong.append(value.half())
    for bad in wrong:
        refused("decoder_layer", {**args(), name: bad}, r"\w+", "got ")


@pytest.mark.parametrize(
    ("changes", "name", "message"),
    [
        ({"start": [0, 3, 2, 8]}, "start", "rising from 0 to 8, got 2"),
        ({"start": [1, 3, 3, 8]}, "start", "rising from 0 to 8, got 1"),
        ({"start": [0, 3, 3, 9]}, "start", "rising from 0 to 8, got 9"),
        ({"start": [0, 3, 3, 7]}, "start", "rising from 0 to 8, got 7"),
        ({"start": [0, 3, 100, 8]}, "start", "rising from 0 to 8, got 8"),
        ({"start": [0, -3, 3, 8]}, "start", "rising from 0 to 8, got -3"),
        ({"heads": 3}, "heads", "a multiple of kv_heads"),
        ({"heads": 0}, "heads", "a multiple of kv_heads"),
        ({"heads": -4}, "heads", "a multiple of kv_heads"),
        ({"among": 0}, "among", "at least 1, got 0"),
        ({"among": -1}, "among", "at least 1, got -1"),
        ({"among": 33}, "tree_mask", r"must be \[3, 5, 2\]"),
    ],
    ids=str,
)
def test_wrong_values_are_refused_and_nothing_is_written(changes, name, message):
    args = LayerCase(among=6).arguments()
    for key, value in changes.items():
        args[key] = torch.tensor(value, dtype=torch.int32) if key == "start" else value
    refused("decoder_layer", args, name, message.removeprefix("must "))


@pytest.mark.parametrize("name", ["qkv", "out", "gate_up", "down"])
def test_panels_of_eight_bits_come_with_a_scale_and_others_without(name):
    rounded, plain = (LayerCase(rounded=some).arguments() for some in (True, False))
    refused("decoder_layer", {**plain, name: rounded[name]}, name, "float32 .*got int8")
    refused("decoder_layer", {**rounded, name: plain[name]}, name, "int8, got float32")
    refused("decoder_layer", {**rounded, "scale": None}, "qkv", "float32 .*got int8")


def test_heads_of_an_odd_size_are_refused():
    args = LayerCase(counts=(1,), past=(3,)).arguments()
    args["keys"], args["values"] = (args[name][..., :15].clone() for name in ("keys", "values"))
    refused("decoder_layer", args, "heads", "with an even head_dim")
