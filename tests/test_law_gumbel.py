"""``gumbel``: the output is what the target alone samples, token for token, whoever drafts.

And one such token has the softmax's law: the noise is a function of one 32-bit word, whose
distribution over all words is measured, not sampled.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from helpers.chain import Chain
from helpers.chi2 import p_value
from helpers.device import few, interpreted_if
from helpers.law import GUMBEL
from helpers.mutants import Reference
from helpers.raw import caller, caller_of
from test_law_chi2 import ALL_ARMS, CASES, START, TARGET, THRESHOLD, VOCAB, chain, keys

from tapout_kernels import StopRules
from tapout_kernels.draft_vocab import DraftVocab
from tapout_kernels.reference.stats import Sampling, process

BATCH, WANTED = 48, 9
INTERPRETED = ("masks", "draft", 2)
WORDS = 1 << 32
CLAMP = 2.0**-24  # the largest words share the noise of 1 - 2**-24


def speculate(
    call,
    case: str,
    slots: int,
    batch: int,
    order: torch.Tensor | None = None,
    one_hot: bool = False,
    **learner,
) -> tuple[torch.Tensor, Chain]:
    """[B, WANTED] tokens and the run, requests in the given order."""
    order = torch.arange(batch) if order is None else order
    run = chain(
        call, batch, ALL_ARMS, CASES[case], GUMBEL, slots, one_hot, policy="thompson_gaussian",
        **learner,
    )  # fmt: skip
    return run.prompt(keys(batch, 3)[order], START, WANTED), run


def alone(call, run: Chain) -> torch.Tensor:
    """[B, WANTED] ``sample`` of the target, one token after the other."""
    token, found = torch.full((run.batch,), START), []
    rng_round, position = torch.zeros(2, run.batch, dtype=torch.int64)
    for _ in range(WANTED):
        context, mask = run.context[token], run.target_mask
        token = torch.empty_like(token)
        call(
            "sample", logits=run.target[context], **run.sampling, seed=run.keys, live=None,
            token_mask=None if mask is None else mask[context], rows=None, rule=GUMBEL,
            rng_round=rng_round, position=position, tokens=token,
        )  # fmt: skip
        found.append(token)
    return torch.stack(found, 1)


@pytest.mark.parametrize(
    ("case", "source", "slots"),
    [interpreted_if(where == INTERPRETED, *where)
     for where in itertools.product(CASES, ("draft", "one_hot"), (1, 2, 5))],
)  # fmt: skip
@pytest.mark.sliced(4)
def test_output_is_the_targets_own(backend, case, source, slots):
    call, batch = caller(backend), few(backend, BATCH, 8)
    tokens, run = speculate(call, case, slots, batch, one_hot=source == "one_hot")
    assert torch.equal(tokens, alone(call, run))
    lengths, arms = torch.stack(run.lengths), torch.stack(run.arms)
    assert {0, slots} <= set(lengths.unique().tolist()), "the arms must differ in what they do"
    assert len(arms.unique()) == len(ALL_ARMS) + 1, "-1 is a request that has enough"


@pytest.mark.interpreted_slow
@pytest.mark.parametrize("case", CASES)
def test_output_does_not_depend_on_the_batch_or_the_level_of_arms(backend, case):
    call, batch = caller(backend), few(backend, BATCH, 12)
    tokens, _ = speculate(call, case, 3, batch)
    order = torch.randperm(batch, generator=torch.Generator().manual_seed(1))
    assert torch.equal(speculate(call, case, 3, batch, order)[0], tokens[order])
    by_slot, run = speculate(call, case, 3, batch, level="token")
    assert torch.equal(by_slot, tokens)
    assert (run.arms[1][:, 0] != run.arms[1][:, 1]).any()


@pytest.mark.interpreted_slow
def test_output_depends_on_the_seed(backend):
    batch = few(backend, BATCH, 4)
    tokens, _ = speculate(caller(backend), "plain", 2, batch)
    assert len(tokens.unique(dim=0)) == batch


def accepts_itself(call, batch: int = BATCH) -> bool:
    """A draft with the target's own logits, in a vocabulary of another order, is accepted whole."""
    rules, d2t = StopRules(("fixed_length", {"n": 4})), [3, 1, 4, 0, 2]
    run = Chain(
        call, torch.tensor(TARGET), torch.tensor(TARGET)[:, d2t], rules, batch, slots=4,
        rule=GUMBEL, vocab=DraftVocab(torch.tensor(d2t, dtype=torch.int32)),
    )  # fmt: skip
    run.prompt(keys(batch, 5), START, 10)
    return len(run.lengths) == 2  # twice 4 accepted drafts and one more


