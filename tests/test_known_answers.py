"""Numbers that were worked out by hand or published, on every backend."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.device import few
from helpers.rounds import drafted, select, update_arguments
from helpers.vectors import PHILOX, words

from tapout_kernels import (
    BanditState,
    Proposal,
    RngState,
    SamplingParams,
    StopRules,
    StopState,
    mix64,
    row_stats,
    sample,
    verify,
)
from tapout_kernels.reference import rng
from tapout_kernels.testing import TOLERANCES

MASK = 0xFFFFFFFF


# ---- random numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize(("counter", "key", "result"), PHILOX)
def test_philox_random123_vectors(counter, key, result):
    found = rng.philox4x32(tuple(map(torch.tensor, words(counter))),
                           tuple(map(torch.tensor, words(key))))  # fmt: skip
    assert [int(word) for word in found] == words(result)


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 in Python integers, tied to the published vectors below."""
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & MASK, (a >> 32) ^ c[3] ^ k[1], a & MASK]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    return c


def uniform(seed: int, slot: int, round_: int, domain: int) -> float:
    counter = [0, slot & MASK, round_ & MASK, domain]
    found = philox(counter, [seed & MASK, (seed >> 32) & MASK])
    return (((found[0] << 20) | (found[1] >> 12)) + 0.5) / 2**52


def test_python_philox_is_philox():
    assert all(philox(words(c), words(k)) == words(r) for c, k, r in PHILOX)


@pytest.mark.parametrize(
    ("word0", "word1", "u"),
    [(0, 0, 2.0**-53), (MASK, MASK, 1 - 2.0**-53), (0, 0xFFF, 2.0**-53), (0, 0x1000, 3 * 2.0**-53),
     (1, 0, 2.0**-32 + 2.0**-53), (0x80000000, 0, 0.5 + 2.0**-53)],
)  # fmt: skip
def test_uniform_edges(word0, word1, u):
    """52 bits and a half: exact in float64, never 0, never 1."""
    found = rng.uniform_from_words(torch.tensor(word0), torch.tensor(word1)).item()
    assert found == u
    assert 0 < found < 1


SEEDS = [0, 1, -1, 1 << 32, (1 << 63) - 1, -(1 << 63), 0x123456789ABCDEF]
ROUNDS = [0, 1, MASK, MASK + 1, (1 << 40) + 3]
WIDE = 1 << 12  # equal logits: id = floor(u * WIDE), twelve bits of every uniform


@pytest.mark.parametrize("round_", ROUNDS)
def test_sample_uses_the_residual_address(backend, round_):
    state = RngState.of(SEEDS)
    state.round.fill_(round_)
    found = sample(torch.zeros(len(SEEDS), WIDE), SamplingParams(), state, backend=backend)
    assert found.tolist() == [int(uniform(s, 0, round_, 2) * WIDE) for s in SEEDS]


@pytest.mark.parametrize("round_", ROUNDS)
def test_draft_and_verify_use_their_addresses(backend, round_):
    """DRAFT at each slot; ACCEPT where p_target is one half; RESIDUAL at the deciding slot."""
    state = RngState.of(SEEDS)
    state.round.fill_(round_)
    draft = drafted(torch.zeros(len(SEEDS), WIDE), 3, state, backend=backend)
    expected = [[int(uniform(s, j, round_, 0) * WIDE) for j in range(3)] for s in SEEDS]
    assert draft.tokens.tolist() == expected
    half = torch.zeros(len(SEEDS), 4, WIDE)
    half.scatter_(2, draft.tokens[:, :, None], math.log(WIDE - 1))  # p_target(x) = 1/2
    one_hot = Proposal.from_tokens(draft.tokens, RngState.of(SEEDS), backend=backend)
    one_hot.round.fill_(round_)
    verdict = verify(half, one_hot, SamplingParams(), RngState.of(SEEDS), backend=backend)
    for b, seed in enumerate(SEEDS):
        accepts = [uniform(seed, j, round_, 1) < 0.5 for j in range(3)]
        accepted = accepts.index(False) if False in accepts else 3
        u = uniform(seed, accepted, round_, 2)
        rejected = draft.tokens[b, accepted].item() if accepted < 3 else WIDE
        others = WIDE - (accepted < 3)  # equal weights but the rejected one
        token = int(u * others) + (int(u * others) >= rejected)
        assert verdict.num_accepted[b] == accepted
        assert verdict.last_token[b] == token


