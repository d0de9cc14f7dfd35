"""``replay``: streams, costs, tables and plots of a comparison."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from tapout_engine import EngineError, Request
from tapout_engine.adapters.prompt_lookup import PromptLookupDrafter
from tapout_engine.adapters.toy import ToyLM
from tapout_engine.arms import DRAFTER_ARMS
from tapout_engine.cli import main
from tapout_engine.replay import Play, Player, measured_costs
from tapout_engine.replay.command import plays
from tapout_engine.replay.costs import costs_of_file
from tapout_engine.replay.measure import curves, follow, measured
from tapout_engine.replay.play import join
from tapout_engine.replay.streams import streams
from tapout_engine.traces import Trace, save_trace
from tapout_engine.traces.recorder import Recorder

from .recording import record

VOCAB, SLOTS = 6, 4
DOMAINS = ["prose", "code", "prose", "code", "prose"]


def trace_of(slots: int = SLOTS) -> Trace:
    drafters = {"toy": ToyLM(VOCAB, noise=0.5), "prompt-lookup": PromptLookupDrafter(VOCAB)}
    asked = [Request([1 + i, 2, 1 + i, 2], 30 + 5 * i) for i in range(len(DOMAINS))]
    return record(Recorder(ToyLM(VOCAB), drafters, slots), asked, DOMAINS)


@pytest.fixture(scope="module")
def trace() -> Trace:
    return trace_of()


@pytest.fixture(scope="module")
def player(trace) -> Player:
    return Player(trace)


@pytest.fixture
def replay(trace, tmp_path, capsys):
    """The command on that trace: exit code, what it printed, the folder."""
    save_trace(trace, tmp_path / "t.safetensors")

    def run(*more: object, out: str = "out"):
        arguments = ["replay", tmp_path / "t.safetensors", "--out", tmp_path / out, *more]
        code = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return code, printed.out + printed.err, tmp_path / out

    return run


SMALL = ("--policies", "ucb1,thompson_gaussian", "--rewards", "blend,throughput", "--seeds", "2")


def test_a_comparison_has_every_way_to_decode_and_its_plots(replay):
    code, printed, out = replay(
        *SMALL, "--cost-ratios", "0.05,0.6", "--batch", "1,4", "--jobs", "1"
    )
    assert code == 0, printed
    rows = json.loads((out / "rows.json").read_text())
    streams_seen = {row["stream"] for row in rows}
    assert streams_seen == {"prose", "code", "mixed", "drifting"}
    alone = [row for row in rows if (row["stream"], row["batch"], row["seed"]) == ("mixed", 1, 0)]
    measured_only = [row for row in alone if row["cost_ratio"] is None]
    ways = [row["way"] for row in measured_only]
    counts = {way: ways.count(way) for way in set(ways)}
    assert counts == {
        "plain": 1,
        "static": 2 * SLOTS,
        "arm": len(DRAFTER_ARMS),
        "policy": 4,
        "oracle": 1,
    }
    for row in (row for row in rows if row["batch"] == 1):
        assert row["tokens"] == sum(
            30 + 5 * i for i, name in enumerate(DOMAINS)
            if row["stream"] in (name, "mixed", "drifting")
        )  # fmt: skip
    four = [row for row in rows if (row["stream"], row["batch"], row["seed"]) == ("prose", 4, 0)]
    assert {row["tokens"] for row in four} == {10 * (30 + 40 + 50) + 30 + 40}, "32 requests of 3"
    for row in (row for row in rows if row["way"] == "plain"):
        assert row["speed"] == row["second_half"] == 1
    page = (out / "README.md").read_text()
    for words in ("## drifting", "**ucb1, throughput**", "toy/survival(threshold=0.6)", "of oracle",
                  "## Cost of a draft step", "| 0.05 | 0.6 |", "batch 4"):  # fmt: skip
        assert words in page, words
    for name in ("speed", "regret", "accepted", "cost_ratio", "batch", "arms_mixed", "arms_prose"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG"), name


def test_processes_find_what_one_does(replay):
    arguments = (*SMALL[:2], "--rewards", "blend", "--seeds", "1", "--jobs")
    assert replay(*arguments, "1")[0] == 0
    _, _, out = replay(*arguments, "1")
    code, printed, other = replay(*arguments, "2", out="two")
    assert code == 0, printed
    assert (out / "rows.json").read_text() == (other / "rows.json").read_text()


def test_a_hedge_over_drafters_is_played_once_whatever_the_rewards(player):
    """And over the rules of one drafter with each of them; in the default table not at all."""
    fixed = ("fixed_length", {"n": 3})
    each = tuple((*fixed, (name,)) for name in player.meta.drafters)
    labels = [play.label for play in plays(each, ["hedge"], None, player)]
    assert labels == ["hedge"]
    alone = (("svip", {}, ("toy",)), (*fixed, ("toy",)))
    labels = [play.label for play in plays(alone, ["hedge"], None, player)]
    assert labels == ["hedge, blend", "hedge, simple"]
    known = [play.policy for play in plays(player.default_arms(), None, None, player)]
    assert "hedge" not in known
    assert "ucb1" in known
    rounds = player.play(plays(each, ["hedge"], None, player)[0], np.arange(5),
                         measured_costs(player.meta))  # fmt: skip
    assert set(rounds.arm) == {0, 1}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--arms", "other/svip"), "drafters must be among toy, prompt-lookup, got other"),
        (("--arms", "nonsense"), "rule must be one of"),
        (("--policies", "nonsense"), "policy must be one of"),
        (("--rewards", "nonsense"), "replay: rewards must be among blend, "),
        (("--rewards", "decision"), "arms must name the same drafters at level token"),
        (("--cost-ratios", "x"), "expected numbers as 0.1,0.2, got 'x'"),
        (("--batch", "0"), "at least 1, got '0'"),
        (("--policies", "ucb_tuned", "--rewards", "throughput"), "got 'throughput'"),
        (
            ("--policies", "metasd", "--rewards", "overlap"),
            "a trace does not hold what the reward",
        ),
        (("--policies", "hedge"), "over several drafters compares drafters"),
        (("--rewards", "overlap"), "no policy suits these arms and rewards"),
        (("--rewards", ","), "replay: rewards must be among"),
    ],
)
def test_what_cannot_be_compared_is_refused(replay, more, message):
    code, printed, out = replay(*more)
    assert code == 2
    assert message in printed
    assert not out.exists()


def test_a_corrupted_trace_is_refused(replay, tmp_path):
    (tmp_path / "t.safetensors").write_bytes(b"no trace")
    code, printed, _ = replay()
    assert code == 2
    assert "t.safetensors cannot be read" in printed


# ---- traces joined ------------------------------------------------------------------------------


def test_traces_of_one_kind_are_one(trace):
    both = join([trace, replace(trace, meta=replace(trace.meta, domains=["prose", "other"]))])
    assert both.positions == 2 * trace.positions
    assert both.meta.domains == ["prose", "code", "other"]
    names = [both.meta.domains[i] for i in both.domain]
    assert names == DOMAINS + ["other" if name == "code" else name for name in DOMAINS]
    np.testing.assert_array_equal(both.position, np.tile(trace.position, 2))


def test_traces_of_other_slots_or_drafters_are_refused(trace):
    with pytest.raises(EngineError, match="traces must share slots: expected 4, got 3"):
        join([trace, trace_of(3)])
    renamed = replace(trace, meta=replace(trace.meta, drafters=["a", "b"]))
    with pytest.raises(EngineError, match=r"traces must share drafters: expected .*toy.*, got"):
        join([trace, renamed])


def test_streams_hold_every_request_once():
    domain = np.array([0, 1, 0, 1, 0, 2])
    for seed in range(4):
        found = streams(["a", "b", "c"], domain, seed)
        assert list(found) == ["a", "b", "c", "mixed", "drifting"]
        assert sorted(found["mixed"]) == sorted(found["drifting"]) == list(range(6))
        changes = np.count_nonzero(np.diff(domain[found["drifting"]]))
        assert changes == 2, "one domain after the other"
    first = streams(["a", "b", "c"], domain, 0)
    assert first["mixed"].tolist() == [0, 1, 5, 2, 3, 4]
    assert first["drifting"].tolist() == [0, 2, 4, 1, 3, 5]
    orders = {tuple(streams(["a", "b", "c"], domain, seed)["mixed"]) for seed in range(8)}
    assert len(orders) > 4
    assert list(streams(["a"], np.zeros(3, int), 0)) == ["a"]


# ---- costs --------------------------------------------------------------------------------------


def test_measured_costs_are_in_forwards_without_drafts(trace):
    costs = measured_costs(trace.meta, batch=3)
    np.testing.assert_allclose(costs.verify[0], [1, 1.02, 1.04, 1.06, 1.08])
    np.testing.assert_allclose(costs.verify[2], [1 + 0.04 + 0.06 * n for n in range(5)])
    np.testing.assert_allclose(costs.draft, [[0.1, 0.2], [0.102, 0.204], [0.104, 0.208]])
    np.testing.assert_allclose(costs.catch_up, [0, 0.02])
    np.testing.assert_allclose(costs.ratio[0], [0.12, 0.22], rtol=1e-6)
    np.testing.assert_allclose(costs.ratio[2], np.array([0.164, 0.268]) / 1.04, rtol=1e-6)


def test_a_ratio_is_for_models_only(trace):
    costs = measured_costs(trace.meta, ratio=0.5, token_cost=0.1, batch=2)
    np.testing.assert_allclose(costs.draft, [[0.5, 0.2], [0.55, 0.22]])
    np.testing.assert_allclose(costs.verify[1], costs.verify[0] + 0.1 * np.arange(1, 6))


def test_the_bandit_is_told_what_the_dearest_length_costs(trace):
    """A first draft that costs more than the next ones, and one that costs nothing."""
    for seconds, token in (([1, 1.5, 1.6, 1.7, 1.8], 0.5), ([1, 1, 1.4, 1.5, 1.6], 0.2)):
        costs = measured_costs(replace(trace.meta, verify_seconds=[0.01 * s for s in seconds]))
        np.testing.assert_allclose(costs.ratio[0], [0.1 + token, 0.2 + token], rtol=1e-6)


def test_costs_of_a_file(trace, tmp_path):
    path = tmp_path / "costs.json"
    path.write_text(json.dumps({"verify": [[2, 2, 3, 3, 4]] * 2, "draft": [[1, 0]] * 2}))
    costs = costs_of_file(path, trace.meta, 2)
    np.testing.assert_allclose(costs.verify[1], [1, 1, 1.5, 1.5, 2])
    np.testing.assert_allclose(costs.ratio[0], [0.75, 0.25])
    with pytest.raises(EngineError, match=r"verify must be at least \[3, 5\], got \[2, 5\]"):
        costs_of_file(path, trace.meta, 3)
    path.write_text("{}")
    with pytest.raises(EngineError, match="must be a JSON object with verify and draft"):
        costs_of_file(path, trace.meta, 1)


MEASURED = {
    "batch": [1, 3], "verify": [[2, 2, 3, 3, 4], [4, 4, 5, 5, 8]], "draft": [[1, 0], [3, 0]],
    "catch_up": [0.5, 0], "drafters": ["toy", "prompt-lookup"],
}  # fmt: skip


def test_costs_of_a_file_for_some_batches(trace, tmp_path):
    """Between two batches they rise evenly; a ratio replaces a model's step and keeps its rise."""
    path = tmp_path / "costs.json"
    path.write_text(json.dumps(MEASURED))
    costs = costs_of_file(path, trace.meta, 3)
    np.testing.assert_allclose(costs.verify[1], [1.5, 1.5, 2, 2, 3])
    np.testing.assert_allclose(costs.draft, [[0.5, 0], [1, 0], [1.5, 0]])
    np.testing.assert_allclose(costs.catch_up, [0.25, 0])
    np.testing.assert_allclose(costs.ratio[2], np.array([1.5 + 0.5, 0.5]) / 2)
    other = costs_of_file(path, trace.meta, 3, ratio=0.1)
    np.testing.assert_allclose(other.draft, [[0.1, 0], [0.2, 0], [0.3, 0]])
    np.testing.assert_allclose(other.verify, costs.verify)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": [1, 2]}, r"batch must be rising from 1 to 3 or more, got \[1, 2\]"),
        ({"batch": [2, 3]}, "batch must be rising from 1"),
        ({"batch": [1, 2, 3]}, r"verify must be at least \[3, 5\], got \[2, 5\]"),
        ({"catch_up": [0]}, r"catch_up must be \[2\], got \[1\]"),
        ({"drafters": ["toy"]}, "drafters must be .*prompt-lookup.*, got"),
        ({"draft": [[1], [1]]}, r"draft must be at least \[2, 2\], got \[2, 1\]"),
    ],
)
def test_costs_that_do_not_fit_are_refused(trace, tmp_path, change, message):
    path = tmp_path / "costs.json"
    path.write_text(json.dumps(MEASURED | change))
    with pytest.raises(EngineError, match=message):
        costs_of_file(path, trace.meta, 3)


