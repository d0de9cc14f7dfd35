"""Bugs other projects shipped, one test each; the reference is in the docstring.

Two of the list need what this version has not: sibling drafts of a tree, and grammar masks.
"""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch._dynamo.testing
from helpers.chi2 import p_value
from helpers.device import few
from helpers.oracle import processed
from helpers.rounds import drafted, update_arguments

import tapout_kernels as tk
from tapout_kernels import Proposal, RngState, SamplingParams, StopRules, StopState
from tapout_kernels.testing import Case

TARGET = torch.tensor([1.0, 0.0, 0.5, -1.0, 2.0])
DRAFT = torch.tensor([0.0, 2.0, -0.5, 1.0, -1.0])


def many(backend: str) -> int:
    return few(backend, 4000, 150)


def first_tokens(backend, count, draft_sampling, target_sampling) -> torch.Tensor:
    """[count, 1] first emitted tokens of independent requests with one draft each."""
    seeds = range(1000, 1000 + count)
    draft = drafted(DRAFT.expand(count, 5), 1, RngState.of(seeds), draft_sampling, backend=backend)
    target = TARGET.expand(count, 2, 5)
    return tk.verify(target, draft, target_sampling, RngState.of(seeds), backend=backend).tokens[
        :, :1
    ]


@pytest.mark.interpreted_slow
@pytest.mark.parametrize(
    "draft_sampling", [{"temperature": 2.0}, {"top_k": 2}, {"top_p": 0.5}, {"temperature": 0.0}]
)
@pytest.mark.sliced(4)
def test_p_draft_is_what_the_draft_was_sampled_from(backend, draft_sampling):
    """transformers#47932, DeepSpec#31: q taken from raw logits, or with the target's parameters."""
    count = many(backend)
    draft = SamplingParams.of(count, **draft_sampling)
    found = first_tokens(backend, count, draft, SamplingParams())
    assert p_value(found, processed(TARGET.numpy())) > 1e-6


@pytest.mark.interpreted_slow
def test_draft_accept_and_recovery_have_noise_of_their_own(backend):
    """vllm#54282: one noise stream for all three (chi-squared 1585 against a threshold of 70)."""
    count = many(backend)
    sampling = SamplingParams.of(count, temperature=0.5)
    found = first_tokens(backend, count, sampling, sampling)
    assert p_value(found, processed(TARGET.numpy(), 0.5)) > 1e-6


@pytest.mark.interpreted_slow
def test_the_residual_subtracts_the_whole_draft_distribution(backend):
    """xLLM#2175: only the drafted token was subtracted. Where p_target < p_draft, a recovered id
    other than the drafted one is impossible."""
    count = many(backend)
    seeds = range(count)
    draft = drafted(DRAFT.expand(count, 5), 1, RngState.of(seeds), backend=backend)
    verdict = tk.verify(
        TARGET.expand(count, 2, 5), draft, SamplingParams(), RngState.of(seeds), backend=backend
    )
    recovered = verdict.tokens[verdict.num_accepted == 0, 0]
    above = np.flatnonzero(processed(TARGET.numpy()) > processed(DRAFT.numpy()))
    assert set(recovered.tolist()) == set(above.tolist())


def test_a_token_of_target_probability_zero_is_never_accepted(backend):
    """sglang#35771: accepted when the coin is exactly 0; here no coin is 0 and < is strict."""
    count = many(backend)
    tokens = torch.zeros(count, 1, dtype=torch.int64)
    rng = RngState.of(range(count))
    draft = Proposal.from_tokens(tokens, rng, backend=backend)
    target = torch.tensor([-torch.inf, 0.0]).expand(count, 2, 2)
    verdict = tk.verify(target, draft, SamplingParams(), rng, backend=backend)
    assert not verdict.num_accepted.any()
    assert (verdict.tokens[:, 0] == 1).all()


@pytest.mark.parametrize("rule", ["token", "greedy"])
def test_minus_one_is_not_accepted_and_not_an_address(backend, rule):
    """flashinfer#879, vllm#46533: -1 ids accepted, or read out of bounds."""
    rng = RngState.of([0])
    length = torch.tensor([2], dtype=torch.int32)
    draft = Proposal.from_tokens(torch.tensor([[-1, -1]]), rng, length=length, backend=backend)
    verdict = tk.verify(torch.zeros(1, 3, 4), draft, SamplingParams(), rng, rule=rule,
                        backend=backend)  # fmt: skip
    assert (verdict.status.item(), verdict.num_accepted.item()) == (3, 0)
    assert 0 <= verdict.tokens[0, 0] < 4


