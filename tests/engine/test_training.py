"""Training: gradients, schedule, and going on after a cut."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tapout_engine.models import load_head, read_head
from tapout_engine.models.weights import decoder_of
from tapout_engine.training import loop
from tapout_engine.training.batches import Batch, split
from tapout_engine.training.distill import ROWS, Distill
from tapout_engine.training.loop import Trainer
from tapout_engine.training.measure import measure
from tapout_engine.training.samples import Sample, Turn, sample
from tapout_engine.training.shards import Shard, Shards
from tapout_engine.training.students import HeadStudent, LlamaStudent

from .conftest import tiny_llama, tiny_tokenizer

VOCAB = 96

# ---- Distillation -------------------------------------------------------------------------------


def divergences(student, teacher, head, teacher_head) -> torch.Tensor:
    """Mean KL divergence of every step, by torch alone."""
    wanted = (teacher @ teacher_head.T).log_softmax(-1)
    found = (student @ head.T).log_softmax(-1)
    wanted = wanted.expand(len(student), -1, -1)
    each = functional.kl_div(found, wanted, reduction="none", log_target=True)
    return each.sum(-1).mean(-1)


@pytest.mark.parametrize("trained_head", [False, True])
def test_distillation_has_the_value_and_gradients_of_autograd(trained_head):
    """More positions than exist at once, steps of unequal weight; the peer is in float64."""
    torch.manual_seed(0)
    student, teacher = torch.randn(3, ROWS + 90, 6), torch.randn(ROWS + 90, 5)
    head, teacher_head = torch.randn(11, 6), torch.randn(11, 5)
    weights = torch.tensor([0.5, 0.3, 0.1])
    own = [student.clone().requires_grad_(), head.clone().requires_grad_(trained_head)]
    loss, means = Distill.apply(own[0], teacher, own[1], teacher_head, weights)
    (2.5 * loss).backward()
    peer = [student.double().requires_grad_(), head.double().requires_grad_()]
    expected = divergences(peer[0], teacher.double(), peer[1], teacher_head.double())
    (2.5 * expected @ weights.double()).backward()
    torch.testing.assert_close(means.double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(loss.double(), expected @ weights.double(), rtol=1e-5, atol=0)
    for found, wanted in zip(own if trained_head else own[:1], peer, strict=False):
        # Entries are of the size of the largest; float32 sums of some hundred terms.
        torch.testing.assert_close(
            found.grad.double(), wanted.grad, rtol=1e-4, atol=1e-5 * float(wanted.grad.abs().max())
        )
    assert trained_head or own[1].grad is None
    assert not means.requires_grad


def test_a_drafter_that_is_right_has_nothing_to_learn():
    teacher, head = torch.randn(40, 8), torch.randn(12, 8)
    student = teacher.clone()[None].requires_grad_()
    loss, means = Distill.apply(student, teacher, head, head, torch.ones(1))
    loss.backward()
    assert means.abs().max() < 1e-5
    assert student.grad.abs().max() < 1e-6


# ---- Measuring ----------------------------------------------------------------------------------


class Fixed:
    """A student whose features of step s are ``states[s]``."""

    def __init__(self, states: torch.Tensor, head: torch.Tensor, vocab: torch.Tensor):
        self.states, self.head, self.vocab, self.steps = states, head, vocab, len(states)

    def features(self, batch: Batch, steps: int) -> torch.Tensor:
        return self.states[:steps]


def test_acceptance_is_of_the_whole_vocabulary_and_of_taught_positions_only():
    torch.manual_seed(0)
    lengths, full_head = (30, 12), torch.randn(20, 8)
    texts = [Sample(torch.randint(0, 20, (n,)), torch.randn(n, 8)) for n in lengths]
    batch = Batch.of(texts, [0, 10])
    vocab = torch.randperm(20)[:12]
    other = torch.randn(2, 30, 8)
    states = torch.stack([batch.hidden, other])
    found = measure(Fixed(states, full_head[vocab], vocab), full_head, [batch])
    p_target = (batch.hidden @ full_head.T).softmax(-1)
    for step, features in enumerate(states):
        p_draft = torch.zeros(2, 30, 20)
        p_draft[..., vocab] = (features @ full_head[vocab].T).softmax(-1)
        overlap = torch.minimum(p_draft, p_target).sum(-1)[batch.taught].mean()
        agreed = p_draft.argmax(-1).eq(p_target.argmax(-1))[batch.taught].float().mean()
        assert found.sampled[step] == pytest.approx(float(overlap), abs=1e-5)
        assert found.greedy[step] == pytest.approx(float(agreed), abs=1e-5)
    full = measure(Fixed(batch.hidden[None], full_head, torch.arange(20)), full_head, [batch])
    assert full.greedy == [1.0]
    assert full.sampled == pytest.approx([1.0], abs=1e-5)


# ---- The loop -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def target():
    return decoder_of(tiny_llama(seed=1, layers=1).to(torch.bfloat16))


@pytest.fixture(scope="module")
def shards(target, tmp_path_factory) -> Shards:
    """The target's own words, three batches; texts too short to teach anything among them."""
    found = Shards(tmp_path_factory.mktemp("shards"))
    for seed in range(3):
        samples = sample(target, [Turn((0,), 1.0)] * 24, 40, (), seed)
        short = [Sample(s.tokens[:3], s.hidden[:3]) for s in samples[:2]]
        found.add([*samples, *short], "own", 1.0)
    return found


