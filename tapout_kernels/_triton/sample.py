"""sample: one token from the target alone, with the noise of an empty draft; one launch."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .core.rng import RESIDUAL, uniform_at
from .core.sampling import GUMBEL, row_sampling
from .core.stats import OK
from .finish import arrives_last
from .gumbel import Noise
from .launch import launch
from .law import draw, draw_gumbel, finish_row
from .params import Rng, Sampling
from .row import GROUP, Row, RowScratch, known_row
from .scan import scan_row
from .scratch import mask_layout, rows_of


@triton.jit(do_not_specialize=["mask_stride", "words", "state_rows", "splits"])
def sample_kernel(
    logits, stride: tl.int64, vocab: tl.int64, mask, mask_stride: tl.int64, words: tl.int64,
    sampling, rng, live, rows, state_rows: tl.int64, tokens, scratch, tickets, splits: tl.int32,
    RULE: tl.constexpr,
    TILE: tl.constexpr, PRECISION: tl.constexpr, PIVOTS: tl.constexpr, LISTED: tl.constexpr,
):  # fmt: skip
    b = (tl.program_id(0) // splits).to(tl.int32)
    split = (tl.program_id(0) % splits).to(tl.int32)
    r, takes_part = known_row(rows, b, state_rows)
    if live is not None:
        takes_part = takes_part & tl.load(live + b)
    if takes_part:
        tiles = tl.cdiv(vocab, TILE).to(tl.int32)
        at = b.to(tl.int64)
        row = Row(
            logits + at * stride, vocab.to(tl.int32), mask, at * mask_stride, words.to(tl.int32),
            None,
        )  # fmt: skip
        own = RowScratch(scratch, at * tiles, at * tiles * (TILE // GROUP))
        drawn = row_sampling(sampling, r, row.vocab, RULE)
        position, seed = tl.load(rng.position + r), tl.load(rng.seed + r)
        noise = Noise(seed, position)
        scan_row(row, drawn, own, noise, None, None, split, splits, tiles, RULE, False, TILE)
        if arrives_last(tickets + b, splits):
            law = finish_row(row, drawn, own, tiles, False, TILE, PRECISION, PIVOTS, LISTED)
            round_ = tl.load(rng.round + r)
            token = tl.full([], -1, tl.int32)
            if law.status == OK:
                if RULE == GUMBEL:
                    token = draw_gumbel(row, drawn, own, law, tiles, noise, LISTED)
                else:
                    uniform = uniform_at(seed, round_ * 0, round_, RESIDUAL)
                    token = draw(row, drawn, own, law, tiles, uniform * law.kept, -1, TILE)
            tl.store(tokens + b, token.to(tl.int64))
            tl.store(rng.round + r, round_ + 1)
            tl.store(rng.position + r, position + (law.status == OK).to(tl.int64))
    elif split == 0:
        tl.store(tokens + b, tl.full([], -1, tl.int64))


def sample(
    logits: Tensor,
    temperature: Tensor | None,
    top_k: Tensor | None,
    top_p: Tensor | None,
    min_p: Tensor | None,
    token_mask: Tensor | None,
    seed: Tensor,
    live: Tensor | None,
    rows: Tensor | None,
    rule: int,
    rng_round: Tensor,
    position: Tensor,
    tokens: Tensor,
) -> None:
    sampling, batch = Sampling(temperature, top_k, top_p, min_p), logits.shape[0]
    space = rows_of(batch, logits, sampling, rule, tickets=batch)
    launch(
        sample_kernel, space.programs, logits, logits.stride(0), logits.shape[1],
        token_mask, *mask_layout(token_mask)[1:], sampling, Rng(seed, position, rng_round), live,
        rows, seed.shape[0], tokens, space.scratch, space.tickets, space.splits,
        RULE=rule, **space.constants,
    )  # fmt: skip
