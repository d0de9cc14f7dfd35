"""Masks, draft vocabularies, ragged targets and state rows, each as an equivalence: the same
round said in another way gives the same bits.
"""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from helpers.device import few, interpreted_if
from torch import Tensor

import tapout_kernels as tk
from tapout_kernels import DraftVocab, Proposal, RngState, SamplingParams, Verdict

BATCH, SLOTS, VOCAB = 24, 3, 70
SAMPLING = {"temperature": 0.9, "top_k": 30, "top_p": 0.95, "min_p": 0.01}
rules = pytest.mark.parametrize(
    "rule", ["token", "block", interpreted_if(False, "gumbel"), interpreted_if(False, "greedy")]
)


def size_of(backend: str) -> int:
    return few(backend, BATCH, 3)


def table(seed: int, *shape: int) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def bits(allowed: Tensor) -> Tensor:
    """[..., V] bool -> [..., ceil(V/32)] int32."""
    padded = torch.nn.functional.pad(allowed, (0, -allowed.shape[-1] % 32))
    words = padded.view(*allowed.shape[:-1], -1, 32).long() << torch.arange(32)
    return words.sum(-1).to(torch.int32)


@dataclasses.dataclass
class Round:
    """One round of a batch; ``draft`` and ``target`` add arguments to the two operators."""

    backend: str
    rule: str
    draft: dict
    target: dict
    size: int = VOCAB

    def run(self, drafts: Tensor, targets: Tensor, rng: RngState) -> tuple[Proposal, Verdict]:
        proposal = Proposal.empty(len(drafts), SLOTS, self.size)
        rows = self.draft.get("rows")
        sampling = SamplingParams.of(len(rng.seed), **SAMPLING)
        proposal.reset(rng, rows=rows, backend=self.backend)
        for slot in range(SLOTS):
            extra = {k: v[:, slot] if k == "token_mask" else v for k, v in self.draft.items()}
            tk.draft_step(
                drafts[:, slot], proposal, sampling, rng, rule=self.rule, backend=self.backend,
                **extra,
            )  # fmt: skip
        verdict = tk.verify(
            targets, proposal, sampling, rng, rule=self.rule, overlap=True, logprobs="processed",
            backend=self.backend, **self.target,
        )  # fmt: skip
        return proposal, verdict


def same_verdict(found: Verdict, expected: Verdict) -> None:
    for field in dataclasses.fields(Verdict):
        left, right = getattr(found, field.name), getattr(expected, field.name)
        assert torch.equal(left, right), f"{field.name}: {left} != {right}"


def near_verdict(found: Verdict, expected: Verdict) -> None:
    """Integers equal; what another order of summation may move agrees closely."""
    for field in dataclasses.fields(Verdict):
        left, right = getattr(found, field.name), getattr(expected, field.name)
        if left.is_floating_point():
            torch.testing.assert_close(left, right, atol=2e-5, rtol=2e-5)
        else:
            assert torch.equal(left, right), f"{field.name}: {left} != {right}"


@rules
@pytest.mark.sliced(4)
def test_a_mask_is_minus_infinity(backend, rule):
    batch = size_of(backend)
    drafts, targets = table(1, batch, SLOTS, VOCAB), 0.2 * table(2, batch, SLOTS + 1, VOCAB)
    targets[:, :-1] += drafts
    open_draft, open_target = (table(s, *t.shape) > -1 for s, t in ((3, drafts), (4, targets)))
    masked = Round(backend, rule, {"token_mask": bits(open_draft)},
                   {"token_mask": bits(open_target)})  # fmt: skip
    plain = Round(backend, rule, {}, {})
    proposal, found = masked.run(drafts, targets, RngState.of(range(batch)))
    other, expected = plain.run(
        drafts.masked_fill(~open_draft, -math.inf), targets.masked_fill(~open_target, -math.inf),
        RngState.of(range(batch)),
    )  # fmt: skip
    same_verdict(found, expected)
    assert torch.equal(proposal.tokens, other.tokens)
    assert torch.equal(proposal.logits, other.logits), "kept rows are -inf where masked"
    assert (found.num_accepted == SLOTS).any()
    assert (found.num_accepted < SLOTS).any()


