"""The exact law of one round of the reference operators: no sampling, no tolerance for luck.

The operators of a :class:`Reference` copy read their uniforms from :class:`Noise` instead of
Philox.  Every outcome is a monotone function of one uniform, so its measure is found by bisection
on the lattice (k + 1/2) 2**-52; a round is the product of draft, acceptance and residual measures,
because the addresses of its uniforms are distinct (checked) and Philox words are independent.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tapout_kernels import Proposal, Verdict

from .mutants import Reference
from .oracle import complete, markov, processed

LATTICE = 1 << 52
DRAFT, ACCEPT, RESIDUAL = 0, 1, 2
TOKEN, GREEDY = 0, 3


def measure(below: Callable[[Tensor], Tensor], rows: int) -> Tensor:
    """[rows] measure of {u : below(u)}; ``below`` is true up to a threshold, then false."""
    low, high = torch.zeros(rows, dtype=torch.int64), torch.full((rows,), LATTICE)
    while (low < high).any():
        middle = (low + high) // 2
        inside = below((middle.clamp(max=LATTICE - 1).double() + 0.5) / LATTICE)
        searching = low < high
        low = torch.where(searching & inside, middle + 1, low)
        high = torch.where(searching & ~inside, middle, high)
    threshold = low.double() / LATTICE
    check = torch.linspace(0.003, 0.997, 7).double()
    for u in check:  # monotone: one crossing, on the found side
        assert torch.equal(below(u.expand(rows)), u < threshold)
    return threshold


class Noise:
    """Stands for ``uniform``: values[domain] is [rows, slots]; notes which addresses were read."""

    def __init__(self, rows: int, slots: int):
        half = torch.full((rows, slots), 0.5, dtype=torch.float64)
        self.values = {domain: half.clone() for domain in (DRAFT, ACCEPT, RESIDUAL)}
        self.read: list[tuple[int, int]] = []

    def __call__(self, seed: Tensor, lane: int, slot: Tensor, round: Tensor, domain: int) -> Tensor:
        seed, slot, round = torch.broadcast_tensors(seed, slot, round)
        assert lane == 0
        assert torch.equal(round, seed + 1), "the round is part of every address"
        values = self.values[domain]
        columns = slot.view(slot.shape[0], -1)
        self.read += [(domain, int(s)) for s in columns.unique()]
        return values.gather(1, columns).view(slot.shape)


@dataclass
class Setup:
    """R configurations of one launch: every field is per configuration but the rules."""

    target: np.ndarray  # [V, V] logits of the next token, by the last one
    draft: np.ndarray  # [V, V]
    slots: int
    columns: dict[str, list]  # temperature, top_k, top_p of the target
    draft_columns: dict[str, list]
    arms: list[int]
    rules: object  # StopRules
    source: str = "draft"  # or "loaded" (tokens and logits), "one_hot" (tokens alone)
    draft_rule: int = TOKEN
    rule: int = TOKEN
    start: int = 0

    @property
    def size(self) -> int:
        return len(self.arms)

    def probs(self, which: str, c: int) -> np.ndarray:
        """[V, V] processed distributions of configuration c, from the oracle."""
        columns = self.columns if which == "target" else self.draft_columns
        t, k, p = (columns[name][c] for name in ("temperature", "top_k", "top_p"))
        if (self.rule if which == "target" else self.draft_rule) == GREEDY:
            t, k, p = 0.0, 0, 1.0
        table = self.target if which == "target" else self.draft
        return np.stack([processed(row, t, k, p) for row in table])


def column_tensors(columns: dict[str, list], index: Tensor) -> dict[str, Tensor]:
    dtypes = {"temperature": torch.float32, "top_k": torch.int32, "top_p": torch.float32}
    return {name: torch.tensor(columns[name], dtype=dtypes[name])[index] for name in dtypes}


class Round:
    """Every draft path of every configuration as one batch row."""

    def __init__(self, reference: Reference, setup: Setup):
        self.reference, self.setup = reference, setup
        vocab, slots = setup.target.shape[0], setup.slots
        paths = torch.tensor(list(itertools.product(range(vocab), repeat=slots)))
        if setup.source == "one_hot":  # a deterministic drafter: the draft table's argmax
            paths = self._chain(slots)[None]
        self.config = torch.arange(setup.size).repeat_interleave(len(paths))
        self.path = paths.repeat(setup.size, 1)  # [rows, K]
        self.vocab, self.rows = vocab, self.path.shape[0]
        start = torch.full((self.rows, 1), setup.start)
        self.context = torch.cat([start, self.path], 1)  # [rows, K+1]
        self.weight = torch.ones(self.rows, dtype=torch.float64)
        logits = torch.tensor(setup.draft, dtype=torch.float32)[self.context[:, :-1]]
        self.draft_logits = logits  # [rows, K, V]
        self.proposal = Proposal.empty(self.rows, slots, vocab)

    def _chain(self, slots: int) -> Tensor:
        tokens, last = [], self.setup.start
        for _ in range(slots):
            last = int(self.setup.draft[last].argmax())
            tokens.append(last)
        return torch.tensor(tokens)

    def _table(self) -> dict[str, Tensor]:
        rules = self.setup.rules
        memory = rules.initial_memory.repeat(self.rows, 1, 1)
        arm = torch.tensor(self.setup.arms, dtype=torch.int32)[self.config]
        return {"rule_kind": rules.kind, "rule_param": rules.param, "arm": arm, "memory": memory}

    def reset(self) -> None:
        p = self.proposal
        self.round = torch.arange(self.rows)
        self.reference.ops["proposal_reset"](
            max_length=None, live=None, **self._table(), rng_round=self.round, tokens=p.tokens,
            length=p.length, out_max_length=p.max_length, active=p.active, out_live=p.live,
            round=p.round, num_active=p.num_active, stats=p.stats, stop_reason=p.stop_reason,
        )  # fmt: skip

    def _draft_step(self, slot: int, proposal: Proposal, u: Tensor) -> None:
        noise = Noise(self.rows, self.setup.slots + 1)
        noise.values[DRAFT][:, slot] = u
        self.reference.set_uniform(noise)
        p = proposal
        self.reference.ops["draft_step"](
            self.draft_logits[:, slot], *self._draft_columns(), p.round - 1, p.round,
            p.max_length, **self._table(), rule=self.setup.draft_rule, tokens=p.tokens,
            length=p.length, active=p.active, num_active=p.num_active, kept_logits=p.logits,
            stats=p.stats, stop_reason=p.stop_reason, next_token=torch.zeros(self.rows).long(),
        )  # fmt: skip
        self.addresses |= set(noise.read)

    def _draft_columns(self) -> tuple[Tensor, ...]:
        return tuple(column_tensors(self.setup.draft_columns, self.config).values())

    def draft(self) -> None:
        """Draw every path; a row whose path is impossible or not canonical weighs nothing."""
        self.addresses: set[tuple[int, int]] = set()
        self.reset()
        self.proposal.round += 1  # Noise expects round == seed + 1; seeds are proposal.round - 1
        if self.setup.source == "draft":
            for slot in range(self.setup.slots):
                self._draw(slot)
        else:
            self._load()
        beyond = torch.arange(self.setup.slots) >= self.proposal.length[:, None]
        self.weight *= ((self.path == self.path.new_zeros(1)) | ~beyond).all(-1) | (
            self.setup.source == "one_hot"
        )

    def _draw(self, slot: int) -> None:
        def at_most(u: Tensor, token: Tensor) -> Tensor:
            proposal = _copy(self.proposal)
            self._draft_step(slot, proposal, u)
            return proposal.tokens[:, slot] <= token

        active = self.proposal.active.clone()
        wanted = self.path[:, slot]
        top = measure(lambda u: at_most(u, wanted), self.rows)
        bottom = measure(lambda u: at_most(u, wanted - 1), self.rows)
        self._draft_step(slot, self.proposal, (top + bottom) / 2)
        drawn = self.proposal.tokens[:, slot] == wanted
        assert (drawn | ~active | (top == bottom)).all()
        self.weight *= torch.where(active, top - bottom, 1.0)

    def _load(self) -> None:
        p = self.proposal
        one_hot = self.setup.source == "one_hot"
        self.reference.ops["proposal_load"](
            self.path, None, None if one_hot else self.draft_logits, *self._draft_columns(),
            **self._table(), max_length=p.max_length, tokens=p.tokens, length=p.length,
            active=p.active, num_active=p.num_active, stats=p.stats, stop_reason=p.stop_reason,
        )  # fmt: skip
        p.logits = None if one_hot else self.draft_logits
        if one_hot:
            return
        for c in range(self.setup.size):
            probs = torch.tensor(self.setup.probs("draft", c))
            mine = self.config == c
            steps = probs[self.context[mine, :-1], self.path[mine]]
            drawn = torch.arange(self.setup.slots) < p.length[mine, None]
            self.weight[mine] *= torch.where(drawn, steps, 1.0).prod(-1)

    def verify(self, index: Tensor, noise: Noise) -> Verdict:
        """One launch over rows ``index`` with given uniforms."""
        p, setup = self.proposal, self.setup
        out = Verdict.empty(len(index), setup.slots)
        self.reference.set_uniform(noise)
        logits = torch.tensor(setup.target, dtype=torch.float32)[self.context[index]]
        self.reference.ops["verify"](
            logits, *column_tensors(setup.columns, self.config[index]).values(),
            p.round[index] - 1, p.tokens[index], p.length[index], p.live[index], p.round[index],
            None if p.logits is None else p.logits[index], p.stats[index], setup.rule,
            torch.zeros(len(index)).long(), out.tokens, out.num_accepted, out.num_emitted,
            out.last_token, out.status, out.accept_prob,
        )  # fmt: skip
        self.addresses |= set(noise.read)
        return out


def _copy(proposal: Proposal) -> Proposal:
    fields = {k: v.clone() if isinstance(v, Tensor) else v for k, v in vars(proposal).items()}
    return Proposal(**fields)


def round_law(reference: Reference, setup: Setup) -> tuple[np.ndarray, Round]:
    """[R, V, ..., V]: the law of K+1 tokens, each block completed by the target."""
    draft = Round(reference, setup)
    draft.draft()
    rows = draft.weight.nonzero()[:, 0]
    lengths = draft.proposal.length[rows]
    row = torch.cat([rows.new_full((int(n) + 1,), r) for r, n in zip(rows, lengths, strict=True)])
    end = torch.cat([torch.arange(int(n) + 1) for n in lengths])  # the deciding row
    accept = _accept_measures(draft, row, end)
    emit = _emit_measures(draft, row, end)
    return _accumulate(draft, row, end, accept, emit), draft


def _noise(draft: Round, end: Tensor, accept: Tensor | float, residual: Tensor | float) -> Noise:
    """Slots before ``end`` draw the least uniform, so they are accepted if they can be."""
    noise = Noise(len(end), draft.setup.slots + 1)
    noise.values[ACCEPT][:] = 0.5 / LATTICE
    noise.values[ACCEPT][torch.arange(len(end)), end] = accept
    noise.values[RESIDUAL][torch.arange(len(end)), end] = residual
    return noise


def _accept_measures(draft: Round, row: Tensor, end: Tensor) -> Tensor:
    """[n] probability that slot ``end`` is accepted, given all before it were."""

    def accepted(u: Tensor) -> Tensor:
        return draft.verify(row, _noise(draft, end, u, 0.5)).num_accepted > end

    return measure(accepted, len(row))


def _emit_measures(draft: Round, row: Tensor, end: Tensor) -> Tensor:
    """[n, V] law of the token emitted at ``end``, whose draft was rejected or does not exist."""

    def at_most(u: Tensor, token: int) -> Tensor:
        verdict = draft.verify(row, _noise(draft, end, 1 - 0.5 / LATTICE, u))
        assert (verdict.status == 0).all()
        return verdict.tokens.gather(1, end[:, None])[:, 0] <= token

    inner = [measure(lambda u, t=t: at_most(u, t), len(row)) for t in range(draft.vocab - 1)]
    edges = [torch.zeros(len(row)).double(), *inner, torch.ones(len(row)).double()]
    return torch.stack(edges, -1).diff(dim=-1)


def _accumulate(draft: Round, row: Tensor, end: Tensor, accept: Tensor, emit: Tensor) -> np.ndarray:
    setup, steps = draft.setup, draft.setup.slots + 1
    law = np.zeros((setup.size,) + (draft.vocab,) * steps)
    tables = [setup.probs("target", c) for c in range(setup.size)]
    reach = {}
    for r, e, a, tokens in zip(row.tolist(), end.tolist(), accept.tolist(), emit, strict=True):
        so_far = reach[r] if e else draft.weight[r].item()
        reach[r] = so_far * a
        decided = 1.0 - a if e < draft.proposal.length[r] else 1.0
        if so_far * decided == 0.0:
            continue
        config = int(draft.config[r])
        for token, mass in enumerate(tokens.tolist()):
            if mass > 0:
                emitted = (*draft.path[r, :e].tolist(), token)
                block = complete(tables[config], emitted, steps)
                law[config] += so_far * decided * mass * block
    return law


def target_law(setup: Setup) -> np.ndarray:
    steps = setup.slots + 1
    return np.stack(
        [markov(setup.probs("target", c), setup.start, steps) for c in range(setup.size)]
    )
