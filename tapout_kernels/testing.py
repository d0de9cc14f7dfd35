"""Inputs and tolerances shared by ``tests/`` and ``bench/``.

A :class:`Case` names one point of op x shape x dtype x sampling; :meth:`Case.inputs` builds the
arguments of the raw operator, outputs included, so that a case can be run on any backend, timed,
or spoiled one argument at a time.  ``TOLERANCES`` is the only table of numbers two backends may
differ by.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from .reference.accept import RULES
from .reference.stats import NUM_STATS, process, row_stats_of
from .stop_rules import StopRules, StopState
from .testing_bandit import BANDITS, bandit_select_inputs, bandit_update_inputs

VOCABS = (7, 1024, 49152)  # in every run
MORE_VOCABS = (1025, 8193, 128256)  # one past a chunk, one past eight, a large real one
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Tolerance(NamedTuple):
    """|value - expected| <= atol + rtol * |expected|."""

    atol: float
    rtol: float


NEAR = 1e-5
"""Contract 7: a decision may differ where its two sides (CDF and uniform, acceptance, stop test,
mass and its top-p limit) are this close: absolute for masses, relative for the rest."""

# Derivation.  Contract 7 lets masses move by NEAR and the sides of a decision by NEAR relative, so
# a number that decides may move by that much.  The f32 row adds x = (z - m)/T: three roundings of
# 2**-24 each, 1.8e-7 |x| in ln w, which the rtol of a logarithm covers (|x| <= |logprob| + ln V).
TOLERANCES: dict[str, Tolerance] = {
    "lse": Tolerance(NEAR, 2.0**-22),  # ln of a mass; stored in f32
    "entropy": Tolerance(1e-6, 2 * NEAR),  # its square root decides: NEAR relative of the root
    "top1_prob": Tolerance(0.0, NEAR),
    "top2_prob": Tolerance(2.0**-126, NEAR),  # the smallest normal f32: below it, anything goes
    "token_logprob": Tolerance(NEAR, 2.0**-21),  # ln of a probability
    "cutoff": Tolerance(0.0, 0.0),  # an actual logit
    "temperature": Tolerance(0.0, 0.0),  # a copy
    "accept_prob": Tolerance(2.0**-126, 2 * NEAR),  # a quotient of two probabilities
    "bandit": Tolerance(0.0, 1e-15),  # f64 in the same order; one ulp of a product
    "memory": Tolerance(0.0, 2.0**-23),  # f64 arithmetic, one rounding to f32
}
STATS_COLUMNS = tuple(TOLERANCES)[:7]  # in the order of the columns

# Each value is one column of a row; "mixed" gives every row its own, some of them off.
SAMPLINGS: dict[str, dict[str, list[float]]] = {
    "plain": {},
    "cold": {"temperature": [0.7]},
    "zero": {"temperature": [0.0]},
    "top_k": {"temperature": [0.7], "top_k": [5]},
    "top_p": {"temperature": [1.3], "top_p": [0.9]},
    "both": {"temperature": [0.9], "top_k": [5], "top_p": [0.8]},
    "mixed": {
        "temperature": [1.0, 0.0, 0.01, 2.0],
        "top_k": [0, 3, 6, 1, 1 << 30],
        "top_p": [1.0, 0.5, 0.95],
    },
}
ARMS = StopRules(
    ("fixed_length", {"n": 2}), "max_confidence", ("svip", {"threshold": 1.0}),
    ("svip_difference", {"threshold": 0.01}), "logit_margin", "adaedl", ("fixed_length", {"n": 0}),
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One set of operator arguments, a pure function of its fields."""

    op: str
    batch: int = 4
    slots: int = 3
    vocab: int = 1024
    dtype: torch.dtype = torch.float32
    sampling: str = "plain"
    rule: str = "token"
    drafts: str = "full"  # or "one_hot"
    bandit: str = "ucb1"
    seed: int = 0

    @property
    def name(self) -> str:
        shape = f"b{self.batch}k{self.slots}v{self.vocab}-{str(self.dtype).removeprefix('torch.')}"
        bandit = f"-{self.bandit}" if self.op.startswith("bandit_") else ""
        return f"{self.op}-{shape}-{self.sampling}-{self.rule}-{self.drafts}{bandit}-{self.seed}"

    def with_(self, **fields: object) -> Case:
        return dataclasses.replace(self, **fields)

    def inputs(self) -> dict[str, object]:
        """Fresh arguments of the raw operator by name: inputs, state and output buffers."""
        return _BUILDERS[self.op](self, torch.Generator().manual_seed(self.seed + 1))


