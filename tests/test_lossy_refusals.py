"""Lossy rules are asked for by name and leave, and refused wherever they are not."""

from __future__ import annotations

import pytest
import torch
from helpers import raw

import tapout_kernels as tk
from tapout_kernels import Proposal, RngState
from tapout_kernels.reference.accept import LOSSY_RULES, VERIFY_RULES
from tapout_kernels.testing import Case

each_rule = pytest.mark.parametrize("rule", LOSSY_RULES)


def verify(rule: str, **options: object) -> tk.Verdict:
    rng = RngState.of([1])
    proposal = Proposal.from_tokens(torch.tensor([[1, 2]]), rng)
    return tk.verify(torch.zeros(1, 3, 5), proposal, None, rng, rule=rule, **options)


@each_rule
@pytest.mark.parametrize("allow", [False, None, 1])
def test_a_lossy_rule_must_be_allowed(rule, allow):
    with pytest.raises(
        ValueError, match=f"verify: allow_lossy must be True for rule '{rule}', got"
    ):
        verify(rule, allow_lossy=allow)


def test_memory_is_for_the_rule_that_has_one():
    memory = torch.zeros(1, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"lossy_memory must be a Tensor .* got NoneType"):
        verify("lossy_adasd", allow_lossy=True)
    for rule in VERIFY_RULES.keys() - {"lossy_adasd"}:
        with pytest.raises(ValueError, match=r"lossy_memory must be None .* got Tensor"):
            verify(rule, allow_lossy=True, lossy_memory=memory)
    verify("lossy_adasd", allow_lossy=True, lossy_memory=memory)
    assert memory[0, 1::2].sum() > 0


@each_rule
def test_other_operators_have_no_lossy_rules(rule):
    rng, logits = RngState.of([1]), torch.zeros(1, 5)
    with pytest.raises(ValueError, match=r"sample: rule must be one of token, .* got 'lossy"):
        tk.sample(logits, None, rng, rule=rule)
    with pytest.raises(ValueError, match=r"draft_step: rule must be one of token, .* got 'lossy"):
        tk.draft_step(logits, Proposal.empty(1, 2, 5), None, rng, rule=rule)
    with pytest.raises(ValueError, match=r"warmup: rule must be one of token, .* got 'lossy"):
        tk.warmup("cpu", 5, torch.float32, 2, [1], rule=rule)
    layout = tk.tree_layout(torch.tensor([[-1]], dtype=torch.int32))
    tree = tk.TreeProposal.from_tokens(torch.tensor([[1]]), layout, rng)
    with pytest.raises(ValueError, match=r"tree_verify: rule must be one of tree_token, .*'lossy"):
        tk.tree_verify(torch.zeros(1, 2, 5), tree, None, rng, rule=rule)


@each_rule
def test_raw_operators_refuse_them_where_they_have_no_kernel(library, rule):
    number = VERIFY_RULES[rule]
    for op in ("sample", "draft_step", "tree_verify"):
        with pytest.raises(RuntimeError, match=f"{op}: rule must be"):
            raw.caller(library)(op, **{**Case(op, vocab=7).inputs(), "rule": number})
    args = Case("verify", vocab=7, rule=rule).inputs()
    if library != "cpu":
        with pytest.raises(RuntimeError, match=f"rule must be 0 to 3 on a GPU, got {number}"):
            raw.caller(library)("verify", **args)


def test_raw_operators_want_the_memory_of_the_rule(native):
    args = Case("verify", vocab=7, rule="lossy_adasd").inputs()
    for backend in ("reference", native):
        for rule, memory in (("lossy_adasd", None), ("token", args["lossy_memory"])):
            wrong = {**args, "rule": VERIFY_RULES[rule], "lossy_memory": memory}
            with pytest.raises((RuntimeError, ValueError), match="verify: lossy_memory must be"):
                raw.caller(backend)("verify", **wrong)


def test_interpreted_kernels_refuse_them(triton):
    args = Case("verify", vocab=7, rule="lossy_ears").inputs()
    with pytest.raises(ValueError, match="rule must be 0 to 3 on a GPU, got 5"):
        raw.caller("triton")("verify", **args)
