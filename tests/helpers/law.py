"""Every draft path of many configurations as the rows of one batch, with its probability.

The operators of a :class:`Reference` copy read their uniforms from :class:`Noise` instead of
Philox.  Every outcome is a monotone function of each uniform, so measures are found by bisection
(helpers/integrate.py); the addresses of a round's uniforms are distinct (checked) and Philox words
are independent, so the law of a round is a product (helpers/round_law.py).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tapout_kernels import Proposal
from tapout_kernels.draft_vocab import DraftVocab

from .integrate import DRAFT, Noise, threshold
from .mutants import Reference
from .oracle import processed

TOKEN, BLOCK, GUMBEL, GREEDY = range(4)
FIRST_SEED = 1000
_COLUMNS = {
    "temperature": (torch.float32, 1.0),
    "top_k": (torch.int32, 0),
    "top_p": (torch.float32, 1.0),
    "min_p": (torch.float32, 0.0),
}  # dtype, value that means off


class Filter(NamedTuple):
    """Sampling parameters of one side, exact in float32."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


class Config(NamedTuple):
    """One request: everything that is data of a row."""

    arms: tuple[int, ...]  # of every slot; at sequence level all are the first
    target: Filter = Filter()
    draft: Filter = Filter()
    target_mask: np.ndarray | None = None  # [V, V] allowed target ids, by the last token
    draft_mask: np.ndarray | None = None  # [V, ids]
    start: int = 0
    memory: Tensor | None = None  # [A, 4]; None: the rules' initial memory


class Layout(NamedTuple):
    """How one launch lays out its arguments."""

    rows: bool = False  # state and kept logits in permuted rows of larger tensors
    ragged: bool = False
    token_level: bool = False


DENSE = Layout()


@dataclass
class Setup:
    """Configurations of one launch."""

    target: np.ndarray  # [V, V] logits of the next token, by the last one
    draft: np.ndarray  # [V, D]
    slots: int
    configs: list[Config]
    rules: object  # StopRules
    source: str = "draft"  # or "loaded" (tokens and logits), "one_hot" (tokens alone)
    draft_rule: int = TOKEN
    rule: int = TOKEN
    vocab: DraftVocab | None = None
    estimate: np.ndarray | None = None  # [V] passed to draft_step, by the last token
    layout: Layout = DENSE

    @property
    def ids(self) -> np.ndarray:
        """[D] target id of every draft id."""
        width = self.draft.shape[1]
        return np.arange(width) if self.vocab is None else self.vocab.d2t.numpy()

    def probs(self, side: str, c: int) -> np.ndarray:
        """[V, V or D] processed distributions of configuration c, from the oracle."""
        config = self.configs[c]
        table = self.target if side == "target" else self.draft
        settings, mask = getattr(config, side), getattr(config, f"{side}_mask")
        if (self.rule if side == "target" else self.draft_rule) == GREEDY:
            settings = Filter(temperature=0.0)
        if mask is not None and side == "draft":
            mask = mask[:, self.ids]
        masks = [None] * len(table) if mask is None else mask
        return np.stack([processed(z, *settings, m) for z, m in zip(table, masks, strict=True)])


def columns(settings: list[Filter]) -> dict[str, Tensor | None]:
    """[n] tensors of an operator; None where a parameter is off for every row."""
    found = {}
    for index, (name, (dtype, off)) in enumerate(_COLUMNS.items()):
        values = [row[index] for row in settings]
        found[name] = None if set(values) == {off} else torch.tensor(values, dtype=dtype)
    return found


def words(allowed: np.ndarray) -> Tensor:
    """[..., n <= 31] bool -> [..., 1] i32 bits; the bits from n up are set, and must not matter."""
    width = allowed.shape[-1]
    bits = (allowed * (1 << np.arange(width))).sum(-1) + (1 << 31) - (1 << width)
    return torch.tensor(bits[..., None].astype(np.uint32).view(np.int32))


