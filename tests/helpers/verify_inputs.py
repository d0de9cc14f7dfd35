"""Arguments of ``verify`` spoiled request by request, and the same requests arranged otherwise."""

from __future__ import annotations

import torch
from torch import Tensor

OF_REQUEST = (
    "draft_tokens", "length", "live", "round", "stats", "rows", "logits_row", "tokens",
    "num_accepted", "num_emitted", "last_token", "status", "accept_prob", "overlap", "logprobs",
)  # fmt: skip
OF_STATE = ("temperature", "top_k", "top_p", "min_p", "seed", "position", "lossy_memory")


def target_row(args: dict, b: int, i: int) -> Tensor:
    """A view of target row i of request b."""
    start = args["row_start"]
    logits = args["target_logits"]
    return logits[b, i] if start is None else logits[int(start[b]) + i]


def spoil(args: dict) -> dict:
    """Invalid rows, bad drafts, dead rows and lengths out of range, one kind for each request."""
    vocab, slots = args["target_logits"].shape[-1], args["draft_tokens"].shape[1]
    for b in range(len(args["length"])):
        length = int(args["length"][b])
        row, slot = min(1, length), max(0, min(1, length - 1))
        kind = b % 13
        if kind == 1:
            target_row(args, b, row)[vocab // 2] = torch.nan
        elif kind == 2:
            target_row(args, b, row)[vocab - 1] = torch.inf
        elif kind == 3:
            target_row(args, b, length)[:] = -torch.inf
        elif kind == 4:
            args["draft_tokens"][b, slot] = -1
        elif kind == 5:
            args["draft_tokens"][b, slot] = vocab
        elif kind == 6:
            args["stats"][b, slot, 4] = -torch.inf  # p_draft = 0
        elif kind == 7:
            args["stats"][b, slot, 4] = torch.nan
        elif kind == 8:
            args["length"][b] = slots + 5
        elif kind == 9:
            args["length"][b] = -3
        elif kind == 10:
            args["live"][b] = False
        elif kind == 11 and args["logits_row"] is not None:
            args["logits_row"][b] = -1
        elif kind == 11 and args["temperature"] is not None:
            args["temperature"][b] = torch.nan
        elif kind == 12 and args["t2d"] is not None:
            known = args["t2d"].tolist()
            missing = next(v for v in range(vocab) if v >= len(known) or known[v] < 0)
            args["draft_tokens"][b, slot] = missing
    return args


def take(args: dict, index: Tensor) -> dict:
    """The requests ``index`` as a batch of their own; state goes along unless ``rows`` maps it."""
    out = dict(args)
    names = [*OF_REQUEST, *(OF_STATE if args["rows"] is None else ())]
    if args["logits_row"] is None:
        names.append("draft_logits")
    if args["row_start"] is None:
        names += ["target_logits", "token_mask"]
    else:
        _take_ragged(args, index, out)
    for name in names:
        if args[name] is not None:
            out[name] = args[name][index]
    return out


def _take_ragged(args: dict, index: Tensor, out: dict) -> None:
    start = args["row_start"].long()
    rows = torch.cat([torch.arange(start[b], start[b + 1]) for b in index.tolist()])
    sizes = (start[1:] - start[:-1])[index]
    out["row_start"] = torch.nn.functional.pad(sizes.cumsum(0), (1, 0)).int()
    for name in ("target_logits", "token_mask"):
        if args[name] is not None:
            out[name] = args[name][rows]
