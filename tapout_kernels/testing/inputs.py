"""Arguments of the raw operators that read rows of logits or begin a draft."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..draft_vocab import DraftVocab
from ..reference.accept import RULES, VERIFY_RULES
from ..reference.gumbel import gumbel_index, gumbel_noise
from ..reference.rows import StateRows
from ..reference.stats import NUM_STATS, TOP1_PROB, Sampling, process, row_stats_of
from ..reference.vocab import allowed_ids, target_ids
from ..stop_rules import StopRules, StopState

if TYPE_CHECKING:
    from .cases import Case

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
# Rules that go by what they remember, in the middle of a request.
LEARNING = StopRules(
    ("gammatune", {"initial_length": 2}), ("gammatune_plus", {"initial_length": 3}), "adaedl",
    ("heuristic", {"initial_length": 2}), ("hysteresis", {"probe_every": 3}), "adasd_entropy",
    "predicted_length", ("adl", {"delta": 1, "shortest": 1, "longest": 3}),
)  # fmt: skip
TABLES = {"plain": ARMS, "learning": LEARNING}
# Of one arm, by row: a fresh one, and what some rounds have made of it.
_MEMORIES = {
    "gammatune": [(2, 2), (1, 0.75), (3, 1.25)],
    "gammatune_plus": [(3, 3), (1, 1), (2, 1.5)],
    "adaedl": [(0.5, 0), (0.75, 0.875), (0.25, 1)],
    "heuristic": [(2,), (1,), (3,)],
    "hysteresis": [(0, 0, 0), (1.5, 1, 1), (2.25, 1, 2)],
    "adasd_entropy": [(0, 0, 0, 0), (5, 0.75, 2, 3.25), (3, 1.5, 7, 0.25)],
    "predicted_length": [(math.inf,), (0,), (2,)],
    "adl": [(3, 0, 0), (1, 0.75, 0.75), (2, 2, 1.25)],
}


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


def remembered(rows: int, rules: StopRules) -> Tensor:
    """[R, A, 4] memory, another one in each three rows."""
    memory = StopState.of(rows, rules).memory
    if rules is LEARNING:
        for arm, name in enumerate(rules.names):
            for row in range(rows):
                values = _MEMORIES[name][(row + arm) % 3]
                memory[row, arm, : len(values)] = torch.tensor(values)
    return memory


def _rules(case: Case) -> dict[str, Tensor]:
    rules, rows = TABLES[case.arms], case.state
    arm = torch.arange(rows, dtype=torch.int32) % (len(rules) + 1) - 1  # -1: a row without a rule
    if case.level == "token":
        slot = torch.arange(case.slots, dtype=torch.int32)
        arm = (arm[:, None] + slot + 1) % (len(rules) + 1) - 1
    memory = remembered(rows, rules)
    return {"rule_kind": rules.kind, "rule_param": rules.param, "arm": arm, "memory": memory}


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


def row_stats(case: Case, generator: torch.Generator) -> dict[str, object]:
    _, logits = draw_logits(case, generator, 1)
    return {
        "logits": logits[:, 0], **sampling_columns(case.sampling, case.batch),
        "token_mask": _mask(case, generator, case.batch),
        "token": torch.randint(0, case.vocab, (case.batch,), generator=generator),
        "stats": _zeros(case.batch, NUM_STATS, dtype=torch.float32),
    }  # fmt: skip


def sample(case: Case, generator: torch.Generator) -> dict[str, object]:
    _, logits = draw_logits(case, generator, 1)
    return {
        "logits": logits[:, 0], **sampling_columns(case.sampling, case.state),
        "token_mask": _mask(case, generator, case.batch),
        "seed": _seeds(case.state, generator), "live": None, "rows": _rows(case),
        "rule": RULES[case.rule], "rng_round": torch.arange(case.state),
        "position": torch.arange(case.state) + 10,
        "tokens": _zeros(case.batch, dtype=torch.int64),
    }  # fmt: skip


def proposal_reset(case: Case, generator: torch.Generator) -> dict[str, object]:
    return {
        "max_length": torch.arange(case.batch, dtype=torch.int32) - 1,
        "prediction": torch.tensor([0.75, math.nan, 0.25, 99.0, -1.0, 2.5]).repeat(
            case.batch // 6 + 1
        )[: case.batch].clone(),
        "live": torch.arange(case.batch) % 3 != 2, "rows": _rows(case), **_rules(case),
        **_proposal(case),
        "rng_round": torch.randint(0, 1 << 40, (case.state,), generator=generator),
        "out_max_length": _zeros(case.batch), "out_live": _zeros(case.batch, dtype=torch.bool),
        "round": _zeros(case.batch, dtype=torch.int64),
    }  # fmt: skip


def proposal_load(case: Case, generator: torch.Generator) -> dict[str, object]:
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


def draft_step(case: Case, generator: torch.Generator) -> dict[str, object]:
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


def verify(case: Case, generator: torch.Generator) -> dict[str, object]:
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
        "t2d": None if kept is None else vocab["t2d"], "stats": stats,
        "rule": VERIFY_RULES[case.rule], "raw_logprobs": case.seed % 2 == 1, "position": position,
        "tokens": _zeros(batch, slots + 1, dtype=torch.int64), "num_accepted": _zeros(batch),
        "num_emitted": _zeros(batch), "last_token": _zeros(batch, dtype=torch.int64),
        "status": _zeros(batch), "accept_prob": _zeros(batch, slots, dtype=torch.float32),
        "overlap": _zeros(batch, slots, dtype=torch.float32) if case.extras else None,
        "logprobs": _zeros(batch, slots + 1, dtype=torch.float32) if case.extras else None,
        "lossy_memory": _lossy_memory(case),
    }  # fmt: skip


def _lossy_memory(case: Case) -> Tensor | None:
    """[R, 4] of rule ``lossy_adasd``: some rows accept nothing, some all, some what is near."""
    if case.rule != "lossy_adasd":
        return None
    kinds = torch.tensor([(3, 6, 4, 5), (0, 0, 0, 0), (9, 10, 8, 10), (1, 4, 0, 0)])
    return kinds[torch.arange(case.state) % 4].double()


def _flatten(
    target: Tensor, mask: Tensor | None, length: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Rows 0..length of every request one after the other, and two that belong to none."""
    used = torch.arange(target.shape[1]) <= length[:, None]
    start = torch.nn.functional.pad((length + 1).cumsum(0), (1, 0)).int()
    rows = [torch.cat([x[used], x[-1, -2:]]) for x in (target, mask) if x is not None]
    return rows[0], rows[1] if mask is not None else None, start
