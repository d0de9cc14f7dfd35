"""Which shapes are measured on a GPU, and in which order: those with a goal first."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import product

import torch

BATCHES, SLOTS, VOCABS = (1, 8, 32, 128), (4, 7), (32000, 128256, 151936)
DTYPES, AGREEMENTS = (torch.bfloat16, torch.float32), (0.0, 0.7, 1.0)
FILTERS = {"top_k": 50, "top_p": 0.9}


@dataclass(frozen=True)
class Case:
    op: str
    batch: int
    vocab: int = 151936
    slots: int = 4
    dtype: torch.dtype = torch.bfloat16
    agreement: float = 0.7
    rule: str = "token"
    filters: dict[str, float] = field(default_factory=dict)
    peers: bool = False  # beside PyTorch and other packages, which costs their compilation
    arms: int = 8
    nodes: int = 32  # of trees

    def shape(self) -> dict[str, object]:
        """The columns that name a row; acceptance is added as measured."""
        if self.op == "bandit step":
            return {"op": self.op, "B": self.batch, "A": self.arms}
        if self.op == "round graph":
            return {"op": self.op, "K": self.slots}
        if self.op in ("tree_layout", "compact_kv"):
            return {"op": self.op, "B": self.batch, "N": self.nodes}
        shape = {"op": self.op, "B": self.batch, "V": self.vocab}
        if self.op == "tree_verify":
            shape |= {"rule": self.rule, "N": self.nodes}
        if self.op == "verify":
            shape |= {"rule": self.rule, "K": self.slots}
        return {**shape, "dtype": str(self.dtype).removeprefix("torch."), **self.filters}


_VERIFY = Case("verify", 32)
_DRAFT = Case("draft_step", 1, 128256)


def selection(full: bool = False) -> list[Case]:
    """Some minutes of a GPU, the goals first; ``full``: every shape that is spoken of."""
    cases = [
        replace(_VERIFY, peers=True),
        replace(_VERIFY, batch=128, peers=True),
        replace(_DRAFT, peers=True),
        Case("bandit step", 64),
        Case("round graph", 1, slots=32),
        Case("tree_layout", 32, nodes=64),
        Case("tree_verify", 16, 128256),
        Case("compact_kv", 32),
        replace(_VERIFY, filters=FILTERS, peers=True),
        replace(_VERIFY, batch=128, filters=FILTERS),
        *(replace(_VERIFY, batch=b) for b in (1, 8)),
        *(replace(_VERIFY, batch=b, agreement=a) for b, a in product((32, 128), (0.0, 1.0))),
        *(replace(_DRAFT, batch=b) for b in (8, 32)),
        replace(_DRAFT, filters=FILTERS),
        *(replace(_VERIFY, rule=rule) for rule in ("greedy", "gumbel", "block")),
        Case("row_stats", 32),
        replace(_VERIFY, dtype=torch.float32),
        replace(_VERIFY, slots=7),
        *(replace(_VERIFY, vocab=v) for v in VOCABS[:2]),
        replace(_VERIFY, batch=1, agreement=1.0),
        replace(_VERIFY, batch=1, filters=FILTERS),
        replace(_DRAFT, batch=8, filters=FILTERS),
        replace(_DRAFT, vocab=151936, dtype=torch.float32),
    ]
    if full:
        known = [replace(case, peers=False) for case in cases]
        cases += [case for case in _every() if case not in known]
    return cases


def _every() -> list[Case]:
    cases = []
    for batch, vocab, dtype, filters in product(BATCHES, VOCABS, DTYPES, ({}, FILTERS)):
        shape = {"batch": batch, "vocab": vocab, "dtype": dtype, "filters": filters}
        cases += [
            replace(_VERIFY, slots=slots, agreement=agreement, **shape)
            for slots, agreement in product(SLOTS, AGREEMENTS)
        ]
        if batch <= 32:
            cases.append(replace(_DRAFT, **shape))
    return cases