@pytest.mark.parametrize("rule", ["token", "greedy"])
def test_a_nan_row_is_not_a_token(backend, rule):
    """vllm#53029: a NaN row turned into a valid-looking token."""
    nan = torch.full((1, 2, 50), torch.nan)
    rng = RngState.of([0])
    draft = Proposal.from_tokens(torch.tensor([[3]]), rng, backend=backend)
    verdict = tk.verify(nan, draft, SamplingParams(), rng, rule=rule, backend=backend)
    assert (verdict.status.item(), verdict.num_emitted.item()) == (1, 0)
    assert verdict.tokens.tolist() == [[-1, -1]]
    assert tk.sample(nan[:, 0], SamplingParams(), rng, rule=rule, backend=backend).item() == -1


@pytest.mark.interpreted_slow
@pytest.mark.parametrize("vocab", [1, 1023, 1025, 2047])
@pytest.mark.sliced(4)
def test_no_recovered_id_lies_outside_the_vocabulary(backend, vocab):
    """GHSA-8wr5-jm2h-8r4f: a recovered id of V or more crashed the server. Equal logits put the
    largest uniforms at the very end of the row."""
    rng = RngState.of(range(2000))
    draft = Proposal.from_tokens(torch.zeros(2000, 1, dtype=torch.int64), rng, backend=backend)
    target = torch.zeros(2000, 2, vocab)
    verdict = tk.verify(target, draft, SamplingParams(), rng, backend=backend)
    emitted = verdict.tokens[verdict.tokens != -1]
    assert ((emitted >= 0) & (emitted < vocab)).all()
    assert emitted.max() >= vocab - 1 - vocab // 200, "the end of the row is reached"


def test_each_row_has_its_own_seed_whatever_the_batch(backend):
    """vllm#10863, and FlashInfer reads seed_arr[0]: output that depends on the neighbours."""
    logits, seeds = torch.zeros(1, 4096), [5, 5, 6, 7, 5]
    together = tk.sample(logits.expand(5, -1), SamplingParams(), RngState.of(seeds),
                         backend=backend)  # fmt: skip
    alone = [tk.sample(logits, SamplingParams(), RngState.of(s), backend=backend) for s in seeds]
    assert together.tolist() == torch.cat(alone).tolist()
    assert len(set(together.tolist())) == 3


@pytest.mark.parametrize("field", ["temperature", "top_k", "top_p", "min_p"])
@pytest.mark.parametrize("op", ["row_stats", "sample", "draft_step", "verify"])
@pytest.mark.sliced(3)
def test_no_sampling_parameter_is_silently_ignored(backend, op, field):
    """vllm#31982, TensorRT-LLM#17955: a parameter accepted and then not used."""
    value = {"temperature": 0.2, "top_k": 1, "top_p": 0.05, "min_p": 0.9}[field]
    count = few(backend, 200, 8)
    logits, plain = torch.arange(50.0).expand(count, -1) / 20, SamplingParams()
    changed = SamplingParams.of(count, **{field: value})
    results = []
    for sampling in (plain, changed):
        rng = RngState.of(range(count))
        if op == "row_stats":
            results.append(tk.row_stats(logits, sampling, backend=backend))
        elif op == "sample":
            results.append(tk.sample(logits, sampling, rng, backend=backend))
        elif op == "draft_step":
            results.append(drafted(logits.contiguous(), 1, rng, sampling, backend=backend).tokens)
        else:
            tokens = torch.full((count, 1), 49)
            draft = Proposal.from_tokens(tokens, rng, backend=backend)
            target = logits[:, None].expand(-1, 2, -1)
            results.append(tk.verify(target, draft, sampling, rng, backend=backend).tokens)
    assert not torch.equal(*results)


