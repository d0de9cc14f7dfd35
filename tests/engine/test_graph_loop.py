"""Rounds that ask no host: in every mode what the ordinary decoder emits, row by row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tapout_engine import Controller, EngineError, PlainDecoder, Request, SpeculativeDecoder
from tapout_engine.adapters.head import HeadDrafter
from tapout_engine.adapters.static import StaticModel
from tapout_engine.adapters.toy import ToyLM
from tapout_engine.graph_loop import GraphDecoder, runners
from tapout_engine.models.weights import decoder_of

from .conftest import tiny_llama
from .heads import guessable_llama, guessing

ARMS = (
    ("fixed_length", {"n": 0}), ("fixed_length", {"n": 3}), ("svip", {"threshold": 1.0}),
    ("max_confidence", {"threshold": 0.3}), ("adaedl", {}),
)  # fmt: skip
WAYS = [
    ("token", 0.0, "ucb1", ("eager", "checked", "replay")),
    ("token", 0.9, "thompson_beta", ("eager", "checked", "graph")),
    ("block", 0.9, "exp3", ("eager", "checked")),
    ("gumbel", 0.9, "ucb1", ("eager", "checked", "graph")),
    ("greedy", 0.5, "thompson_gaussian", ("eager", "checked")),
]
LENGTHS = (2, 40, 1, 7)  # the first rounds of a row of one token draft: its arm is svip


class Recorded:
    """What a captured graph is: the operators of one run, on the memory they had then."""

    def __init__(self, piece: Callable[[], None]):
        def run() -> torch.Tensor:
            piece()
            return torch.zeros(())

        self.graph = make_fx(run)()

    def replay(self) -> None:
        self.graph()


def record(pieces, idle, keep):
    idle(pieces)
    return replace(
        pieces, before=Recorded(pieces.before), body=Recorded(pieces.body),
        verify={width: Recorded(piece) for width, piece in pieces.verify.items()},
        after=Recorded(pieces.after),
    )  # fmt: skip


@pytest.fixture
def recorded(monkeypatch):
    """Graphs that need no GPU, and a loop and branches over them that the host decides."""
    monkeypatch.setattr(runners, "captured", record)
    monkeypatch.setattr(
        runners, "one_graph", lambda graphs: runners.Checked(runners.Replayed(graphs).pieces)
    )
    monkeypatch.setattr("tapout_engine.graph_loop.decoder.chosen_mode", lambda mode, device: mode)


@pytest.fixture(scope="module")
def target():
    return StaticModel(decoder_of(tiny_llama(seed=1, layers=2)).pack())


@pytest.fixture(scope="module")
def draft():
    model = StaticModel(decoder_of(tiny_llama(seed=1, layers=2, perturb=0.15)).pack())
    model.cost = 0.3
    return model


def requests(temperature: float = 0.0, lengths=LENGTHS, new: int = 9, **fields) -> list[Request]:
    generator = torch.Generator().manual_seed(3)
    return [
        Request(torch.randint(2, 96, (n,), generator=generator).tolist(), new + 4 * i, temperature,
                **fields)
        for i, n in enumerate(lengths)
    ]  # fmt: skip


def facts(results) -> list[dict]:
    """Everything but the time."""
    return [{name: value for name, value in result.to_dict().items() if name != "times"}
            for result in results]  # fmt: skip


def learnt(controller: Controller) -> list[torch.Tensor]:
    bandit = controller.bandit
    return [bandit.calls, bandit.count, bandit.reward_sum, bandit.tokens, bandit.cost]


@pytest.mark.parametrize(("rule", "temperature", "policy", "modes"), WAYS)
def test_every_mode_does_what_the_ordinary_decoder_does(
    target, draft, recorded, rule, temperature, policy, modes
):
    """Two calls of one bandit, rows that end by length and by EOS: tokens, drafts, arms, tables."""
    expected = Controller(ARMS, slots=4, policy=policy)
    ordinary = SpeculativeDecoder(target, draft, expected, rule=rule)
    batches = [
        requests(temperature, seed=5, eos=(3, 8, 15, 33, 41, 60, 72, 200)),
        requests(temperature, seed=6),
    ]
    wanted = [facts(ordinary.generate(batch)) for batch in batches]
    assert {"eos", "length"} == {result["finish_reason"] for batch in wanted for result in batch}
    for mode in modes:
        controller = Controller(ARMS, slots=4, policy=policy)
        decoder = GraphDecoder(
            target, draft, controller, rule=rule, rows=4, capacity=80, mode=mode
        )  # fmt: skip
        for batch, facts_wanted in zip(batches, wanted, strict=True):
            assert facts(decoder.generate(batch)) == facts_wanted, mode
        for found, table in zip(learnt(controller), learnt(expected), strict=True):
            assert torch.equal(found, table), mode


@pytest.mark.parametrize("mode", ["eager", "checked"])
def test_a_row_alone_is_followed_through_rounds_without_a_draft(target, draft, mode):
    """The drafter is fed in those rounds too; there is nobody else who would have it run."""
    arms = (*[("fixed_length", {"n": 0})] * 3, ("fixed_length", {"n": 3}))
    for lengths in ((1,), (2,), (9,)):
        batch = requests(0.7, lengths, 40)
        wanted = SpeculativeDecoder(target, draft, Controller(arms, slots=3)).generate(batch)
        decoder = GraphDecoder(target, draft, Controller(arms, slots=3), mode=mode)
        assert facts(decoder.generate(batch)) == facts(wanted)
        drafted = wanted[0].drafted
        assert [0, 0] in [drafted[i : i + 2] for i in range(len(drafted))]
        assert max(drafted) > 1


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_admitted_in_the_middle_a_request_is_what_it_is_alone(target, draft, recorded, mode):
    batch = requests(0.8, (5, 1, 30, 2, 12, 1), 7, seed=9, eos=(3,))
    batch[2] = replace(batch[2], top_k=5)
    arms = (("svip", {"threshold": 1.0}),)
    decoder = GraphDecoder(
        target, draft, Controller(arms, slots=4), rows=2, capacity=80, mode=mode
    )  # fmt: skip
    streamed = [[] for _ in batch]
    results = decoder.generate(batch, lambda row, tokens, text: streamed[row].extend(tokens))
    for ordinal, (request, result) in enumerate(zip(batch, results, strict=True)):
        controller = Controller(arms, slots=4)
        controller.requests = ordinal
        alone = SpeculativeDecoder(target, draft, controller).generate([request])
        assert facts([result]) == facts(alone)
        assert streamed[ordinal] == result.tokens


def test_greedy_tokens_are_those_of_plain_decoding(target, draft):
    batch = requests(lengths=(3, 1, 20, 64, 2), new=25)
    decoder = GraphDecoder(target, draft, Controller(slots=5), rows=3, rule="greedy")
    plain = PlainDecoder(target, rule="greedy").generate(batch)
    assert [r.tokens for r in decoder.generate(batch)] == [r.tokens for r in plain]


@pytest.mark.parametrize(("ids", "layers"), [(range(96), 1), (range(20, 70), 2)])
def test_a_head_drafts_what_it_does_in_the_ordinary_decoder(recorded, ids, layers):
    """Beside states that come and go with the rows; the second one speaks of fewer words."""
    target = StaticModel(decoder_of(guessable_llama()).pack())
    head = guessing(target.decoder, torch.tensor(ids), layers).pack()
    arms = (ARMS[0], ARMS[0], ARMS[1], ("svip", {"threshold": 1.3}))
    accepted = 0
    for modes, fields in (("eager", {"lengths": (1, 40, 2)}), ("checked", {"lengths": (9,)})):
        batch = requests(0.2, new=32, seed=4, **fields)
        ordinary = SpeculativeDecoder(target, HeadDrafter(head, target), Controller(arms, slots=4))
        wanted = ordinary.generate(batch)
        accepted += sum(sum(result.accepted) for result in wanted)
        for mode in (modes, "graph") if layers == 2 else (modes,):
            decoder = GraphDecoder(
                target, HeadDrafter(head, target), Controller(arms, slots=4), rows=len(batch),
                capacity=80, mode=mode,
            )  # fmt: skip
            assert facts(decoder.generate(batch)) == facts(wanted), mode
            assert facts(decoder.generate(batch)) != facts(wanted)  # the keys are others
    assert accepted > 8


class Letters:
    def decode(self, tokens) -> str:
        return "".join(chr(32 + token) for token in tokens)


def test_stop_strings_end_a_row_where_they_do_in_the_ordinary_decoder(target, draft):
    plain = PlainDecoder(target, Letters()).generate(requests())
    stop = plain[2].text[6:8]
    batch = requests(stop=(stop,))
    expected, controller = Controller(ARMS, slots=4), Controller(ARMS, slots=4)
    wanted = SpeculativeDecoder(target, draft, expected, Letters()).generate(batch)
    assert "stop" in {result.finish_reason for result in wanted}
    found = GraphDecoder(target, draft, controller, Letters(), rows=4).generate(batch)
    assert facts(found) == facts(wanted)
    assert torch.equal(controller.bandit.count, expected.bandit.count)


def test_capacity_and_a_drafter_that_reads_less_end_drafts_and_rows(target):
    short = StaticModel(decoder_of(tiny_llama(seed=1, layers=2), max_length=24))
    batch = requests(lengths=(20, 1), new=30)
    wanted = SpeculativeDecoder(target, short, Controller(slots=6)).generate(batch)
    decoder = GraphDecoder(target, short, Controller(slots=6), rows=2, capacity=128)
    assert facts(decoder.generate(batch)) == facts(wanted)
    small = GraphDecoder(target, target, Controller(slots=6), rows=2, capacity=33)
    found = small.generate(batch)
    assert [len(result.tokens) for result in found] == [13, 32]
    assert found[0].finish_reason == "length"
    assert [r.tokens for r in found] == [
        r.tokens[:n] for r, n in zip(wanted, (13, 32), strict=True)
    ]


def test_an_error_ends_a_row_and_leaves_the_others(target, draft):
    """A row whose logits are NaN, as a broken model may give them."""
    batch = requests(lengths=(4, 9))
    decoder = GraphDecoder(target, draft, Controller(ARMS, slots=3), rows=2)
    wanted = decoder.generate(batch)

    def spoil() -> None:
        launch()
        if len(rounds) == 2:
            decoder.round.target.cache.entries[:, :, 0, :, :4] = float("nan")
        rounds.append(0)

    rounds: list[int] = []
    decoder.controller.reset()
    decoder._prepare(batch)
    launch, decoder.runner.launch = decoder.runner.launch, spoil
    found = decoder.generate(batch)
    assert found[0].finish_reason == "error"
    assert found[0].tokens == wanted[0].tokens[: len(found[0].tokens)]
    assert found[1].tokens == wanted[1].tokens


# ---- what a round may touch, and what it may not ask ---------------------------------------------

ASKING = {"item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__",
          "nonzero", "masked_select", "unique", "__contains__"}  # fmt: skip


class NoAnswer(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        assert getattr(function, "__name__", "") not in ASKING, f"{function} reads a tensor"
        return function(*args, **(kwargs or {}))


class NoRead(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name()
        reads = ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "masked_select", "equal",
                 "_unique2", "repeat_interleave.Tensor")  # fmt: skip
        assert not any(name.startswith(f"aten::{read}") for read in reads), f"{name} reads a tensor"
        return function(*args, **(kwargs or {}))


def test_a_round_reads_no_tensor(target, draft):
    batch = requests(0.8, top_p=0.9)
    decoder = GraphDecoder(target, draft, Controller(ARMS, slots=3), rows=4, capacity=80)
    decoder._prepare(batch)
    launch, seen = decoder.runner.launch, []

    def watched() -> None:
        with NoAnswer(), NoRead():
            launch()
        seen.append(0)

    decoder.runner.launch = watched
    results = decoder.generate(batch)
    assert len(seen) == max(result.rounds for result in results) + 1  # the last for nobody


def test_the_watch_sees_a_read(target, draft):
    decoder = GraphDecoder(target, draft, Controller(ARMS, slots=3), mode="checked")
    decoder._prepare(requests())
    for watch in (NoAnswer, NoRead):
        with pytest.raises(AssertionError, match="reads a tensor"), watch():
            decoder.runner.launch()


def test_a_row_that_is_not_live_keeps_every_value(target, draft):
    batch = requests(lengths=(30, 9), new=20)
    decoder = GraphDecoder(target, draft, Controller(ARMS, slots=3), rows=2, capacity=64)
    decoder.generate(batch)
    state, memory, bandit = decoder.state, decoder.controller.state, decoder.controller.bandit
    held = {
        "live": state.live, "seed": state.rng.seed, "round": state.rng.round,
        "position": state.rng.position, "recent": state.recent, "left": state.left,
        "memory": memory.memory, "calls": bandit.calls, "count": bandit.count,
        "cost": bandit.cost,
    }  # fmt: skip
    for follower in (decoder.round.target, decoder.round.drafter.follower):
        for row, length in enumerate(state.rng.position.tolist()):
            held[f"{id(follower)}, {row}"] = follower.cache.entries[:, :, row, :, : length - 2]
    before = {name: value.clone() for name, value in held.items()}
    assert not state.live.any()
    with torch.no_grad():
        for _ in range(3):
            decoder.runner.launch()
    for name, value in held.items():
        assert torch.equal(value, before[name]), name


def test_memory_stays_where_it_is_and_is_made_anew_only_for_another_need(target, draft):
    decoder = GraphDecoder(target, draft, Controller(ARMS, slots=3), rows=2)
    decoder.generate(requests())
    runner, place = decoder.runner, decoder.round.logits.data_ptr()
    decoder.generate(requests(0.5, eos=(3,)))
    assert decoder.runner is runner
    assert decoder.round.logits.data_ptr() == place
    decoder.generate(requests(0.5, top_k=4))
    assert decoder.runner is not runner
    assert decoder.state.filters == {"top_k"}
    runner = decoder.runner
    decoder.generate(requests(0.5))
    assert decoder.runner is runner
    decoder.controller.reset()
    decoder.generate(requests(0.5))
    assert decoder.runner is not runner
    assert decoder.state.filters == {"top_k"}


# ---- choosing a mode -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "reason", "mode"),
    [("cpu", "no driver", "eager"), ("cuda", "driver 12.2", "replay"), ("cuda", None, "graph")],
)
def test_auto_takes_what_the_device_can_do(monkeypatch, device, reason, mode):
    monkeypatch.setattr(runners, "graphs_unavailable", lambda: reason)
    assert runners.chosen_mode("auto", torch.device(device)) == mode
    assert runners.chosen_mode("checked", torch.device(device)) == "checked"


@pytest.mark.parametrize(
    ("mode", "device", "message"),
    [("fast", "cpu", "mode: expected one of auto, .* got 'fast'"),
     ("replay", "cpu", "mode: replay needs a GPU, got cpu"),
     ("graph", "cuda", "mode: graph is not there: driver 12.2")],
)  # fmt: skip
def test_a_mode_that_cannot_run_is_refused(monkeypatch, mode, device, message):
    monkeypatch.setattr(runners, "graphs_unavailable", lambda: "driver 12.2")
    with pytest.raises(EngineError, match=message):
        runners.chosen_mode(mode, torch.device(device))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"drafter": ToyLM(96)}, "drafter must have a static cache, got ToyLM"),
     ({"widths": (2, 9)}, r"widths: expected drafts of \[0, 4\], got \[2, 9\]"),
     ({"controller": Controller((("svip", {}, ("lookup",)),), slots=4)}, "drafters must be among")],
)  # fmt: skip
def test_what_cannot_be_decoded_is_refused(target, draft, changes, message):
    arguments = {"drafter": draft, "controller": Controller(slots=4)} | changes
    with pytest.raises(EngineError, match=message):
        GraphDecoder(target, **arguments)


def test_prompts_beyond_the_capacity_are_refused(target, draft):
    decoder = GraphDecoder(target, draft, Controller(slots=4), capacity=16)
    with pytest.raises(EngineError, match="prompt must be shorter than the 16 tokens"):
        decoder.generate(requests(lengths=(16,)))
