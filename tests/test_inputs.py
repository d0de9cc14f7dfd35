"""Boundary and hostile inputs: what comes back is defined, and never an id outside [0, V)."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.device import few
from helpers.rounds import drafted

import tapout_kernels as tk
from tapout_kernels import Proposal, RngState, SamplingParams, StopRules, StopState

OK, NAN, EMPTY, BAD_DRAFT = range(4)
INF = math.inf


def check(logits, tokens, backend, *, sampling=None, length=None, draft_logits=None, rule="token",
          draft_sampling=None):  # fmt: skip
    """Verify drafts made elsewhere; logits [B, K+1, V]."""
    tokens = torch.tensor(tokens)
    rng = RngState.of(range(tokens.shape[0]))
    count = torch.full((tokens.shape[0],), tokens.shape[1], dtype=torch.int32)
    draft = Proposal.from_tokens(
        tokens, rng, length=count if length is None else torch.tensor(length, dtype=torch.int32),
        logits=draft_logits, sampling=draft_sampling or SamplingParams(), backend=backend,
    )  # fmt: skip
    sampling = sampling or SamplingParams()
    return tk.verify(torch.tensor(logits), draft, sampling, rng, rule=rule, backend=backend)


# ---- drafted ids --------------------------------------------------------------------------------

BAD_IDS = [-1, -2, 3, 1 << 31, 1 << 32, (1 << 32) + 1, 1 << 40, -(1 << 40), (1 << 63) - 1]


@pytest.mark.parametrize("rule", ["token", "greedy"])
@pytest.mark.parametrize("bad", BAD_IDS)
@pytest.mark.sliced(4)
def test_an_id_outside_the_vocabulary_ends_the_draft(backend, bad, rule):
    """Status BAD_DRAFT and one sample of the target's row at that slot, as if the draft ended."""
    verdict = check([[[0.0, 50.0, 0.0]] * 4], [[1, bad, 1]], backend, rule=rule)
    assert verdict.status.tolist() == [BAD_DRAFT]
    assert verdict.tokens.tolist() == [[1, 1, -1, -1]]
    assert (verdict.num_accepted.item(), verdict.num_emitted.item()) == (1, 2)
    assert verdict.accept_prob[0, 1:].tolist() == [-1, -1]


@pytest.mark.parametrize("bad", BAD_IDS)
@pytest.mark.sliced(4)
def test_an_id_outside_with_logits_has_no_draft_probability(backend, bad):
    logits = torch.zeros(1, 2, 3)
    verdict = check([[[0.0, 50.0, 0.0]] * 3], [[bad, 1]], backend, draft_logits=logits)
    assert verdict.status.tolist() == [BAD_DRAFT]
    assert verdict.tokens.tolist() == [[1, -1, -1]]


def test_a_token_the_draft_cannot_have_drawn_ends_the_draft(backend):
    """p_draft = 0 (masked, or cut by the draft's top-k) is a broken drafter, not a rejection."""
    draft = torch.tensor([[[0.0, -INF, 0.0]], [[3.0, 2.0, 1.0]]])
    verdict = check(
        [[[0.0, 50.0, 0.0]] * 2] * 2, [[1], [1]], backend, draft_logits=draft,
        draft_sampling=SamplingParams.of(2, top_k=[0, 1]),
    )  # fmt: skip
    assert verdict.status.tolist() == [BAD_DRAFT] * 2
    assert verdict.tokens.tolist() == [[1, -1]] * 2


# ---- rows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bad", "status"), [(math.nan, NAN), (INF, NAN), (None, EMPTY)])
@pytest.mark.parametrize("where", [0, 1, 2])
@pytest.mark.parametrize("rule", ["token", "greedy"])
@pytest.mark.sliced(4)
def test_an_invalid_target_row_emits_nothing_more(backend, bad, status, where, rule):
    logits = torch.zeros(1, 3, 2000)
    logits[..., 7] = 50.0
    logits[0, where] = -INF if bad is None else logits[0, where]
    if bad is not None:
        logits[0, where, 1999] = bad
    verdict = check(logits.tolist(), [[7, 7]], backend, rule=rule)
    assert verdict.status.tolist() == [status]
    assert verdict.num_accepted.item() == verdict.num_emitted.item() == where
    assert verdict.tokens[0].tolist() == [7] * where + [-1] * (3 - where)
    assert verdict.last_token.item() == (7 if where else 0)


