"""Arms as people type them."""

from __future__ import annotations

import pytest

import tapout_kernels as tk
from tapout_engine import LENGTH_ARMS, TAPOUT_ARMS, EngineError, parse_arms


@pytest.mark.parametrize(
    ("text", "arms"),
    [
        ("svip", (("svip", {}),)),
        ("fixed_length:n=0", (("fixed_length", {"n": 0.0}),)),
        (
            "fixed_length:n=4, svip:threshold=0.6",
            (("fixed_length", {"n": 4.0}), ("svip", {"threshold": 0.6})),
        ),
        (
            "adaedl:gamma=0.1,initial_threshold=0.4,svip",
            (("adaedl", {"gamma": 0.1, "initial_threshold": 0.4}), ("svip", {})),
        ),
    ],
)
def test_lists_of_arms(text, arms):
    assert parse_arms(text) == arms
    assert len(tk.StopRules(*parse_arms(text))) == len(arms)


@pytest.mark.parametrize("text", ["", ",", "n=4", ":n=4", "svip:threshold", "svip:=1", "svip:a=b"])
def test_malformed_lists_are_refused(text):
    with pytest.raises(EngineError, match=r"^arms: "):
        parse_arms(text)


def test_default_tables():
    names = tk.StopRules(*TAPOUT_ARMS).names
    assert sorted(names) == sorted(
        ["fixed_length", "max_confidence", "svip", "svip_difference", "logit_margin", "adaedl"]
    )
    assert ("fixed_length", {"n": 0}) in LENGTH_ARMS
