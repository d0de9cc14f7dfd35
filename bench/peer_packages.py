"""Other packages that verify drafts on a CPU, each with the input it needs, which is timed too.

They are never requirements of this project: ``make bench-peers`` installs them into a folder of
their own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path

import torch
from torch import Tensor

Verify = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]  # like baselines.verify


def versions(folder: Path) -> dict[str, str]:
    return {d.metadata["Name"]: d.version for d in distributions(path=[str(folder)])}


def load(folder: Path) -> dict[str, Verify]:
    """The peers installed in ``folder`` (``pip install --target``)."""
    sys.path.append(str(folder))
    makers = {"flashspec": _flashspec, "economize": _economize}
    missing = makers.keys() - versions(folder).keys()
    if missing:
        raise SystemExit(f"{sorted(missing)} not in {folder}: `make bench-peers` installs them")
    return {name: maker() for name, maker in makers.items()}


def _flashspec() -> Verify:
    from flashspec.sampling.rejection import rejection_step

    def verify(target_logits: Tensor, draft_logits: Tensor, draft_tokens: Tensor):
        log_p_draft = torch.log_softmax(draft_logits.float(), -1)
        log_p_target = torch.log_softmax(target_logits.float(), -1)
        return rejection_step(draft_tokens, log_p_draft, log_p_target).unbind(-1)

    return verify


def _economize() -> Verify:
    from economize.decoding.config import DecodeConfig
    from economize.decoding.protocols import Draft
    from economize.decoding.selectors import TopPSampler
    from economize.decoding.verifiers import RejectionVerifier

    verifier = RejectionVerifier(DecodeConfig(verifier="rejection"))
    sampler = TopPSampler(temperature=1.0, seed=0)

    def verify(target_logits: Tensor, draft_logits: Tensor, draft_tokens: Tensor):
        batch, slots = draft_tokens.shape
        p_draft = torch.softmax(draft_logits.float(), -1)
        draft = Draft(draft_tokens, [slots] * batch, probs=p_draft)
        return verifier.verify_batch(target_logits, draft, sampler, None, None)

    return verify
