"""Packed products: the same rows for any width, on CPUs with and without products in bf16."""

from __future__ import annotations

import pytest
import torch

from tapout_engine.models import linear
from tapout_engine.models.linear import Linear


@pytest.fixture(params=["as it is", "without bf16"])
def machine(request, monkeypatch):
    if request.param == "without bf16":
        monkeypatch.setattr(linear, "_packed_dtype", lambda weight: torch.float32)


def packed(weight: torch.Tensor, bias: torch.Tensor | None = None) -> Linear:
    found = Linear(weight.clone(), bias)
    found.pack(8)
    assert found.packed is not None
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_packed_weights_are_those_of_plain_ones(machine, dtype):
    weight, index = torch.randn(70, 33).to(dtype), torch.tensor([69, 0, 0, 31])
    assert torch.equal(packed(weight).rows(index), weight[index])
    rows = Linear(weight).rows(index)
    assert torch.equal(rows, weight[index])
    rows.zero_()
    assert weight.count_nonzero(), "rows are a copy"


@pytest.mark.parametrize("biased", [False, True])
def test_bf16_products_are_exact_ones_rounded_and_alike_for_any_width(machine, biased):
    torch.manual_seed(0)
    x, weight = torch.randn(9, 64).bfloat16(), torch.randn(48, 64).bfloat16()
    bias = torch.randn(48).bfloat16() if biased else None
    product = packed(weight, bias)
    found = product(x)
    assert found.dtype == torch.bfloat16
    exact = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    # Half an ulp of bf16, and the sums of products in float32 before it.
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-4)
    for rows in range(1, 9):
        assert torch.equal(product(x[:rows]), found[:rows])