class Clock:
    """Time passes when told."""

    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(loop, "perf_counter", clock)
    monkeypatch.setattr(loop, "TOKENS", 160)
    return clock


def trainer_of(target, shards, checkpoint, seconds, steps=2, kind="head") -> Trainer:
    torch.manual_seed(0)
    if kind == "head":
        student = HeadStudent(target, torch.arange(VOCAB - 6), layers=1, steps=steps)
    else:
        student = LlamaStudent(target, tiny_tokenizer(), hidden_size=64, layers=1)
    full_head = target.head.rows(torch.arange(VOCAB))
    return Trainer(student, full_head, *split(shards), seconds, checkpoint)


def run(trainer: Trainer, clock: Clock, until: int | None = None) -> list[float]:
    """Train, a second an update; returns the learning rates. ``until`` is an update that fails."""
    rates = []

    def told(progress, losses):
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        clock.now += 1
        if progress.updates == until:
            raise KeyboardInterrupt

    trainer.run(told)
    return rates


@pytest.mark.parametrize("kind", ["head", "llama"])
def test_the_loss_falls_and_the_schedule_ends_at_nothing(
    target, shards, clock, tmp_path, monkeypatch, kind
):
    monkeypatch.setattr(loop, "RATE", 4e-3)  # there are sixty updates only
    trainer = trainer_of(target, shards, tmp_path / "checkpoint.pt", 60.0, kind=kind)
    rates = run(trainer, clock)
    losses = [losses for _, losses in trainer.losses]
    first = torch.tensor([step[0] for step in losses])
    assert first.isfinite().all()
    assert first[-5:].max() < first[:5].min()
    assert trainer.progress.updates == len(losses) == len(rates) == 60
    assert trainer.progress.tokens == trainer.losses[-1][0]
    top = max(rates)
    assert rates.index(top) == 2, "the rate rises for 3 % of the time"
    assert top == pytest.approx(loop.RATE, rel=0.01)
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert 0 < rates[-1] < 0.005 * loop.RATE
    if kind == "head":  # the second step joins at 40 % of the time
        assert [len(step) for step in losses] == [1] * 24 + [2] * 36
    assert [at for at, _ in trainer.measured] == sorted(at for at, _ in trainer.measured)
    before, after = (trainer.measured[at][1]["own"] for at in (0, -1))
    assert after.sampled[0] > before.sampled[0]


def test_time_beyond_the_budget_trains_at_rate_nothing():
    assert loop._schedule(1.0) == 0
    assert loop._schedule(7.5) == 0


