"""Drafts that meet every side of every lossy rule, and the slow ``verify`` to judge them by."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from tapout_kernels.reference.accept import LOSSY_EARS
from tapout_kernels.testing import TOLERANCES, Case
from tapout_kernels.testing.tolerances import Tolerance

from . import raw, slow_verify
from .mutants import Reference

INTEGERS = ("tokens", "num_accepted", "num_emitted", "last_token", "status", "position")
FLOATS = {
    "overlap": TOLERANCES["overlap"],
    "logprobs": TOLERANCES["token_logprob"], "lossy_memory": TOLERANCES["lossy_memory"],
}  # fmt: skip
TOKEN_LOGPROB = 4


def floats(rule: int) -> dict[str, Tolerance]:
    name = "ears_prob" if rule == LOSSY_EARS else "accept_prob"
    return {**FLOATS, "accept_prob": TOLERANCES[name]}


def same_as_slow(call: raw.Call, args: dict, context: str = "") -> dict[str, Tensor]:
    """What the call wrote: the slow reading's integers, and its numbers within tolerance."""
    found = raw.run(call, "verify", args)
    expected = raw.run(slow_verify.verify, "verify", args)
    for name in INTEGERS:
        assert torch.equal(found[name], expected[name]), f"{context} {name}"
    for name, (atol, rtol) in floats(args["rule"]).items():
        if name in found:
            torch.testing.assert_close(
                found[name], expected[name], atol=atol, rtol=rtol, equal_nan=True,
                msg=lambda m, name=name: f"{context} {name}: {m}",
            )  # fmt: skip
    return found


def drafted(args: dict, tokens: Tensor) -> dict:
    """The same rows with other drafts, as if the draft had drawn those."""
    logprobs = args["draft_logits"].double().log_softmax(-1).gather(-1, tokens[..., None])
    args["stats"][..., TOKEN_LOGPROB] = logprobs[..., 0].float()
    return {**args, "draft_tokens": tokens}


def every_draft(rule: str) -> dict:
    """All 64 drafts of three tokens out of four, each with rows of its own."""
    case = Case("verify", batch=64, slots=3, vocab=4, rule=rule, extras=True, seed=4)
    args = drafted(case.inputs(), torch.tensor([*itertools.product(range(4), repeat=3)]))
    args["length"].fill_(3)
    return args


def near_argmax(rule: str) -> dict:
    """Nine drafts, the target's argmax but at no, one or two slots; a third of the rows is sharp,
    another third for every such draft."""
    slots, vocab = 9, 8
    misses = [m for n in range(3) for m in itertools.combinations(range(slots), n)] * 3
    batch = torch.arange(len(misses))
    case = Case("verify", batch=len(batch), slots=slots, vocab=vocab, rule=rule, extras=True)
    args, generator = case.inputs(), torch.Generator().manual_seed(0)
    target = torch.randn(len(batch), slots + 1, vocab, generator=generator)
    row = 3 * batch[:, None] // len(batch) + torch.arange(slots + 1)
    args["target_logits"] = target * torch.where(row % 3 == 0, 3.0, 1.0)[..., None]
    args["length"] = torch.where(batch % 4 == 3, 7, slots).int()
    best, second = target[:, :-1].topk(2).indices.unbind(-1)
    missed = torch.zeros(len(batch), slots, dtype=torch.bool)
    for b, at in enumerate(misses):
        missed[b, list(at)] = True
    return drafted(args, torch.where(missed, second, best))


def data(rule: str) -> list[dict]:
    return [every_draft(rule), near_argmax(rule)]


def judged_as_the_text_says(rule: str) -> Callable[[Reference], bool]:
    """What a mutant of the reference is asked."""

    def passes(reference: Reference) -> bool:
        try:
            for args in data(rule):
                same_as_slow(raw.caller_of(reference.ops), args)
        except AssertionError:
            return False
        return True

    return passes