@rules
@pytest.mark.sliced(4)
def test_the_bonus_row_has_its_mask(backend, rule):
    """vllm#44297: every draft is accepted and the bonus token ignored the grammar."""
    batch = few(backend, BATCH, 8)
    logits = torch.zeros(batch, SLOTS + 1, VOCAB)
    logits[..., 5] = 60.0
    draft = Proposal.from_tokens(
        torch.full((batch, SLOTS), 5), RngState.of(range(batch)), backend=backend
    )
    allowed = torch.ones(batch, SLOTS + 1, VOCAB, dtype=torch.bool)
    allowed[:, -1] = False
    allowed[:, -1, 40:43] = True
    verdict = tk.verify(
        logits, draft, SamplingParams(), RngState.of(range(batch)),
        rule=rule, token_mask=bits(allowed), backend=backend,
    )  # fmt: skip
    assert (verdict.num_accepted == SLOTS).all()
    bonus = set(verdict.last_token.tolist())
    assert bonus == {40} if rule == "greedy" else bonus == {40, 41, 42}


def test_nothing_allowed_is_empty_and_a_masked_nan_is_harmless(backend):
    logits = torch.zeros(3, VOCAB)
    logits[1, 7] = math.nan
    allowed = torch.ones(3, VOCAB, dtype=torch.bool)
    allowed[0], allowed[1, 7] = False, False
    rng = RngState.of(range(3))
    tokens = tk.sample(logits, None, rng, token_mask=bits(allowed), backend=backend)
    assert tokens[0] == -1
    assert (tokens[1:] >= 0).all()
    assert rng.position.tolist() == [0, 1, 1]
    stats = tk.row_stats(logits, token_mask=bits(allowed), backend=backend)
    assert stats[:, 1].isnan().tolist() == [True, False, False]
    assert stats[1, 1].item() == pytest.approx(math.log(VOCAB - 1))


@rules
@pytest.mark.parametrize("masked", [interpreted_if(False, False), True])
@pytest.mark.sliced(4)
def test_a_draft_vocabulary_is_a_target_vocabulary_with_holes(backend, rule, masked):
    """Sorted ids keep every sum in order, so the two rounds make the same decisions."""
    batch = size_of(backend)
    ids = torch.randperm(VOCAB, generator=torch.Generator().manual_seed(5))[:41].sort().values
    vocab = DraftVocab(ids.int())
    drafts, targets = table(6, batch, SLOTS, VOCAB), table(7, batch, SLOTS + 1, VOCAB)
    targets[:, :-1] += drafts
    holes = torch.full_like(drafts, -math.inf)
    holes[..., ids] = drafts[..., ids]
    mask = {"token_mask": bits(table(8, *drafts.shape) > -1)} if masked else {}
    small = Round(backend, rule, {"vocab": vocab, **mask}, {"vocab": vocab}, size=len(vocab))
    proposal, found = small.run(drafts[..., ids].contiguous(), targets, RngState.of(range(batch)))
    other, expected = Round(backend, rule, mask, {}).run(holes, targets, RngState.of(range(batch)))
    assert proposal.logits.shape[-1] == len(vocab), "no tensor of the target's width"
    assert torch.equal(proposal.tokens, other.tokens)
    assert set(proposal.tokens.flatten().tolist()) <= set(ids.tolist())
    near_verdict(found, expected)