@pytest.mark.parametrize(
    ("seed", "ordinal", "value"),
    # The published SplitMix64 streams of seeds 0 and 1234567.
    [(0, 0, 0xE220A8397B1DCDAF), (0, 1, 0x6E789E6AA1B965F4), (0, 2, 0x06C45D188009454F),
     (1234567, 0, 6457827717110365317), (1234567, 1, 3203168211198807973),
     (1234567, 2, 9817491932198370423), ((1 << 64) + 1234567, 2, 9817491932198370423)],
)  # fmt: skip
def test_mix64_vectors(seed, ordinal, value):
    assert mix64(seed, ordinal) % (1 << 64) == value
    assert -(1 << 63) <= mix64(seed, ordinal) < 1 << 63


# ---- bandit ------------------------------------------------------------------------------------


def test_ucb1_episode(backend):
    """One request, K = 2, reward simple; arm 0 has one of two accepted, arm 1 both.

    t counts this call's row: third choice t = 3, bonus sqrt(2 ln 3) both, means .5 and 1 -> 1;
    t = 4: .5 + 1.665 against 1 + 1.177 -> 1; t = 5: .5 + 1.794 against 1 + 1.036 -> 0;
    t = 6: .5 + 1.339 against 1 + 1.093 -> 1.
    """
    bandit = BanditState.create(arms=2, slots=2, reward="simple")
    arms = []
    for _ in range(6):
        arm = select(bandit, backend=backend)
        arms += arm.tolist()
        update_arguments(bandit, arm, accepted=[1 + arm.item()], length=[2], slots=2).run(backend)
    assert arms == [0, 1, 1, 1, 0, 1]
    assert bandit.count.tolist() == [[2, 4]]
    assert bandit.reward_sum.tolist() == [[1.0, 4.0]]
    assert bandit.calls.item() == 6


@pytest.mark.parametrize(
    ("reward_sum", "arms"),
    [
        # t = 6; row 0: .5 + 1.339 against .75 + 1.893; row 1: arm 1 pending, .75 + 1.339 wins;
        # row 2: .75 + 1.093 = 1.8429 against 1.8386. A mean over pending pulls would say 1, 0.
        ([1.0, 0.75], [1, 1, 1]),
        # Equal means: row 1 is an exact tie (lowest arm), row 2 has arm 0 pending.
        ([1.0, 0.5], [1, 0, 1]),
    ],
)
def test_ucb1_pending_pulls_of_a_batch(backend, reward_sum, arms):
    bandit = BanditState.create(arms=2)
    bandit.count.copy_(torch.tensor([[2.0, 1.0]]))
    bandit.reward_sum.copy_(torch.tensor([reward_sum]))
    assert select(bandit, batch=3, backend=backend).tolist() == arms


def test_ucb1_groups_and_dead_rows(backend):
    """Fresh groups explore on their own; a dead row neither chooses nor counts as pending."""
    bandit = BanditState.create(arms=3, groups=2)
    out = torch.full((7,), 9, dtype=torch.int32)
    group = torch.tensor([0, 1, 0, 0, 1, 2, -1], dtype=torch.int32)
    live = torch.tensor([True, True, False, True, True, True, True])
    select(bandit, group=group, live=live, out=out, backend=backend)
    assert out.tolist() == [0, 0, 9, 1, 1, 9, 9]


def test_fixed_policy(backend):
    bandit = BanditState.create(arms=3, policy="fixed", arm=2)
    assert select(bandit, batch=4, backend=backend).tolist() == [2, 2, 2, 2]


def test_rewards_and_costs(backend):
    """K = 4, alpha = 1/2: 2 of 4 -> 1/2; 1 of 2 -> 1/8 + 1/4; nothing drafted -> 0, but counted."""
    bandit = BanditState.create(arms=2, slots=4)
    bandit.cost_ratio.fill_(0.25)
    arm = torch.tensor([0, 1, 1, 1], dtype=torch.int32)
    update = update_arguments(bandit, arm, accepted=[2, 1, 0, 4], length=[4, 2, 0, 4], slots=4)
    update.live[3] = False
    update.run(backend)
    assert bandit.count.tolist() == [[1, 2]]
    assert bandit.reward_sum.tolist() == [[0.5, 0.375]]
    assert bandit.reward_sq.tolist() == [[0.25, 0.140625]]
    assert bandit.tokens.tolist() == [[3, 3]]
    assert bandit.cost.tolist() == [[2.0, 2.5]]