# ---- what is measured ---------------------------------------------------------------------------


def test_the_best_arm_has_no_regret_against_itself(player):
    order, costs = np.arange(5), measured_costs(player.meta)
    play = Play("", (("fixed_length", {"n": 2}),))
    rounds = player.play(play, order, costs)
    own = measured(rounds, None)
    found = curves(rounds, own, own, 1)
    assert np.abs(found["regret"]).max() == 0
    assert np.array(found["shares"]).min() == 1
    assert found["rounds"][-1] == len(rounds.cost)
    worse = measured(player.play(Play("", (("fixed_length", {"n": 0}),)), order, costs), None)
    assert curves(rounds, own, worse, 1)["regret"][-1] < 0


def test_halves_are_of_the_tokens(player):
    """Without drafts every token costs one forward, in either half."""
    order, costs = np.arange(5), measured_costs(player.meta)
    plain = measured(player.play(Play("", (("fixed_length", {"n": 0}),)), order, costs), None)
    assert plain.speed == pytest.approx(1)
    assert plain.second_half == pytest.approx(1)
    assert plain.row()["undrafted"] == 1
    assert plain.cost_at(7.5) == pytest.approx(7.5)


def test_the_oracle_followed_costs_what_it_says(player):
    costs = measured_costs(player.meta)
    plan = player.oracle(costs)
    order = np.array([3, 0, 4])
    found = follow(player.table, plan, order, costs)
    assert found.cost[-1] == pytest.approx(plan.cost[player.trace.start[order]].sum())
    assert found.tokens[-1] == np.diff(player.trace.start)[order].sum()
    free = replace(costs, catch_up=np.zeros(2))
    for arm in range(3):
        play = Play("", player.default_arms(), settings={"arm": arm})
        assert player.play(play, order, free).cost.sum() >= found.cost[-1]


def test_arms_suit_the_drafters_of_the_trace(player, trace):
    arms = player.default_arms()
    assert {name for arm in arms for name in arm[2]} == {"toy", "prompt-lookup"}
    assert len(arms) == len(DRAFTER_ARMS)
    three = replace(trace.meta, drafters=["a", "prompt-lookup", "b"], always=[True, False, True])
    both = Player.default_arms(type("", (), {"meta": three})())
    assert len(both) == 2 * len(DRAFTER_ARMS) - 2, (
        "neither not to draft nor lookup alone is there twice"
    )
    alone = type("", (), {"meta": replace(three, drafters=["a"], always=[True])})()
    assert all(len(arm) == 2 for arm in Player.default_arms(alone))