def sampling_columns(name: str, batch: int) -> dict[str, Tensor | None]:
    """temperature, top_k and top_p of ``batch`` rows, None where off for all."""
    dtypes = {"temperature": torch.float32, "top_k": torch.int32, "top_p": torch.float32}
    given = SAMPLINGS[name]
    return {
        key: None if key not in given
        else torch.tensor([given[key][b % len(given[key])] for b in range(batch)], dtype=dtype)
        for key, dtype in dtypes.items()
    }  # fmt: skip


def draw_logits(case: Case, generator: torch.Generator, rows: int) -> tuple[Tensor, Tensor]:
    """[B, rows, V] draft and target logits that agree often enough for every outcome to occur.

    A language model's shape: a few large logits over a broad tail, some entries masked to -inf.
    """
    shape = (case.batch, rows, case.vocab)
    common = 2.0 * torch.randn(shape, generator=generator)
    peak = torch.randint(0, case.vocab, (case.batch, rows, 3), generator=generator)
    common.scatter_add_(-1, peak, torch.full(peak.shape, torch.tensor(case.vocab).log().item()))
    draft, target = (common + 0.7 * torch.randn(shape, generator=generator) for _ in range(2))
    masked = torch.rand(shape, generator=generator) < 0.05
    masked[..., 0] = False
    return draft.to(case.dtype), target.masked_fill(masked, -torch.inf).to(case.dtype)


def _seeds(batch: int, generator: torch.Generator) -> Tensor:
    return torch.randint(-(1 << 62), 1 << 62, (batch,), generator=generator)


def _lengths(batch: int, slots: int) -> Tensor:
    return (torch.arange(batch, dtype=torch.int32) * -1 + slots) % (slots + 1)


def _table(batch: int) -> dict[str, Tensor]:
    arm = torch.arange(batch, dtype=torch.int32) % (len(ARMS) + 1) - 1  # -1: a row without a rule
    memory = StopState.of(batch, ARMS).memory
    return {"rule_kind": ARMS.kind, "rule_param": ARMS.param, "arm": arm, "memory": memory}


