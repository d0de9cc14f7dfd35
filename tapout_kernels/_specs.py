"""What every tensor of every operator must look like: the table :mod:`._check` reads.

``TENSORS[op]`` lists each tensor's dimensions and dtypes in the order in which they bind the
symbols, so the message blames the tensor that disagrees with the state, not the state.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

LOGITS = (torch.float32, torch.bfloat16, torch.float16)
MASKS = (torch.bool, torch.int32, *LOGITS)
CACHES = (*LOGITS, torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.uint8)
F64, F32, I64, I32, BOOL, U8 = (
    (dtype,)
    for dtype in (
        torch.float64,
        torch.float32,
        torch.int64,
        torch.int32,
        torch.bool,
        torch.uint8,
    )
)


class Spec:
    """What a tensor must be: dimensions, dtypes, layout.

    Dimensions are symbols with an offset ("B K+1 V") or the words of a bit mask ("V/32");
    ``"R|R K"`` are alternatives, and an operator's tensors all take the same one.  ``dtypes`` are
    the allowed ones, or that of the argument ``like`` where it is given.  ``rows``: all but the
    last dimension may be strided.  ``ragged`` replaces the dimensions where ``row_start`` or
    ``block_table`` is given.
    """

    def __init__(
        self,
        dims: str,
        dtypes: tuple[torch.dtype, ...],
        rows: bool = False,
        like: str = "",
        ragged: str = "",
    ):
        self.dims = tuple(_dimensions(part) for part in dims.split("|"))
        self.ragged = _dimensions(ragged)
        self.dtypes = dtypes
        self.rows = rows
        self.like = like


class Dimension(NamedTuple):
    """``symbol + extra``, or the words of a bit mask over it; a number has the empty symbol."""

    symbol: str
    extra: int = 0
    words: bool = False


def _dimensions(text: str) -> tuple[Dimension, ...]:
    return tuple(_dimension(part) for part in text.split())


def _dimension(text: str) -> Dimension:
    if text.isdigit():
        return Dimension("", int(text))
    if text.endswith("/32"):
        return Dimension(text.removesuffix("/32"), words=True)
    symbol, _, extra = text.partition("+")
    return Dimension(symbol, int(extra or 0))


_SAMPLING = {
    "temperature": Spec("R", F32),
    "top_k": Spec("R", I32),
    "top_p": Spec("R", F32),
    "min_p": Spec("R", F32),
}
_RULES = {
    "rule_kind": Spec("A", I32),
    "rule_param": Spec("A 4", F32),
    "arm": Spec("R|R K", I32),
    "memory": Spec("R A 4", F32),
}
_ROWS = {"rows": Spec("B", I32)}
_PROPOSAL = {
    "tokens": Spec("B K", I64),
    "length": Spec("B", I32),
    "active": Spec("B", BOOL),
    "num_active": Spec("1", I32),
    "stats": Spec("B K 8", F32),
    "stop_reason": Spec("B", I32),
}
_TABLES = {
    "count": Spec("G A|G A K", F64),
    "reward_sum": Spec("G A|G A K", F64),
    "reward_sq": Spec("G A|G A K", F64),
    "tokens": Spec("G A", F64),
    "cost": Spec("G A", F64),
    "params": Spec("8", F64),
}
_DRAWN = {"arm_prob": Spec("R A|R A K", F64)}
_UPDATE = {
    **_TABLES,
    "cost_ratio": Spec("1", F32),
    "draft_tokens": Spec("B K", I64),
    **_ROWS,
    **_DRAWN,
    "arm": Spec("R|R K", I32),
    "length": Spec("B", I32),
    "stats": Spec("B K 8", F32),
    "live": Spec("B", BOOL),
    "stop_reason": Spec("B", I32),
    "num_accepted": Spec("B", I32),
    "overlap": Spec("B K", F32),
    "status": Spec("B", I32),
    "group": Spec("B", I32),
    "rule_kind": Spec("A", I32),
    "rule_param": Spec("A 4", F32),
    "memory": Spec("R A 4", F32),
}

TENSORS: dict[str, dict[str, Spec]] = {
    "row_stats": {
        "logits": Spec("R V", LOGITS, rows=True),
        **_SAMPLING,
        "token_mask": Spec("R V/32", I32, rows=True),
        "token": Spec("R", I64),
        "stats": Spec("R 8", F32),
    },
    "sample": {
        **_ROWS,
        "seed": Spec("R", I64),
        "rng_round": Spec("R", I64),
        "position": Spec("R", I64),
        "tokens": Spec("B", I64),
        "live": Spec("B", BOOL),
        **_SAMPLING,
        "logits": Spec("B V", LOGITS, rows=True),
        "token_mask": Spec("B V/32", I32, rows=True),
    },
    "proposal_reset": {
        **_PROPOSAL,
        **_ROWS,
        "out_max_length": Spec("B", I32),
        "out_live": Spec("B", BOOL),
        "round": Spec("B", I64),
        "rng_round": Spec("R", I64),
        "max_length": Spec("B", I32),
        "prediction": Spec("B", F32),
        "live": Spec("B", BOOL),
        **_RULES,
    },
    "proposal_load": {
        **_PROPOSAL,
        **_ROWS,
        "max_length": Spec("B", I32),
        **_SAMPLING,
        **_RULES,
        "d2t": Spec("D", I32),
        "t2d": Spec("T", I32),
        "source": Spec("B C", I64),
        "source_length": Spec("B", I32),
        "logits": Spec("B C D", LOGITS, rows=True),
        "token_mask": Spec("B C V/32", I32, rows=True),
    },
    "draft_step": {
        **_PROPOSAL,
        **_ROWS,
        "round": Spec("B", I64),
        "max_length": Spec("B", I32),
        "seed": Spec("R", I64),
        "position": Spec("R", I64),
        "next_token": Spec("B", I64),
        **_SAMPLING,
        **_RULES,
        "accept_estimate": Spec("B", F32),
        "logits_row": Spec("B", I32),
        "d2t": Spec("D", I32),
        "kept_logits": Spec("L K D", LOGITS),
        "logits": Spec("B D", LOGITS, rows=True, like="kept_logits"),
        "token_mask": Spec("B V/32", I32, rows=True),
    },
    "verify": {
        "draft_tokens": Spec("B K", I64),
        "length": Spec("B", I32),
        "live": Spec("B", BOOL),
        "round": Spec("B", I64),
        "stats": Spec("B K 8", F32),
        **_ROWS,
        "seed": Spec("R", I64),
        "position": Spec("R", I64),
        **_SAMPLING,
        "row_start": Spec("B+1", I32),
        "logits_row": Spec("B", I32),
        "t2d": Spec("T", I32),
        "target_logits": Spec("B K+1 V", LOGITS, rows=True, ragged="n V"),
        "draft_logits": Spec("L K D", LOGITS, rows=True),
        "token_mask": Spec("B K+1 V/32", I32, rows=True, ragged="n V/32"),
        "tokens": Spec("B K+1", I64),
        "num_accepted": Spec("B", I32),
        "num_emitted": Spec("B", I32),
        "last_token": Spec("B", I64),
        "status": Spec("B", I32),
        "accept_prob": Spec("B K", F32),
        "overlap": Spec("B K", F32),
        "logprobs": Spec("B K+1", F32),
        "lossy_memory": Spec("R 4", F64),
    },
    "bandit_select": {
        **_TABLES,
        "seed": Spec("1", I64),
        "calls": Spec("1", I64),
        **_DRAWN,
        "arm": Spec("R|R K", I32),
        **_ROWS,
        "group": Spec("B", I32),
        "live": Spec("B", BOOL),
    },
    "bandit_update": _UPDATE,
    "bandit_step": {
        **_UPDATE,
        "next_arm": Spec("R|R K", I32),
        "next_live": Spec("B", BOOL),
        "seed": Spec("1", I64),
        "calls": Spec("1", I64),
    },
    "tree_layout": {
        "parents": Spec("B N", I32),
        "position": Spec("B", I64),
        "size": Spec("B", I32),
        "valid": Spec("B", BOOL),
        "depth": Spec("B N", I32),
        "position_ids": Spec("B N+1", I64),
        "first_child": Spec("B N+1", I32),
        "next_sibling": Spec("B N", I32),
        "ancestors": Spec("B N N/32", I32),
    },
    "tree_mask": {
        "ancestors": Spec("B N N/32", I32),
        "mask": Spec("B Q W", MASKS, rows=True),
    },
    "tree_mask_flat": {
        "ancestors": Spec("B N N/32", I32),
        "past": Spec("B", I32),
        "mask": Spec("S", BOOL + U8),
        "written": Spec("B", I32),
        "start": Spec("B+1", I32),
    },
    "tree_verify": {
        "draft_tokens": Spec("B N", I64),
        "first_child": Spec("B N+1", I32),
        "next_sibling": Spec("B N", I32),
        "valid": Spec("B", BOOL),
        "live": Spec("B", BOOL),
        "round": Spec("B", I64),
        "stats": Spec("B N+1 8", F32),
        **_ROWS,
        "seed": Spec("R", I64),
        "position": Spec("R", I64),
        **_SAMPLING,
        "logits_row": Spec("B", I32),
        "t2d": Spec("T", I32),
        "target_logits": Spec("B N+1 V", LOGITS, rows=True),
        "draft_logits": Spec("L N+1 D", LOGITS, rows=True),
        "token_mask": Spec("B N+1 V/32", I32, rows=True),
        "tokens": Spec("B N+1", I64),
        "path": Spec("B N", I32),
        "num_accepted": Spec("B", I32),
        "num_emitted": Spec("B", I32),
        "last_token": Spec("B", I64),
        "status": Spec("B", I32),
    },
    "tree_attention": {
        "query": Spec("B H N E", LOGITS, rows=True),
        "past": Spec("B", I32),
        "block_table": Spec("B T", I32),
        "keys": Spec("P G S E", LOGITS, rows=True, like="query"),
        "values": Spec("P G S E", LOGITS, rows=True, like="query"),
        "tree_mask": Spec("B N W", I32),
        "mixed": Spec("B H N E", LOGITS, rows=True, like="query"),
    },
    "tree_expand": {
        "tokens": Spec("B N", I64),
        "parents": Spec("B N", I32),
        "score": Spec("B N", F32),
        "active": Spec("B", BOOL),
        "depth": Spec("B", I32),
        "round": Spec("B", I64),
        **_ROWS,
        "seed": Spec("R", I64),
        **_SAMPLING,
        "beam": Spec("B W", I32),
        "child_start": Spec("W+1", I32),
        "next_beam": Spec("B n", I32),
        "next_row": Spec("B n", I32),
        "next_token": Spec("B n", I64),
        "next_node": Spec("n", I32),
        "threshold": Spec("B", F32),
        "d2t": Spec("D", I32),
        "stats": Spec("B N+1 8", F32),
        "kept_logits": Spec("B N+1 D", LOGITS),
        "logits": Spec("B W D", LOGITS, rows=True, like="kept_logits"),
        "token_mask": Spec("B W V/32", I32, rows=True),
    },
    "tree_rerank": {
        "tokens": Spec("B M", I64),
        "parents": Spec("B M", I32),
        "score": Spec("B M", F32),
        "out_tokens": Spec("B N", I64),
        "out_parents": Spec("B N", I32),
        "node": Spec("B N", I32),
    },
    "compact_kv": {
        "path": Spec("B N", I32),
        "num_accepted": Spec("B", I32),
        "start": Spec("B", I32),
        "block_table": Spec("B M", I32),
        "cache": Spec(
            "layers 2 B heads slots width", CACHES, rows=True, ragged="layers 2 pages heads S width"
        ),
        "length": Spec("B", I32),
    },
}
