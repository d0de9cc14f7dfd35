"""csrc/core: random numbers, statistics and lanes against published vectors and direct sums."""

from __future__ import annotations

import ctypes
import math

import numpy as np
import pytest
import torch
from helpers.core_probe import doubles
from helpers.vectors import PHILOX, words

# ---- random numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize(("counter", "key", "result"), PHILOX)
def test_philox_known_answers(core, counter, key, result):
    counter, key = (np.array(words(text), dtype=np.uint32) for text in (counter, key))
    out = np.zeros(4, dtype=np.uint32)
    core.probe_philox(*(ctypes.c_void_p(array.ctypes.data) for array in (counter, key, out)))
    assert out.tolist() == words(result)


@pytest.mark.parametrize(
    ("word0", "word1", "expected"),
    [
        (0, 0, 2.0**-53),
        (0, 0xFFF, 2.0**-53),  # the low 12 bits of the second word are not used
        (0, 0x1000, 3 * 2.0**-53),
        (1, 0, 2.0**-32 + 2.0**-53),
        (0x80000000, 0, 0.5 + 2.0**-53),
        (0xFFFFFFFF, 0xFFFFFFFF, 1 - 2.0**-53),
    ],
)
def test_uniform_is_exact_and_inside_the_open_interval(core, word0, word1, expected):
    found = core.probe_uniform(word0, word1)
    assert found == expected
    assert 0.0 < found < 1.0


def test_uniform_address_equals_the_reference(core):
    from tapout_kernels.reference import rng

    generator = np.random.default_rng(0)
    for _ in range(50):
        seed, round_ = (int(x) for x in generator.integers(-(1 << 62), 1 << 62, 2))
        slot, domain = int(generator.integers(0, 1 << 20)), int(generator.integers(0, 5))
        found = core.probe_uniform_at(seed, 0, slot, round_, domain)
        expected = rng.uniform(
            torch.tensor([seed]), 0, torch.tensor([slot]), torch.tensor([round_]), domain
        )
        assert found == expected.item()


def philox_word(seed: int, position: int, id: int) -> int:
    """Philox4x32-10 from its paper, with Python's integers: the word of a target id."""
    x = [id // 4, position & 0xFFFFFFFF, position >> 32 & 0xFFFFFFFF, 4]
    key = [seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF]
    for _ in range(10):
        a, b = x[0] * 0xD2511F53, x[2] * 0xCD9E8D57
        x = [b >> 32 ^ x[1] ^ key[0], b & 0xFFFFFFFF, a >> 32 ^ x[3] ^ key[1], a & 0xFFFFFFFF]
        key = [key[0] + 0x9E3779B9 & 0xFFFFFFFF, key[1] + 0xBB67AE85 & 0xFFFFFFFF]
    return x[id % 4]


def test_gumbel_words_belong_to_seed_position_and_target_id(core):
    for seed, position in ((0, 0), (-1, 7), (1 << 40, -3), (5, (1 << 35) + 1), (-(1 << 63), 1)):
        for id in (0, 1, 2, 3, 4, 127, 128255):
            assert core.probe_gumbel_word(seed, position, id) == philox_word(seed, position, id)
    assert core.probe_offset_position((1 << 63) - 1, 1) == -(1 << 63)
    assert core.probe_offset_position(41, 1) == 42


@pytest.mark.parametrize(
    ("word", "noise"),
    [
        # w = 2^-33: -ln(-log1p(-w)) = 33 ln 2 - w/2 - ..
        (0, 33 * math.log(2) - 2.0**-34),
        # w = 1/2 + 2^-33: -ln(ln 2 + 2^-32 + ..)
        (1 << 31, -math.log(math.log(2)) - 2.0**-32 / math.log(2)),
        # clamped to 1 - 2^-24
        ((1 << 32) - 1, -math.log(24 * math.log(2))),
        ((1 << 32) - 128, -math.log(24 * math.log(2))),
    ],
)
def test_gumbel_noise_known_answers(core, word, noise):
    assert core.probe_gumbel_noise(word) == pytest.approx(noise, rel=1e-14)


def test_gumbel_noise_falls_with_the_word(core):
    words = [0, 1, 2, 1000, 1 << 20, 1 << 31, (1 << 32) - 1000, (1 << 32) - 257, (1 << 32) - 1]
    noise = [core.probe_gumbel_noise(word) for word in words]
    assert noise == sorted(set(noise), reverse=True)
    assert noise[0] < 23  # what lets an entry far below the best be passed over


# ---- statistics --------------------------------------------------------------------------------


def moments(z: np.ndarray, temperature: float) -> np.ndarray:
    """(max, sum, dev, finite), directly."""
    if not len(z) or z.max() == -np.inf:
        return doubles(-np.inf, 0, 0, 1)
    z = z[z > -np.inf]
    x = (z - z.max()) / temperature
    return doubles(z.max(), np.exp(x).sum(), (x * np.exp(x)).sum(), 1)


def merged(core, left: np.ndarray, right: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    out = np.zeros(4)
    core.probe_merge(left.ctypes.data, right.ctypes.data, 1 / temperature, out.ctypes.data)
    return out


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_merging_pieces_equals_the_whole(core, temperature):
    generator = np.random.default_rng(1)
    for _ in range(50):
        z = generator.normal(0, 5, 40)
        z[generator.random(40) < 0.2] = -np.inf
        a, b = sorted(generator.integers(0, 41, 2))
        pieces = [moments(part, temperature) for part in (z[:a], z[a:b], z[b:])]
        left = merged(core, merged(core, *pieces[:2], temperature), pieces[2], temperature)
        right = merged(core, pieces[0], merged(core, *pieces[1:], temperature), temperature)
        np.testing.assert_allclose(left, moments(z, temperature), rtol=1e-13)
        np.testing.assert_allclose(right, moments(z, temperature), rtol=1e-13)


def test_empty_piece_is_neutral_and_bad_pieces_stay_bad(core):
    empty, row = np.zeros(4), moments(doubles(1.0, -2.0, 0.5), 1.0)
    core.probe_empty(ctypes.c_void_p(empty.ctypes.data))
    for pair in ((empty, row), (row, empty)):
        assert merged(core, *pair).tolist() == row.tolist()
    assert merged(core, empty, empty).tolist() == empty.tolist()
    bad = empty.copy()
    bad[3] = 0  # a piece of NaN and -inf alone has no maximum, and must still spoil the row
    for pair in ((bad, row), (row, bad)):
        assert merged(core, *pair)[3] == 0
    status = [core.probe_row_status(ctypes.c_void_p(x.ctypes.data)) for x in (row, bad, empty)]
    assert status == [0, 1, 2]


def test_entropy_is_exact_where_the_textbook_formula_cancels(core):
    uniform = moments(np.full(1000, 3e4), 1.0)
    assert core.probe_entropy(uniform.ctypes.data) == pytest.approx(math.log(1000), rel=1e-15)
    two = moments(doubles(0.0, -30.0), 1.0)
    p = math.exp(-30) / (1 + math.exp(-30))
    expected = -p * math.log(p) - (1 - p) * math.log1p(-p)
    assert core.probe_entropy(two.ctypes.data) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        ([3, 1, 2], [3, 2]),
        ([2, 3, 3], [3, 3]),
        ([-math.inf, 4], [4, -math.inf]),
        ([5, 4, 1], [5, 4]),
    ],
)
def test_top2(core, logits, expected):
    z, out = np.array(logits, dtype=np.float32), np.zeros(2, dtype=np.float32)
    core.probe_top2(z.ctypes.data, len(z), out.ctypes.data)
    assert out.tolist() == expected


