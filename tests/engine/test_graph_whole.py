"""Rounds through the graph that is made of them, on a driver that runs it on the host."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tapout_engine import Controller, SpeculativeDecoder
from tapout_engine.graph_loop import GraphDecoder, runners
from tapout_kernels.round_graph import RoundGraph

from .graph_loops import ARMS, Recorded, draft_model, facts, learnt, requests, target_model


@pytest.fixture
def graphs(driver, monkeypatch) -> None:
    """Mode ``graph`` on the host: its parts are captured, and its kernels run, by the driver."""

    def captured(pieces, idle, keep):
        assert keep, "the graph is made of what torch keeps"
        idle(pieces)

        def capture(piece):
            return driver.captured(Recorded(piece).replay)

        return replace(
            pieces, before=capture(pieces.before), body=capture(pieces.body),
            verify={width: capture(piece) for width, piece in pieces.verify.items()},
            after=capture(pieces.after),
        )  # fmt: skip

    monkeypatch.setattr(runners, "captured", captured)
    monkeypatch.setattr("tapout_engine.graph_loop.decoder.chosen_mode", lambda mode, device: mode)


@pytest.mark.parametrize(
    ("rule", "temperature", "policy"),
    [("token", 0.9, "ucb1"), ("gumbel", 0.9, "exp3"), ("greedy", 0.0, "ucb1")],
)
def test_rounds_of_one_graph_are_the_ordinary_decoders(graphs, rule, temperature, policy):
    target, draft = target_model(), draft_model()
    batches = [
        requests(temperature, seed=5, eos=(3, 8, 15, 33, 41, 60, 72)),
        requests(temperature, seed=6),
    ]
    expected = Controller(ARMS, slots=4, policy=policy)
    ordinary = SpeculativeDecoder(target, draft, expected, rule=rule)
    wanted = [facts(ordinary.generate(batch)) for batch in batches]
    controller = Controller(ARMS, slots=4, policy=policy)
    decoder = GraphDecoder(target, draft, controller, rule=rule, rows=4, capacity=80, mode="graph")
    assert [facts(decoder.generate(batch)) for batch in batches] == wanted
    assert isinstance(decoder.runner, RoundGraph)
    assert len(set(decoder.steps)) > 1, "the graph decided how long to draft"
    for found, taught in zip(learnt(controller), learnt(expected), strict=True):
        assert torch.equal(found, taught)
