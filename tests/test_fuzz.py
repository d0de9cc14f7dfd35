"""Small hostile requests: no crash, no id outside [0, V), the status the contract says."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tapout_kernels as tk
from tapout_kernels import Proposal, RngState, SamplingParams

OK, BAD_DRAFT = 0, 3
INF = math.inf
LOGIT = st.sampled_from([0.0, -0.0, 1.0, -3.5, 80.0, -80.0, 3e38, -3e38, 1e-40, -INF,
                         1e10, -1e10, -1e12, 1e15, -1e20] * 3
                        + [INF, math.nan])  # fmt: skip
TEMPERATURE = st.sampled_from([1.0, 0.0, 1e-6, 1e-3, 0.7, 1e30, INF, -1.0, math.nan])
TOP_K = st.sampled_from([0, 1, 2, 3, 100, -1, (1 << 31) - 1])
TOP_P = st.sampled_from([1.0, 0.5, 0.0, 1e-20, 0.999999, 1.5, -1.0, math.nan])
MIN_P = st.sampled_from([0.0, 0.1, 1.0, 2.0, math.nan])
TOKEN = st.sampled_from([0, 1, 2, 3, 4, -1, 1 << 40])


@st.composite
def requests(draw):
    vocab, slots = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    row = st.lists(LOGIT, min_size=vocab, max_size=vocab)
    return {
        "target": draw(st.lists(row, min_size=slots + 1, max_size=slots + 1)),
        "draft": draw(st.none() | st.lists(row, min_size=slots, max_size=slots)),
        "tokens": draw(st.lists(TOKEN, min_size=slots, max_size=slots)),
        "length": draw(st.integers(-1, slots + 1)),
        "sampling": [draw(s) for s in (TEMPERATURE, TOP_K, TOP_P, MIN_P)],
        "mask": draw(st.integers(-(1 << 31), (1 << 31) - 1)),
        "rule": draw(st.sampled_from(["token", "block", "gumbel", "greedy"])),
        "seed": draw(st.integers(-(1 << 63), (1 << 63) - 1)),
        "dtype": draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16])),
    }


def run_request(request: dict, backend: str) -> tk.Verdict:
    rng = RngState.of([request["seed"]])
    sampling = SamplingParams.of(1, *([x] for x in request["sampling"]))
    dtype = request["dtype"]
    logits = request["draft"] and torch.tensor([request["draft"]], dtype=dtype)
    length = torch.tensor([request["length"]], dtype=torch.int32)
    draft = Proposal.from_tokens(torch.tensor([request["tokens"]]), rng, length=length,
                                 logits=logits, sampling=sampling, backend=backend)  # fmt: skip
    target = torch.tensor([request["target"]], dtype=dtype)
    mask = torch.full((1, target.shape[1], 1), request["mask"], dtype=torch.int32)
    return tk.verify(
        target, draft, sampling, rng, rule=request["rule"], token_mask=mask, logprobs="raw",
        backend=backend,
    )  # fmt: skip


def check_range(request_: dict, verdict: tk.Verdict) -> None:
    vocab, slots = len(request_["target"][0]), len(request_["tokens"])
    emitted, accepted = verdict.num_emitted.item(), verdict.num_accepted.item()
    tokens = verdict.tokens[0].tolist()
    assert all(0 <= token < vocab for token in tokens[:emitted])
    assert tokens[emitted:] == [-1] * (slots + 1 - emitted)
    assert tokens[:accepted] == request_["tokens"][:accepted]
    assert accepted <= max(0, min(request_["length"], slots))
    ends_well = verdict.status.item() in (OK, BAD_DRAFT)
    if request_["rule"] == "block":  # its status speaks of rows after the deciding one too
        assert emitted in (accepted, accepted + 1)
        assert emitted == accepted + 1 or not ends_well
    else:
        assert emitted == accepted + ends_well
    assert 0 <= verdict.status.item() <= 3
    probs = verdict.accept_prob[0]
    assert ((probs == -1) | ((probs >= 0) & (probs <= 1))).all()


def check_equal(found: tk.Verdict, expected: tk.Verdict) -> None:
    """Status and counts never hang on rounding here: the fuzzed logits are far apart."""
    assert found.status.equal(expected.status)
    assert found.num_accepted.equal(expected.num_accepted)
    assert found.tokens.equal(expected.tokens)


def fuzzed(examples: int):
    """A test of that many requests."""

    def decorate(test):
        test = given(request_=requests())(test)
        quiet = [HealthCheck.function_scoped_fixture]
        return settings(max_examples=examples, deadline=None, derandomize=True,
                        suppress_health_check=quiet)(test)  # fmt: skip

    return decorate


@pytest.mark.interpreted_slow
@fuzzed(150)
def test_fuzz_never_leaves_the_vocabulary(backend, request_):
    check_range(request_, run_request(request_, backend))


@pytest.mark.interpreted_slow
@fuzzed(150)
def test_fuzz_status_is_the_references(compiled, request_):
    check_equal(run_request(request_, compiled), run_request(request_, "reference"))


@fuzzed(40)
def test_fuzz_in_short(compiled, request_):
    """Both of the above on fewer requests: what Triton's interpreter has time for."""
    found = run_request(request_, compiled)
    check_range(request_, found)
    check_equal(found, run_request(request_, "reference"))