def test_an_invalid_row_behind_the_deciding_one_is_not_looked_at(backend):
    logits = [[[50.0, 0.0]] + [[math.nan, 0.0]] * 2]
    verdict = check(logits, [[1, 1]], backend)
    assert (verdict.status.item(), verdict.tokens[0].tolist()) == (OK, [0, -1, -1])


def test_bad_rows_sample_nothing(backend):
    rows = torch.tensor([[math.nan, 0.0], [INF, 0.0], [-INF, -INF], [-INF, 1.0]])
    rng = RngState.of(range(4), position=5)
    assert tk.sample(rows, SamplingParams(), rng, backend=backend).tolist() == [-1, -1, -1, 1]
    assert rng.position.tolist() == [5, 5, 5, 6]
    assert rng.round.tolist() == [1] * 4
    stats = tk.row_stats(rows, backend=backend)
    assert stats[:3, :6].isnan().all()
    assert not stats[:3, 6:].any()
    assert stats[3, :7].tolist() == [1, 0, 1, 0, 0, 1, 1]


@pytest.mark.parametrize("temperature", [math.nan, -1.0, -1e-9, -INF])
def test_a_bad_temperature_is_a_bad_row(backend, temperature):
    rows, rng = torch.zeros(1, 5), RngState.of(0)
    sampling = SamplingParams.of(1, [temperature])
    assert tk.sample(rows, sampling, rng, backend=backend).item() == -1
    assert tk.sample(rows, sampling, rng, rule="greedy", backend=backend).item() == 0
    verdict = check([[[0.0, 1.0]] * 2], [[1]], backend, sampling=sampling)
    assert (verdict.status.item(), verdict.num_emitted.item()) == (NAN, 0)
    draft = drafted(rows, 2, RngState.of(0), sampling, backend=backend)
    assert (draft.length.item(), draft.stop_reason.item()) == (0, 5)


@pytest.mark.parametrize("temperature", [1e38, INF])
def test_a_huge_temperature_counts_as_the_largest(backend, temperature):
    logits = torch.tensor([[-3e38, -3e38, 0.0]])
    sampling = SamplingParams.of(1, [temperature])
    stats = tk.row_stats(logits, sampling, backend=backend)[0]
    assert stats[6].item() == 2.0**126
    weight = math.exp(-3e38 / 2.0**126)
    assert stats[2].item() == pytest.approx(1 / (1 + 2 * weight), rel=1e-5)


@pytest.mark.parametrize("fill", [-1e4, -1e10, -1e12, -1e20, -1e30, -3e38])
def test_ids_far_below_the_rest_weigh_nothing(backend, fill):
    """Engines forbid ids by such logits; here in whole chunks, beside one that is all of it."""
    logits = torch.full((2, 3000), fill)
    logits[0, :3] = 0.0
    stats = tk.row_stats(logits, SamplingParams(), backend=backend)
    found = stats[:, [1, 2]].tolist()  # entropy, probability of the maximum
    assert found[0] == pytest.approx([math.log(3), 1 / 3], rel=1e-5)
    assert found[1] == pytest.approx([math.log(3000), 1 / 3000], rel=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 1e-6, 9e-6])
def test_temperature_zero_is_the_lowest_argmax(backend, temperature):
    rows = torch.zeros(1, 3000)
    rows[0, [1500, 2900]] = 1.0
    sampling = SamplingParams.of(1, [temperature])
    assert tk.sample(rows, sampling, RngState.of(3), backend=backend).item() == 1500
    stats = tk.row_stats(rows, sampling, tokens=torch.tensor([2900]), backend=backend)[0]
    assert stats[[0, 4, 5, 6]].tolist() == [1.0, -INF, 1.0, 0.0]
    assert stats[1] > 7, "the entropy is that of temperature 1"


