"""Adapters of other packages: a stand-in with each one's signature and layout has the right law."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

import baselines
import checks
import gpu_peers

FILTERS = {"top_k": 3, "top_p": 0.8}


def chain_speculative_sampling(draft_probs, draft_token_ids, target_probs, *, seed, offset):
    """[B, K+1] ids padded with -1, accepted, and drafts emitted, as FlashInfer returns them."""
    assert draft_token_ids.dtype == torch.int32
    assert draft_probs.dtype == target_probs.dtype == torch.float32
    logits = (probs.log() for probs in (target_probs, draft_probs))
    count, last = baselines.verify(*logits, draft_token_ids.long())
    tokens = torch.nn.functional.pad(draft_token_ids, (0, 1))
    tokens = tokens.masked_fill(torch.arange(tokens.shape[1]) > count[:, None], -1)
    return tokens.scatter(-1, count[:, None], last[:, None].int()), count.int(), count.int()


def renormalised(probs, keep):
    kept = torch.where(keep, probs, 0.0)
    return kept / kept.sum(-1, keepdim=True)


def top_k_renorm_probs(probs, top_k):
    assert probs.dim() == 2
    return renormalised(probs, probs >= probs.topk(top_k).values[:, -1:])


def top_p_renorm_probs(probs, top_p):
    values, order = probs.sort(-1, descending=True)
    keep = values.cumsum(-1) - values < top_p
    return renormalised(probs, torch.zeros_like(keep).scatter(-1, order, keep))


def rejection_sample(
    target_logits, draft_logits, draft_sampled, cu_num_logits, pos, idx_mapping,
    expanded_idx_mapping, expanded_local_pos, temperature, seed, num_speculative_steps,
):  # fmt: skip
    """Flat rows; the draft of a slot stands one row after the one that decides it."""
    batch = len(cu_num_logits) - 1
    slots = num_speculative_steps
    assert target_logits.shape[0] == len(draft_sampled) == len(pos) == cu_num_logits[-1]
    assert expanded_idx_mapping.tolist() == [b for b in idx_mapping for _ in range(slots + 1)]
    assert expanded_local_pos.view(batch, -1)[-1].tolist() == list(range(slots + 1))
    tokens = draft_sampled.view(batch, slots + 1)[:, 1:]
    target = target_logits.view(batch, slots + 1, -1)
    count, last = baselines.verify(target, draft_logits, tokens)
    sampled = torch.nn.functional.pad(tokens, (0, 1)).scatter(-1, count[:, None], last[:, None])
    return sampled, (count + 1).int()


def apply_top_k_top_p(logits, k, p):
    probs = top_k_renorm_probs(torch.softmax(logits, -1), int(k[0]))
    return logits.masked_fill_(top_p_renorm_probs(probs, float(p[0])) == 0, -torch.inf)


@pytest.fixture
def packages(monkeypatch):
    stand_ins = {
        "flashinfer.sampling": (
            chain_speculative_sampling, top_k_renorm_probs, top_p_renorm_probs
        ),
        "vllm.v1.worker.gpu.spec_decode.rejection_sampler_utils": (rejection_sample,),
        "vllm.v1.sample.ops.topk_topp_sampler": (apply_top_k_top_p,),
    }  # fmt: skip
    for name, functions in stand_ins.items():
        module = SimpleNamespace(**{function.__name__: function for function in functions})
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize("filters", [{}, FILTERS], ids=["plain", "filtered"])
@pytest.mark.parametrize("name", ["flashinfer", "vllm"])
def test_adapters_have_the_law(packages, name, filters):
    peers, missing = gpu_peers.load(Path("."), device="cpu")
    sys.path.remove(".")
    assert not missing
    checks.verify_law(name, peers[name].call, **filters)


@pytest.mark.parametrize("name", ["flashinfer", "vllm"])
def test_preparing_does_not_spoil_the_inputs(packages, name):
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(3, n, 9, generator=generator) for n in (3, 2)]
    inputs.append(torch.randint(9, (3, 2), generator=generator))
    before = [x.clone() for x in inputs]
    peers, _ = gpu_peers.load(Path("."), device="cpu")
    sys.path.remove(".")
    call = peers[name].prepare(*inputs, **FILTERS)
    call()
    call()
    assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True))


def test_one_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(gpu_peers, "_flashinfer", lambda: time.sleep(30))
    peers, missing = gpu_peers.load(Path("."), limit_s=1, device="cpu")
    sys.path.remove(".")
    assert "flashinfer" not in peers
    assert missing["flashinfer"] == "TimeoutError: not ready within 1 s"
