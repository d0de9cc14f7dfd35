"""The semantics of Triton's kernels, function by function: random numbers by published vectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from helpers import device
from helpers.vectors import PHILOX, words
from test_gumbel import noise
from test_gumbel import words as gumbel_words_of
from test_known_answers import MASK, ROUNDS, SEEDS, uniform

from tapout_kernels._triton.core import rng

DEVICE = "cpu" if device.INTERPRETED else "cuda"


def signed(word: int) -> int:
    return word - (1 << 32) if word >= 1 << 31 else word


@triton.jit
def word_at(words, i):
    return tl.load(words + i).to(tl.uint32, bitcast=True)


@triton.jit
def _philox(counter, key, out):
    found = rng.philox4x32_10(
        word_at(counter, 0), word_at(counter, 1), word_at(counter, 2), word_at(counter, 3),
        word_at(key, 0), word_at(key, 1),
    )  # fmt: skip
    for i in tl.static_range(4):
        tl.store(out + i, found[i].to(tl.int64))


@pytest.mark.parametrize(("counter", "key", "result"), PHILOX)
def test_philox_random123_vectors(counter, key, result):
    given = [
        torch.tensor([signed(word) for word in words(text)], dtype=torch.int32, device=DEVICE)
        for text in (counter, key)
    ]
    out = torch.zeros(4, dtype=torch.int64, device=DEVICE)
    _philox[(1,)](*given, out)
    assert out.tolist() == words(result)


@triton.jit
def _uniform_edges(word, out):
    tl.store(out, rng.uniform_from_words(word_at(word, 0), word_at(word, 1)))


@pytest.mark.parametrize(
    ("word0", "word1", "u"),
    [(0, 0, 2.0**-53), (MASK, MASK, 1 - 2.0**-53), (0, 0xFFF, 2.0**-53), (0, 0x1000, 3 * 2.0**-53),
     (1, 0, 2.0**-32 + 2.0**-53), (0x80000000, 0, 0.5 + 2.0**-53)],
)  # fmt: skip
def test_uniform_edges(word0, word1, u):
    word = torch.tensor([signed(word0), signed(word1)], dtype=torch.int32, device=DEVICE)
    out = torch.zeros(1, dtype=torch.float64, device=DEVICE)
    _uniform_edges[(1,)](word, out)
    assert out.item() == u


@triton.jit
def _uniforms(seed, slot, round_, out):
    s, j, r = tl.load(seed), tl.load(slot), tl.load(round_)
    tl.store(out, rng.uniform_at(s, j, r, rng.DRAFT))
    tl.store(out + 1, rng.uniform_at(s, j, r, rng.ACCEPT))
    tl.store(out + 2, rng.uniform_at(s, j, r, rng.RESIDUAL))


@pytest.mark.parametrize("round_", ROUNDS)
def test_uniforms_are_where_they_are_documented_to_be(round_):
    for seed in SEEDS:
        given = [torch.tensor([x], device=DEVICE) for x in (seed, 3, round_)]
        out = torch.zeros(3, dtype=torch.float64, device=DEVICE)
        _uniforms[(1,)](*given, out)
        assert out.tolist() == [uniform(seed, 3, round_, domain) for domain in range(3)]


@triton.jit
def _gumbel(seed, position, out_word, out_noise):
    block = tl.arange(0, 16).to(tl.uint32)
    found = rng.gumbel_words(tl.load(seed), tl.load(position), block)
    for i in tl.static_range(4):
        at = 4 * tl.arange(0, 16) + i
        tl.store(out_word + at, found[i].to(tl.int64))
        tl.store(out_noise + at, rng.gumbel_noise(found[i]))


@pytest.mark.parametrize("position", [0, 17, MASK + 2, (1 << 40) + 3, -1])
def test_gumbel_noise_is_where_it_is_documented_to_be(position):
    # Two logarithms, that of a number near 1 being near 0: an ulp of the inner one is absolute.
    for seed in SEEDS:
        given = [torch.tensor([x], device=DEVICE) for x in (seed, position)]
        word = torch.zeros(64, dtype=torch.int64, device=DEVICE)
        found = torch.zeros(64, dtype=torch.float64, device=DEVICE)
        _gumbel[(1,)](*given, word, found)
        expected = gumbel_words_of(seed, position, np.arange(64))
        assert word.tolist() == expected.tolist()
        np.testing.assert_allclose(found.cpu().numpy(), noise(expected), rtol=1e-14, atol=5e-16)


@triton.jit
def _noise(word, out):
    at = tl.arange(0, 8)
    tl.store(out + at, rng.gumbel_noise(word_at(word, at)))


def test_gumbel_noise_falls_as_the_word_rises_to_the_clamp():
    edges = np.array([0, 1, 1 << 31, MASK - 257, MASK - 256, MASK - 255, MASK - 1, MASK])
    word = torch.tensor([signed(int(w)) for w in edges], dtype=torch.int32, device=DEVICE)
    found = torch.zeros(8, dtype=torch.float64, device=DEVICE)
    _noise[(1,)](word, found)
    np.testing.assert_allclose(found.cpu().numpy(), noise(edges), rtol=1e-14)
    falls = np.diff(found.cpu().numpy()) < 0
    assert falls.tolist() == [True, True, True, True, True, False, False]
