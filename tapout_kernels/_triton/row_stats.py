"""row_stats: every statistic of a row of logits, one launch."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .core.sampling import TOKEN, row_sampling
from .core.stats import NUM_STATS, OK
from .finish import arrives_last
from .launch import launch
from .law import column_log_probability, finish_row, write_stats
from .params import Sampling
from .row import GROUP, Row, RowScratch
from .scan import scan_row
from .scratch import mask_layout, rows_of


@triton.jit(do_not_specialize=["mask_stride", "words", "splits"])
def row_stats_kernel(
    logits, stride: tl.int64, vocab: tl.int64, mask, mask_stride: tl.int64, words: tl.int64,
    sampling, token, stats, scratch, tickets, splits: tl.int32,
    TILE: tl.constexpr, PRECISION: tl.constexpr, PIVOTS: tl.constexpr, LISTED: tl.constexpr,
):  # fmt: skip
    r = (tl.program_id(0) // splits).to(tl.int32)
    split = (tl.program_id(0) % splits).to(tl.int32)
    tiles = tl.cdiv(vocab, TILE).to(tl.int32)
    at = r.to(tl.int64)
    row = Row(
        logits + at * stride, vocab.to(tl.int32), mask, at * mask_stride, words.to(tl.int32), None
    )
    own = RowScratch(scratch, at * tiles, at * tiles * (TILE // GROUP))
    drawn = row_sampling(sampling, r, row.vocab, TOKEN)
    scan_row(row, drawn, own, None, None, None, split, splits, tiles, TOKEN, True, TILE)
    if arrives_last(tickets + r, splits):
        law = finish_row(row, drawn, own, tiles, True, TILE, PRECISION, PIVOTS, LISTED)
        logprob = tl.full([], 0.0, tl.float64)
        if token is not None:
            if law.status == OK:
                logprob = column_log_probability(row, drawn, law, tl.load(token + r))
        estimate = tl.full([], 0.0, tl.float32)
        write_stats(stats + at * NUM_STATS, drawn, law, logprob, estimate)


def row_stats(
    logits: Tensor,
    temperature: Tensor | None,
    top_k: Tensor | None,
    top_p: Tensor | None,
    min_p: Tensor | None,
    token_mask: Tensor | None,
    token: Tensor | None,
    stats: Tensor,
) -> None:
    sampling, batch = Sampling(temperature, top_k, top_p, min_p), logits.shape[0]
    rows = rows_of(batch, logits, sampling, TOKEN.value, tickets=batch)
    launch(
        row_stats_kernel, rows.programs, logits, logits.stride(0), logits.shape[1],
        token_mask, *mask_layout(token_mask)[1:], sampling, token, stats, rows.scratch,
        rows.tickets, rows.splits, **rows.constants,
    )  # fmt: skip
