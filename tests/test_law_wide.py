"""The joint law at V = 49152 with the real streams: draft + stop + verify, two tokens.

Every id belongs to a bin: by how likely it is (head, middle, tail) and where it is (first chunk of
the vocabulary, last, between).  The bin of a token decides the logits that follow it, so bins form
a Markov chain whose law is summed exactly from the oracle's probabilities.  Each configuration
must reject a deliberately wrong program.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from helpers.chain import Chain
from helpers.chi2 import p_value
from helpers.device import few
from helpers.law import BLOCK, GUMBEL, TOKEN, Filter, columns
from helpers.oracle import markov, processed
from helpers.raw import Call, caller

from tapout_kernels import StopRules, mix64
from tapout_kernels.draft_vocab import DraftVocab

VOCAB, CONTEXTS, CHUNK = 49152, 3, 1024
BATCH, REPLICAS, WRONG_REPLICAS = 256, 1024, 512
THRESHOLD = 1e-6
TOKEN_LOGPROB, CUTOFF = 4, 5  # columns of the statistics
GENERATOR = np.random.default_rng(11)
# The last chunk is likely enough to be missed, and a body of thousands of ids makes the tail.
HEAD = 3.0 * (np.arange(VOCAB) % 401 == 7) + 1.5 * (np.arange(VOCAB) >= VOCAB - CHUNK)
BODY, NOISE = GENERATOR.normal(size=(2, CONTEXTS, VOCAB))
TARGET = torch.tensor(HEAD + 2 * BODY).bfloat16()
DRAFT = torch.tensor(HEAD + 2 * BODY + 0.5 * NOISE).bfloat16()
ARMS = StopRules(("fixed_length", {"n": 0}), ("fixed_length", {"n": 1}), ("fixed_length", {"n": 2}))


def bins() -> np.ndarray:
    """[V] the nine bins."""
    rank = TARGET.float().mean(0).argsort(descending=True).argsort().numpy()
    likely = np.digitize(rank, [VOCAB // 64, VOCAB // 4])
    place = np.digitize(np.arange(VOCAB), [CHUNK, VOCAB - CHUNK])
    return 3 * likely + place


BIN = bins()


def packed(allowed: np.ndarray) -> torch.Tensor:
    """[C, V] bool -> [C, V/32] i32: bit i of word w is id 32 w + i."""
    bits = np.packbits(allowed, axis=-1, bitorder="little").view(np.int32)
    return torch.tensor(bits)


class Wide(NamedTuple):
    rule: int
    target: Filter
    draft: Filter
    wrong: Callable[[str, dict], None]  # changes the arguments of a call
    d2t: np.ndarray | None = None
    allowed: np.ndarray | None = None  # [C, V], of both sides


def spread_over_what_top_p_cut(op: str, arguments: dict) -> None:
    """The residual subtracts draft mass that the filter had removed."""
    if op == "verify":
        arguments["stats"] = arguments["stats"].clone()
        arguments["stats"][..., CUTOFF] = -1e30


def draft_probability_forgotten(op: str, arguments: dict) -> None:
    """As if every token had been drafted for sure."""
    if op == "verify":
        arguments["stats"] = arguments["stats"].clone()
        arguments["stats"][..., TOKEN_LOGPROB] = 0


def first_mask_for_every_row(op: str, arguments: dict) -> None:
    """The mask of the context before the draft, for the bonus row too."""
    if op == "verify":
        mask = arguments["token_mask"]
        arguments["token_mask"] = mask[:, :1].expand_as(mask).contiguous()


def draft_vocabulary() -> np.ndarray:
    """Likely and unlikely ids in turn: neighbours have nothing in common."""
    likely, unlikely = (GENERATOR.permutation(np.flatnonzero(ids))[:600]
                        for ids in (BIN < 3, BIN > 5))  # fmt: skip
    return np.stack([likely, unlikely], 1).ravel().astype(np.int32)


CASES = {
    "token, top-p": Wide(
        TOKEN, Filter(top_p=0.96875), Filter(temperature=1.25, top_p=0.25),
        spread_over_what_top_p_cut,
    ),
    "block, min-p, draft vocabulary": Wide(
        BLOCK, Filter(min_p=2.0**-10), Filter(temperature=1.25), draft_probability_forgotten,
        draft_vocabulary(),
    ),
    "gumbel, top-k, masks": Wide(
        GUMBEL, Filter(temperature=1.5, top_k=20000), Filter(temperature=1.5, top_k=9000),
        first_mask_for_every_row, None, (BIN + np.arange(CONTEXTS)[:, None]) % 2 == 0,
    ),
}  # fmt: skip


def exact_law(case: Wide) -> np.ndarray:
    """[9, 9] law of the bins of two tokens."""
    masks = [None] * CONTEXTS if case.allowed is None else case.allowed
    ids = [processed(z, *case.target, m) for z, m in zip(TARGET.float(), masks, strict=True)]
    by_context = np.stack([np.bincount(BIN, weights=row, minlength=9) for row in ids])
    return markov(by_context[np.arange(9) % CONTEXTS], 0, 2)


def two_tokens_p_value(call: Call, case: Wide, replicas: int) -> float:
    draft = DRAFT if case.d2t is None else DRAFT[:, torch.tensor(case.d2t).long()]
    mask = None if case.allowed is None else packed(case.allowed)
    start = int(np.flatnonzero(BIN == 0)[0])
    run = Chain(
        call, TARGET, draft, ARMS, BATCH, rule=case.rule,
        sampling=columns([case.target] * BATCH), draft_sampling=columns([case.draft] * BATCH),
        target_mask=mask, draft_mask=mask, context=torch.tensor(BIN % CONTEXTS),
        vocab=None if case.d2t is None else DraftVocab(torch.tensor(case.d2t)),
        learner={"policy": "thompson_gaussian"},
    )  # fmt: skip
    found = [
        run.prompt(torch.tensor([mix64(b, n) for b in range(BATCH)]), start, 2)
        for n in range(replicas // BATCH)
    ]
    lengths = torch.stack(run.lengths)
    assert all((lengths == n).any() for n in range(3)), "the arms must differ in what they do"
    return p_value(torch.tensor(BIN)[torch.cat(found)], exact_law(case))


@pytest.mark.interpreted_slow
@pytest.mark.parametrize("case", CASES)
def test_two_tokens_of_a_wide_vocabulary_have_the_target_law(compiled, case):
    replicas = few(compiled, REPLICAS, BATCH, emulated=BATCH)
    assert two_tokens_p_value(caller(compiled), CASES[case], replicas) > THRESHOLD


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_wide_law_on_more_replicas(compiled, case):
    replicas = few(compiled, 64, 2, emulated=8) * BATCH
    assert two_tokens_p_value(caller(compiled), CASES[case], replicas) > THRESHOLD


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_program_is_rejected(native, case):
    right, wrong = caller(native), CASES[case].wrong

    def call(op: str, **arguments: object) -> None:
        wrong(op, arguments)
        right(op, **arguments)

    assert two_tokens_p_value(call, CASES[case], WRONG_REPLICAS) < THRESHOLD


@pytest.mark.parametrize("case", CASES)
def test_every_bin_is_expected(case):
    """The tail (bins 6 to 8) and the last chunk (2, 5, 8) are among what is seen."""
    law = exact_law(CASES[case]).sum(0)
    assert np.abs(law.sum() - 1) < 1e-9
    seen = law * REPLICAS >= 5
    assert seen.sum() >= 5
    assert seen[6:].any()
    assert seen[2::3].any()