@rules
@pytest.mark.sliced(4)
def test_ragged_rows_are_the_dense_ones(backend, rule):
    batch = size_of(backend)
    drafts, targets = table(9, batch, SLOTS, VOCAB), table(10, batch, SLOTS + 1, VOCAB)
    mask = bits(table(11, *targets.shape) > -1)
    dense = Round(backend, rule, {}, {"token_mask": mask})
    _, expected = dense.run(drafts, targets, RngState.of(range(batch)))
    start = torch.arange(batch + 1, dtype=torch.int32) * (SLOTS + 3) + 2  # gaps of two rows
    ragged = table(12, int(start[-1]) + 5, VOCAB)
    index = start[:-1, None].long() + torch.arange(SLOTS + 1)
    ragged[index] = targets
    ragged_mask = torch.zeros(len(ragged), mask.shape[-1], dtype=torch.int32)
    ragged_mask[index] = mask
    flat = Round(backend, rule, {}, {"token_mask": ragged_mask, "row_start": start})
    same_verdict(flat.run(drafts, ragged, RngState.of(range(batch)))[1], expected)


def test_rows_that_do_not_exist_are_empty(backend):
    """Request 0 owns one row too few, request 1 none, request 2 starts beyond the tensor."""
    logits, rng = torch.zeros(4, 6), RngState.of(range(3))
    logits[:, 2] = 50.0
    draft = Proposal.from_tokens(torch.full((3, 2), 2), rng, backend=backend)
    start = torch.tensor([0, 2, 2, 9], dtype=torch.int32)
    verdict = tk.verify(logits, draft, None, rng, row_start=start, backend=backend)
    assert verdict.tokens.tolist() == [[2, 2, -1], [-1, -1, -1], [2, 2, -1]]
    assert verdict.status.tolist() == [2, 2, 2]
    assert rng.position.tolist() == [2, 0, 2]


@rules
@pytest.mark.sliced(4)
def test_state_rows_are_gathered_ones(backend, rule):
    """rows[b] names request b's row of everything kept per request slot."""
    batch = size_of(backend)
    drafts, targets = table(13, batch, SLOTS, VOCAB), table(14, batch, SLOTS + 1, VOCAB)
    rows = torch.randperm(batch + 9, generator=torch.Generator().manual_seed(3))[:batch].int()
    seeds = torch.arange(batch + 9) + 100
    wide = RngState.of(seeds, position=seeds)
    narrow = RngState.of(seeds[rows.long()], position=seeds[rows.long()])
    by_rows = Round(backend, rule, {"rows": rows}, {"rows": rows})
    _, found = by_rows.run(drafts, targets, wide)
    _, expected = Round(backend, rule, {}, {}).run(drafts, targets, narrow)
    same_verdict(found, expected)
    assert torch.equal(wide.position[rows.long()], narrow.position)
    assert torch.equal(wide.round[rows.long()], narrow.round)
    others = torch.ones(batch + 9, dtype=torch.bool).index_fill(0, rows.long(), False)
    assert torch.equal(wide.position[others], seeds[others])
    assert not wide.round[others].any()


@rules
@pytest.mark.sliced(4)
def test_kept_logits_may_live_in_request_slots(backend, rule):
    batch = size_of(backend)
    drafts, targets = table(15, batch, SLOTS, VOCAB), table(16, batch, SLOTS + 1, VOCAB)
    slot = torch.randperm(batch + 4, generator=torch.Generator().manual_seed(4))[:batch].int()
    verdicts = []
    for kept in (None, torch.full((batch + 4, SLOTS, VOCAB), math.nan)):
        rng, proposal = RngState.of(range(batch)), Proposal.empty(batch, SLOTS, VOCAB)
        if kept is not None:
            proposal = dataclasses.replace(proposal, logits=kept, logits_row=slot)
        proposal.reset(rng, backend=backend)
        for j in range(SLOTS):
            tk.draft_step(drafts[:, j], proposal, None, rng, rule=rule, backend=backend)
        verdicts.append(tk.verify(
            targets, proposal, None, rng, rule=rule, overlap=True, logprobs="raw", backend=backend
        ))  # fmt: skip
    same_verdict(*verdicts)


