"""The target's side of a verification: the processed row of every slot, dense or ragged."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .accept import GREEDY
from .stats import EMPTY, Processed, Sampling, process, token_logprob
from .vocab import allowed_ids, target_ids


class Target(NamedTuple):
    logits: Tensor  # [B, K+1, V] raw
    processed: Processed  # [B * (K+1)] rows
    status: Tensor  # [B, K+1] i32

    @property
    def p_target(self) -> Tensor:  # [B, K+1, V]
        return self.processed.probs.view(self.logits.shape)


def target_rows(
    logits: Tensor,  # [B, S, V] or ragged [n, V]
    row_start: Tensor | None,  # [B+1] i32
    token_mask: Tensor | None,  # [B, S, W] or [n, W]
    sampling: Sampling,  # [B] each
    rule: int,
    slots: int,  # S = K + 1
) -> Target:
    exists = None
    if row_start is not None:
        index = row_start[:-1, None] + torch.arange(slots, device=logits.device)
        end = row_start[1:, None].clamp(max=logits.shape[0])
        exists = (index >= row_start[:-1, None].clamp(min=0)) & (index < end)
        index = torch.where(exists, index, 0).long()
        logits = logits[index]
        token_mask = None if token_mask is None else token_mask[index]
    vocab = logits.shape[-1]
    allowed = allowed_ids(token_mask, target_ids(None, vocab, logits.device))
    processed = process(
        logits.reshape(-1, vocab),
        sampling.map(lambda x: x.repeat_interleave(slots)),
        None if allowed is None else allowed.view(-1, vocab),
        rule == GREEDY,
    )
    status = processed.status.view(logits.shape[:2])
    return Target(logits, processed, status if exists is None else status.where(exists, EMPTY))


def emitted_logprobs(target: Target, tokens: Tensor, raw: bool) -> Tensor:
    """[B, K+1] f64 log-probability of each token at its row; 0 where the token is -1."""
    index = tokens.clamp(min=0)
    if raw:
        logprobs = target.logits.double().log_softmax(-1).gather(-1, index[..., None])[..., 0]
    else:
        logprobs = token_logprob(target.processed, index.view(-1)).view(tokens.shape)
    return torch.where(tokens >= 0, logprobs, 0.0)
