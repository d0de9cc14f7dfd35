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
    **filters: float,
) -> tuple[Tensor, Tensor]:
    """Two softmaxes, gathers, residual, multinomial -> accepted drafts [B], next token [B]."""
    p_target = torch.softmax(target_logits.float(), -1)
    p_draft = torch.softmax(draft_logits.float(), -1)
    if filters:
        p_target, p_draft = filtered(p_target, **filters), filtered(p_draft, **filters)
    batch, slots = draft_tokens.shape
    index = draft_tokens[..., None]
    target_x, draft_x = p_target[:, :-1].gather(-1, index), p_draft.gather(-1, index)
    accepted = torch.rand_like(draft_x) * draft_x < target_x
    count = accepted[..., 0].long().cumprod(-1).sum(-1)
    rows = torch.arange(batch, device=count.device)
    last = p_target[rows, count]
    residual = (last - p_draft[rows, count.clamp(max=slots - 1)]).clamp(min=0)
    rejected = (count < slots)[:, None] & (residual.sum(-1, keepdim=True) > 0)
    return count, draw(torch.where(rejected, residual, last))[:, 0]


def draw(weights: Tensor) -> Tensor:  # [B, V] -> [B, 1]
    """One index of each row, in proportion; on a GPU the way that does not wait for the device."""
    if not weights.is_cuda:
        return torch.multinomial(weights, 1)
    return (weights / torch.empty_like(weights).exponential_()).argmax(-1, keepdim=True)


def filtered(probs: Tensor, top_k: int, top_p: float) -> Tensor:
    """top-k, then top-p, renormalised, sorting no more than the k largest."""
    values, order = probs.topk(top_k, -1)
    return torch.zeros_like(probs).scatter(-1, order, _nucleus(values, top_p))


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
    token = draw(probs)
    return token[:, 0], _statistics(probs, probs.gather(-1, token))


def draft_step_sorted(logits: Tensor, top_k: int = 50, top_p: float = 0.9) -> tuple[Tensor, Tensor]:
    """The same with top-k and top-p of one full sort."""
    probs = torch.softmax(logits.float(), -1)
    values, order = probs.sort(-1, descending=True)
    return _draft_kept(probs, values[:, :top_k], order, top_p)


def draft_step_topk(logits: Tensor, top_k: int = 50, top_p: float = 0.9) -> tuple[Tensor, Tensor]:
    """The same, sorting no more than the k largest."""
    probs = torch.softmax(logits.float(), -1)
    return _draft_kept(probs, *probs.topk(top_k, -1), top_p)


def _draft_kept(
    probs: Tensor, values: Tensor, order: Tensor, top_p: float
) -> tuple[Tensor, Tensor]:
    kept = _nucleus(values, top_p)
    choice = draw(kept)
    return order.gather(-1, choice)[:, 0], _statistics(probs, kept.gather(-1, choice))


def _nucleus(values: Tensor, top_p: float) -> Tensor:
    """Descending probabilities, the tail beyond ``top_p`` of their sum cut, renormalised."""
    values = values / values.sum(-1, keepdim=True)
    before = pad(values.cumsum(-1)[..., :-1], (1, 0))
    kept = torch.where(before < top_p, values, 0.0)
    return kept / kept.sum(-1, keepdim=True)


def _statistics(probs: Tensor, drawn: Tensor) -> Tensor:
    entropy = torch.special.entr(probs).sum(-1, keepdim=True)
    return torch.cat([entropy, probs.topk(2, -1).values, drawn.log()], -1)


def compiled(function: Callable, device: str = "cpu") -> Callable:
    """``torch.compile``; on the CPU with eager's random numbers, so that the two can be compared.

    On a GPU those would be kernels and memory traffic of their own: it is held against its law.
    """
    options = {"fallback_random": True} if device == "cpu" else None
    return torch.compile(function, dynamic=False, options=options)
