"""Lossy rules: they accept exactly what their text says, and are lossy where they may.

The definition is helpers/slow_lossy.py, on the same noise: equal integers.
"""

from __future__ import annotations

import pytest
import torch
from helpers import raw
from helpers.device import is_refused
from helpers.lossy_drafts import data, drafted, every_draft, near_argmax, same_as_slow
from helpers.verify_inputs import spoil
from test_verify_rules import product

import tapout_kernels as tk
from tapout_kernels import Proposal, RngState, SamplingParams
from tapout_kernels.reference.accept import LOSSY_RULES, RULES
from tapout_kernels.testing import Case

SAMPLED = ("lossy_typical", "lossy_ears", "lossy_consultant")
each_rule = pytest.mark.parametrize("rule", LOSSY_RULES)


def refused(backend: str, rule: str) -> bool:
    return is_refused(backend, Case("verify", rule=rule))


# ---- what is accepted ----------------------------------------------------------------------------


@each_rule
@pytest.mark.sliced(4)
def test_every_draft_is_judged_as_the_text_says(backend, rule):
    """All drafts of three tokens out of four; long ones that miss the argmax once or twice."""
    if refused(backend, rule):
        return
    for args in data(rule):
        found = same_as_slow(raw.caller(backend), args, rule)
        assert set(found["num_accepted"].tolist()) >= {0, 2, 3}


@each_rule
@pytest.mark.sliced(4)
def test_every_combination_at_five_ids(compiled, rule):
    """Drafts x masks x layouts x outputs x filters, with spoiled requests among them."""
    if refused(compiled, rule):
        return
    statuses = set()
    for case in product(rule, batch=13, slots=8, vocab=5)[::11]:
        found = same_as_slow(raw.caller(compiled), spoil(case.inputs()), case.name)
        statuses |= set(found["status"].tolist())
    assert statuses == {0, 1, 2, 3}


@each_rule
@pytest.mark.sliced(4)
def test_combinations_over_chunks(compiled, rule):
    if refused(compiled, rule):
        return
    for case in product(rule, batch=3, slots=3, vocab=3000)[5::67]:
        case = case.with_(dtype=torch.bfloat16)
        same_as_slow(raw.caller(compiled), spoil(case.inputs()), case.name)


def test_an_entropy_is_that_of_the_whole_row(backend):
    """Drafts in the last chunk, 5 % above and below what typical acceptance asks for."""
    if refused(backend, "lossy_typical"):
        return
    row = 3 * torch.randn(3000, generator=torch.Generator().manual_seed(0))
    row[2990] = -torch.inf
    probs = row.double().softmax(-1)
    limit = 0.09 * torch.xlogy(probs, probs).sum().exp()
    rows = row.repeat(2, 1)
    rows[:, 2990] = (limit * torch.tensor([1.05, 0.95])).log() + row.double().logsumexp(-1)
    rng = RngState.of([1, 2])
    proposal = Proposal.from_tokens(torch.full((2, 1), 2990), rng)
    verdict = tk.verify(
        rows[:, None].expand(-1, 2, -1), proposal, None, rng, rule="lossy_typical",
        allow_lossy=True, backend=backend,
    )  # fmt: skip
    assert verdict.num_accepted.tolist() == [1, 0]


def test_the_data_has_every_side_of_the_fly(native):
    """Misses survive, and each of its conditions alone ends a draft."""
    args = near_argmax("lossy_fly")
    target = args["target_logits"]
    probs = target.softmax(-1)
    unsure = -torch.xlogy(probs, probs).sum(-1) >= 0.3 * torch.tensor(8.0).log()
    miss = args["draft_tokens"] != target[:, :-1].argmax(-1)
    accepted = raw.run(raw.caller(native), "verify", args)["num_accepted"]
    slot = torch.arange(miss.shape[1])
    survived = miss & (slot < accepted[:, None])
    ended = miss & (slot == accepted[:, None])
    follow = torch.nn.functional.pad(~miss, (0, 6)).unfold(1, 6, 1)[:, 1:10].all(-1)
    follow &= slot + 6 < args["length"][:, None]
    assert survived.sum() >= 5
    for condition in (unsure[:, :-1] & ~follow, ~unsure[:, :-1] & follow):
        assert (ended & condition).sum() >= 3
    assert not (survived & ~(unsure[:, :-1] & follow)).any()


def test_a_memory_goes_from_round_to_round(backend):
    """Greedy until an accepted and a rejected draft were seen; then a near miss survives."""
    if refused(backend, "lossy_adasd"):
        return
    target = torch.tensor([2.0, 1.9, -9.0]).log_softmax(-1).expand(1, 2, 3)
    rng, memory = RngState.of([3]), torch.zeros(1, 4, dtype=torch.float64)

    def judged(token: int, *draft: float) -> int:
        logits = torch.tensor([[draft]])
        proposal = Proposal.from_tokens(
            torch.tensor([[token]]), rng, logits=logits, sampling=SamplingParams()
        )
        return tk.verify(
            target, proposal, SamplingParams(), rng, rule="lossy_adasd", allow_lossy=True,
            lossy_memory=memory, backend=backend,
        ).num_accepted.item()  # fmt: skip

    near, far = (1.9, 2.0, -9.0), (-9.0, -9.0, 2.0)
    assert judged(1, *near) == 0  # nothing is known: as greedy
    assert judged(1, *near) == 0  # nor what is accepted
    assert memory[0, 1::2].tolist() == [0, 2]
    memory.zero_()
    assert [judged(0, *near), judged(2, *far)] == [1, 0]
    assert memory[0, 1::2].tolist() == [1, 1]
    assert memory[0, 0] < 0.1 < 0.8 < memory[0, 2] <= torch.tensor(2.0).log().sqrt()
    assert [judged(1, *near), judged(2, *far)] == [1, 0]
    assert memory[0, 1::2].tolist() == [2, 2]