@pytest.mark.parametrize("draft_rule", ["token", "gumbel"])
def test_overlap_and_logprobs_are_what_they_say(backend, draft_rule):
    batch = size_of(backend)
    drafts, targets = table(17, batch, SLOTS, VOCAB), table(18, batch, SLOTS + 1, VOCAB)
    rng, proposal = RngState.of(range(batch)), Proposal.empty(batch, SLOTS, VOCAB)
    sampling = SamplingParams.of(batch, temperature=0.7)
    proposal.reset(rng, backend=backend)
    for j in range(SLOTS):
        tk.draft_step(drafts[:, j], proposal, sampling, rng, rule=draft_rule, backend=backend)
    softmax = [(t.double() / torch.tensor(0.7).double()).softmax(-1) for t in (drafts, targets)]
    wanted = torch.minimum(softmax[0], softmax[1][:, :-1]).sum(-1)
    for kind, logs in (("processed", softmax[1].log()), ("raw", targets.double().log_softmax(-1))):
        verdict = tk.verify(
            targets, proposal, sampling, RngState.of(range(batch)), rule=draft_rule, overlap=True,
            logprobs=kind, backend=backend,
        )  # fmt: skip
        torch.testing.assert_close(verdict.overlap.double(), wanted, atol=1e-6, rtol=0)
        emitted = verdict.tokens >= 0
        chosen = logs.gather(-1, verdict.tokens.clamp(min=0)[..., None])[..., 0]
        expected = torch.where(emitted, chosen, 0.0)
        torch.testing.assert_close(verdict.logprobs.double(), expected, atol=1e-5, rtol=1e-6)


def test_overlap_of_a_draft_without_logits_is_refused_for_gumbel():
    draft = Proposal.from_tokens(torch.zeros(1, 2, dtype=torch.int64), RngState.of(0))
    with pytest.raises(ValueError, match="overlap must be False for rule 'gumbel' without"):
        tk.verify(torch.zeros(1, 3, 4), draft, None, RngState.of(0), rule="gumbel", overlap=True)


def test_buffers_must_hold_what_is_asked_for():
    draft = Proposal.from_tokens(torch.zeros(1, 2, dtype=torch.int64), RngState.of(0))
    for wanted in ({"overlap": True}, {"logprobs": "raw"}):
        (name,) = wanted
        with pytest.raises(ValueError, match=f"verify: out must have {name}"):
            tk.verify(torch.zeros(1, 3, 4), draft, None, RngState.of(0),
                      out=Verdict.empty(1, 2), **wanted)  # fmt: skip
    with pytest.raises(ValueError, match="logprobs must be None, processed or raw, got 'log'"):
        tk.verify(torch.zeros(1, 3, 4), draft, None, RngState.of(0), logprobs="log")


BAD_TABLES = {
    "d2t must be int32": torch.tensor([1, 2]),
    r"d2t must be \[D > 0\]": torch.zeros(0, dtype=torch.int32),
    r"d2t must be \[D > 0\], got \[1, 1\]": torch.zeros(1, 1, dtype=torch.int32),
    "d2t must be non-negative, got -1": torch.tensor([0, -1], dtype=torch.int32),
    "d2t must map to distinct target ids": torch.tensor([4, 4], dtype=torch.int32),
}


@pytest.mark.parametrize("message", BAD_TABLES)
def test_a_draft_vocabulary_is_checked_when_it_is_made(message):
    with pytest.raises((TypeError, ValueError), match=f"DraftVocab: {message}"):
        DraftVocab(BAD_TABLES[message])


def test_a_token_mask_without_logits_is_refused():
    mask = torch.zeros(1, 2, 1, dtype=torch.int32)
    with pytest.raises(ValueError, match="token_mask must be None without logits"):
        Proposal.from_tokens(torch.zeros(1, 2, dtype=torch.int64), RngState.of(0), token_mask=mask)