class State:
    """Per-request tensors, in the order of the batch or in permuted rows of larger ones."""

    def __init__(self, batch: int, permuted: bool):
        self.size = batch + 3 if permuted else batch
        order = torch.randperm(self.size, generator=torch.Generator().manual_seed(batch))
        self.index = order[:batch] if permuted else torch.arange(batch)
        self.rows = self.index.int() if permuted else None

    def spread(self, values: Tensor | None, other: float = 0) -> Tensor | None:
        """[B, ...] -> [R, ...] with ``other`` in rows of nobody."""
        if values is None:
            return None
        out = torch.full((self.size, *values.shape[1:]), other, dtype=values.dtype)
        out[self.index] = values
        return out


class Paths:
    """Every draft path of every configuration: drafted, and weighted with its probability."""

    def __init__(self, reference: Reference, setup: Setup):
        self.reference, self.setup = reference, setup
        slots, self.vocab = setup.slots, setup.target.shape[0]
        width = setup.draft.shape[1]
        paths = [list(itertools.product(range(width), repeat=slots))] * len(setup.configs)
        if setup.source == "one_hot":  # a deterministic drafter: the draft table's argmax
            paths = [[self._chain(config.start)] for config in setup.configs]
        self.config = torch.arange(len(paths)).repeat_interleave(torch.tensor([*map(len, paths)]))
        self.path = torch.tensor(list(itertools.chain(*paths)))  # [rows, K] draft ids
        self.tokens = torch.tensor(setup.ids)[self.path].long()
        self.rows = len(self.path)
        start = torch.tensor([config.start for config in setup.configs])[self.config, None]
        # What an id outside the target's vocabulary leads to is nobody's law: any row will do.
        self.context = torch.cat([start, self.tokens], 1).clamp(max=self.vocab - 1)
        self.weight = torch.ones(self.rows, dtype=torch.float64)
        self.draft_logits = torch.tensor(setup.draft, dtype=torch.float32)[self.context[:, :-1]]
        self.addresses: set[tuple[int, int]] = set()
        self._make_state()

    def _chain(self, token: int) -> tuple[int, ...]:
        path = []
        for _ in range(self.setup.slots):
            path.append(int(self.setup.draft[token].argmax()))
            token = min(int(self.setup.ids[path[-1]]), self.vocab - 1)
        return tuple(path)

    def _make_state(self) -> None:
        setup, slots = self.setup, self.setup.slots
        self.state = State(self.rows, setup.layout.rows)
        self.seed = FIRST_SEED + torch.arange(self.rows)
        keeps_rows = setup.layout.rows and setup.source == "draft"
        self.kept = State(self.rows, keeps_rows)
        p = self.proposal = Proposal.empty(self.rows, slots)
        if setup.source == "draft":
            p.logits = torch.zeros(self.kept.size, slots, setup.draft.shape[1])
        p.logits_row = self.kept.rows
        rules, configs = setup.rules, setup.configs
        arms = torch.tensor([config.arms for config in configs], dtype=torch.int32)[self.config]
        memory = [rules.initial_memory if c.memory is None else c.memory for c in configs]
        self.table = {
            "rule_kind": rules.kind,
            "rule_param": rules.param,
            "arm": self.state.spread(arms if setup.layout.token_level else arms[:, 0]),
            "memory": self.state.spread(torch.stack(memory)[self.config]),
        }
        mask = [config.draft_mask for config in configs]
        self.draft_mask = None if mask[0] is None else words(np.stack(mask))[self.config[:, None],
            self.context[:, :-1]]  # fmt: skip

    def settings(self, side: str) -> dict[str, Tensor | None]:
        """[R] sampling parameters of one side."""
        per_config = columns([getattr(config, side) for config in self.setup.configs])
        return {
            name: None if value is None else self.state.spread(value[self.config], 1)
            for name, value in per_config.items()
        }

    def draft(self) -> None:
        """Draw every path; a row whose path is impossible or not canonical weighs nothing."""
        p = self.proposal
        self.reference.ops["proposal_reset"](
            max_length=None, prediction=None, live=None, rows=self.state.rows, **self.table,
            rng_round=self.state.spread(self.seed + 1), tokens=p.tokens, length=p.length,
            out_max_length=p.max_length, active=p.active, out_live=p.live, round=p.round,
            num_active=p.num_active, stats=p.stats, stop_reason=p.stop_reason,
        )  # fmt: skip
        if self.setup.source == "draft":
            for slot in range(self.setup.slots):
                self._draw(slot)
        else:
            self._load()
        beyond = torch.arange(self.setup.slots) >= self.proposal.length[:, None]
        canonical = ((self.path == 0) | ~beyond).all(-1)
        self.weight *= canonical | (self.setup.source == "one_hot")

    def _draw(self, slot: int) -> None:
        """A token's interval ends where it is measured to, and begins where the id before ends."""
        wanted, active = self.path[:, slot], self.proposal.active
        top = threshold(lambda u: self._drawn(slot, u)[0] <= wanted, self.rows).measure
        before = torch.arange(self.rows) - len(self.setup.ids) ** (self.setup.slots - slot - 1)
        bottom = torch.where(wanted > 0, top[before], 0.0)  # the same path but for this id
        drawn, self.proposal = self._drawn(slot, (top + bottom) / 2)
        drew = active & (self.proposal.length > slot)
        assert ((drawn == wanted) | ~drew | (top <= bottom)).all()
        self.weight *= torch.where(drew, top - bottom, 1.0)

    def _drawn(self, slot: int, u: Tensor) -> tuple[Tensor, Proposal]:
        """[rows] draft ids drawn with uniforms ``u``, -1 where none, and the proposal after it."""
        setup, p = self.setup, _copy(self.proposal)
        noise = Noise(self.seed, setup.slots + 1)
        noise.values[DRAFT][:, slot] = u
        self.reference.set_uniform(noise)
        estimate = setup.estimate
        if estimate is not None:
            estimate = torch.tensor(estimate, dtype=torch.float32)[self.context[:, slot]]
        mask = self.draft_mask
        self.reference.ops["draft_step"](
            self.draft_logits[:, slot], **self.settings("draft"),
            token_mask=None if mask is None else mask[:, slot],
            d2t=None if setup.vocab is None else setup.vocab.d2t, accept_estimate=estimate,
            seed=self.state.spread(self.seed), position=self.state.spread(self.seed),
            round=p.round, max_length=p.max_length, rows=self.state.rows, **self.table,
            rule=setup.draft_rule, logits_row=p.logits_row, tokens=p.tokens, length=p.length,
            active=p.active, num_active=p.num_active, kept_logits=p.logits, stats=p.stats,
            stop_reason=p.stop_reason, next_token=torch.zeros(self.rows).long(),
        )  # fmt: skip
        self.addresses |= noise.read
        token = p.tokens[:, slot]
        if setup.vocab is not None:
            token = torch.where(token < 0, -1, setup.vocab.t2d[token.clamp(min=0)].long())
        return token, p

    def _load(self) -> None:
        setup, p = self.setup, self.proposal
        full = setup.source == "loaded"
        p.logits = self.draft_logits if full else None
        vocab = setup.vocab if full else None
        self.reference.ops["proposal_load"](
            self.tokens, None, p.logits, **self.settings("draft"),
            token_mask=self.draft_mask if full else None,
            d2t=None if vocab is None else vocab.d2t, t2d=None if vocab is None else vocab.t2d,
            rows=self.state.rows, **self.table, max_length=p.max_length, tokens=p.tokens,
            length=p.length, active=p.active, num_active=p.num_active, stats=p.stats,
            stop_reason=p.stop_reason,
        )  # fmt: skip
        if full:
            self._weigh()

    def _weigh(self) -> None:
        """The drafter elsewhere drew from the oracle's distribution."""
        tables = torch.tensor(np.stack(
            [self.setup.probs("draft", c) for c in range(len(self.setup.configs))]
        ))  # fmt: skip
        steps = tables[self.config[:, None], self.context[:, :-1], self.path]
        drawn = torch.arange(self.setup.slots) < self.proposal.length[:, None]
        self.weight *= torch.where(drawn, steps, 1.0).prod(-1)


def _copy(proposal: Proposal) -> Proposal:
    fields = {k: v.clone() if isinstance(v, Tensor) else v for k, v in vars(proposal).items()}
    return Proposal(**fields)