# ---- lossy, and where not ------------------------------------------------------------------------

TARGET = torch.tensor([0.4, 0.35, 0.2, 0.05]).double()
DRAFT = torch.tensor([0.1, 0.3, 0.2, 0.4]).double()


def law_of_first(backend: str, rule: str, target: torch.Tensor) -> torch.Tensor:
    """[V] of the first emitted token, from the chance that a draft of each token is accepted."""
    vocab = len(target)
    rng, tokens = RngState.of(range(vocab)), torch.arange(vocab)[:, None]
    proposal = Proposal.from_tokens(
        tokens, rng, logits=DRAFT.log().float().expand(vocab, 1, -1).contiguous(),
        sampling=SamplingParams(),
    )  # fmt: skip
    chance = tk.verify(
        target.log().float().expand(vocab, 2, -1), proposal, SamplingParams(), rng, rule=rule,
        allow_lossy=True, backend=backend,
    ).accept_prob[:, 0].double()  # fmt: skip
    left = (target - DRAFT).clamp(min=0) if rule in ("token", "lossy_ears") else target
    return DRAFT * chance + (DRAFT * (1 - chance)).sum() * left / left.sum()


def distance(left: torch.Tensor, right: torch.Tensor) -> float:
    return (left - right).abs().sum().item() / 2


def test_the_law_of_sampled_rules_is_not_the_targets(backend):
    """Nobody may take them for lossless; the same sum says that ``token`` is."""
    assert distance(law_of_first(backend, "token", TARGET), TARGET) < 1e-6
    for rule in SAMPLED:
        if not refused(backend, rule):
            assert distance(law_of_first(backend, rule, TARGET), TARGET) > 0.01, rule


@pytest.mark.parametrize("rule", ["lossy_fly", "lossy_adasd"])
def test_greedy_rules_emit_what_greedy_does_not(native, rule):
    args = near_argmax(rule)
    greedy = {**args, "rule": RULES["greedy"], "lossy_memory": None}
    found, plain = (raw.run(raw.caller(native), "verify", x) for x in (args, greedy))
    assert (found["num_accepted"] >= plain["num_accepted"]).all()
    assert (found["num_accepted"] > plain["num_accepted"]).any()


def test_ears_is_token_where_the_target_is_certain(native):
    """One token kept: no tolerance, to the bit."""
    args = every_draft("lossy_ears")
    args["top_k"] = torch.ones(64, dtype=torch.int32)
    token = {**args, "rule": RULES["token"]}
    raw.same(*(raw.run(raw.caller(native), "verify", x) for x in (args, token)))


@each_rule
def test_at_temperature_0_all_are_greedy(backend, rule):
    if refused(backend, rule):
        return
    for args in data(rule):
        if args["lossy_memory"] is not None:  # as lenient as can be
            args["lossy_memory"][:] = torch.tensor([9.0, 1, 9, 1]).double()
        args["temperature"] = torch.zeros(len(args["length"]))
        greedy = {**args, "rule": RULES["greedy"], "lossy_memory": None}
        found, plain = (raw.run(raw.caller(backend), "verify", x) for x in (args, greedy))
        for name in ("tokens", "num_accepted", "num_emitted", "status", "logprobs"):
            assert torch.equal(found[name], plain[name]), f"{rule} {name}"


@pytest.mark.parametrize("rule", ["lossy_fly", "lossy_adasd"])
def test_a_draft_of_argmaxes_is_greedys(native, rule):
    args = near_argmax(rule)
    args = drafted(args, args["target_logits"][:, :-1].argmax(-1))
    greedy = {**args, "rule": RULES["greedy"], "lossy_memory": None}
    found, plain = (raw.run(raw.caller(native), "verify", x) for x in (args, greedy))
    assert torch.equal(found["tokens"], plain["tokens"])
    assert torch.equal(found["num_accepted"], args["length"])


@each_rule
@pytest.mark.sliced(4)
def test_what_the_mask_forbids_is_never_accepted(backend, rule):
    if refused(backend, rule):
        return
    for args in data(rule):
        if args["lossy_memory"] is not None:
            args["lossy_memory"][:] = torch.tensor([9.0, 1, 9, 1]).double()
        shape = (*args["target_logits"].shape[:2], 1)
        args["token_mask"] = torch.full(shape, 0b11110101, dtype=torch.int32)
        found = raw.run(raw.caller(backend), "verify", args)["tokens"]
        assert (args["draft_tokens"] == 1).any()
        assert not torch.isin(found, torch.tensor([1, 3])).any()


@pytest.mark.parametrize("rule", RULES)
def test_allowing_lossy_rules_changes_no_other(native, rule):
    target, draft = (torch.randn(40, n, 9, generator=torch.Generator().manual_seed(n))
                     for n in (4, 3))  # fmt: skip
    found = []
    for allow in (False, True):
        rng = RngState.of(range(40))
        tokens = torch.arange(120).view(40, 3) % 9
        proposal = Proposal.from_tokens(
            tokens, rng, logits=draft.clone(), sampling=SamplingParams()
        )
        verdict = tk.verify(
            target, proposal, None, rng, rule=rule, allow_lossy=allow, backend=native
        )
        found.append({k: v for k, v in vars(verdict).items() if v is not None})
    raw.same(*found)
