"""Traces made in a test, without files."""

from __future__ import annotations

from collections.abc import Sequence

from tapout_engine import Request
from tapout_engine.slot_cost import slot_cost
from tapout_engine.traces import Trace, TraceMeta, assemble
from tapout_engine.traces.recorder import Recorder


def meta_of(recorder: Recorder, domains: Sequence[str] = ("all",)) -> TraceMeta:
    """With made-up costs."""
    lanes, slots = recorder.lanes, recorder.slots
    return TraceMeta(
        target="test", drafters=recorder.names, always=[not lane.blocks for lane in lanes],
        cost_ratio=[slot_cost(lane.drafter, 1, slots, lane.target) for lane in lanes],
        slots=slots,
        rule=recorder.rule, temperature=0.0, seed=0, domains=list(domains),
        verify_seconds=[0.01 * (1 + 0.02 * n) for n in range(slots + 1)],
        draft_seconds=[0.001 * (1 + i) for i in range(len(lanes))],
        catch_up_seconds=[0.0002 * i for i in range(len(lanes))],
    )  # fmt: skip


def record(
    recorder: Recorder, requests: Sequence[Request], domains: Sequence[str] = (), batch: int = 1
) -> Trace:
    """``batch`` requests together, as the command records them; a domain for each."""
    found = dict(recorder.record(requests, range(len(requests)), batch))
    parts = [found[number].arrays() for number in range(len(requests))]
    domains = list(domains or ["all"] * len(requests))
    names = list(dict.fromkeys(domains))
    return assemble(meta_of(recorder, names), [names.index(name) for name in domains], parts)
