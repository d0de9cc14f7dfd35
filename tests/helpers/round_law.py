"""The exact law of one round: draft, stop, verify, integrated over every uniform.

Slot j of a row has a threshold a_j: the measure of the uniforms that accept it while the slots
before are accepted and those after rejected.  The 2**L patterns of "u_j < a_j" are boxes; that the
number of accepted drafts is constant on each is checked at its two extreme corners (every rule
accepts no less when a uniform falls), so its law is a sum of products, whatever the rule.  What is
emitted depends on one more uniform, integrated for every row and number of accepted drafts.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from tapout_kernels import Verdict

from .integrate import ACCEPT, LATTICE, RESIDUAL, Noise, Threshold, threshold, uniform_at
from .law import Paths, Setup, words
from .mutants import Reference
from .oracle import markov

BAD_DRAFT = 3


class Verifier:
    """``verify`` of chosen draft paths, again and again with other uniforms."""

    def __init__(self, paths: Paths, row: Tensor):
        self.paths, self.row = paths, row
        setup, p = paths.setup, paths.proposal
        full = setup.source != "one_hot"
        keeps_rows = p.logits_row is not None
        self.out = Verdict.empty(len(row), setup.slots)
        self.arguments = {
            **self._target(),
            **paths.settings("target"),
            "seed": paths.state.spread(paths.seed),
            "rows": paths.state.index[row].int(),  # a path is verified several times
            "draft_tokens": p.tokens[row], "length": p.length[row], "live": p.live[row],
            "round": p.round[row], "stats": p.stats[row], "rule": setup.rule,
            "draft_logits": None if not full else p.logits if keeps_rows else p.logits[row],
            "logits_row": p.logits_row[row] if keeps_rows else None,
            "t2d": setup.vocab.t2d if full and setup.vocab is not None else None,
            "raw_logprobs": False, "overlap": None, "logprobs": None,
            "lossy_memory": None,
            "tokens": self.out.tokens, "num_accepted": self.out.num_accepted,
            "num_emitted": self.out.num_emitted, "last_token": self.out.last_token,
            "status": self.out.status, "accept_prob": self.out.accept_prob,
        }  # fmt: skip

    def _target(self) -> dict[str, Tensor | None]:
        """Logits and mask; rows beyond the draft are NaN, they must not be looked at."""
        paths, row = self.paths, self.row
        setup, context, length = paths.setup, paths.context[row], paths.proposal.length[row]
        logits = torch.tensor(setup.target, dtype=torch.float32)[context]
        logits[torch.arange(setup.slots + 1) > length[:, None]] = torch.nan
        mask = None
        if setup.configs[0].target_mask is not None:
            masks = words(np.stack([config.target_mask for config in setup.configs]))
            mask = masks[paths.config[row][:, None], context]
        if not setup.layout.ragged:
            return {"target_logits": logits, "row_start": None, "token_mask": mask}
        gaps = torch.arange(len(row) + 1) % 3  # rows of nobody before each request's own
        owns = length + 1
        start = torch.cat([gaps[:1], gaps[:1] + (owns + gaps[1:]).cumsum(0)])
        used = torch.arange(setup.slots + 1) < owns[:, None]
        place = (start[:-1, None] + torch.arange(setup.slots + 1))[used]
        flat = {"target_logits": (logits, torch.nan), "token_mask": (mask, 0)}
        for name, (value, other) in flat.items():
            if value is not None:
                table = torch.full((int(start[-1]) + 2, value.shape[-1]), other, dtype=value.dtype)
                table[place] = value[used]
                flat[name] = table
            else:
                flat[name] = None
        return {**flat, "row_start": start.int()}

    def __call__(self, accept: Tensor, residual: Tensor | float) -> Verdict:
        """``accept`` [n, K] uniforms; ``residual`` [n] for whichever slot ends the draft."""
        paths = self.paths
        noise = Noise(paths.seed[self.row], paths.setup.slots + 1)
        noise.values[ACCEPT][:, :-1] = accept
        noise.values[RESIDUAL][:] = torch.as_tensor(residual).view(-1, 1)
        paths.reference.set_uniform(noise)
        position = torch.zeros(paths.state.size, dtype=torch.int64)
        paths.reference.ops["verify"](**self.arguments, position=position)
        paths.addresses |= noise.read
        known_bad = (self.out.status == BAD_DRAFT) & (
            paths.tokens[self.row] >= paths.vocab
        ).any(-1)  # fmt: skip
        assert ((self.out.status == 0) | known_bad).all(), self.out.status.unique()
        return self.out


def round_law(reference: Reference, setup: Setup) -> tuple[np.ndarray, Paths]:
    """[C, V, ..., V]: the law of K+1 tokens, each block completed by the target."""
    paths, row, end, mass = outcomes(reference, setup)
    return _accumulate(paths, row, end, mass), paths


def outcomes(reference: Reference, setup: Setup) -> tuple[Paths, Tensor, Tensor, Tensor]:
    """How a round can go: draft path [m], accepted drafts [m], and [m, V] with what probability
    each id is emitted after them."""
    paths = Paths(reference, setup)
    paths.draft()
    rows = paths.weight.nonzero()[:, 0]
    ends, row, end, emit = _measures(paths, rows)
    mass = (paths.weight[rows, None] * ends)[_position(rows, row), end]
    return paths, row, end, mass[:, None] * emit


def _position(rows: Tensor, row: Tensor) -> Tensor:
    return torch.searchsorted(rows, row)


def _measures(paths: Paths, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Law of the end of each path [n, K+1], then of the token emitted at (row, end) [m, V]."""
    length = paths.proposal.length[rows].long()
    row = rows.repeat_interleave(length + 1)
    end = torch.cat([torch.arange(int(n) + 1) for n in length])
    slot_row, slot = row[end < paths.proposal.length[row]], end[end < paths.proposal.length[row]]
    # One launch answers all: n slots (accepted?), then m ends x (V - 1) ids (at most this id?).
    ids = torch.arange(paths.vocab - 1).repeat(len(row))
    asked = torch.cat([slot_row, row.repeat_interleave(paths.vocab - 1)])
    at = torch.cat([slot, end.repeat_interleave(paths.vocab - 1)])
    wanted = torch.cat([torch.full_like(slot, -1), ids])
    verify, here = Verifier(paths, asked), torch.arange(paths.setup.slots)
    accept = torch.where(here < at[:, None], uniform_at(torch.tensor(0)), uniform_at(
        torch.tensor(LATTICE - 1)))  # fmt: skip
    of_slot = (here == at[:, None]) & (wanted < 0)[:, None]

    def below(u: Tensor) -> Tensor:
        out = verify(torch.where(of_slot, u[:, None], accept), u)
        token = out.tokens.gather(1, at[:, None])[:, 0]
        return torch.where(wanted < 0, out.num_accepted > at, token <= wanted)

    found = threshold(below, len(asked))
    count = len(slot)
    ends = _ends(paths, rows, slot_row, slot, Threshold(*(x[:count] for x in found)))
    at_most = found.measure[count:].view(len(row), -1)
    edges = torch.nn.functional.pad(at_most, (1, 0), value=0.0)
    edges = torch.nn.functional.pad(edges, (0, 1), value=1.0)
    return ends, row, end, edges.diff(dim=-1)


