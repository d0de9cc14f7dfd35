"""Layouts and masks: known answers by hand, brute force over random trees, attention itself."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from helpers.device import interpreted_if, is_refused
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import tapout_kernels as tk
from tapout_kernels.testing import Case

OPS = ("tree_layout", "tree_mask", "tree_mask_flat")  # of the fixture `trees`


#      root
#     0     1
#    2 3    4
#    5
PARENTS = (-1, -1, 0, 0, 1, 2)
SEEN = ("100000", "010000", "101000", "100100", "010010", "101001")
ABSENT = -2


def layout_of(parents, backend: str, **given) -> tk.TreeLayout:
    return tk.tree_layout(torch.tensor(parents, dtype=torch.int32), backend=backend, **given)


def grid(rows) -> torch.Tensor:
    return torch.tensor([[character == "1" for character in row] for row in rows])


def rooted(rows) -> list[str]:
    """The same with the root before the nodes."""
    return ["1" + "0" * len(rows), *("1" + row for row in rows)]


# ---- layouts -------------------------------------------------------------------------------------


def test_a_layout_by_hand(trees):
    found = layout_of([PARENTS], trees, position=torch.tensor([100]))
    assert found.size.tolist() == [6]
    assert found.valid.tolist() == [True]
    assert found.depth.tolist() == [[1, 1, 2, 2, 2, 3]]
    assert found.position_ids.tolist() == [[100, 101, 101, 102, 102, 102, 103]]
    assert found.first_child.tolist() == [[0, 2, 4, 5, -1, -1, -1]]
    assert found.next_sibling.tolist() == [[1, -1, 3, -1, -1, -1]]
    assert found.ancestors.flatten().tolist() == [1, 2, 5, 9, 18, 37]


def test_absent_nodes_see_themselves_alone(trees):
    found = layout_of([[-1, 0, ABSENT, ABSENT], [ABSENT] * 4], trees)
    assert found.size.tolist() == [2, 0]
    assert found.valid.tolist() == [True, True]
    assert found.depth.tolist() == [[1, 2, 0, 0], [0] * 4]
    assert found.first_child.tolist() == [[0, 1, -1, -1, -1], [-1] * 5]
    assert found.ancestors.flatten(1).tolist() == [[1, 3, 4, 8], [1, 2, 4, 8]]


@pytest.mark.parametrize(
    "parents",
    [(0, -1, 0), (-1, 2, 1), (-1, 1, 0), (-1, 0, 3), (-1, -3, 0), (-1, ABSENT, 0), (1 << 30, 0, 0),
     (-(1 << 31), 0, 0), (ABSENT, -1, ABSENT)],
)  # fmt: skip
def test_what_is_no_tree_is_said_and_has_no_nodes(trees, parents):
    """A cycle, a pointer forward, itself, out of range, or a node after an absent one."""
    found = layout_of([parents, (-1, 0, 1)], trees)
    assert found.valid.tolist() == [False, True]
    assert found.size.tolist() == [0, 3]
    assert found.depth[0].tolist() == [0, 0, 0]
    assert found.first_child[0].tolist() == [-1] * 4
    assert found.next_sibling[0].tolist() == [-1] * 3
    assert found.ancestors[0].flatten().tolist() == [1, 2, 4]
    assert found.first_child[1].tolist() == [0, 1, 2, -1]


def brute_force(parents) -> np.ndarray:
    """[N, N] bool by following the pointers."""
    seen = np.zeros((len(parents), len(parents)), dtype=bool)
    for node in range(len(parents)):
        at = node
        while at >= 0:
            seen[node, at] = True
            at = parents[at]
    return seen


@pytest.mark.parametrize("nodes", [1, 31, 32, 33, 64, 100, interpreted_if(False, 1024)])
@pytest.mark.sliced(4)
def test_layouts_follow_the_pointers(trees, nodes):
    generator = np.random.default_rng(nodes)
    parents = [[int(generator.integers(-1, i)) if i else -1 for i in range(nodes)]
               for _ in range(2)]  # fmt: skip
    found = layout_of(parents, trees)
    mask = tk.tree_mask(found, backend=trees)
    for b, one in enumerate(parents):
        seen = brute_force(one)
        assert np.array_equal(mask[b].numpy(), seen)
        assert found.depth[b].tolist() == seen.sum(1).tolist()
        for row in range(nodes + 1):
            children = [i for i, parent in enumerate(one) if parent == row - 1]
            links = [int(found.first_child[b, row])]
            while links[-1] >= 0:
                links.append(int(found.next_sibling[b, links[-1]]))
            assert links == [*children, -1]


# ---- masks ---------------------------------------------------------------------------------------


def test_masks_by_hand(trees):
    layout = layout_of([PARENTS, (-1, 0, 1, ABSENT, ABSENT, ABSENT)], trees)
    other = ("100000", "110000", "111000", "000100", "000010", "000001")
    for root in (False, True):
        rows = [rooted(x) if root else x for x in (SEEN, other)]
        expected = torch.stack([grid(x) for x in rows])
        kinds = ("bool", "bits", "additive", "sglang_qlen", "sglang_bits")
        found = {kind: tk.tree_mask(layout, kind, root=root, backend=trees) for kind in kinds}
        assert torch.equal(found["bool"], expected)
        words = [[int(row[::-1], 2) for row in x] for x in rows]
        assert found["bits"][..., 0].tolist() == words
        assert torch.equal(found["additive"] == 0, expected)
        assert found["additive"][~expected].isneginf().all()
        assert torch.equal(found["sglang_qlen"], expected.flatten())
        assert found["sglang_bits"].dtype == torch.uint8
        assert found["sglang_bits"].tolist() == [word for x in words for word in x]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_additive_masks_have_the_dtype_of_the_scores(trees, dtype):
    layout = layout_of([PARENTS], trees)
    found = tk.tree_mask(layout, "additive", dtype=dtype, backend=trees)
    assert found.dtype == dtype
    assert torch.equal(found, torch.zeros(()).to(dtype).where(grid(SEEN), -torch.inf)[None])


@pytest.mark.parametrize(("nodes", "dtype"), [(7, torch.uint8), (8, torch.uint16),
                                              (15, torch.uint16), (16, torch.uint32),
                                              (31, torch.uint32)])  # fmt: skip
def test_sglang_words_are_as_wide_as_the_tree(trees, nodes, dtype):
    """A chain with its root: row q sees the first q + 1 columns."""
    layout = layout_of([range(-1, nodes - 1)], trees)
    found = tk.tree_mask(layout, "sglang_bits", root=True, backend=trees)
    assert found.dtype == dtype
    assert [int(x) for x in found] == [(2 << q) - 1 for q in range(nodes + 1)]
    if nodes == 31:
        larger = layout_of([range(-1, nodes)], trees)
        with pytest.raises(ValueError, match="sglang_bits must have at most 32 rows, got 33"):
            tk.tree_mask(larger, "sglang_bits", root=True, backend=trees)


def test_a_full_mask_leaves_its_prefix_alone(trees):
    """New: ones. Given: whatever is there stays there."""
    layout = layout_of([PARENTS], trees)
    found = tk.tree_mask(layout, "full", max_past=5, backend=trees)
    assert found.shape == (1, 6, 11)
    assert found[..., :5].all()
    assert torch.equal(found[0, :, 5:], grid(SEEN))
    out = torch.zeros(1, 6, 11, dtype=torch.bool)
    tk.tree_mask(layout, "full", max_past=5, out=out, backend=trees)
    assert not out[..., :5].any()
    assert torch.equal(out[0, :, 5:], grid(SEEN))


def flat_by_hand(rows, pasts) -> list[list[bool]]:
    """One segment a request: every row of its prefix and its tree."""
    return [
        [entry for row in x for entry in [True] * past + [c == "1" for c in row]]
        for x, past in zip(rows, pasts, strict=True)
    ]


def segments(mask: tk.FlatMask, rows: int, pasts) -> list[list[bool]]:
    packed = mask.data.dtype == torch.uint8
    found = []
    for b, past in enumerate(pasts):
        part = mask.data[mask.start[b] : mask.start[b + 1]].numpy()
        if packed:
            part = np.unpackbits(part, bitorder="little").astype(bool)
        found.append(part[: rows * (past + rows)].tolist())
    return found


@pytest.mark.parametrize("root", [interpreted_if(False, False), True])
@pytest.mark.parametrize("kind", ["flashinfer", "sglang_full"])
def test_flat_masks_by_hand_call_after_call(trees, kind, root):
    """Lengths grow, shrink, and change places: what a call has written is gone after the next."""
    other = ("100000", "110000", "111000", "000100", "000010", "000001")
    layout = layout_of([PARENTS, (-1, 0, 1, ABSENT, ABSENT, ABSENT)], trees)
    rows = [rooted(x) if root else x for x in (SEEN, other)]
    mask = None
    for pasts in [(0, 0), (3, 9), (4, 11), (20, 0), (1, 2), (7, 20)]:
        past = torch.tensor(pasts, dtype=torch.int32)
        room = {} if mask is not None else {"max_past": 20}
        mask = tk.tree_mask(layout, kind, root=root, past=past, out=mask, backend=trees, **room)
        assert segments(mask, len(rows[0]), pasts) == flat_by_hand(rows, pasts)
        last = mask.data[mask.start[-1] :]
        assert (last == (255 if kind == "flashinfer" else 1)).all(), "ones behind the last segment"


def test_a_call_writes_q_by_q_entries_of_a_flat_mask(trees):
    """What marks a prefix survives: it is not filled, whatever its length."""
    layout = layout_of([PARENTS], trees)
    past = torch.tensor([30], dtype=torch.int32)
    mask = tk.tree_mask(layout, "sglang_full", past=past, max_past=30, backend=trees)
    mask.data.view(6, 36)[:, :30] = False
    tk.tree_mask(layout, "sglang_full", past=past, out=mask, backend=trees)
    assert not mask.data.view(6, 36)[:, :30].any()
    assert torch.equal(mask.data.view(6, 36)[:, 30:], grid(SEEN))


def test_flat_masks_keep_within_their_room(trees):
    """A past that does not fit counts as the room there is, a negative one as none."""
    layout = layout_of([PARENTS, PARENTS], trees)
    past = torch.tensor([100, -7], dtype=torch.int32)
    mask = tk.tree_mask(layout, "sglang_full", past=past, max_past=4, backend=trees)
    assert mask.written.tolist() == [4, 0]
    assert segments(mask, 6, (4, 0)) == flat_by_hand([SEEN, SEEN], (4, 0))


@pytest.mark.interpreted_slow  # most of it is attention's
@pytest.mark.parametrize("root", [False, True])
def test_attention_under_every_mask_is_the_same(trees, root):
    """SDPA with the bool and the additive mask, FlexAttention with the mask_mod: one result."""
    layout = layout_of([PARENTS, (-1, 0, 1, ABSENT, ABSENT, ABSENT)], trees)
    rows, past, heads, width = 6 + root, 10, 2, 16
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, heads, rows, width, generator=generator)
    key, value = torch.randn(2, 2, heads, past + rows, width, generator=generator)
    full = tk.tree_mask(layout, "full", root=root, max_past=past, backend=trees)
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=full[:, None]
    )
    scores = torch.zeros(2, rows, past + rows)
    scores[..., past:] = tk.tree_mask(layout, "additive", root=root, backend=trees)
    additive = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=scores[:, None]
    )
    torch.testing.assert_close(additive, expected)
    lengths = torch.full((2,), past, dtype=torch.int32)
    seen = tk.tree_mask(layout, "flex", root=root, past=lengths, backend=trees)
    block = create_block_mask(seen, 2, None, rows, past + rows, device="cpu", BLOCK_SIZE=8)
    torch.testing.assert_close(flex_attention(query, key, value, block_mask=block), expected)


def test_a_mask_mod_knows_every_requests_own_past(trees):
    layout = layout_of([PARENTS, PARENTS], trees)
    seen = tk.tree_mask(layout, "flex", past=torch.tensor([2, 5], dtype=torch.int32), backend=trees)
    for b, past in enumerate((2, 5)):
        for q, k in itertools.product(range(6), range(14)):
            found = bool(seen(*map(torch.tensor, (b, 0, q, k))))
            inside = k - past < 6 and SEEN[q][k - past] == "1"
            assert found == (k < past or inside), (b, q, k)


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["tree_layout", "tree_mask", "tree_mask_flat", "tree_verify"])
def test_the_others_say_so(compiled, op):
    """A backend without a kernel is refused by name, and is not among those that are available."""
    refused = is_refused(compiled, Case(op))
    assert refused == (compiled not in tk.available_backends(op))
    assert tk.backends.default_backend(op) == "cpu"


@pytest.mark.parametrize("nodes", [0, 1025])
def test_trees_have_up_to_1024_nodes(trees, nodes):
    with pytest.raises(ValueError, match=r"tree_layout: parents must be \[B > 0, 1 to 1024\]"):
        layout_of(torch.full((1, nodes), -1).tolist(), trees)


def test_kinds_and_their_arguments_are_refused_by_name(trees):
    layout = layout_of([PARENTS], trees)
    wrong = {
        "kind must be one of bits": {"kind": "dense"},
        "max_past must be a number >= 0, got None": {"kind": "full"},
        "max_past must be a number >= 0, got -1": {"kind": "full", "max_past": -1},
        "past must be a Tensor, got NoneType": {"kind": "flashinfer", "max_past": 3},
        "out must be None for 'flex', got Tensor": {"kind": "flex", "out": torch.zeros(1)},
        "mask must be .1, 6, 6., got .1, 6, 7.": {"out": torch.zeros(1, 6, 7, dtype=torch.bool)},
        "mask must be bool, got float32": {"out": torch.zeros(1, 6, 6)},
    }
    for message, given in wrong.items():
        with pytest.raises((ValueError, TypeError), match=message):
            tk.tree_mask(layout, **given, backend=trees)