# ---- lanes -------------------------------------------------------------------------------------


def exp2(core, a: np.ndarray, rate: float) -> np.ndarray:
    out = np.zeros_like(a)
    core.probe_exp2(a.ctypes.data, rate, out.ctypes.data, len(a))
    return out


@pytest.mark.parametrize("temperature", [0.01, 0.7, 1.0, 5.0])
def test_exponential_is_within_a_rounding_and_a_half(core, temperature):
    rate = np.float32(math.log2(math.e) / temperature)
    a = np.linspace(-126 / float(rate), 0, 1 << 20).astype(np.float32)
    y = a.astype(np.float64) * float(rate)
    a, y = a[y > -125.999], y[y > -125.999]
    a = np.concatenate([a, np.zeros(-len(a) % 16, dtype=np.float32)])
    found = exp2(core, a, float(rate))[: len(y)]
    assert np.abs(found / np.exp2(y) - 1).max() < 1e-7


def test_exponential_edges(core):
    a = np.zeros(16, dtype=np.float32)
    a[:8] = 0, -126, -125.99999, -127, -np.inf, np.nan, -1, -3.4e38
    a[8:10] = -0.0, -64
    payload = np.array([0x7FFFFFFF, 0xFF800001], dtype=np.uint32).view(np.float32)
    a[10:12] = payload  # NaNs whose low bits look like an exponent
    found = exp2(core, a, 1.0)
    assert found[[0, 1, 3, 4, 6, 7, 8, 9]].tolist() == [1, 0, 0, 0, 0.5, 0, 1, 2.0**-64]
    assert found[2] >= 2.0**-126
    assert np.isnan(found[[5, 10, 11]]).all()


def test_reduction_tree(core):
    """(lane i, i + 8), then 4, 2, 1: an order that a different tree would not reproduce."""
    lanes = np.random.default_rng(2).normal(0, 1, 16).astype(np.float32)
    tree = lanes.copy()
    for half in (8, 4, 2, 1):
        tree = tree[:half] + tree[half:]
    assert core.probe_reduce_add(lanes.ctypes.data) == tree[0]
    assert tree[0] != np.cumsum(lanes)[-1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_conversion_of_every_16_bit_value(core, dtype):
    bits = np.arange(1 << 16, dtype=np.uint16)
    out = np.zeros(1 << 16, dtype=np.float32)
    for i in range(0, 1 << 16, 16):
        core.probe_convert(
            ctypes.c_void_p(bits.ctypes.data + 2 * i), int(dtype == torch.bfloat16),
            ctypes.c_void_p(out.ctypes.data + 4 * i),
        )  # fmt: skip
    expected = torch.from_numpy(bits.view(np.int16)).view(dtype).float().numpy()
    np.testing.assert_array_equal(out, expected)
    finite = ~np.isnan(expected)
    assert (np.signbit(out) == np.signbit(expected))[finite].all()
