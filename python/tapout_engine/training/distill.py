"""Distillation: a drafter's distribution is pulled towards the target's.

Zhou et al., "DistillSpec: improving speculative decoding via knowledge distillation",
arXiv 2310.08461, with the forward KL divergence and the target's own texts.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

ROWS = 512  # positions whose distributions exist at the same time


class Distill(torch.autograd.Function):
    """KL divergence of a drafter's distributions from the target's, with its gradient.

    ``Distill.apply(student, teacher, head, teacher_head, weights)``: ``student`` [steps, n, a] are
    the drafter's features in every step, ``teacher`` [n, b] the target's hidden states; the heads
    [D, a] and [D, b] make logits of them.  Returns the sum of the steps' mean divergences by
    ``weights`` [steps], and those means [steps].  Only the student, and its head where it is
    trained, have gradients; logits are made and dropped ``ROWS`` positions at a time.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, student: Tensor, teacher: Tensor, head: Tensor, teacher_head: Tensor,
        weights: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        means = torch.zeros(len(student), device=student.device)
        by_student = torch.empty_like(student)
        by_head = torch.zeros_like(head) if ctx.needs_input_grad[2] else None
        own_head, n = head.to(teacher_head.dtype), student.shape[1]
        for first in range(0, n, ROWS):
            rows = slice(first, first + ROWS)
            log_wanted = (teacher[rows] @ teacher_head.T).float().log_softmax(-1)
            wanted = log_wanted.exp()
            entropy = -torch.linalg.vecdot(wanted, log_wanted).sum()
            for step, features in enumerate(student[:, rows].to(own_head.dtype)):
                logits = (features @ own_head.T).float()
                lse = logits.logsumexp(-1, keepdim=True)
                means[step] += lse.sum() - torch.linalg.vecdot(wanted, logits).sum() - entropy
                error = logits.sub_(lse).exp_().sub_(wanted).mul_(weights[step] / n)
                error = error.to(own_head.dtype)
                by_student[step, rows] = (error @ own_head).to(student.dtype)
                if by_head is not None:
                    by_head += error.T @ features
        ctx.save_for_backward(by_student, by_head)
        means /= n
        ctx.mark_non_differentiable(means)
        return means @ weights, means

    @staticmethod
    def backward(
        ctx: FunctionCtx, upper: Tensor, _: Tensor
    ) -> tuple[Tensor, None, Tensor | None, None, None]:
        by_student, by_head = ctx.saved_tensors
        return by_student * upper, None, None if by_head is None else by_head * upper, None, None