def test_an_infinite_temperature_is_uniform_over_what_is_finite(backend):
    count = few(backend, 400, 20)
    rows = torch.tensor([[5.0, -INF, -5.0, 0.0]]).expand(count, 4)
    sampling = SamplingParams.of(count, [INF] * count)
    found = tk.sample(rows, sampling, RngState.of(range(count)), backend=backend)
    assert set(found.tolist()) == {0, 2, 3}
    stats = tk.row_stats(rows[:1], SamplingParams.of(1, [INF]), backend=backend)[0]
    torch.testing.assert_close(stats[1:4], torch.tensor([math.log(3), 1 / 3, 1 / 3]))


# ---- filters ------------------------------------------------------------------------------------

ROW = torch.tensor([[3.0, 1.0, 2.0, 2.0, 0.0, -INF]])


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (0, 1.0, 5), (6, 1.0, 5), (100, 1.0, 5), (-3, 1.0, 5), (5, 1.0, 5), (1, 1.0, 1),
        (2, 1.0, 3), (3, 1.0, 3),  # the tie at 2.0 is kept whole
        (0, 0.0, 1), (0, -1.0, 1), (0, math.nan, 5), (0, 2.0, 5), (0, 1e-9, 1),
        (0, 0.6, 3), (3, 0.6, 3), (1, 0.0, 1),
    ],
)  # fmt: skip
@pytest.mark.sliced(4)
def test_filters_at_their_limits(backend, top_k, top_p, kept):
    sampling = SamplingParams(
        top_k=torch.tensor([top_k], dtype=torch.int32), top_p=torch.tensor([top_p])
    )
    cutoff = tk.row_stats(ROW, sampling, backend=backend)[0, 5].item()
    assert int((cutoff <= ROW).sum()) == kept
    found = {
        tk.sample(ROW, sampling, RngState.of(seed), backend=backend).item()
        for seed in range(few(backend, 300, 20 if kept == 3 else 2))
    }
    allowed = {v for v in range(6) if ROW[0, v] >= cutoff}
    assert found <= allowed
    assert len(found) == len(allowed) or kept == 5, "every kept id is drawn sooner or later"


# ---- distributions ------------------------------------------------------------------------------


@pytest.mark.interpreted_slow
def test_equal_distributions_always_accept(backend):
    count, generator = few(backend, 200, 20), torch.Generator().manual_seed(0)
    logits = torch.randn(count, 1, 50, generator=generator).expand(-1, 4, -1)
    draft = drafted(logits.contiguous(), 3, RngState.of(range(count)), backend=backend)
    verdict = tk.verify(logits, draft, SamplingParams(), RngState.of(range(count)), backend=backend)
    # p_draft went through float32: u p_draft < p_target may fail within 2**-21 of u = 1.
    assert (verdict.num_accepted == 3).all()
    torch.testing.assert_close(verdict.accept_prob, torch.ones(count, 3), atol=0, rtol=2e-6)


@pytest.mark.interpreted_slow
def test_disjoint_supports_always_reject(backend):
    count = few(backend, 200, 50)
    draft_rows, target = torch.full((2, count, 20), -INF)
    draft_rows[:, :10], target[:, 10:] = 0.0, 0.0
    draft = drafted(draft_rows, 2, RngState.of(range(count)), backend=backend)
    verdict = tk.verify(
        target[:, None].expand(-1, 3, -1), draft, SamplingParams(), RngState.of(range(count)),
        backend=backend,
    )  # fmt: skip
    assert not verdict.num_accepted.any()
    assert not verdict.accept_prob[:, 0].any()
    assert set(verdict.last_token.tolist()) == set(range(10, 20))