def _zeros(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


def _proposal(case: Case) -> dict[str, Tensor]:
    batch, slots = case.batch, case.slots
    return {
        "tokens": _zeros(batch, slots, dtype=torch.int64) - 1,
        "length": _zeros(batch),
        "active": torch.ones(batch, dtype=torch.bool),
        "num_active": _zeros(1) + batch,
        "stats": _zeros(batch, slots, NUM_STATS, dtype=torch.float32),
        "stop_reason": _zeros(batch),
    }


def draft_tokens(case: Case, logits: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """[B, K] tokens drawn from the processed draft rows, and their statistics [B, K, 8]."""
    columns = sampling_columns(case.sampling, case.batch).values()
    columns = [x if x is None else x.repeat_interleave(case.slots) for x in columns]
    rows = process(logits.reshape(-1, case.vocab), *columns, case.rule == "greedy")
    token = torch.multinomial(rows.weights, 1, generator=generator)[:, 0]
    shape = (case.batch, case.slots)
    return token.view(shape), row_stats_of(rows, token).view(*shape, NUM_STATS)


def _row_stats(case: Case, generator: torch.Generator) -> dict[str, object]:
    _, logits = draw_logits(case, generator, 1)
    return {
        "logits": logits[:, 0], **sampling_columns(case.sampling, case.batch),
        "token": torch.randint(0, case.vocab, (case.batch,), generator=generator),
        "stats": _zeros(case.batch, NUM_STATS, dtype=torch.float32),
    }  # fmt: skip


def _sample(case: Case, generator: torch.Generator) -> dict[str, object]:
    _, logits = draw_logits(case, generator, 1)
    return {
        "logits": logits[:, 0], **sampling_columns(case.sampling, case.batch),
        "seed": _seeds(case.batch, generator), "live": None, "rule": RULES[case.rule],
        "rng_round": torch.arange(case.batch), "position": torch.arange(case.batch) + 10,
        "tokens": _zeros(case.batch, dtype=torch.int64),
    }  # fmt: skip


def _proposal_reset(case: Case, generator: torch.Generator) -> dict[str, object]:
    return {
        "max_length": torch.arange(case.batch, dtype=torch.int32) - 1,
        "live": torch.arange(case.batch) % 3 != 2, **_table(case.batch), **_proposal(case),
        "rng_round": torch.randint(0, 1 << 40, (case.batch,), generator=generator),
        "out_max_length": _zeros(case.batch), "out_live": _zeros(case.batch, dtype=torch.bool),
        "round": _zeros(case.batch, dtype=torch.int64),
    }  # fmt: skip


def _proposal_load(case: Case, generator: torch.Generator) -> dict[str, object]:
    draft, _ = draw_logits(case, generator, case.slots)
    source, _ = draft_tokens(case, draft, generator)
    return {
        "source": source, "source_length": _lengths(case.batch, case.slots),
        "logits": None if case.drafts == "one_hot" else draft,
        **sampling_columns(case.sampling, case.batch), **_table(case.batch), **_proposal(case),
        "max_length": torch.full((case.batch,), case.slots, dtype=torch.int32),
    }  # fmt: skip


def _draft_step(case: Case, generator: torch.Generator) -> dict[str, object]:
    draft, _ = draw_logits(case, generator, case.slots)
    return {
        "logits": draft[:, 0], **sampling_columns(case.sampling, case.batch),
        "seed": _seeds(case.batch, generator), "round": torch.arange(case.batch) + 5,
        "max_length": torch.full((case.batch,), case.slots, dtype=torch.int32),
        **_table(case.batch), "rule": RULES[case.rule], **_proposal(case),
        "kept_logits": torch.zeros(case.batch, case.slots, case.vocab, dtype=case.dtype),
        "next_token": _zeros(case.batch, dtype=torch.int64),
    }  # fmt: skip


def _verify(case: Case, generator: torch.Generator) -> dict[str, object]:
    batch, slots = case.batch, case.slots
    draft, target = draw_logits(case, generator, slots + 1)
    kept = draft[:, :-1].contiguous()
    tokens, stats = draft_tokens(case, kept, generator)
    if case.drafts == "one_hot":
        kept = None
        stats = torch.zeros_like(stats)
        stats[..., 2] = 1.0
    return {
        "target_logits": target, **sampling_columns(case.sampling, batch),
        "seed": _seeds(batch, generator), "draft_tokens": tokens,
        "length": _lengths(batch, slots), "live": torch.ones(batch, dtype=torch.bool),
        "round": torch.arange(batch) + 3, "draft_logits": kept, "stats": stats,
        "rule": RULES[case.rule], "position": torch.arange(batch) + 10,
        "tokens": _zeros(batch, slots + 1, dtype=torch.int64), "num_accepted": _zeros(batch),
        "num_emitted": _zeros(batch), "last_token": _zeros(batch, dtype=torch.int64),
        "status": _zeros(batch), "accept_prob": _zeros(batch, slots, dtype=torch.float32),
    }  # fmt: skip


_BUILDERS = {
    "row_stats": _row_stats, "sample": _sample, "proposal_reset": _proposal_reset,
    "proposal_load": _proposal_load, "draft_step": _draft_step, "verify": _verify,
    "bandit_select": partial(bandit_select_inputs, ARMS),
    "bandit_update": partial(bandit_update_inputs, ARMS),
}  # fmt: skip


def _matrix() -> list[Case]:
    cases = [Case("proposal_reset", batch=16)]
    for op in ("bandit_select", "bandit_update"):
        cases += [Case(op, batch=16, bandit=bandit) for bandit in BANDITS]
    for vocab in VOCABS + MORE_VOCABS:
        batch = 10 if vocab <= 1025 else 4 if vocab <= 8193 else 2
        base = Case("row_stats", batch, 2 if batch == 2 else 3, vocab)
        for op in ("row_stats", "sample", "proposal_load", "draft_step", "verify"):
            cases += [base.with_(op=op, dtype=dtype) for dtype in DTYPES]
            names = ("top_k", "mixed") if vocab > 1025 else tuple(SAMPLINGS)[1:]
            cases += [base.with_(op=op, sampling=s, seed=i) for i, s in enumerate(names)]
        for op in ("sample", "draft_step", "verify"):
            cases.append(base.with_(op=op, rule="greedy", sampling="cold"))
        for op in ("proposal_load", "verify"):
            cases.append(base.with_(op=op, drafts="one_hot", sampling="cold"))
    return cases


CASES: list[Case] = _matrix()