def _ends(
    paths: Paths, rows: Tensor, slot_row: Tensor, slot: Tensor, slots: Threshold
) -> Tensor:  # fmt: skip
    """[n, K+1] the law of the number of accepted drafts of each path."""
    count = paths.setup.slots
    shape = (len(rows), count)
    inside, outside = torch.full(shape, -1), torch.full(shape, 0)  # slots not drafted: rejected
    measure = torch.zeros(shape, dtype=torch.float64)
    index = _position(rows, slot_row), slot
    for table, values in zip((inside, outside, measure), (*slots, slots.measure), strict=True):
        table[index] = values
    verify = Verifier(paths, rows)
    law = torch.zeros(len(rows), count + 1, dtype=torch.float64)
    for pattern in itertools.product((True, False), repeat=count):
        accepted = torch.tensor(pattern)
        mass = torch.where(accepted, measure, 1 - measure).prod(-1)
        low = torch.where(accepted, 0, outside).clamp(max=LATTICE - 1)
        high = torch.where(accepted, inside, LATTICE - 1).clamp(min=0)
        ends = verify(uniform_at(low), 0.5).num_accepted.clone()
        assert torch.equal(ends[mass > 0], verify(uniform_at(high), 0.5).num_accepted[mass > 0])
        law[torch.arange(len(rows)), ends.long()] += mass
    return law


def _accumulate(paths: Paths, row: Tensor, end: Tensor, mass: Tensor) -> np.ndarray:
    """``mass`` [m, V]: of accepting path[:end] and emitting each id; the target completes it."""
    setup, vocab, steps = paths.setup, paths.vocab, paths.setup.slots + 1
    configs = len(setup.configs)
    law = np.zeros((configs, vocab**steps))
    tables = [setup.probs("target", c) for c in range(configs)]
    config, tokens = paths.config[row].numpy(), paths.tokens[row].numpy()
    for e in range(steps):
        here = (end == e).numpy()
        prefix = np.zeros(here.sum(), dtype=int)
        for j in range(e):
            prefix = prefix * vocab + tokens[here, j]
        blocks = np.zeros((configs, vocab ** (e + 1)))
        reached = mass.numpy()[here]
        live = reached.any(-1)  # the others may hold ids the target has not
        cells = prefix[live, None] * vocab + np.arange(vocab)
        np.add.at(blocks, (config[here][live, None], cells), reached[live])
        for c, table in enumerate(tables):
            tails = np.stack([markov(table, v, setup.slots - e).ravel() for v in range(vocab)])
            law[c] += (blocks[c].reshape(-1, vocab, 1) * tails).ravel()
    return law.reshape((configs,) + (vocab,) * steps)


def target_law(setup: Setup) -> np.ndarray:
    return np.stack([
        markov(setup.probs("target", c), config.start, setup.slots + 1)
        for c, config in enumerate(setup.configs)
    ])  # fmt: skip


def law_error(reference: Reference, setup: Setup) -> float:
    reference.set_chunk(2)  # five ids cross two chunk borders
    found, _ = round_law(reference, setup)
    return float(np.abs(found - target_law(setup)).max())