def test_zero_residual_mass_samples_the_target(backend):
    """One-hot target and one-hot draft of another id: p_target - p_draft is p_target; and a draft
    whose p_draft exceeds p_target nowhere but rounds to it: still an id of the target."""
    verdict = check([[[-INF, 0.0, -INF]] * 2], [[0]], backend)
    assert verdict.tokens.tolist() == [[1, -1]]
    # A claimed p_draft above p_target everywhere leaves no residual at all.
    count = few(backend, 300, 40)
    rng = RngState.of(range(count))
    draft = Proposal.from_tokens(
        torch.zeros(count, 1, dtype=torch.int64), rng, logits=torch.zeros(count, 1, 4),
        sampling=SamplingParams(), backend=backend,
    )  # fmt: skip
    draft.stats[..., 4] = 0.0  # says p_draft(v) = 1 for every v
    verdict = tk.verify(torch.zeros(count, 2, 4), draft, SamplingParams(), rng, backend=backend)
    rejected = verdict.num_accepted == 0
    assert rejected.any()
    assert (verdict.status == OK).all()
    assert set(verdict.last_token[rejected].tolist()) == {0, 1, 2, 3}


def test_one_id_one_slot(backend):
    """V = 1, K = 1: everything is accepted and everything is id 0."""
    rng = RngState.of([1, 2])
    draft = drafted(torch.zeros(2, 1), 1, rng, backend=backend)
    assert draft.stats[:, 0, :5].tolist() == [[0, 0, 1, 0, 0]] * 2
    verdict = tk.verify(torch.zeros(2, 2, 1), draft, SamplingParams(), rng, backend=backend)
    assert verdict.tokens.tolist() == [[0, 0]] * 2
    assert rng.position.tolist() == [2, 2]


@pytest.mark.parametrize("group", [-1, 2, 1 << 30])
@pytest.mark.parametrize("arm", [-1, 2, 1 << 30])
def test_arms_and_groups_out_of_range_are_skipped(backend, arm, group):
    from helpers.rounds import update_arguments

    bandit = tk.BanditState.create(arms=2, groups=2)
    rules = StopRules("svip", "adaedl")
    state = StopState.of(2, rules)
    for arms, groups in (([arm, arm], [0, 1]), ([0, 1], [group, group])):
        state.arm.copy_(torch.tensor(arms))
        update = update_arguments(bandit, state.arm, [1, 1], [1, 1], slots=1)
        memory = state.memory.clone()
        tk.bandit_update(
            bandit, state.arm, update.proposal, update.verdict,
            torch.tensor(groups, dtype=torch.int32), rules=rules, state=state, backend=backend,
        )  # fmt: skip
        assert not bandit.count.any()
        assert state.memory.equal(memory)


def test_input_ids_are_inside_the_vocabulary():
    draft = Proposal.from_tokens(torch.tensor([[5, 7, 1 << 40]]), RngState.of(0))
    last = torch.tensor([3])
    assert draft.input_ids(last).tolist() == [[3, 5, 7, 1 << 40]]
    assert draft.input_ids(last, vocab=7).tolist() == [[3, 5, 3, 3]]


def test_no_sampling_parameters_mean_all_off(backend):
    logits, found = torch.randn(2, 3, 7), []
    for sampling in (None, SamplingParams()):
        rng = RngState.of([1, 2])
        draft = Proposal.empty(2, 2, vocab=7)
        draft.reset(rng)
        token = tk.draft_step(logits[:, 0], draft, sampling, rng, backend=backend)
        verdict = tk.verify(logits, draft, sampling, rng, backend=backend)
        found.append(token.tolist() + verdict.tokens.flatten().tolist())
    assert found[0] == found[1]


def test_an_active_row_that_is_full_drafts_nothing(backend):
    """Only a caller who sets the limit by hand can get there."""
    rng, draft = RngState.of(0), Proposal.empty(1, 2, vocab=3)
    draft.reset(rng)
    draft.max_length.fill_(9)
    for step in range(4):
        tk.draft_step(torch.zeros(1, 3), draft, None, rng, backend=backend)
        assert draft.length.tolist() == [min(step + 1, 2)]
    assert draft.stop_reason.tolist() == [2]  # MAX_LENGTH
    assert not draft.active.any()
