"""What a good engineer would write in plain PyTorch: what the operators are measured against."""

from __future__ import annotations

import torch
from torch import Tensor


def eager_verify(
    target_logits: Tensor,  # [B, K+1, V]
    draft_logits: Tensor,  # [B, K, V]
    draft_tokens: Tensor,  # [B, K]
    temperature: float,
) -> Tensor:
    """Rejection sampling with two softmaxes, gathers, a residual and a multinomial -> [B, K+1]."""
    p_target = torch.softmax(target_logits.float() / temperature, -1)
    p_draft = torch.softmax(draft_logits.float() / temperature, -1)
    batch, slots = draft_tokens.shape
    index = draft_tokens[..., None]
    target_x, draft_x = p_target[:, :-1].gather(-1, index), p_draft.gather(-1, index)
    accepted = torch.rand_like(draft_x) * draft_x < target_x
    count = accepted[..., 0].long().cumprod(-1).sum(-1)
    rows = torch.arange(batch)
    last = p_target[rows, count]
    residual = (last - p_draft[rows, count.clamp(max=slots - 1)]).clamp(min=0)
    rejected = (count < slots)[:, None] & (residual.sum(-1, keepdim=True) > 0)
    bonus = torch.multinomial(torch.where(rejected, residual, last), 1)
    slot = torch.arange(slots + 1)
    padded = torch.nn.functional.pad(draft_tokens, (0, 1), value=-1)
    tokens = torch.where(slot < count[:, None], padded, -1)
    return torch.where(slot == count[:, None], bonus, tokens)


def eager_draft_step(logits: Tensor, temperature: float) -> tuple[Tensor, ...]:  # [B, V]
    """Softmax, entropy, top-2 and a sampled token with its log-probability."""
    probs = torch.softmax(logits.float() / temperature, -1)
    entropy = torch.special.entr(probs).sum(-1)
    top2 = probs.topk(2, -1).values
    token = torch.multinomial(probs, 1)
    return token, probs.gather(-1, token).log(), entropy, top2


def eager_row_stats(logits: Tensor) -> tuple[Tensor, ...]:  # [B, V]
    """Log-sum-exp, entropy and top-2 probabilities."""
    log_probs = torch.log_softmax(logits.float(), -1)
    entropy = torch.special.entr(log_probs.exp()).sum(-1)
    return log_probs, entropy, log_probs.topk(2, -1).values
