"""The gumbel rule of compiled backends against a plain argmax with noise computed independently."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.chi2 import p_value
from helpers.device import few, interpreted_if
from helpers.raw import caller
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def words(seed: int, position: int, ids: np.ndarray) -> np.ndarray:
    """Philox4x32-10 of the documented address, in numpy."""
    low = np.uint64(0xFFFFFFFF)
    x = [ids.astype(np.uint64) // 4, np.full(len(ids), position & 0xFFFFFFFF, np.uint64),
         np.full(len(ids), position >> 32 & 0xFFFFFFFF, np.uint64),
         np.full(len(ids), 4, np.uint64)]  # fmt: skip
    key0, key1 = seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF
    for _ in range(10):
        a, b = x[0] * np.uint64(0xD2511F53), x[2] * np.uint64(0xCD9E8D57)
        x = [(b >> np.uint64(32)) ^ x[1] ^ np.uint64(key0), b & low,
             (a >> np.uint64(32)) ^ x[3] ^ np.uint64(key1), a & low]  # fmt: skip
        key0, key1 = key0 + 0x9E3779B9 & 0xFFFFFFFF, key1 + 0xBB67AE85 & 0xFFFFFFFF
    return np.stack(x)[ids % 4, np.arange(len(ids))]


def noise(word: np.ndarray) -> np.ndarray:
    w = np.minimum((word.astype(np.float64) + 0.5) * 2.0**-32, 1 - 2.0**-24)
    return -np.log(-np.log1p(-w))


def best(z: np.ndarray, temperature: float, noise: np.ndarray) -> int:
    """The column of the largest score, the lowest on ties."""
    with np.errstate(invalid="ignore"):
        return int(np.argmax(np.where(z > -np.inf, z / np.float64(temperature) + noise, -np.inf)))


def draft(
    backend: str, logits: Tensor, seed: Tensor, position: Tensor, **options: Tensor
) -> Tensor:
    """[B] tokens of ``draft_step``, slot 2."""
    batch = len(logits)
    arguments = dict.fromkeys(
        ("temperature", "top_k", "top_p", "min_p", "token_mask", "d2t", "accept_estimate", "rows",
         "rule_kind", "rule_param", "arm", "memory", "logits_row", "kept_logits")
    )  # fmt: skip
    token = torch.zeros(batch, dtype=torch.int64)
    ints = {"dtype": torch.int32}
    arguments.update(
        options, logits=logits, seed=seed, position=position - 2, round=token.clone(), rule=2,
        max_length=torch.full((batch,), 4, **ints), tokens=torch.full((batch, 4), -1),
        length=torch.full((batch,), 2, **ints), active=torch.ones(batch, dtype=torch.bool),
        num_active=torch.zeros(1, **ints), stats=torch.zeros(batch, 4, 8),
        stop_reason=torch.zeros(batch, **ints), next_token=token,
    )  # fmt: skip
    caller(backend)("draft_step", **arguments)
    return token


def sample(
    backend: str, logits: Tensor, seed: Tensor, position: Tensor, **options: Tensor
) -> Tensor:
    batch = len(logits)
    names = ("temperature", "top_k", "top_p", "min_p", "token_mask", "live", "rows")
    tokens = torch.zeros(batch, dtype=torch.int64)
    caller(backend)(
        "sample", **{**dict.fromkeys(names), **options}, logits=logits, seed=seed, rule=2,
        rng_round=torch.zeros(batch, dtype=torch.int64), position=position.clone(), tokens=tokens,
    )  # fmt: skip
    return tokens


def addresses(batch: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(batch)
    seed = torch.randint(-(1 << 62), 1 << 62, (batch,), generator=generator)
    return seed, torch.randint(-5, 1 << 40, (batch,), generator=generator)


def rows(vocab: int, dtype: torch.dtype) -> Tensor:
    """Spread, steep, one peak, equal, ascending, gaps."""
    generator = torch.Generator().manual_seed(vocab)
    z = torch.randn(6, vocab, generator=generator)
    z[1] *= 6
    z[2, vocab // 2] = 15
    z[3] = 0.5
    z[4] = z[4].sort().values * 3
    z[5, torch.rand(vocab, generator=generator) < 0.7] = -torch.inf
    z[5, vocab - 1] = 0
    return z.to(dtype)


INTERPRETED = {(7, torch.float32), (8193, torch.bfloat16)}


@pytest.mark.parametrize("threads", [1, interpreted_if(False, 2)])
@pytest.mark.parametrize(
    ("vocab", "dtype"),
    [interpreted_if((v, d) in INTERPRETED, v, d)
     for v in (1, 7, 1023, 1025, 8193, 49152, 128256) for d in DTYPES],
)  # fmt: skip
@pytest.mark.sliced(5)
def test_draw_equals_a_plain_argmax(compiled, vocab, dtype, threads):
    torch.set_num_threads(threads)
    z = rows(vocab, dtype)
    seed, position = addresses(len(z))
    ids = np.arange(vocab)
    every = [noise(words(s, p, ids)) for s, p in zip(seed.tolist(), position.tolist(), strict=True)]
    for temperature in (0.2, 1.0, 50.0):
        t = torch.full((len(z),), temperature)
        scale = t[0].double().item()
        expected = [best(x.double().numpy(), scale, g) for x, g in zip(z, every, strict=True)]
        assert draft(compiled, z, seed, position, temperature=t).tolist() == expected
        one = [draft(compiled, z[b : b + 1], seed[b : b + 1], position[b : b + 1],
                     temperature=t[:1]).item() for b in range(len(z))]  # fmt: skip
        assert one == expected  # a row that all threads, or programs, share
        assert sample(compiled, z, seed, position, temperature=t).tolist() == expected


@pytest.mark.parametrize("vocab", [7, 1025, interpreted_if(False, 49152)])
def test_masks_and_filters_take_ids_out_of_the_draw(compiled, vocab):
    z = rows(vocab, torch.float32)
    seed, position = addresses(len(z))
    generator = torch.Generator().manual_seed(1)
    mask = torch.randint(-(1 << 31), 1 << 31, (len(z), -(-vocab // 32)), generator=generator)
    mask[:, -1] |= 1 << vocab - 1 & 31
    z[:, vocab - 1] = z[:, vocab - 1].clamp(min=-9.0)
    mask = mask.int()
    bits = (mask[..., None] >> torch.arange(32) & 1).bool().reshape(len(z), -1)[:, :vocab]
    allowed = z.masked_fill(~bits, -torch.inf)
    top_k = torch.full((len(z),), max(1, vocab // 3), dtype=torch.int32)
    kth = allowed.topk(int(top_k[0])).values[:, -1:]
    ids, found = np.arange(vocab), draft(compiled, z, seed, position, token_mask=mask, top_k=top_k)
    for b, token in enumerate(found.tolist()):
        kept = allowed[b].masked_fill(allowed[b] < kth[b], -torch.inf)
        word = words(seed[b].item(), position[b].item(), ids)
        assert token == best(kept.double().numpy(), 1.0, noise(word))
    assert sample(compiled, z, seed, position, token_mask=mask, top_k=top_k).equal(found)


@pytest.mark.parametrize("vocab", [interpreted_if(False, 7), 1025, interpreted_if(False, 8193)])
def test_a_draft_vocabulary_draws_with_the_noise_of_target_ids(compiled, vocab):
    z = rows(vocab, torch.bfloat16)
    seed, position = addresses(len(z))
    d2t = torch.randperm(3 * vocab, generator=torch.Generator().manual_seed(2))[:vocab]
    found = draft(compiled, z, seed, position, d2t=d2t.int())
    for b, token in enumerate(found.tolist()):
        word = words(seed[b].item(), position[b].item(), d2t.numpy())
        assert token == d2t[best(z[b].double().numpy(), 1.0, noise(word))]


def logits_of(vocab: int) -> Tensor:
    return torch.randn(vocab, generator=torch.Generator().manual_seed(vocab)) * 2


@pytest.mark.interpreted_slow
@pytest.mark.parametrize("vocab", [5, 5000])
def test_tokens_have_the_law_of_the_softmax(compiled, vocab):
    z, samples = logits_of(vocab), few(compiled, 40000, 1000, emulated=8000)
    seed, position = torch.arange(samples), torch.full((samples,), 17)
    token = sample(compiled, z.expand(samples, vocab), seed, position)
    assert p_value(token[:, None], z.double().softmax(0).numpy()) > 1e-3


@pytest.mark.parametrize(
    "wrong",
    [lambda w: -np.log(w), lambda w: np.log(-np.log1p(-w)), lambda w: -2 * np.log(-np.log(w))],
)
def test_a_wrong_noise_does_not_have_it(wrong):
    """Exponential noise, noise of the wrong sign and of the wrong scale."""
    z = logits_of(5)
    w = np.random.default_rng(0).uniform(2.0**-32, 1, (40000, 5))
    token = torch.from_numpy((z.double().numpy() + wrong(w)).argmax(-1))
    assert p_value(token[:, None], z.double().softmax(0).numpy()) < 1e-9