@pytest.mark.interpreted_slow
def test_a_draft_with_the_targets_logits_is_accepted_whole(backend):
    assert accepts_itself(caller(backend), few(backend, BATCH, 6))


def output_is_the_targets_own(reference: Reference) -> bool:
    call = caller_of(reference.ops)
    tokens, run = speculate(call, "masks", 2, BATCH)
    return torch.equal(tokens, alone(call, run))


# ---- the law of one draw ----------------------------------------------------------------------


class Words:
    """A reference whose Gumbel noise reads given words instead of Philox's."""

    def __init__(self):
        self.reference = Reference()
        self.module = self.reference.module("gumbel")

    def noise(self, *words: torch.Tensor) -> torch.Tensor:
        """[R, D] noise of ids 0..D-1 from D <= 4 words [R] each."""
        given = [word[:, None].expand(-1, len(words)) for word in words]
        given += [given[0]] * (4 - len(words))
        self.module.philox4x32 = lambda counter, key: tuple(given)
        zeros = torch.zeros_like(words[0])
        return self.module.gumbel_noise(zeros, zeros, torch.arange(len(words)))


def test_noise_has_the_gumbel_distribution_over_all_words():
    """P[G >= noise of word w] is v = (w + 1/2) 2**-32 to rounding, on 2**20 evenly spaced words.

    The noise falls as the word rises (checked), so over all 2**32 words the distribution function
    is off by at most half a word, and by the clamp where the noise is smallest.
    """
    step = 1 << 12
    grid = torch.arange(step // 2, WORDS, step)
    noise = Words().noise(grid)[:, 0]
    assert (noise.diff() < 0).all()
    above = -(-(-noise).exp()).expm1()
    assert ((above - (grid.double() + 0.5) / WORDS).abs() <= 1e-15).all()
    edges = torch.tensor([0, 1, WORDS - 258, WORDS - 257, WORDS - 256, WORDS - 1])
    g = Words().noise(edges)[:, 0]
    assert torch.equal(g.diff() < 0, torch.tensor([True, True, True, True, False]))
    ends = [-math.log(-math.log1p(-v)) for v in (2.0**-33, 1 - CLAMP)]
    assert g[[0, -1]].tolist() == pytest.approx(ends, rel=1e-12)


@pytest.mark.parametrize("difference", [0.0, 0.7, -2.5, 6.0])
def test_one_draw_of_two_ids_has_the_softmax_law(difference):
    """The probability of id 0 over all 2**64 pairs of words, bracketed within 2**-13.

    For a word of id 0, the words of id 1 that lose to it are the largest ones: their number is
    found by bisection.  It falls as the word of id 0 rises, so sums over blocks of 2**18 of those,
    at their last and first word, enclose the whole sum.
    """
    words, block = Words(), 1 << 18
    logits = torch.tensor([[difference, 0.0]])

    def losing(word0: torch.Tensor) -> float:
        """The share of the words of id 1 that lose, on average."""
        rows = process(logits.expand(len(word0), -1), Sampling())
        low, high = torch.zeros_like(word0), torch.full_like(word0, WORDS)
        while (low < high).any():
            middle = (low + high) // 2
            noise = words.noise(word0, middle.clamp(max=WORDS - 1))
            wins = words.module.gumbel_index(rows, noise) == 0
            searching = low < high
            low = torch.where(searching & ~wins, middle + 1, low)
            high = torch.where(searching & wins, middle, high)
        return 1 - low.double().mean().item() / WORDS

    first = torch.arange(0, WORDS, block)
    least, most = losing(first + block - 1), losing(first)
    exact = 1 / (1 + math.exp(-difference))
    assert 0 < most - least <= 2.0**-13
    assert least - CLAMP <= exact <= most + CLAMP
    assert (least + most) / 2 == pytest.approx(exact, abs=2.0**-20)


@pytest.mark.interpreted_slow
def test_one_draw_has_the_softmax_law(backend):
    """Chi-squared of ``sample`` at V = 5: one draw for each of many seeds."""
    batch = few(backend, 40_000, 320)
    logits = torch.tensor(TARGET[:1]).expand(batch, -1)
    tokens, zeros = torch.empty(batch, dtype=torch.int64), torch.zeros(batch, dtype=torch.int64)
    caller(backend)(
        "sample", logits=logits, temperature=None, top_k=None, top_p=None, min_p=None,
        token_mask=None, seed=torch.arange(batch), live=None, rows=None, rule=GUMBEL,
        rng_round=zeros.clone(), position=zeros, tokens=tokens,
    )  # fmt: skip
    exact = np.exp(TARGET[0].astype(np.float64))
    assert p_value(tokens[:, None], exact / exact.sum()) > THRESHOLD
    assert p_value(tokens[:, None], np.full(VOCAB, 1 / VOCAB)) < THRESHOLD
