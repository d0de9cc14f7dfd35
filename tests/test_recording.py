"""Recorded kernel calls do again what the operators would do, and nothing else is recorded."""

from __future__ import annotations

import gc

import pytest
import torch

import tapout_kernels as tk
from tapout_kernels import _library
from tapout_kernels.backends import BackendUnavailable
from tapout_kernels.recording import Recording, recording_unavailable

BATCH, SLOTS, VOCAB = 3, 2, 40


class Round:
    """Everything of a round in memory that stays: a draft, its verification, a lesson."""

    def __init__(self):
        self.rng = tk.RngState.of([1, 2, 3])
        self.sampling = tk.SamplingParams.of(BATCH, temperature=0.8, top_k=12)
        self.rules = tk.StopRules(("svip", {}), ("fixed_length", {"n": 1}))
        self.state = tk.StopState.of(BATCH, self.rules)
        self.bandit = tk.BanditState.create(2, slots=SLOTS, policy="thompson_gaussian", rows=BATCH)
        self.draft = tk.Proposal.empty(BATCH, SLOTS, VOCAB)
        self.verdict = tk.Verdict.empty(BATCH, SLOTS)
        self.live = torch.ones(BATCH, dtype=torch.bool)
        self.token = torch.zeros(BATCH, dtype=torch.int64)
        self.own, self.target = torch.zeros(BATCH, VOCAB), torch.zeros(BATCH, SLOTS + 1, VOCAB)

    def kernels(self) -> None:
        tk.bandit_select(self.bandit, live=self.live, out=self.state.arm)
        self.draft.reset(self.rng, self.rules, self.state, live=self.live)
        for _ in range(SLOTS):
            tk.draft_step(
                self.own, self.draft, self.sampling, self.rng, rules=self.rules, state=self.state,
                out=self.token,
            )  # fmt: skip
        tk.verify(self.target, self.draft, self.sampling, self.rng, out=self.verdict)
        tk.bandit_update(
            self.bandit, self.state.arm, self.draft, self.verdict, rules=self.rules,
            state=self.state,
        )  # fmt: skip

    def fill(self, number: int) -> None:
        generator = torch.Generator().manual_seed(number)
        self.own.copy_(2 * torch.randn(self.own.shape, generator=generator))
        self.target.copy_(self.own[:, None])
        self.live[number % BATCH] = number % 2 == 0

    def bits(self) -> list[torch.Tensor]:
        verdict, draft, bandit = self.verdict, self.draft, self.bandit
        found = (
            self.state.arm, self.state.memory, draft.tokens, draft.length, draft.stats,
            draft.stop_reason, verdict.tokens, verdict.num_accepted, verdict.status,
            self.rng.position, self.rng.round, bandit.count, bandit.reward_sum, bandit.calls,
        )  # fmt: skip
        return [x.clone() for x in found]


def test_a_round_again_is_a_round_anew():
    anew, again = Round(), Round()
    for number in range(12):
        for each in (anew, again):
            each.fill(number)
        anew.kernels()
        if number == 0:
            recording = Recording(again.kernels)
        else:
            recording.run()
        for expected, found in zip(anew.bits(), again.bits(), strict=True):
            assert torch.equal(expected, found), number
    arms = anew.bandit.count.sum(0)
    assert (arms > 3).all(), "both rules were tried, or arms may have been recorded"


def test_what_was_allocated_inside_lives_on():
    logits, rng = torch.zeros(1, 5), tk.RngState.of(1)
    found = []
    recording = Recording(lambda: found.append(tk.sample(logits, None, rng, rule="greedy")))
    address = found[0].data_ptr()
    found.clear()
    gc.collect()
    others = [torch.full((1,), -7) for _ in range(64)]
    assert all(other.data_ptr() != address for other in others)
    logits[0, 3] = 9
    recording.run()
    assert all(other.item() == -7 for other in others)


@pytest.mark.parametrize("compute", [
    lambda x: x + 1, lambda x: x.copy_(x.clone()), lambda x: torch.zeros(3),
    lambda x: x[0, 0].item(),
    lambda x: tk.row_stats(x, None, backend="reference"),
])  # fmt: skip
def test_what_would_not_be_recorded_is_refused(compute):
    logits = torch.zeros(2, 8)
    with pytest.raises(RuntimeError, match=r"Recording: \w+::\w+\S* is no operator"):
        Recording(lambda: compute(logits))
    Recording(lambda: tk.row_stats(logits[:1].view(1, 8), None)).run()  # the next one begins anew


def test_recordings_do_not_nest():
    logits = torch.zeros(1, 5)
    inner = lambda: Recording(lambda: tk.row_stats(logits, None))  # noqa: E731
    with pytest.raises(RuntimeError, match="must not record"):
        Recording(inner)
    inner().run()


def test_an_error_inside_is_the_callers():
    with pytest.raises(TypeError, match="logits"):
        Recording(lambda: tk.row_stats(torch.empty(1, 5, dtype=torch.int64), None))


def test_without_the_library_the_reason_is_given(monkeypatch):
    monkeypatch.setattr(_library, "CPU_UNAVAILABLE", "it was not built")
    assert recording_unavailable() == "it was not built"
    assert "cuda" in recording_unavailable("cuda")
    with pytest.raises(BackendUnavailable, match="it was not built"):
        Recording(lambda: None)