def test_a_cut_off_training_goes_on_as_if_it_had_not_been(
    target, shards, clock, tmp_path, monkeypatch
):
    monkeypatch.setattr(loop, "SAVE", 4.0)
    whole = trainer_of(target, shards, tmp_path / "whole.pt", seconds=16.0)
    run(whole, clock)
    with pytest.raises(KeyboardInterrupt):
        run(trainer_of(target, shards, tmp_path / "cut.pt", seconds=16.0), clock, until=13)
    rest = trainer_of(target, shards, tmp_path / "cut.pt", seconds=16.0)
    assert 5 <= rest.progress.updates < 13
    run(rest, clock)
    assert rest.progress == whole.progress
    assert rest.losses == whole.losses
    assert rest.measured == whole.measured
    for name, weight in whole.student.module.state_dict().items():
        assert torch.equal(rest.student.module.state_dict()[name], weight), name
    again = trainer_of(target, shards, tmp_path / "cut.pt", seconds=16.0)
    run(again, clock)
    assert again.progress.updates == whole.progress.updates, "its time was up"


def test_what_is_saved_is_what_was_trained(target, shards, clock, tmp_path):
    """A head's logits in decoding are those of its features in training, in bf16's precision."""
    trainer = trainer_of(target, shards, tmp_path / "checkpoint.pt", seconds=5.0)
    run(trainer, clock)
    trainer.student.save(tmp_path, "tiny")
    full = decoder_of(tiny_llama(seed=1, layers=1))
    head = load_head(tmp_path / "head.safetensors", full)
    assert head.d2t.tolist() == trainer.student.vocab.tolist()
    assert torch.equal(trainer.student.head, trainer.teacher_head)
    text = next(Shard(shards.files()[0]).samples())
    batch = Batch.of([text], [0])
    length = len(text.tokens)
    with torch.no_grad():
        feature = trainer.student.features(batch, 1)[0]
        states = functional.pad(batch.hidden.float(), (0, 0, 1, 0))[:, :-1]
        found = head(batch.tokens, states, torch.tensor([0]), head.cache(1, length), length)
    # Weights of 8 bits through one layer; features are normed, so they are of size 1.
    assert (found - feature).square().mean().sqrt() < 0.03
    assert feature.square().mean().sqrt() > 0.5
    assert head.logits(found).shape == (1, length, VOCAB - 6)


def test_a_head_that_was_trained_before_goes_on_gently_in_every_step(
    target, shards, clock, tmp_path, monkeypatch
):
    """Its first loss is the last one's, its rate lower, its vocabulary what it was, or the most
    frequent of it."""
    monkeypatch.setattr(loop, "RATE", 4e-3)
    first = trainer_of(target, shards, tmp_path / "first.pt", seconds=30.0)
    run(first, clock)
    first.student.save(tmp_path, "tiny")
    begun = read_head(tmp_path / "head.safetensors", target.config)
    for name, weight in first.student.module.weights().items():
        assert torch.equal(begun.weights[name], weight.bfloat16()), name

    torch.manual_seed(1)
    student = HeadStudent(target, begun.d2t[:50].long(), steps=2, begun=begun)
    full_head = target.head.rows(torch.arange(VOCAB))
    second = Trainer(student, full_head, *split(shards), 20.0, tmp_path / "second.pt")
    rates = run(second, clock)
    assert max(rates) == pytest.approx(loop.AGAIN, rel=0.01)
    assert loop.AGAIN < 1e-3, "the rate of new students, unless a test says otherwise"
    assert all(len(losses) == 2 for _, losses in second.losses)
    fresh, again = first.losses[0][1][0], second.losses[0][1][0]
    assert again < 0.7 * fresh
    (tmp_path / "again").mkdir()
    student.save(tmp_path / "again", "tiny")
    assert read_head(tmp_path / "again/head.safetensors", target.config).d2t.tolist() == list(
        range(50)
    )