@pytest.mark.parametrize(
    ("memory", "accepted", "length", "expected"),
    [
        ([0.5, 0.0], 2, 2, [0.501, 0.5]),  # rate 1/2 < .9: up by .01, smoothed by .9
        ([0.5, 0.9], 2, 2, [0.499, 0.95]),  # down
        ([0.5, 0.9], 4, 4, [0.5, 0.95]),  # every slot was drafted: not lowered
        ([0.5, 1.0], 3, 4, [0.501, 0.875]),
        ([0.5, 0.7], 0, 0, [0.5, 0.7]),  # nothing drafted: nothing learnt
    ],
)
def test_adaedl_memory(backend, memory, accepted, length, expected):
    rules = StopRules("svip", "adaedl")
    state = StopState.of(2, rules, arm=1)
    state.memory[0, 1, :2] = torch.tensor(memory)
    state.arm[1] = 0  # another rule: its memory stays
    before = state.memory.clone()
    bandit = BanditState.create(arms=2, slots=4)
    update = update_arguments(bandit, state.arm, [accepted] * 2, [length] * 2, slots=4)
    update.run(backend, rules=rules, state=state)
    torch.testing.assert_close(state.memory[0, 1, :2], torch.tensor(expected), atol=0, rtol=1e-7)
    before[0, 1] = state.memory[0, 1]
    assert state.memory.equal(before)


# ---- statistics --------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 30.0])
@pytest.mark.parametrize("temperature", [0.01, 0.7, 1.0, 5.0])
def test_stats_are_those_of_a_float64_softmax(backend, temperature, scale):
    """Extremes included: T = 0.01 with logits of +-100 puts (z - m)/T beyond 10,000."""
    logits = scale * torch.randn(6, 5000, generator=torch.Generator().manual_seed(1))
    token = logits.argsort(-1)[:, -3].contiguous()
    sampling = SamplingParams.of(6, temperature=[temperature] * 6)
    found = row_stats(logits, sampling, tokens=token, backend=backend).double()
    t = torch.tensor(temperature, dtype=torch.float32).double()
    logp = (logits.double() / t).log_softmax(-1)
    p = logp.exp()
    best = p.topk(2).values
    expected = {
        "lse": (logits.double() / t).logsumexp(-1),
        "entropy": -(p * logp.clamp(min=-1e300)).sum(-1),
        "top1_prob": best[:, 0],
        "top2_prob": best[:, 1],
        "token_logprob": logp.gather(-1, token[:, None])[:, 0],
        "cutoff": logits.double().amin(-1),
        "temperature": t.expand(6),
    }
    for column, (name, value) in enumerate(expected.items()):
        atol, rtol = TOLERANCES[name]
        torch.testing.assert_close(found[:, column], value, atol=atol, rtol=rtol, msg=name.__add__)


def hugging_face(scores: torch.Tensor, temperature: float, top_k: int, top_p: float):
    """TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper of transformers, in order."""
    scores = scores / temperature
    if top_k > 0:
        k = min(top_k, scores.size(-1))
        scores = scores.masked_fill(scores < torch.topk(scores, k)[0][..., -1, None], -math.inf)
    if top_p < 1:
        ordered, index = torch.sort(scores, descending=False)
        remove = ordered.softmax(dim=-1).cumsum(dim=-1) <= (1 - top_p)
        remove[..., -1:] = False
        scores = scores.masked_fill(remove.scatter(1, index, remove), -math.inf)
    return scores.log_softmax(-1)


@pytest.mark.parametrize("top_p", [0.0, 0.3, 0.9, 0.999, 1.0])
@pytest.mark.parametrize("top_k", [0, 1, 7, 40, 5000])
@pytest.mark.sliced(5)
def test_filters_are_hugging_faces_on_tie_free_rows(backend, top_k, top_p):
    generator = torch.Generator().manual_seed(top_k + 10)
    logits = 3 * torch.randn(3, 300, generator=generator)
    assert all(len(row.unique()) == 300 for row in logits)
    expected = hugging_face(logits.double(), 0.75, top_k, float(torch.tensor(top_p)))
    sampling = SamplingParams.of(3, [0.75] * 3, [top_k] * 3, [top_p] * 3)
    for token in range(0, 300, few(backend, 1, 149)):
        ids = torch.full((3,), token)
        found = row_stats(logits, sampling, tokens=ids, backend=backend)[:, 4]
        torch.testing.assert_close(
            found.double(), expected[:, token], atol=TOLERANCES["token_logprob"].atol, rtol=5e-7
        )
