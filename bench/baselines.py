"""What a good engineer would write in plain PyTorch: what the operators are measured against.

Each function also runs through ``torch.compile``.  Everything is at temperature 1, so that no
baseline pays for a division the operators are not asked for either.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad


def verify(
    target_logits: Tensor,  # [B, K+1, V]
    draft_logits: Tensor,  # [B, K, V]
    draft_tokens: Tensor,  # [B, K]
) -> tuple[Tensor, Tensor]:
    """Two softmaxes, gathers, residual, multinomial -> accepted drafts [B], next token [B]."""
    p_target = torch.softmax(target_logits.float(), -1)
    p_draft = torch.softmax(draft_logits.float(), -1)
    batch, slots = draft_tokens.shape
    index = draft_tokens[..., None]
    target_x, draft_x = p_target[:, :-1].gather(-1, index), p_draft.gather(-1, index)
    accepted = torch.rand_like(draft_x) * draft_x < target_x
    count = accepted[..., 0].long().cumprod(-1).sum(-1)
    rows = torch.arange(batch)
    last = p_target[rows, count]
    residual = (last - p_draft[rows, count.clamp(max=slots - 1)]).clamp(min=0)
    rejected = (count < slots)[:, None] & (residual.sum(-1, keepdim=True) > 0)
    return count, torch.multinomial(torch.where(rejected, residual, last), 1)[:, 0]


def row_stats(logits: Tensor) -> Tensor:  # [B, V]
    """Log-sum-exp, entropy and top-2 probabilities -> [B, 4]."""
    z = logits.float()
    lse = torch.logsumexp(z, -1, keepdim=True)
    probs = (z - lse).exp()
    entropy = lse - (probs * z).sum(-1, keepdim=True)
    return torch.cat([lse, entropy, probs.topk(2, -1).values], -1)


def draft_step(logits: Tensor) -> tuple[Tensor, Tensor]:  # [B, V]
    """Softmax, entropy, top-2, multinomial -> token [B], [B, 4] entropy, top-2, log-probability."""
    probs = torch.softmax(logits.float(), -1)
    token = torch.multinomial(probs, 1)
    return token[:, 0], _statistics(probs, probs.gather(-1, token))


def draft_step_sorted(logits: Tensor, top_k: int = 50, top_p: float = 0.9) -> tuple[Tensor, Tensor]:
    """The same with top-k and top-p of one full sort."""
    probs = torch.softmax(logits.float(), -1)
    values, order = probs.sort(-1, descending=True)
    return _nucleus(probs, values[:, :top_k], order, top_p)


def draft_step_topk(logits: Tensor, top_k: int = 50, top_p: float = 0.9) -> tuple[Tensor, Tensor]:
    """The same, sorting no more than the k largest."""
    probs = torch.softmax(logits.float(), -1)
    return _nucleus(probs, *probs.topk(top_k, -1), top_p)


def _nucleus(probs: Tensor, values: Tensor, order: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    values = values / values.sum(-1, keepdim=True)
    before = pad(values.cumsum(-1)[:, :-1], (1, 0))
    kept = torch.where(before < top_p, values, 0.0)
    kept = kept / kept.sum(-1, keepdim=True)
    choice = torch.multinomial(kept, 1)
    return order.gather(-1, choice)[:, 0], _statistics(probs, kept.gather(-1, choice))


def _statistics(probs: Tensor, drawn: Tensor) -> Tensor:
    entropy = torch.special.entr(probs).sum(-1, keepdim=True)
    return torch.cat([entropy, probs.topk(2, -1).values, drawn.log()], -1)


def compiled(function: Callable) -> Callable:
    """``torch.compile`` with eager's random numbers, so that the two can be compared."""
    return torch.compile(function, dynamic=False, options={"fallback_random": True})
