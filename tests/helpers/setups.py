"""Toy chains, and the axes the exact law is integrated over.

Every (rule, source of the draft, stop rule) is combined with every value of every other axis, and
every two values of two other axes with each other: a covering array (helpers/pairs.py).  What
belongs to a launch (vocabularies, layout) groups the rows into launches.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch

from tapout_kernels import StopRules
from tapout_kernels.draft_vocab import DraftVocab

from .law import BLOCK, GREEDY, TOKEN, Config, Filter, Layout, Setup
from .pairs import Row, all_pairs

# Thresholds lie inside the range the toy chains reach: each rule fires in some contexts only
# (asserted by test_every_stop_rule_is_exercised).
RULES = StopRules(
    ("fixed_length", {"n": 0}),
    ("fixed_length", {"n": 2}),
    ("max_confidence", {"threshold": 0.55}),
    ("svip", {"threshold": 0.9}),
    ("svip_difference", {"threshold": 0.02}),
    ("logit_margin", {"threshold": 0.3}),
    ("adaedl", {"gamma": 0.2, "initial_threshold": 0.6}),
    ("gammatune_plus", {"initial_length": 3, "threshold": 0.5}),
    "adasd_entropy",
    "hysteresis",
    ("survival", {"threshold": 0.45}),
)
# In the middle of a request: what is accepted has H = .5, what is not 1.3; hysteresis is off, and
# this is the round of its probe.
RULES.initial_memory[RULES.names.index("adasd_entropy")] = torch.tensor([6.0, 0.5, 2.0, 1.3])
RULES.initial_memory[RULES.names.index("hysteresis")] = torch.tensor([1.5, 1.0, 7.0, 0.0])
ARMS = range(-1, len(RULES))  # -1: no rule, draft to the end
SURVIVAL = len(RULES) - 1
PROBE = SURVIVAL - 1
ESTIMATED = len(RULES)  # as a stop: survival with an estimate passed in (draft_step only)
VERIFY_RULES = {"token": TOKEN, "block": BLOCK, "greedy": GREEDY}
SOURCES = ("draft", "loaded", "one_hot")


def _filters(shift: float) -> dict[str, Filter]:
    """Exact in float32; the two sides differ where they are on."""
    return {
        "none": Filter(),
        "temperature": Filter(temperature=0.75 + shift),
        "zero": Filter(temperature=0.0),
        "top_k": Filter(top_k=2),
        "top_p": Filter(top_p=0.625 + shift / 4),
        "min_p": Filter(min_p=0.25 + shift / 4),
        "all": Filter(0.875 + shift, 3, 0.9375, 0.0625),
    }


FILTERS = {"target": _filters(0.0), "draft": _filters(0.5)}
# Where a handful of configurations must do: target, draft.
FILTER_PAIRS = (
    ("none", "none"), ("top_k", "none"), ("none", "top_k"), ("top_p", "temperature"),
    ("temperature", "min_p"), ("min_p", "top_p"), ("all", "all"),
)  # fmt: skip
MASKS = ("none", "draft", "target", "both", "different")
VOCABS = ("same", "smaller", "foreign")  # foreign: permuted, with an id the target has not
# An orthogonal array: every pair of (rows, ragged, token level).
LAYOUTS = (
    Layout(), Layout(ragged=True, token_level=True),
    Layout(rows=True, token_level=True), Layout(rows=True, ragged=True),
)  # fmt: skip
CELLS = tuple(
    (rule, source, stop)
    for rule, source in itertools.product(VERIFY_RULES, SOURCES)
    for stop in (*ARMS, ESTIMATED)
    if stop != ESTIMATED or source == "draft"
)
AXES = {
    "cell": CELLS,
    "target_filter": tuple(FILTERS["target"]),
    "draft_filter": tuple(FILTERS["draft"]),
    "mask": MASKS,
    "vocab": VOCABS,
    "layout": LAYOUTS,
}
SHAPES = {"same": (5, 2), "smaller": (4, 2), "foreign": (3, 3)}  # V, K
D2T = {"same": None, "smaller": (3, 0, 2), "foreign": (2, 0, 7, 1)}


def chains(vocab: int, seed: int, draft_vocab: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Two random conditional models, in float32 so that every layer reads the same numbers."""
    generator = np.random.default_rng(seed)
    sizes = vocab, draft_vocab or vocab
    tables = [1.5 * generator.normal(size=(vocab, size)) for size in sizes]
    return tuple(table.astype(np.float32).astype(np.float64) for table in tables)


def arms_of(stop: int, slots: int) -> tuple[int, ...]:
    """The stop's arm in slot 0, and at token level the next ones after it."""
    first = SURVIVAL if stop == ESTIMATED else stop
    return tuple((first + 1 + slot) % len(ARMS) - 1 for slot in range(slots))


def masks_of(kind: str, vocab: int, width: int, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Allowed ids by the last token, one missing in each row."""
    context = np.arange(vocab)
    cut_target, cut_draft = np.ones((vocab, vocab), bool), np.ones((vocab, width), bool)
    cut_target[context, (context + 1) % vocab] = False
    if kind == "both":
        cut_draft[:, :vocab] = cut_target  # an id the target has not stays allowed
    elif kind in ("draft", "different"):
        cut_draft[context, ids[context % len(ids)]] = False
    everything = np.ones((vocab, vocab), bool)
    return {
        "target_mask": cut_target if kind in ("target", "both", "different") else everything,
        "draft_mask": cut_draft,
    }


def setup_of(rows: list[Row], seed: int = 0) -> Setup:
    """One launch: rows that agree in everything but filters, masks and stop rules."""
    rule, source, stop = rows[0]["cell"]
    kind, layout = rows[0]["vocab"], rows[0]["layout"]
    (vocab, slots), table = SHAPES[kind], D2T[kind]
    d2t = None if table is None else DraftVocab(torch.tensor(table, dtype=torch.int32))
    target, draft = chains(vocab, seed, None if table is None else len(table))
    ids = np.arange(vocab) if table is None else np.array(table)
    masked = any(row["mask"] != "none" for row in rows)
    configs = [
        Config(
            arms_of(row["cell"][2], slots), FILTERS["target"][row["target_filter"]],
            FILTERS["draft"][row["draft_filter"]],
            **masks_of(row["mask"], vocab, ids.max() + 1, ids) if masked else {},
            start=number % vocab,
        )
        for number, row in enumerate(rows)
    ]  # fmt: skip
    estimate = np.linspace(0.5, 1.0, vocab) if stop == ESTIMATED else None
    return Setup(
        target, draft, slots, configs, RULES, source, rule=VERIFY_RULES[rule], vocab=d2t,
        estimate=estimate, layout=layout,
    )  # fmt: skip


def launches(rows: list[Row]) -> list[list[Row]]:
    """Rows grouped by what a launch has one of."""

    def key(row: Row) -> tuple:
        rule, source, stop = row["cell"]
        return rule, source, stop == ESTIMATED, row["vocab"], row["layout"]

    return [list(group) for _, group in itertools.groupby(sorted(rows, key=key), key)]


def covering(seed: int = 0) -> list[Row]:
    return all_pairs(AXES, seed)
