"""Products and norms of the native library: float64's, and a row's bits for any neighbours."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from helpers import decoder_inputs as inputs
from helpers import raw
from helpers.decoder_inputs import DTYPES, call

from tapout_engine.models import native
from tapout_engine.models.linear import Linear
from tapout_kernels.backends import cpu_isa
from tapout_kernels.recording import Recording

# (inputs, outputs): odd ones, panels that end in the middle, one task and many
FLOAT32_TINY = torch.finfo(torch.float32).tiny
SIZES = [(1, 1), (33, 15), (40, 16), (7, 17), (65, 100)]
F32 = torch.finfo(torch.float32).eps / 2


@contextmanager
def threads(count: int):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def within(found: torch.Tensor, exact: torch.Tensor, bound: torch.Tensor) -> None:
    """``bound``, and half an ulp of the result, or half of the least number there is."""
    info = torch.finfo(found.dtype)
    bound = bound + (exact.abs() + bound) * info.eps / 2 + info.tiny * info.eps
    assert ((found.double() - exact).abs() <= bound).all()


def check_product(
    rows: int, size: tuple[int, int], dtype: torch.dtype, biased: bool, rounded: bool = False
) -> None:
    args = inputs.linear(rows, *size, dtype, biased, rounded=rounded)
    call("linear", **args)
    x = args["x"].double()
    weight = inputs.dense(args["panels"], args["scale"], size[1], size[0])
    bias = args["bias"].double() if biased else torch.zeros(size[1], dtype=torch.float64)
    # A chain of n fma, the scale and the bias: (n + 2) roundings of at most the sum of magnitudes.
    most = x.abs() @ weight.abs().T + bias.abs()
    roundings = size[0] + 1 + rounded
    within(args["y"], x @ weight.T + bias, 1.01 * roundings * F32 * most)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_products_are_exact_ones_rounded(size, dtype, biased):
    for rows in (1, 3, 6, 13, 30):  # parts of a block of rows, blocks, both
        check_product(rows, size, dtype, biased)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_products_of_rounded_weights_are_exact_ones_rounded(size, dtype):
    for rows in (1, 3, 6, 13, 30):
        check_product(rows, size, dtype, biased=rows == 6, rounded=True)


def test_weights_are_rounded_to_half_a_step_of_their_output():
    weight = (
        inputs.randn(40, 33, seed=1, dtype=torch.float32) * torch.logspace(-30, 30, 40)[:, None]
    )
    weight[7] = 0
    rounded, scale = native.in_bytes(weight)
    assert rounded.dtype == torch.int8
    assert rounded.abs().amax(1).tolist() == [127 * (row != 7) for row in range(40)]
    error = rounded * scale[:, None].double() - weight
    assert (error.abs() <= 0.5001 * scale[:, None]).all()


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_of_a_product_has_its_bits_beside_any_others(dtype, rounded):
    """More panels than one task has, on one thread and on two."""
    args = inputs.linear(40, 129, 16 * 130 - 3, dtype, biased=True, rounded=rounded)
    call("linear", **args)
    x, expected = args["x"], args["y"]
    assert expected[0].ne(expected[1]).any()
    for rows in range(1, 41):
        first = 40 - rows
        own = {**args, "x": x[first:].contiguous(), "y": torch.zeros_like(expected[first:])}
        with threads(1 + rows % 2):
            call("linear", **own)
        assert raw.equal_bits(own["y"], expected[first:]), rows


def test_products_without_rows_inputs_or_outputs():
    for rows, size in ((0, (4, 5)), (3, (4, 0)), (0, (0, 0))):
        args = inputs.linear(rows, *size, torch.bfloat16)
        call("linear", **args)
        assert args["y"].shape == (rows, size[1])
    args = inputs.linear(3, 0, 20, torch.float32, biased=True)
    call("linear", **args)
    assert torch.equal(args["y"], args["bias"].expand(3, -1))


@pytest.mark.parametrize("packed", [False, True])
def test_a_module_of_no_rows_gives_none(packed):
    linear = Linear(torch.randn(20, 7))
    if packed:
        linear.pack(8)
    assert linear(torch.zeros(0, 7)).shape == (0, 20)


def check_norm(rows: int, size: int, dtype: torch.dtype, more: bool) -> None:
    args = inputs.rms_norm(rows, size, dtype, more)
    x = args["x"] + args["delta"] if more else args["x"].clone()
    call("rms_norm", **args)
    assert raw.equal_bits(args["x"], x), "what was added is kept, rounded once"
    wide, weight = x.double(), args["weight"].double()
    exact = wide * (wide.square().mean(1, keepdim=True) + args["eps"]).rsqrt()
    # Sixteen chains of fma, their tree and the rest: a relative error of the mean that its root
    # halves; then five roundings, and x / rms(x) is rounded before it is multiplied.
    info, tiny = torch.finfo(dtype), torch.finfo(dtype).tiny
    error = ((size / 16 + 16 + 8) / 2 + 5) * F32 + info.eps / 2
    within(args["normed"], exact * weight, (exact.abs() * error + tiny * info.eps) * weight.abs())


@pytest.mark.parametrize("more", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1, 15, 33, 80, 576])
def test_norms_are_exact_ones_rounded(size, dtype, more):
    for rows in (1, 9):
        check_norm(rows, size, dtype, more)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_of_a_norm_has_its_bits_beside_any_others(dtype):
    args = inputs.rms_norm(130, 259, dtype, more=True)  # enough for more than one thread
    own = {name: value.clone() for name, value in args.items() if isinstance(value, torch.Tensor)}
    with threads(1):
        call("rms_norm", **args)
    for rows in (130, 1, 7):
        some = {name: own[name][:rows].clone() for name in ("x", "delta", "normed")}
        with threads(2):
            call("rms_norm", weight=own["weight"], eps=args["eps"], **some)
        assert raw.equal_bits(some["normed"], args["normed"][:rows])
        assert raw.equal_bits(some["x"], args["x"][:rows])


def test_a_norm_may_take_the_place_of_its_input():
    args = inputs.rms_norm(5, 37, torch.bfloat16)
    expected = raw.run(call, "rms_norm", args)["normed"]
    call("rms_norm", **{**args, "normed": args["x"]})
    assert raw.equal_bits(args["x"], expected)


def test_a_norm_of_zeros_is_zero_and_of_nothing_nothing():
    weight = torch.ones(20)
    zeros = native.rms_norm(torch.zeros(2, 20), None, weight, 1e-5)
    assert torch.equal(zeros, torch.zeros(2, 20))
    assert native.rms_norm(torch.zeros(0, 20), None, weight, 1e-5).shape == (0, 20)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [1, 5, 300])
def test_inputs_of_a_head_are_two_norms_side_by_side(rows, dtype):
    for size in (1, 33, 576):
        args = inputs.head_inputs(rows, size, dtype)
        call("head_inputs", **args)
        tokens, states = args["embedding"][args["ids"]], args["states"]
        expected = [
            native.rms_norm(x, None, args[name], args["eps"])
            for x, name in ((tokens, "token_norm"), (states, "state_norm"))
        ]
        assert raw.equal_bits(args["normed"], torch.cat(expected, dim=1))


def test_tokens_that_are_none_are_read_as_the_first_where_nothing_checks_them():
    args = inputs.head_inputs(3, 20, torch.float32)
    recording = Recording(lambda: call("head_inputs", **args))
    args["ids"].copy_(torch.tensor([-1, 11, 2**40]))
    recording.run()
    found = args["normed"].clone()
    call("head_inputs", **{**args, "ids": torch.zeros(3, dtype=torch.int64)})
    assert torch.equal(found, args["normed"])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_are_copied_from_where_they_are_to_where_they_belong(dtype):
    args = inputs.copy_rows(6, dtype)
    source, take, place, before = (args[name] for name in ("source", "take", "place", "out"))
    zeros = torch.zeros(1, source.shape[1], dtype=dtype)
    for own in ({}, {"take": None}, {"place": None}):
        out, given = before.clone(), {**args, **own}
        call("copy_rows", **{**given, "out": out})
        expected = before.clone()
        for i in range(len(source) if given["take"] is None else len(take)):
            row = i if given["take"] is None else int(take[i])
            at = i if given["place"] is None else int(place[i])
            if 0 <= at < len(out):
                expected[at] = source[row] if 0 <= row < len(source) else zeros
        assert raw.equal_bits(out, expected)
    out = before.clone()
    call("copy_rows", source=source, take=None, place=None, out=out)
    assert raw.equal_bits(out, torch.cat((source, before[len(source) :])))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sums_are_rounded_to_the_nearest_or_to_the_even_of_two(dtype):
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    one_and_small = torch.tensor([1, 3e-5], dtype=dtype)
    weight = torch.cat((inputs.randn(18, seed=5, dtype=dtype), one_and_small))
    y = torch.empty(len(every), len(weight), dtype=dtype)
    panels = native.panels_of(weight[:, None])
    call("linear", x=every[:, None], panels=panels, scale=None, bias=None, y=y)
    exact = every[:, None].float() * weight.float() + 0.0
    small = (every.abs() < FLOAT32_TINY)[:, None] | (exact.abs() < FLOAT32_TINY)
    kept, flushed = exact.to(dtype), exact.masked_fill(small, 0.0).to(dtype)
    assert torch.equal(y.isnan(), kept.isnan())
    y, kept, flushed = (numbers[~kept.isnan()] for numbers in (y, kept, flushed))
    flushes = dtype == torch.bfloat16 and cpu_isa() == "avx512_bf16"
    assert raw.equal_bits(y, kept) or (flushes and torch.equal(y, flushed))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_stays_in_its_row_or_column(value):
    args = inputs.linear(4, 20, 40, torch.bfloat16)
    expected = raw.run(call, "linear", args)["y"]
    args["x"][1, 3] = value
    args["panels"][2, 0, 2] = value  # of output 33, the first of two inputs
    found = raw.run(call, "linear", args)["y"]
    assert not found[1].isfinite().any()
    assert not found[:, 33].isfinite().any()
    others = torch.ones(4, 40, dtype=torch.bool)
    others[1] = others[:, 33] = False
    assert torch.equal(found[others], expected[others])

    args = inputs.rms_norm(3, 20, torch.float32)
    expected = raw.run(call, "rms_norm", args)["normed"]
    args["x"][1, 3] = value
    found = raw.run(call, "rms_norm", args)["normed"]
    assert found[1, 3].isnan()
    assert torch.equal(found[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_beside_the_tensors_is_read_or_written(dtype):
    raw.check_nothing_beside(call, "linear", inputs.linear(7, 33, 37, dtype, biased=True))
    raw.check_nothing_beside(call, "rms_norm", inputs.rms_norm(5, 37, dtype, more=True))
    raw.check_nothing_beside(call, "head_inputs", inputs.head_inputs(5, 37, dtype))
