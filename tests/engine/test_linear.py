"""Packed products: the same rows for any width, in every layout."""

from __future__ import annotations

import pytest
import torch

from tapout_engine.models import linear
from tapout_engine.models.linear import Blocks, Bytes, Linear, Panels


@pytest.fixture(params=["panels", "blocks", "blocks without bf16"])
def layout(request, monkeypatch):
    if request.param != "panels":
        monkeypatch.setattr(linear.native, "serves", lambda weight: False)
    if request.param == "blocks without bf16":
        monkeypatch.setattr(linear, "multiplies", lambda dtype: dtype == torch.float32)
    return Panels if request.param == "panels" else Blocks


def packed(weight: torch.Tensor, bias: torch.Tensor | None, layout: type) -> Linear:
    found = Linear(weight.clone(), bias)
    found.pack(8)
    assert isinstance(found.packed, layout)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_packed_weights_are_those_of_plain_ones(layout, dtype):
    weight, index = torch.randn(70, 33).to(dtype), torch.tensor([69, 0, 0, 31])
    assert torch.equal(packed(weight, None, layout).rows(index), weight[index])
    rows = Linear(weight).rows(index)
    assert torch.equal(rows, weight[index])
    rows.zero_()
    assert weight.count_nonzero(), "rows are a copy"


@pytest.mark.parametrize("biased", [False, True])
def test_bf16_products_are_exact_ones_rounded_and_alike_for_any_width(layout, biased):
    torch.manual_seed(0)
    x, weight = torch.randn(9, 64).bfloat16(), torch.randn(48, 64).bfloat16()
    bias = torch.randn(48).bfloat16() if biased else None
    product = packed(weight, bias, layout)
    found = product(x)
    assert found.dtype == torch.bfloat16
    exact = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    # Half an ulp of bf16, and the sums of products in float32 before it.
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-4)
    for rows in range(1, 9):
        assert torch.equal(product(x[:rows]), found[:rows])


def test_many_rows_in_bf16_are_for_one_dnn_where_the_cpu_multiplies_it(monkeypatch):
    for multiplies in (False, True):
        monkeypatch.setattr(linear, "multiplies", lambda dtype, m=multiplies: m)
        monkeypatch.setattr(linear, "Blocks", lambda weight, bias, rows: "blocks")
        weight = torch.randn(48, 64).bfloat16()
        assert isinstance(linear.packed(weight, None, 8, False), Panels)
        assert (linear.packed(weight, None, 32, False) == "blocks") == multiplies
        assert isinstance(linear.packed(weight.float(), None, 32, False), Panels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounded_weights_multiply_as_their_rows_say(dtype):
    weight, x = torch.randn(70, 33).to(dtype), torch.randn(5, 33).to(dtype)
    rounded = Linear(weight.clone())
    rounded.pack(8, rounded=True)
    rows = rounded.rows(torch.arange(70))
    assert isinstance(rounded.packed, Bytes)
    assert rows.dtype == dtype
    step = weight.float().abs().amax(1, keepdim=True) / 127
    assert ((rows - weight).abs() <= step * (0.501 + 127 * torch.finfo(dtype).eps)).all()
    eps = torch.finfo(dtype).eps  # of the result, and of rows, which products do not round
    exact, most = x.double() @ rows.double().T, x.double().abs() @ rows.double().abs().T
    assert ((rounded(x) - exact).abs() <= eps * exact.abs() + (eps + 2**-17) * most).all()
