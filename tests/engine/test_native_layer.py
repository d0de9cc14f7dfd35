"""A whole layer in one operator: what PyTorch computes of the same weights, token by token."""

from __future__ import annotations

import copy
from dataclasses import replace
from unittest import mock

import pytest
import torch
from helpers import raw
from helpers.decoder_inputs import DTYPES, LayerCase, call

from tapout_engine.models import decoder as decoder_module
from tapout_engine.models import native
from tapout_engine.models.linear import Linear

from .test_native import threads

CASES = {
    "plain": LayerCase(),
    "norms": LayerCase(qk_norm=True, head_dim=80, heads=2, kv_heads=1),
    "biases": LayerCase(qkv_bias=True, head_dim=64, heads=2, kv_heads=2, hidden=48, feed=40),
    "groups": LayerCase(heads=6, qk_norm=True, qkv_bias=True, counts=(1, 9), past=(0, 54)),
    "long": LayerCase(counts=(2, 20), past=(120, 100), slots=192),
    "trees": LayerCase(counts=(6, 0, 4), among=6),
    "padded trees": LayerCase(counts=(2, 0, 3), among=9, padding=3),
    "eight bits": LayerCase(rounded=True, qk_norm=True, qkv_bias=True, hidden=48),
    "levels": LayerCase(counts=(3, 2, 1), among=37, past=(5, 0, 20), heads=3, kv_heads=3),
}  # fmt: skip


