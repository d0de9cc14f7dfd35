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

from .draft_vocab import DraftVocab
from .reference.accept import RULES
from .reference.gumbel import gumbel_index, gumbel_noise
from .reference.rows import StateRows
from .reference.stats import NUM_STATS, TOP1_PROB, Sampling, process, row_stats_of
from .reference.vocab import allowed_ids, target_ids
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
    "overlap": Tolerance(NEAR, NEAR),  # a mass
    "logprobs": Tolerance(NEAR, 2.0**-21),  # as token_logprob
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
    "min_p": {"temperature": [0.8], "min_p": [0.05]},
    "all": {"temperature": [0.9], "top_k": [5], "top_p": [0.8], "min_p": [0.2]},
    "mixed": {
        "temperature": [1.0, 0.0, 0.01, 2.0],
        "top_k": [0, 3, 6, 1, 1 << 30],
        "top_p": [1.0, 0.5, 0.95],
        "min_p": [0.0, 0.3, 0.02, 0.0, 1.0],
    },
}
ARMS = StopRules(
    ("fixed_length", {"n": 2}), "max_confidence", ("svip", {"threshold": 1.0}),
    ("svip_difference", {"threshold": 0.01}), "logit_margin", "adaedl", ("fixed_length", {"n": 0}),
    "survival",
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
    masked: bool = False  # token masks
    draft_vocab: bool = False  # a smaller, permuted draft vocabulary
    ragged: bool = False  # row_start
    rows: bool = False  # state per request slot, not per batch row
    extras: bool = False  # verify: overlap and logprobs; draft_step: accept_estimate
    level: str = "sequence"  # or "token": an arm for each slot
    bandit: str = "ucb1"
    seed: int = 0

    @property
    def name(self) -> str:
        """Operator, shape, and every other field that is not the default."""
        shape = f"b{self.batch}k{self.slots}v{self.vocab}-{str(self.dtype).removeprefix('torch.')}"
        parts = [self.op, shape]
        for field in dataclasses.fields(self)[5:]:
            value = getattr(self, field.name)
            if value != field.default:
                parts.append(field.name if value is True else str(value))
        return "-".join(parts)

    def with_(self, **fields: object) -> Case:
        return dataclasses.replace(self, **fields)

    def inputs(self) -> dict[str, object]:
        """Fresh arguments of the raw operator by name: inputs, state and output buffers."""
        return _BUILDERS[self.op](self, torch.Generator().manual_seed(self.seed + 1))

    @property
    def state(self) -> int:
        """R, rows of per-request state."""
        return self.batch + 2 if self.rows else self.batch


def sampling_columns(name: str, rows: int) -> dict[str, Tensor | None]:
    """temperature, top_k, top_p and min_p of ``rows`` rows, None where off for all."""
    columns: dict[str, Tensor | None] = {}
    for key in Sampling._fields:
        given = SAMPLINGS[name].get(key)
        dtype = torch.int32 if key == "top_k" else torch.float32
        columns[key] = None
        if given is not None:
            columns[key] = torch.tensor([given[b % len(given)] for b in range(rows)], dtype=dtype)
    return columns


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


def _mask(case: Case, generator: torch.Generator, *rows: int) -> Tensor | None:
    """Three quarters of the ids allowed; random bits beyond the vocabulary."""
    if not case.masked:
        return None
    shape = (*rows, -(-case.vocab // 32))
    words = [torch.randint(-(1 << 31), 1 << 31, shape, generator=generator) for _ in range(2)]
    return (words[0] | words[1]).int()


def _vocab(case: Case, generator: torch.Generator) -> dict[str, Tensor | None]:
    if not case.draft_vocab:
        return {"d2t": None, "t2d": None}
    size = case.vocab * 2 // 3 + 1
    vocab = DraftVocab(torch.randperm(case.vocab, generator=generator)[:size].int())
    return {"d2t": vocab.d2t, "t2d": vocab.t2d}


def _rows(case: Case) -> Tensor | None:
    """The last of four or more batch rows names a row that does not exist."""
    if not case.rows:
        return None
    rows = torch.arange(case.batch, dtype=torch.int32).flip(0) + 2
    if case.batch > 3:
        rows[-1] = case.state
    return rows


def _seeds(rows: int, generator: torch.Generator) -> Tensor:
    return torch.randint(-(1 << 62), 1 << 62, (rows,), generator=generator)


def _lengths(batch: int, slots: int) -> Tensor:
    return (torch.arange(batch, dtype=torch.int32) * -1 + slots) % (slots + 1)


def _table(rows: int, slots: int = 0) -> dict[str, Tensor]:
    """``slots`` > 0: token level."""
    arm = torch.arange(rows, dtype=torch.int32) % (len(ARMS) + 1) - 1  # -1: a row without a rule
    if slots:
        arm = (arm[:, None] + torch.arange(slots, dtype=torch.int32) + 1) % (len(ARMS) + 1) - 1
    memory = StopState.of(rows, ARMS).memory
    return {"rule_kind": ARMS.kind, "rule_param": ARMS.param, "arm": arm, "memory": memory}


def _rules(case: Case) -> dict[str, Tensor]:
    return _table(case.state, case.slots if case.level == "token" else 0)


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


class Drawn(NamedTuple):
    """Drafts as a drafter would have made them, one for each of K rows of logits."""

    logits: Tensor  # [B, K, D], -inf where masked
    tokens: Tensor  # [B, K] target ids
    stats: Tensor  # [B, K, 8]


def draw_drafts(
    case: Case,
    logits: Tensor,  # [B, K, V]
    generator: torch.Generator,
    mask: Tensor | None = None,  # [B, K, W]
    d2t: Tensor | None = None,
    seed: Tensor | None = None,  # [R], and the position of slot 0: for the noise of `gumbel`
    position: Tensor | None = None,
) -> Drawn:
    state = StateRows(_rows(case), case.state, logits.device)
    sampling = Sampling(**sampling_columns(case.sampling, case.state)).map(state.of)
    ids = target_ids(d2t, case.vocab, logits.device)
    kept = logits[..., ids]
    if mask is not None:
        kept = kept.masked_fill(~allowed_ids(mask, ids), -torch.inf)
    slots = logits.shape[1]
    flat = kept.reshape(-1, len(ids))
    each = sampling.map(lambda x: x.repeat_interleave(slots))
    rows = process(flat, each, greedy=case.rule == "greedy")
    if case.rule == "gumbel":
        at = (state.of(position)[:, None] + torch.arange(slots)).view(-1)
        noise = gumbel_noise(state.of(seed).repeat_interleave(slots), at, ids)
        token = gumbel_index(rows, noise)
    else:
        token = torch.multinomial(rows.weights, 1, generator=generator)[:, 0]
    shape = (case.batch, slots)
    stats = row_stats_of(rows, token).view(*shape, NUM_STATS)
    return Drawn(kept.contiguous(), ids[token].view(shape), stats)


def _row_stats(case: Case, generator: torch.Generator) -> dict[str, object]:
    _, logits = draw_logits(case, generator, 1)
    return {
        "logits": logits[:, 0], **sampling_columns(case.sampling, case.batch),
        "token_mask": _mask(case, generator, case.batch),
        "token": torch.randint(0, case.vocab, (case.batch,), generator=generator),
        "stats": _zeros(case.batch, NUM_STATS, dtype=torch.float32),
    }  # fmt: skip


def _sample(case: Case, generator: torch.Generator) -> dict[str, object]:
    _, logits = draw_logits(case, generator, 1)
    return {
        "logits": logits[:, 0], **sampling_columns(case.sampling, case.state),
        "token_mask": _mask(case, generator, case.batch),
        "seed": _seeds(case.state, generator), "live": None, "rows": _rows(case),
        "rule": RULES[case.rule], "rng_round": torch.arange(case.state),
        "position": torch.arange(case.state) + 10,
        "tokens": _zeros(case.batch, dtype=torch.int64),
    }  # fmt: skip


def _proposal_reset(case: Case, generator: torch.Generator) -> dict[str, object]:
    return {
        "max_length": torch.arange(case.batch, dtype=torch.int32) - 1,
        "live": torch.arange(case.batch) % 3 != 2, "rows": _rows(case), **_rules(case),
        **_proposal(case),
        "rng_round": torch.randint(0, 1 << 40, (case.state,), generator=generator),
        "out_max_length": _zeros(case.batch), "out_live": _zeros(case.batch, dtype=torch.bool),
        "round": _zeros(case.batch, dtype=torch.int64),
    }  # fmt: skip


def _proposal_load(case: Case, generator: torch.Generator) -> dict[str, object]:
    draft, _ = draw_logits(case, generator, case.slots)
    mask, vocab = _mask(case, generator, case.batch, case.slots), _vocab(case, generator)
    drawn = draw_drafts(case, draft, generator, mask, vocab["d2t"])
    full = case.drafts == "full"
    return {
        "source": drawn.tokens, "source_length": _lengths(case.batch, case.slots),
        "logits": draft[..., target_ids(vocab["d2t"], case.vocab, draft.device)] if full else None,
        **sampling_columns(case.sampling, case.state), "token_mask": mask if full else None,
        **vocab, "rows": _rows(case), **_rules(case), **_proposal(case),
        "max_length": torch.full((case.batch,), case.slots, dtype=torch.int32),
    }  # fmt: skip


def _draft_step(case: Case, generator: torch.Generator) -> dict[str, object]:
    draft, _ = draw_logits(case, generator, case.slots)
    mask, d2t = _mask(case, generator, case.batch), _vocab(case, generator)["d2t"]
    logits = draft[:, 0, target_ids(d2t, case.vocab, draft.device)]
    estimate = torch.rand(case.batch, generator=generator) - 0.2
    kept = (case.state, case.slots, logits.shape[-1])
    return {
        "logits": logits, **sampling_columns(case.sampling, case.state), "token_mask": mask,
        "d2t": d2t, "accept_estimate": estimate if case.extras else None,
        "seed": _seeds(case.state, generator), "position": torch.arange(case.state) + 10,
        "round": torch.arange(case.batch) + 5,
        "max_length": torch.full((case.batch,), case.slots, dtype=torch.int32),
        "rows": _rows(case), **_rules(case), "rule": RULES[case.rule],
        "logits_row": _rows(case), **_proposal(case),
        "kept_logits": torch.zeros(kept, dtype=case.dtype),
        "next_token": _zeros(case.batch, dtype=torch.int64),
    }  # fmt: skip


def _verify(case: Case, generator: torch.Generator) -> dict[str, object]:
    batch, slots = case.batch, case.slots
    draft, target = draw_logits(case, generator, slots + 1)
    vocab, seed = _vocab(case, generator), _seeds(case.state, generator)
    position = torch.arange(case.state) + 10
    masks = _mask(case, generator, batch, slots), _mask(case, generator, batch, slots + 1)
    drawn = draw_drafts(case, draft[:, :-1], generator, masks[0], vocab["d2t"], seed, position)
    kept, stats = drawn.logits, drawn.stats
    if case.drafts == "one_hot":
        kept, stats = None, torch.zeros_like(stats)
        stats[..., TOP1_PROB] = 1.0
    elif case.rows:  # row b of the draft is kept in its request's slot
        kept = torch.zeros(case.state, *kept.shape[1:], dtype=kept.dtype)
        state = StateRows(_rows(case), case.state, kept.device)
        kept[state.index[state.known]] = drawn.logits[state.known]
    length, mask = _lengths(batch, slots), masks[1]
    if mask is not None:
        mask[0, 1] = 0  # nothing allowed: EMPTY
    row_start = None
    if case.ragged:
        target, mask, row_start = _flatten(target, mask, length)
    return {
        "target_logits": target, "row_start": row_start,
        **sampling_columns(case.sampling, case.state), "token_mask": mask, "seed": seed,
        "rows": _rows(case), "draft_tokens": drawn.tokens, "length": length,
        "live": torch.ones(batch, dtype=torch.bool), "round": torch.arange(batch) + 3,
        "draft_logits": kept, "logits_row": None if kept is None else _rows(case),
        "t2d": None if kept is None else vocab["t2d"], "stats": stats, "rule": RULES[case.rule],
        "raw_logprobs": case.seed % 2 == 1, "position": position,
        "tokens": _zeros(batch, slots + 1, dtype=torch.int64), "num_accepted": _zeros(batch),
        "num_emitted": _zeros(batch), "last_token": _zeros(batch, dtype=torch.int64),
        "status": _zeros(batch), "accept_prob": _zeros(batch, slots, dtype=torch.float32),
        "overlap": _zeros(batch, slots, dtype=torch.float32) if case.extras else None,
        "logprobs": _zeros(batch, slots + 1, dtype=torch.float32) if case.extras else None,
    }  # fmt: skip


def _flatten(
    target: Tensor, mask: Tensor | None, length: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Rows 0..length of every request one after the other, and two that belong to none."""
    used = torch.arange(target.shape[1]) <= length[:, None]
    start = torch.nn.functional.pad((length + 1).cumsum(0), (1, 0)).int()
    rows = [torch.cat([x[used], x[-1, -2:]]) for x in (target, mask) if x is not None]
    return rows[0], rows[1] if mask is not None else None, start


_BUILDERS = {
    "row_stats": _row_stats, "sample": _sample, "proposal_reset": _proposal_reset,
    "proposal_load": _proposal_load, "draft_step": _draft_step, "verify": _verify,
    "bandit_select": partial(bandit_select_inputs, ARMS),
    "bandit_update": partial(bandit_update_inputs, ARMS),
}  # fmt: skip


def _row_cases(base: Case) -> list[Case]:
    """dtype, sampling, rule and draft of every operator that reads rows of logits."""
    cases = []
    for op in ("row_stats", "sample", "proposal_load", "draft_step", "verify"):
        cases += [base.with_(op=op, dtype=dtype) for dtype in DTYPES]
        names = ("top_k", "mixed") if base.vocab > 1025 else tuple(SAMPLINGS)[1:]
        cases += [base.with_(op=op, sampling=s, seed=i) for i, s in enumerate(names)]
    for op in ("sample", "draft_step", "verify"):
        cases += [base.with_(op=op, rule=rule, sampling="cold") for rule in ("greedy", "gumbel")]
    cases += [base.with_(op="verify", rule="block", sampling=s) for s in ("cold", "mixed")]
    for op in ("proposal_load", "verify"):
        cases.append(base.with_(op=op, drafts="one_hot", sampling="cold"))
    return cases


def _layout_cases(base: Case) -> list[Case]:
    """Masks, vocabularies, layouts and optional outputs; "mixed" includes temperature 0."""
    base = base.with_(sampling="mixed")
    cases = [base.with_(op=op, masked=True, dtype=torch.bfloat16) for op in ("row_stats", "sample")]
    cases += [base.with_(op="sample", rows=True, rule=rule) for rule in ("token", "gumbel")]
    for op in ("proposal_load", "draft_step"):
        for option in ("masked", "draft_vocab", "rows", "extras"):
            cases.append(base.with_(op=op, **{option: True}))
        cases.append(base.with_(op=op, level="token"))
        cases.append(base.with_(op=op, masked=True, draft_vocab=True, rows=True, level="token"))
    every = {"masked": True, "draft_vocab": True, "rows": True, "extras": True}
    cases.append(base.with_(op="draft_step", rule="gumbel", **every))
    for rule in RULES:
        verify = base.with_(op="verify", rule=rule)
        for option in ("masked", "draft_vocab", "ragged", "rows", "extras"):
            cases.append(verify.with_(**{option: True}))
        cases.append(verify.with_(ragged=True, **every))
        if rule != "gumbel":  # overlap of a draft without logits
            cases.append(verify.with_(drafts="one_hot", masked=True, extras=True, seed=1))
    return cases


def _matrix() -> list[Case]:
    cases = [Case("proposal_reset", batch=16)]
    cases.append(Case("proposal_reset", batch=16, rows=True, level="token"))
    for op in ("bandit_select", "bandit_update"):
        cases += [Case(op, batch=16, bandit=bandit) for bandit in BANDITS]
    for vocab in VOCABS + MORE_VOCABS:
        batch = 10 if vocab <= 1025 else 4 if vocab <= 8193 else 2
        base = Case("row_stats", batch, 2 if batch == 2 else 3, vocab)
        cases += _row_cases(base)
        if vocab <= 8193:
            cases += _layout_cases(base.with_(batch=10))
    return cases


CASES: list[Case] = _matrix()