def test_an_unproposed_slot_is_not_a_rejection(backend):
    """sglang#31750: slots beyond the draft lowered the acceptance rate and cost the bonus token."""
    rng, rules = RngState.of([1]), StopRules("adaedl")
    draft = Proposal.from_tokens(torch.tensor([[1, -1, -1, -1]]), rng, backend=backend)
    logits = torch.tensor([0.0, 200.0]).expand(1, 5, 2)
    verdict = tk.verify(logits, draft, SamplingParams(), rng, backend=backend)
    assert verdict.tokens.tolist() == [[1, 1, -1, -1, -1]]
    assert verdict.accept_prob.tolist() == [[1, -1, -1, -1]]
    bandit, state = tk.BanditState.create(arms=1, slots=4, alpha=0.0), StopState.of(1, rules)
    tk.bandit_update(bandit, state.arm, draft, verdict, rules=rules, state=state, backend=backend)
    assert bandit.reward_sum.item() == 1.0, "one of one drafted token was accepted"
    assert state.memory[0, 0, 1] == 0.5, "rate 0 -> (0 + 1) / 2"


def test_no_drafts_is_a_round_like_any_other(backend):
    """TensorRT-LLM#16888 never came back from K = 0, vllm-ascend#16638 still paid for a draft."""
    rng, rules = RngState.of([1]), StopRules(("fixed_length", {"n": 0}))
    state = StopState.of(1, rules)
    draft = Proposal.empty(1, 2, 4)
    draft.reset(rng, rules, state, backend=backend)
    assert draft.num_active.item() == 0, "the loop is told to draft nothing"
    kept = draft.logits.clone()
    token = tk.draft_step(torch.ones(1, 4), draft, SamplingParams(), rng, rules=rules, state=state,
                          backend=backend)  # fmt: skip
    assert token.item() == 0
    assert draft.logits.equal(kept), "an inactive row's logits are not even stored"
    verdict = tk.verify(torch.zeros(1, 3, 4), draft, SamplingParams(), rng, backend=backend)
    assert (verdict.num_accepted.item(), verdict.num_emitted.item()) == (0, 1)
    bandit = tk.BanditState.create(arms=1, slots=2)
    update_arguments(bandit, state.arm, [0], [0], slots=2).run(backend)
    assert (bandit.count.item(), bandit.reward_sum.item()) == (1, 0)
    again = draft  # and the next round can draft
    state.arm.fill_(-1)
    again.reset(rng, rules, state, backend=backend)
    assert again.num_active.item() == 1


FIRST_CALL = """
import json, resource, sys, time, torch
import tapout_kernels as tk
from tapout_kernels.testing import Case
torch.set_num_threads(2)
batch, slots, vocab = 8, 5, 128256
args = Case("verify", batch, slots, 64, torch.bfloat16).inputs()
torch.ops.tapout_kernels.verify.cpu(**args)
one = torch.randn(vocab).bfloat16()
args["target_logits"] = one.repeat(batch, slots + 1, 1)
args["draft_logits"] = one.repeat(batch, slots, 1)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before, begin = peak(), time.perf_counter()
torch.ops.tapout_kernels.verify.cpu(**args)
print(json.dumps({"seconds": time.perf_counter() - begin, "bytes": peak() - before}))
"""


@pytest.fixture(scope="module")
def first_call() -> dict:
    run = subprocess.run(
        [sys.executable, "-c", FIRST_CALL], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_verify_makes_no_probability_tensor(first_call, native):
    """vllm#45369: 500 MB of float32 probabilities. 48 rows of 128256 would be 25 MB here."""
    assert first_call["bytes"] <= 1 << 20


def test_the_first_call_builds_nothing(first_call, native):
    """vllm#49349: compiled on the first request."""
    assert first_call["seconds"] < 0.5


def test_another_batch_size_compiles_nothing(compiled):
    """sglang#18244: recompiled for every batch size; marked dynamic, two graphs serve them all."""
    frames = torch._dynamo.testing.CompileCounter()
    torch._dynamo.reset()
    step = torch.compile(lambda logits, out: tk.row_stats(logits, out=out, backend=compiled),
                         backend=frames, dynamic=True)  # fmt: skip
    for batch in (2, 3, 5, 8):
        logits = Case("row_stats", batch=batch, vocab=9).inputs()["logits"]
        step(logits, torch.zeros(batch, 8))
    assert frames.frame_count == 1
