"""One point of op x shape x dtype x sampling x layout, and the matrix of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial

import torch

from ..reference.accept import LOSSY_RULES, RULES
from . import inputs, trees
from .bandit import BANDITS, bandit_select_inputs, bandit_step_inputs, bandit_update_inputs
from .inputs import ARMS, SAMPLINGS

VOCABS = (7, 1024, 49152)  # in every run
MORE_VOCABS = (1025, 8193, 128256)  # one past a chunk, one past eight, a large real one
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
BYTES = (torch.float8_e4m3fn, torch.uint8)  # of caches alone


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
    ragged: bool = False  # row_start; pages
    rows: bool = False  # state per request slot, not per batch row
    extras: bool = False  # verify: overlap and logprobs; draft_step: accept_estimate; lengths
    level: str = "sequence"  # or "token": an arm for each slot
    arms: str = "plain"  # or "learning": stop rules that go by what they remember
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


_BUILDERS = {
    "row_stats": inputs.row_stats, "sample": inputs.sample,
    "proposal_reset": inputs.proposal_reset, "proposal_load": inputs.proposal_load,
    "draft_step": inputs.draft_step, "verify": inputs.verify,
    "bandit_select": partial(bandit_select_inputs, ARMS),
    "bandit_update": bandit_update_inputs, "bandit_step": bandit_step_inputs,
    "tree_layout": trees.tree_layout, "tree_mask": trees.tree_mask,
    "tree_mask_flat": trees.tree_mask_flat, "tree_verify": trees.tree_verify,
    "tree_attention": trees.tree_attention,
    "tree_expand": trees.tree_expand, "tree_rerank": trees.tree_rerank,
    "compact_kv": trees.compact_kv,
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


def _lossy_cases(vocab: int) -> list[Case]:
    """``verify`` by lossy rules, drafts long enough for the window of ``lossy_fly``."""
    cases = []
    for i, rule in enumerate(LOSSY_RULES):
        base = Case("verify", 10 if vocab <= 1025 else 2, 3 if vocab > 1025 else 9, vocab)
        base = base.with_(rule=rule, dtype=DTYPES[i % 3])
        cases.append(base)
        if vocab > 8193:
            continue
        mixed = base.with_(sampling="mixed", extras=True)
        cases += [base.with_(sampling="all"), base.with_(drafts="one_hot", sampling="cold")]
        cases.append(mixed.with_(masked=True, draft_vocab=True, rows=True, ragged=True, seed=1))
        cases.append(mixed.with_(drafts="one_hot", masked=True))
    return cases


def _learning_cases() -> list[Case]:
    """Stop rules with a memory, in every operator that asks or teaches them."""
    base = Case("proposal_reset", batch=27, slots=3, arms="learning")
    cases = [base, base.with_(rows=True, level="token")]
    for op in ("draft_step", "proposal_load"):
        for vocab in (7, 1024):
            cases.append(base.with_(op=op, vocab=vocab))
            cases.append(base.with_(op=op, vocab=vocab, rows=True, level="token"))
    cases.append(base.with_(op="proposal_load", drafts="one_hot"))
    for op in ("bandit_update", "bandit_step"):
        for bandit in ("ucb1", "ucb1_rows", "ucb1_token"):
            cases.append(base.with_(op=op, slots=5, batch=160, bandit=bandit))
    return cases


def _tree_cases() -> list[Case]:
    """Shapes up to the largest tree; every form of mask."""
    shapes = [(16, 1), (16, 7), (9, 32), (9, 33), (4, 64), (2, 1024)]
    cases = []
    for batch, nodes in shapes:
        cases += [Case("tree_layout", batch, nodes, seed=seed) for seed in range(4)]
        if nodes <= 64:
            cases += [Case("tree_mask", batch, nodes, seed=seed) for seed in range(10)]
            cases += [Case("tree_mask_flat", batch, nodes, seed=seed) for seed in range(4)]
            cases += [Case("tree_rerank", batch, nodes, seed=seed) for seed in range(2)]
    for dtype in DTYPES:
        cases += [Case("tree_attention", 5, 7, dtype=dtype, seed=seed) for seed in range(16)]
    cases += [Case("tree_attention", 2, nodes, seed=seed) for nodes in (1, 33) for seed in (8, 11)]
    for dtype in (*DTYPES, *BYTES):
        kv = Case("compact_kv", 9, 12, dtype=dtype)
        cases += [kv, kv.with_(ragged=True, extras=True, seed=1)]
    return [*cases, Case("tree_mask", 1, 1024, seed=6)]


def _tree_row_cases(vocab: int) -> list[Case]:
    """``tree_verify`` as ``verify``: dtype, sampling, rule, draft, masks, vocabularies, rows."""
    batch, nodes = (12, 7) if vocab <= 1025 else (6, 5) if vocab <= 8193 else (2, 3)
    base = Case("tree_verify", batch, nodes, vocab)
    cases = [base.with_(dtype=dtype) for dtype in DTYPES]
    names = ("top_k", "mixed") if vocab > 1025 else tuple(SAMPLINGS)[1:]
    cases += [base.with_(sampling=name, seed=i) for i, name in enumerate(names)]
    cases += [base.with_(rule=rule, sampling="cold") for rule in ("block", "greedy", "gumbel")]
    cases.append(base.with_(drafts="one_hot", sampling="cold"))
    if vocab > 8193:
        return cases
    mixed = base.with_(sampling="mixed")
    every = {"masked": True, "draft_vocab": True, "rows": True}
    for rule in RULES:
        cases += [mixed.with_(rule=rule, **{option: True}) for option in every]
        cases.append(mixed.with_(rule=rule, **every))
        cases.append(mixed.with_(rule=rule, drafts="one_hot", masked=True, seed=1))
    return cases


def _expand_cases(vocab: int) -> list[Case]:
    """``tree_expand``: drawn children and the best ones."""
    base = Case("tree_expand", 10 if vocab <= 1025 else 4, 4, vocab, extras=True)
    best = base.with_(drafts="one_hot")
    if vocab > 1025:
        return [base.with_(dtype=torch.bfloat16, sampling="mixed", batch=5), best.with_(batch=2)]
    cases = [base.with_(dtype=dtype, seed=i) for i, dtype in enumerate(DTYPES)]
    cases.append(base.with_(sampling="mixed", batch=5))
    cases += [base.with_(sampling=name, seed=i) for i, name in enumerate(tuple(SAMPLINGS)[1:])]
    for side in (base.with_(sampling="mixed"), best):
        cases += [side.with_(**{x: True}) for x in ("masked", "draft_vocab", "rows")]
        cases.append(side.with_(masked=True, draft_vocab=True, rows=True, extras=False, seed=1))
    return [*cases, best, best.with_(slots=12, seed=1)]


def _matrix() -> list[Case]:
    cases = [Case("proposal_reset", batch=16)]
    cases.append(Case("proposal_reset", batch=16, rows=True, level="token"))
    for op in ("bandit_select", "bandit_update", "bandit_step"):
        cases += [Case(op, batch=16, bandit=bandit) for bandit in BANDITS]
    cases += _learning_cases()
    for vocab in VOCABS + MORE_VOCABS:
        batch = 10 if vocab <= 1025 else 4 if vocab <= 8193 else 2
        base = Case("row_stats", batch, 2 if batch == 2 else 3, vocab)
        cases += _row_cases(base)
        if vocab <= 8193:
            cases += _layout_cases(base.with_(batch=10))
        cases += _lossy_cases(vocab) if vocab < 100_000 else []
        cases += _tree_row_cases(vocab)
        cases += _expand_cases(vocab)
    return cases + _tree_cases()


CASES: list[Case] = _matrix()