def plain(case: LayerCase, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """PyTorch's operators one after the other: hidden states, keys and values."""
    # More tokens than are few: attention is PyTorch's, and so are the norms without the library.
    with (
        mock.patch.object(decoder_module, "WIDE", 0),
        mock.patch.object(decoder_module, "FUSED", ()),
        mock.patch.object(native, "HERE", False),
        torch.no_grad(),
    ):
        cache = case.cache()
        cache._over(cache.entries.to(dtype))
        layer = copy.deepcopy(case.layer())
        if case.rounded:
            _round(layer)
        layer = layer.to(dtype)
        before = cache.entries.clone()
        x = layer(case.x().to(dtype), 0, case.step(cache), cache)
        return x, _computed(case, before, cache.entries)


def _round(layer: torch.nn.Module) -> None:
    """Weights as products with eight bits have them."""
    for module in layer.modules():
        if isinstance(module, Linear):
            rounded, scale = native.in_bytes(module.weight)
            weight = rounded.double() * scale[:, None].double()
            module.weight = torch.nn.Parameter(weight, requires_grad=False)


def _computed(case: LayerCase, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Padding is stored where nothing was computed; that of the operator is not."""
    kept = before.clone()
    first = [past + max(case.among, n) - n for past in case.past for n in [case.width]]
    for row, (begin, count) in enumerate(zip(first, case.counts, strict=True)):
        kept[:, :, row, :, begin : begin + count] = after[:, :, row, :, begin : begin + count]
    return kept


def fused(case: LayerCase) -> tuple[torch.Tensor, torch.Tensor]:
    layer, cache, x = case.layer(), case.cache(), case.x()
    layer.pack(8, case.rounded)
    assert layer.native is not None
    assert (layer.native.scale is not None) == case.rounded
    found = layer(x, 0, case.step(cache), cache)
    assert found is x
    return x, cache.entries


def farthest(found: torch.Tensor, exact: torch.Tensor) -> float:
    assert found.isfinite().all()
    return float((found.double() - exact).abs().max())


def check_layer(case: LayerCase, dtype: torch.dtype) -> None:
    """Of what PyTorch is away from float64 in this dtype, a few times at most."""
    case = replace(case, dtype=dtype)
    for name, found, theirs, exact in zip(
        ("x", "kept"), fused(case), plain(case, dtype), plain(case, torch.float64), strict=True
    ):
        assert farthest(found, exact) <= 4 * farthest(theirs, exact), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_a_layer_is_what_pytorch_computes(name, dtype):
    check_layer(CASES[name], dtype)


@pytest.mark.parametrize("name", CASES)
def test_a_layer_writes_its_tokens_slots_alone(name):
    case = CASES[name]
    before = case.cache().entries
    after = fused(case)[1]
    assert torch.equal(_computed(case, before, after), after)
    changed = (before != after).flatten(4).any(-1).any(1)  # [layers, B, kv_heads, ..]
    assert changed.any() == (sum(case.counts) > 0)


def one_token(args: dict[str, object], b: int, i: int) -> dict[str, object]:
    """The arguments for token i of request b alone, those before it being in the cache."""
    at = int(args["start"][b]) + i
    own = dict(args)
    for name in ("x", "cos", "sin", "slot"):
        own[name] = args[name][at : at + 1].clone()
    own["start"] = torch.tensor([0, 1], dtype=torch.int32)
    own["keys"], own["values"] = args["keys"][b : b + 1], args["values"][b : b + 1]
    if args["tree_mask"] is None:
        own["past"] = args["past"][b : b + 1] + i
    else:
        own["past"] = args["past"][b : b + 1]
        own["tree_mask"] = args["tree_mask"][b : b + 1, i : i + 1].contiguous()
    return own


def check_alone(case: LayerCase) -> None:
    """Tokens of a batch, and each by itself after those before it."""
    together, apart = case.arguments(), case.arguments()
    call("decoder_layer", **together)
    for b, count in enumerate(case.counts):
        for i in range(count):
            own = one_token(apart, b, i)
            call("decoder_layer", **own)
            at = int(together["start"][b]) + i
            assert raw.equal_bits(own["x"][0], together["x"][at]), (b, i)
    assert raw.equal_bits(apart["keys"], together["keys"])
    assert raw.equal_bits(apart["values"], together["values"])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_a_token_has_its_bits_alone(name, dtype):
    check_alone(replace(CASES[name], dtype=dtype))


def test_a_request_has_its_bits_in_any_row():
    case = LayerCase(counts=(4, 1, 7, 0, 2), past=(3, 30, 20, 9, 0), dtype=torch.bfloat16)
    together = case.arguments()
    args = case.arguments()
    call("decoder_layer", **together)
    order = [2, 4, 0, 3, 1]
    begin = args["start"].tolist()
    tokens = [t for b in order for t in range(begin[b], begin[b + 1])]
    for name in ("x", "cos", "sin", "slot"):
        args[name] = args[name][tokens].contiguous()
    for name in ("past", "keys", "values"):
        args[name] = args[name][order].contiguous()
    counts = torch.tensor([0, *(case.counts[b] for b in order)])
    args["start"] = counts.cumsum(0).int()
    call("decoder_layer", **args)
    assert raw.equal_bits(args["x"], together["x"][tokens])
    assert raw.equal_bits(args["keys"], together["keys"][order])
    assert raw.equal_bits(args["values"], together["values"][order])


@pytest.mark.parametrize("kv_heads", [2, 3])
@pytest.mark.parametrize("batch", [1, 6])
def test_threads_change_no_bits(batch, kv_heads):
    """Few requests share all threads, many have one each; three heads are shared unevenly."""
    case = LayerCase(
        hidden=130, heads=6, kv_heads=kv_heads, feed=300, head_dim=64, dtype=torch.bfloat16,
        counts=(40, 3, 20, 0, 9, 12)[:batch], past=(60,) * batch, slots=128,
    )  # fmt: skip
    found = []
    for count in (1, 2, 5):
        with threads(count):
            found.append(raw.run(call, "decoder_layer", case.arguments()))
    raw.same(*found)


def check_no_slots() -> None:
    """Tokens that the cache has no room for see what it holds, and are not stored."""
    case = LayerCase(counts=(4,), past=(62,), slots=64)
    x, kept = fused(case)
    # In a longer cache, as a tree in which the last two see the first two but not themselves.
    wide = replace(case, slots=128)
    args = wide.arguments()
    args["keys"][:, :, :64] = case.cache().kinds[0][0]
    args["values"][:, :, :64] = case.cache().kinds[0][1]
    args["tree_mask"] = torch.tensor([[[0b01], [0b11], [0b11], [0b11]]], dtype=torch.int32)
    args["among"] = 4
    call("decoder_layer", **args)
    assert raw.equal_bits(x, args["x"])
    assert raw.equal_bits(kept[0, 0], args["keys"][:, :, :64].contiguous())
    assert raw.equal_bits(kept[0, 1], args["values"][:, :, :64].contiguous())


def test_a_token_that_has_no_slot_is_not_stored():
    check_no_slots()


@pytest.mark.parametrize("slot", [-1, 64, 2**62, -(2**62)])
def test_slots_outside_the_cache_are_left_out(slot):
    args = LayerCase(counts=(1,), past=(3,)).arguments()
    kept = args["keys"].clone(), args["values"].clone()
    args["slot"][0] = slot
    call("decoder_layer", **args)
    assert torch.equal(args["keys"], kept[0])
    assert torch.equal(args["values"], kept[1])


@pytest.mark.parametrize("past", [-(2**31), -1, 63, 64, 2**31 - 1])
def test_a_past_outside_the_cache_is_as_much_as_there_is(past):
    args, kept = LayerCase(counts=(2,), past=(3,)).arguments(), LayerCase(counts=(2,), past=(3,))
    args["past"][0] = past
    call("decoder_layer", **args)
    expected = kept.arguments()
    expected["past"][0] = min(max(past, 0), 64)
    call("decoder_layer", **expected)
    assert raw.equal_bits(args["x"], expected["x"])
    assert args["x"].isfinite().all()


def test_nothing_to_compute_changes_nothing():
    for counts, past in (((0, 0), (3, 4)), ((), ())):
        args = LayerCase(counts=(1,), past=(3,)).arguments()
        batch = len(counts)
        args |= {name: args[name][:0].clone() for name in ("x", "cos", "sin", "slot")}
        args["start"] = torch.zeros(batch + 1, dtype=torch.int32)
        args["past"] = torch.tensor(past, dtype=torch.int32)
        for name in ("keys", "values"):
            args[name] = torch.full((batch, *args[name].shape[1:]), 5.0)
        call("decoder_layer", **args)
        assert args["keys"].eq(5).all()
        assert args["values"].eq(5).all()


def test_a_layer_of_no_sizes_does_not_crash():
    call("decoder_layer", **LayerCase(feed=0, counts=(2,), past=(3,)).arguments())
    args = LayerCase(counts=(2,), past=(3,)).arguments()
    empty = {"x": (2, 0), "before": (0,), "between": (0,), "out": (0, 64, 16), "down": (0, 21, 16)}
    args |= {name: torch.zeros(shape) for name, shape in empty.items()}
    args |= {name: args[name][:, :0].contiguous() for name in ("qkv", "gate_up")}
    call("decoder_layer", **args)
    assert args["x"].shape == (2, 0)


@pytest.mark.parametrize("feed", [21, 22])
def test_a_layer_whose_pairs_of_inputs_do_not_come_out_even_is_computed_in_parts(feed):
    layer = LayerCase(feed=feed, dtype=torch.bfloat16).layer()
    layer.pack(rows=1)
    assert (layer.native is None) == (feed % 2 == 1)


def check_silu() -> None:
    """Gates of any size: 0 far below, themselves far above."""
    case = LayerCase(counts=(1,), past=(3,), hidden=16, feed=48)
    args = case.arguments()
    args["out"].zero_()
    args["down"].zero_()
    values = torch.tensor([-3e38, -1e30, -200.0, -88.0, -87.0, -50.0, -1.0, 0.0, 1.0, 88.0, 1e30])
    args["x"] = torch.eye(1, 16)  # all of it in the first number, of norm 4
    args["before"].fill_(1)
    args["between"].fill_(1)
    args["eps"] = 0.0
    args["gate_up"].zero_()
    gate = args["gate_up"].transpose(1, 2).reshape(-1, 16).clone()  # a copy: [96, hidden]
    gate[: len(values), 0] = values / 4
    gate[48 : 48 + len(values), 0] = 0.25  # `up` is 1
    args["gate_up"] = native.panels_of(gate)
    down = torch.zeros(16, 48)
    down[1 : 1 + len(values), : len(values)] = torch.eye(len(values))
    args["down"] = native.panels_of(down)
    call("decoder_layer", **args)
    found = args["x"][0, 1 : 1 + len(values)].double()
    exact = values.double() * torch.sigmoid(values.double())
    torch.testing.assert_close(found, exact, rtol=2e-6, atol=1e-30)


def test_gates_of_any_size_are_bounded():
    check_silu()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(
    "name", ["x", "cos", "keys", "values", "before", "qkv", "q_norm", "out", "gate_up", "down"]
)
def test_what_is_not_finite_does_not_crash_and_stays_in_its_request(name, value):
    case = LayerCase(qk_norm=True, counts=(2, 3), past=(7, 20))
    args = case.arguments()
    expected = raw.run(call, "decoder_layer", args)
    args[name].flatten()[0] = value  # of the first request, where it is of one
    found = raw.run(call, "decoder_layer", args)
    if name in ("x", "cos", "keys", "values"):
        assert raw.equal_bits(found["x"][2:], expected["x"][2:])
        assert raw.equal_bits(found["keys"][1], expected["keys"][1])
    else:
        assert not torch.equal(found["x"], expected["x"])


@pytest.mark.parametrize("name", ["groups", "trees"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_beside_the_tensors_is_read_or_written(name, dtype):
    case = replace(CASES[name], dtype=dtype)
    raw.check_nothing_beside(call, "decoder_layer", case.arguments())
