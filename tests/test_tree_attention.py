"""``tree_attention`` against torch's own, and the bits of a token whatever is fed beside it."""

from __future__ import annotations

import pytest
import torch
from helpers.device import interpreted_if, is_refused
from torch.nn.functional import scaled_dot_product_attention

import tapout_kernels as tk
from tapout_kernels import _library
from tapout_kernels.testing import DTYPES, Case

OPS = ("tree_attention", "tree_layout", "tree_mask")  # of the fixture `trees`
PARENTS = (-1, -1, 0, 0, 1, 2, 4)


def cache(slots: int, dtype: torch.dtype = torch.float32, size: int = 64, batch: int = 3):
    generator = torch.Generator().manual_seed(slots)
    shape = (2, batch, 2, slots, size)
    return torch.randn(shape, generator=generator).to(dtype)


def queries(tokens: int, dtype: torch.dtype = torch.float32, size: int = 64, batch: int = 3):
    generator = torch.Generator().manual_seed(tokens)
    return torch.randn(batch, 6, tokens, size, generator=generator).to(dtype)


@pytest.mark.parametrize("size", [interpreted_if(x in (80, 128), x) for x in (8, 64, 80, 128, 256)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.sliced(4)
def test_equals_torchs_attention_with_an_explicit_mask(trees, dtype, size):
    layout = tk.tree_layout(torch.tensor([PARENTS] * 3, dtype=torch.int32), backend=trees)
    keys, values = cache(90, dtype, size)
    query, past = queries(8, dtype, size), torch.tensor([0, 13, 80], dtype=torch.int32)
    bits = tk.tree_mask(layout, "bits", root=True, backend=trees)
    found = tk.tree_attention(query, keys, values, past, bits, backend=trees)
    for b, before in enumerate(past.tolist()):
        seen = torch.cat(
            [torch.ones(8, before).bool(), tk.tree_mask(layout, root=True, backend=trees)[b]], 1
        )
        one = slice(b, b + 1), slice(None), slice(before + 8)
        expected = scaled_dot_product_attention(
            query[b : b + 1].float(), keys[one].float(), values[one].float(), attn_mask=seen,
            enable_gqa=True,
        )[0]  # fmt: skip
        tight = {"atol": 4e-6, "rtol": 1e-5} if dtype == torch.float32 else {}
        if trees == "triton" and dtype != torch.float32:  # weights in 16 bits, see compare.py
            eps = torch.finfo(dtype).eps
            tight = {"atol": eps / 2 * values.abs().max().item(), "rtol": 2 * eps}
        torch.testing.assert_close(found[b], expected.to(dtype), **tight)


def test_a_chain_is_the_tree_without_branches(trees):
    keys, values = cache(100)
    past = torch.tensor([5, 0, 91], dtype=torch.int32)
    layout = tk.tree_layout(torch.arange(-1, 7).expand(3, -1).int().contiguous(), backend=trees)
    bits = tk.tree_mask(layout, "bits", root=True, backend=trees)
    with_bits = tk.tree_attention(queries(9), keys, values, past, bits, backend=trees)
    assert with_bits.equal(tk.tree_attention(queries(9), keys, values, past, backend=trees))


def test_pages_hold_what_a_row_would(trees):
    entries, past = cache(96), torch.tensor([70, 3, 90], dtype=torch.int32)
    order = torch.randperm(3 * 6, generator=torch.Generator().manual_seed(0))
    pages = torch.empty(2, 18, 2, 16, 64)
    pages[:, order] = entries.unflatten(3, (6, 16)).transpose(2, 3).flatten(1, 2)
    expected = tk.tree_attention(queries(6), *entries, past, backend=trees)
    table = order.view(3, 6).int()
    found = tk.tree_attention(queries(6), *pages, past, block_table=table, backend=trees)
    assert found.equal(expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_token_has_the_same_bits_alone(native, dtype):
    """One at a time, together, and with more of them behind: nothing of it may change."""
    keys, values = cache(300, dtype)
    together = queries(40, dtype)
    past = torch.tensor([0, 130, 255], dtype=torch.int32)
    found = tk.tree_attention(together, keys, values, past, backend=native)
    for token in (0, 1, 17, 39):
        one = together[:, :, token : token + 1]
        alone = tk.tree_attention(one, keys, values, past + token, backend=native)
        assert alone.equal(found[:, :, token : token + 1])


def same(found: torch.Tensor, expected: torch.Tensor, backend: str) -> None:
    """Equal bits. Products of an interpreted kernel are NumPy's, which on some CPUs sum a row by
    where it stands in its tile: those are equal up to the rounding of float32."""
    if backend == "triton" and found.device.type == "cpu":
        torch.testing.assert_close(found, expected, atol=4e-6, rtol=1e-5)
    else:
        assert found.equal(expected)


def test_a_token_of_a_fixed_tile_has_the_same_bits_alone(triton):
    """Of one span, and of two that a second launch merges."""
    keys, values = cache(200)
    together, past = queries(10), torch.tensor([0, 100, 185], dtype=torch.int32)
    found = tk.tree_attention(together, keys, values, past, backend="triton")
    for token in (0, 9):
        one = together[:, :, token : token + 1]
        alone = tk.tree_attention(one, keys, values, past + token, backend="triton")
        same(alone, found[:, :, token : token + 1], "triton")


def test_a_node_has_the_bits_of_its_path_alone(native):
    """What lies between a node and its ancestors is not seen, and changes nothing."""
    entries, past = cache(200), torch.tensor([60, 0, 120], dtype=torch.int32)
    layout = tk.tree_layout(torch.tensor([PARENTS] * 3, dtype=torch.int32))
    bits = tk.tree_mask(layout, "bits", root=True)
    together = tk.tree_attention(queries(8), *entries, past, bits, backend=native)
    for path in ((0, 1, 3, 6), (0, 2, 5, 7), (0, 1, 4)):
        chosen, alone = list(path), entries.clone()
        for b, before in enumerate(past.tolist()):
            slots = [before + node for node in path]
            alone[:, b, :, before : before + len(path)] = entries[:, b, :, slots]
        query = queries(8)[:, :, chosen]
        found = tk.tree_attention(query, *alone, past, backend=native)
        assert found.equal(together[:, :, chosen])


def test_what_lies_beyond_is_not_read(trees):
    keys, values = cache(128)
    past = torch.tensor([5, 0, 60], dtype=torch.int32)
    expected = tk.tree_attention(queries(4), keys, values, past, backend=trees)
    for b, before in enumerate(past.tolist()):
        keys[b, :, before + 4 :], values[b, :, before + 4 :] = torch.nan, torch.inf
    assert tk.tree_attention(queries(4), keys, values, past, backend=trees).equal(expected)


def test_a_token_that_sees_nothing_gets_zeros(trees):
    keys, values = cache(32)
    bits = torch.tensor([[[0], [1]]] * 3, dtype=torch.int32)
    past = torch.tensor([0, 0, 1], dtype=torch.int32)
    found = tk.tree_attention(queries(2), keys, values, past, bits, backend=trees)
    assert not found[:2, :, 0].any()
    assert found[2, :, 0].any()
    torch.testing.assert_close(found[0, :, 1], values[0, :, 0].repeat_interleave(3, 0))


def test_a_nan_among_what_is_seen_is_not_hidden(trees):
    keys, values = cache(32)
    keys[1, 0, 2] = torch.nan
    past = torch.tensor([8, 8, 8], dtype=torch.int32)
    found = tk.tree_attention(queries(2), keys, values, past, backend=trees)
    assert found[1, :3].isnan().all()
    assert not found[[0, 2]].isnan().any()


def test_views_of_a_fused_projection_and_of_a_cache_need_no_copy(trees):
    fused = torch.randn(3, 4, 10, 64, generator=torch.Generator().manual_seed(0))
    entries, past = cache(64), torch.tensor([9, 0, 60], dtype=torch.int32)
    query = fused[:, :, :6].transpose(1, 2)
    out = torch.zeros(3, 4, 6, 64).transpose(1, 2)
    found = tk.tree_attention(query, *entries, past, out=out, backend=trees)
    assert found is out
    assert out.equal(tk.tree_attention(query.contiguous(), *entries, past, backend=trees))


@pytest.mark.parametrize("backend", ["cuda"])
def test_backends_without_a_kernel_refuse(backend):
    assert is_refused(backend, Case("tree_attention"))
    assert "tree_attention" in _library.NO_KERNEL[backend]


def test_sizes_that_no_head_has_are_refused(trees):
    keys, values = cache(8, size=257)
    past = torch.zeros(3, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"query must be .*256"):
        tk.tree_attention(queries(1, size=257), keys, values, past, backend=trees)
    keys, values = cache(8)
    with pytest.raises(ValueError, match="keys must be of a number of heads that divides 5"):
        tk.tree_attention(queries(1)[:, :5], keys, values, past, backend=trees)


def test_a_level_sees_its_ancestors_of_the_levels_before(trees):
    """Fed level by level, a tree's nodes get what they get fed at once."""
    layout = tk.tree_layout(torch.tensor([PARENTS] * 3, dtype=torch.int32), backend=trees)
    entries, past = cache(90), torch.tensor([0, 13, 80], dtype=torch.int32)
    bits = tk.tree_mask(layout, "bits", root=True, backend=trees)
    expected = tk.tree_attention(queries(8), *entries, past, bits, backend=trees)
    for first, last in ((0, 1), (1, 3), (3, 6), (6, 8)):
        level = queries(8)[:, :, first:last]
        mask = bits[:, first:last].contiguous()
        found = tk.tree_attention(level, *entries, past, mask, among=last, backend=trees)
        same(found, expected[:, :, first:last], trees)
