"""A baseline is checked before it is timed: its law where every cell can be counted, its numbers
where it is measured.  A wrong one, or one slower than the reference, ends the benchmark."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import tapout_kernels as tk
from tapout_kernels.testing import NEAR

REQUESTS, SLOTS, VOCAB = 4000, 2, 5
SIGMAS = 6.0  # of a binomial count; the seeds are fixed, so a failure is no bad luck


def refuse(name: str, why: str) -> None:
    raise SystemExit(f"{name}: {why}, not timed")


def verify_law(
    name: str, verify: Callable[..., tuple[Tensor, Tensor]], device: str = "cpu", **filters: float
) -> None:
    """(accepted drafts, next token) has the law of rejection sampling, cell by cell."""
    generator = torch.Generator().manual_seed(1)
    target = 1.5 * torch.randn(SLOTS + 1, VOCAB, generator=generator)
    draft = 1.5 * torch.randn(SLOTS, VOCAB, generator=generator)
    p_target, p_draft = (processed(z, **filters) for z in (target, draft))
    passed = torch.minimum(p_target[:-1], p_draft).sum(-1)
    reached = torch.cat([torch.ones(1), passed.cumprod(-1)])
    emitted = torch.cat([(p_target[:-1] - p_draft).clamp(min=0), p_target[-1:]])
    torch.manual_seed(0)
    tokens = torch.multinomial(p_draft, REQUESTS, replacement=True).T.contiguous()
    rows = (z.to(device).expand(REQUESTS, -1, -1).contiguous() for z in (target, draft))
    accepted, following = (x.cpu() for x in verify(*rows, tokens.to(device), **filters))
    _counts(name, accepted * VOCAB + following, (reached[:, None] * emitted).flatten())


def processed(logits: Tensor, backend: str = "reference", **filters: float) -> Tensor:
    """[.., V] float64 probabilities after the filters, cut where ``backend`` cuts."""
    rows = logits.reshape(-1, logits.shape[-1])
    sampling = tk.SamplingParams.of(len(rows), device=rows.device, **filters)
    cutoff = tk.row_stats(rows, sampling, backend=backend)[:, 5:6]
    return rows.double().masked_fill(rows < cutoff, -torch.inf).softmax(-1).view(logits.shape)


def draft_step_law(
    name: str,
    draft_step: Callable[..., tuple[Tensor, Tensor]],
    device: str = "cpu",
    **filters: float,
) -> None:
    """The token has the processed law; statistics and log-probability are the reference's."""
    row = 2.0 * torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(2))
    logits = row.expand(REQUESTS, -1)
    torch.manual_seed(0)
    found = [x.cpu() for x in draft_step(logits.contiguous().to(device), **filters)]
    draft_step_numbers(name, found, logits, tk.SamplingParams.of(REQUESTS, **filters), 1e-4)
    _counts(name, found[0], processed(row, **filters)[0])


def draft_step_numbers(
    name: str,
    found: tuple[Tensor, Tensor],
    logits: Tensor,  # [B, V]
    sampling: tk.SamplingParams,
    tolerance: float,
) -> None:
    """Entropy, top-2 and the token's log-probability against the reference's statistics."""
    token, numbers = found
    stats = tk.row_stats(logits, sampling, backend="reference")
    drawn = logits.float().gather(-1, token[:, None])[:, 0]
    if (drawn < stats[:, 5]).any():
        refuse(name, "a token that the filters cut")
    expected = torch.cat([stats[:, 1:4], (drawn - stats[:, 0])[:, None]], -1)
    same(name, numbers, expected, tolerance)


def same(name: str, found: Tensor, expected: Tensor, tolerance: float) -> None:
    if not torch.allclose(found.double(), expected.double(), rtol=tolerance, atol=tolerance):
        worst = (found - expected).abs().max().item()
        refuse(name, f"wrong result (off by {worst:.2g})")


def verified(
    name: str,
    found: Tensor,
    expected: Tensor,
    target: Tensor,
    draft: Tensor,
    backend: str = "reference",
    **filters: float,
) -> None:
    """Contract 7: tokens [B, K+1] are the reference's; a last one may be its neighbour in the CDF.

    Found tokens are placed in the CDF cut where ``backend`` cuts: where a cutoff is a near tie,
    what follows is compared given the same cutoff.
    """
    for b in (found != expected).any(-1).nonzero()[:, 0].tolist():
        slot = int((expected[b] >= 0).sum()) - 1
        if not torch.equal(found[b, :slot], expected[b, :slot]) or found[b, slot] < 0:
            refuse(name, "wrong result")
        low, high = _interval(target[b], draft[b], slot, found[b, slot], backend, filters)
        other = _interval(target[b], draft[b], slot, expected[b, slot], "reference", filters)
        if high <= low or max(low, other[0]) > min(high, other[1]) + 2 * NEAR:
            refuse(name, "wrong result")


def _interval(
    target: Tensor, draft: Tensor, slot: int, token: Tensor, backend: str, filters: dict
) -> tuple[float, float]:
    """The uniforms that draw ``token`` at ``slot``: from the residual, or the bonus row."""
    weights = processed(target[slot], backend, **filters)
    if slot < draft.shape[0]:
        weights = (weights - processed(draft[slot], backend, **filters)).clamp(min=0)
    high = (weights.cumsum(0) / weights.sum())[token]
    return (high - weights[token] / weights.sum()).item(), high.item()


def certain_drafts(name: str, accepted: Tensor, verdict: tk.Verdict) -> None:
    """At the measured size: leading drafts of acceptance probability 1 are accepted."""
    certain = (verdict.accept_prob > 1 - 1e-5).cumprod(-1).sum(-1)
    if (accepted < certain).any():
        refuse(name, "wrong result (a certain draft rejected)")


def not_slower(name: str, baseline_us: float, reference_us: float) -> None:
    """The best time of each: what else the machine does is no reason to refuse."""
    if baseline_us > reference_us:
        refuse(name, f"slower than the reference ({baseline_us:.0f} > {reference_us:.0f} us)")


def _counts(name: str, cells: Tensor, law: Tensor) -> None:
    """How often each cell came up, against its probability."""
    law = law.double()
    assert abs(law.sum().item() - 1) < 1e-6
    found = torch.bincount(cells, minlength=len(law)).double()
    spread = SIGMAS * (len(cells) * law * (1 - law)).sqrt()
    if len(found) > len(law) or ((found - len(cells) * law).abs() > spread + 1e-9).any():
        refuse(name, "wrong law")
