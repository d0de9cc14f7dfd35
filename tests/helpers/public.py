"""The public functions called with raw arguments, so that any one of them can be spoiled."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

import tapout_kernels as tk
from tapout_kernels.backends import call as call_operator
from tapout_kernels.reference.accept import VERIFY_RULES
from tapout_kernels.reference.bandit import POLICIES, REWARDS
from tapout_kernels.reference.tree import TREE_RULES
from tapout_kernels.testing import ARMS

_RULE = {number: name for name, number in VERIFY_RULES.items()}
_TREE_RULE = {number: name for name, number in TREE_RULES.items()}
_POLICY = {number: name for name, number in POLICIES.items()}
_REWARD = {number: name for name, number in REWARDS.items()}


def call(op: str, args: dict, backend: str | None, rng: tk.RngState | None = None) -> object:
    """``rng`` holds what the public function takes and the raw operator does not."""
    return prepare(op, args, backend, rng)()


def prepare(
    op: str, args: dict, backend: str | None, rng: tk.RngState | None = None
) -> Callable[[], object]:
    """The call with its dataclasses already made: what torch.compile is given."""
    return _CALLS[op](args, backend, rng or tk.RngState.of(range(64)))


def _sampling(args: dict) -> tk.SamplingParams:
    names = [field.name for field in dataclasses.fields(tk.SamplingParams)]
    return tk.SamplingParams(**{name: args[name] for name in names})


def _vocab(args: dict) -> tk.DraftVocab | None:
    """Its tables as they are: the constructor would refuse wrong ones itself."""
    tables = {name: args[name] for name in ("d2t", "t2d") if args.get(name) is not None}
    if not tables:
        return None
    vocab = object.__new__(tk.DraftVocab)
    vocab.__dict__.update({"d2t": None, "t2d": None, **tables})
    return vocab


def _rules(args: dict) -> dict[str, object]:
    if args["rule_kind"] is None:
        return {"rules": None, "state": None}
    table = object.__new__(tk.StopRules)
    table.__dict__.update(vars(ARMS), kind=args["rule_kind"], param=args["rule_param"])
    return {"rules": table, "state": tk.StopState(args["arm"], args["memory"], ARMS.initial_memory)}


def _proposal(args: dict, **fields: object) -> tk.Proposal:
    """Fields by name from the arguments; what the operator does not take is left empty."""
    given = {**args, **fields}
    names = [field.name for field in dataclasses.fields(tk.Proposal)]
    return tk.Proposal(**{name: given.get(name) for name in names})


def _row_stats(args, backend, rng):
    sampling = _sampling(args)
    return lambda: tk.row_stats(
        args["logits"], sampling, token_mask=args["token_mask"], tokens=args["token"],
        out=args["stats"], backend=backend,
    )  # fmt: skip


def _sample(args, backend, rng):
    rng = tk.RngState(args["seed"], args["rng_round"], args["position"])
    sampling, rule = _sampling(args), _RULE[args["rule"]]
    return lambda: tk.sample(
        args["logits"], sampling, rng, rule=rule, live=args["live"],
        token_mask=args["token_mask"], rows=args["rows"], out=args["tokens"], backend=backend,
    )  # fmt: skip


def _proposal_reset(args, backend, rng):
    proposal = _proposal(
        args, max_length=args["out_max_length"], live=args["out_live"], logits=None
    )
    rng, table = tk.RngState(rng.seed, args["rng_round"], rng.position), _rules(args)
    return lambda: proposal.reset(
        rng, **table, max_length=args["max_length"], live=args["live"],
        prediction=args["prediction"], rows=args["rows"], backend=backend,
    )  # fmt: skip


def _proposal_load(args, backend, rng):
    batch, rows = 4, 6  # of test_wrong_arguments: B, and R where `rows` is given
    live = torch.ones(batch, dtype=torch.bool)
    own = {"live": live, "round": torch.zeros(batch, dtype=torch.int64), "logits": None}
    count = batch if args["rows"] is None else rows
    state = tk.RngState(rng.seed[:count], rng.round[:count], rng.position[:count])
    sampling, table, out = _sampling(args), _rules(args), _proposal(args, **own)
    vocab = _vocab(args)
    return lambda: tk.Proposal.from_tokens(
        args["source"], state, length=args["source_length"], logits=args["logits"],
        sampling=sampling, vocab=vocab, token_mask=args["token_mask"], rows=args["rows"],
        **table, out=out, backend=backend,
    )  # fmt: skip


def _draft_step(args, backend, rng):
    proposal = _proposal(args, logits=args["kept_logits"])
    sampling, table, rule = _sampling(args), _rules(args), _RULE[args["rule"]]
    rng, vocab = tk.RngState(args["seed"], rng.round, args["position"]), _vocab(args)
    return lambda: tk.draft_step(
        args["logits"], proposal, sampling, rng, **table, rule=rule, vocab=vocab,
        token_mask=args["token_mask"], accept_estimate=args["accept_estimate"],
        rows=args["rows"], out=args["next_token"], backend=backend,
    )  # fmt: skip


def _verify(args, backend, rng):
    proposal = _proposal(args, tokens=args["draft_tokens"], logits=args["draft_logits"])
    names = [field.name for field in dataclasses.fields(tk.Verdict)]
    out = tk.Verdict(**{name: args.get(name) for name in names})
    sampling, rule = _sampling(args), _RULE[args["rule"]]
    rng, vocab = tk.RngState(args["seed"], rng.round, args["position"]), _vocab(args)
    logprobs = "raw" if args["raw_logprobs"] else "processed"
    return lambda: tk.verify(
        args["target_logits"], proposal, sampling, rng, rule=rule, row_start=args["row_start"],
        vocab=vocab, token_mask=args["token_mask"], overlap=args["overlap"] is not None,
        logprobs=None if args["logprobs"] is None else logprobs, rows=args["rows"], out=out,
        allow_lossy=True, lossy_memory=args["lossy_memory"], backend=backend,
    )  # fmt: skip


def _bandit(args: dict, **fields: object) -> tk.BanditState:
    given = {**args, "reward": _REWARD[args["reward"]], **fields}
    names = [field.name for field in dataclasses.fields(tk.BanditState)]
    return tk.BanditState(**{name: given.get(name) for name in names})


def _bandit_select(args, backend, rng):
    bandit = _bandit(args, policy=_POLICY[args["policy"]])
    return lambda: tk.bandit_select(
        bandit, args["group"], args["live"], out=args["arm"], rows=args["rows"], backend=backend
    )


def _bandit_update(args, backend, rng):
    bandit = _bandit(args, policy=_POLICY[args["policy"]])
    verdict = tk.Verdict(
        None, args["num_accepted"], None, None, args["status"], None, args["overlap"]
    )
    proposal = _proposal(args, tokens=args["draft_tokens"], logits=None)
    table = _rules({**args, "arm": None})
    return lambda: tk.bandit_update(
        bandit, args["arm"], proposal, verdict, args["group"], **table, rows=args["rows"],
        backend=backend,
    )  # fmt: skip


def _bandit_step(args, backend, rng):
    bandit = _bandit(args, policy=_POLICY[args["policy"]])
    verdict = tk.Verdict(
        None, args["num_accepted"], None, None, args["status"], None, args["overlap"]
    )
    proposal = _proposal(args, tokens=args["draft_tokens"], logits=None)
    table = _rules({**args, "arm": None})
    return lambda: tk.bandit_step(
        bandit, args["arm"], proposal, verdict, args["group"], args["next_live"],
        args["next_arm"], **table, rows=args["rows"], backend=backend,
    )  # fmt: skip


def _tree_layout(args, backend, rng):
    names = [field.name for field in dataclasses.fields(tk.TreeLayout)]
    out = tk.TreeLayout(**{name: args[name] for name in names})
    return lambda: tk.tree_layout(
        args["parents"], position=args["position"], out=out, backend=backend
    )


def _tree_mask(args, backend, rng):
    layout, mask = _layout_of(args["ancestors"]), args["mask"]
    nodes = layout.ancestors.shape[1] if _dims(layout.ancestors, 3) else 3
    root = _dims(mask, 3) and mask.shape[1] == nodes + 1
    dtype = getattr(mask, "dtype", None)
    kind = {torch.int32: "bits", torch.bool: "bool"}.get(dtype, "additive")
    return lambda: tk.tree_mask(
        layout, kind, root=root, dtype=dtype if kind == "additive" else torch.float32, out=mask,
        backend=backend,
    )  # fmt: skip


def _tree_mask_flat(args, backend, rng):
    layout, mask = _layout_of(args["ancestors"]), args["mask"]
    out = tk.FlatMask(mask, args["start"], args["written"])
    kind = "flashinfer" if getattr(mask, "dtype", None) == torch.uint8 else "sglang_full"
    return lambda: tk.tree_mask(
        layout, kind, root=args["root"], past=args["past"], out=out, backend=backend
    )


def _dims(value: object, dims: int) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() == dims


def _layout_of(ancestors: object) -> tk.TreeLayout:
    """``tree_mask`` reads nothing else of a layout."""
    return dataclasses.replace(tk.TreeLayout.empty(4, 3), ancestors=ancestors)


def _tree_verify(args, backend, rng):
    names = [field.name for field in dataclasses.fields(tk.TreeLayout)]
    layout = tk.TreeLayout(**{name: args.get(name) for name in names})
    proposal = tk.TreeProposal(
        args["draft_tokens"], layout, args["live"], args["round"], args["draft_logits"],
        args["stats"], args["logits_row"],
    )  # fmt: skip
    names = [field.name for field in dataclasses.fields(tk.TreeVerdict)]
    out = tk.TreeVerdict(**{name: args[name] for name in names})
    sampling, rule = _sampling(args), _TREE_RULE[args["rule"]]
    rng, vocab = tk.RngState(args["seed"], rng.round, args["position"]), _vocab(args)
    return lambda: tk.tree_verify(
        args["target_logits"], proposal, sampling, rng, rule=rule, vocab=vocab,
        token_mask=args["token_mask"], rows=args["rows"], out=out, backend=backend,
    )  # fmt: skip


def _tree_attention(args, backend, rng):
    return lambda: tk.tree_attention(
        args["query"], args["keys"], args["values"], args["past"], args["tree_mask"],
        among=args["among"], block_table=args["block_table"], scale=args["scale"],
        out=args["mixed"], backend=backend,
    )  # fmt: skip


def _tree_expand(args, backend, rng):
    """The first of two levels."""
    shape = tk.TreeShape((tk.TreeLevel(3, (), args["children"], (-1,)),) * 2, 1, 1, None)
    names = ("tokens", "parents", "score", "active", "depth", "round", "stats")
    draft = tk.TreeDraft(
        shape=shape, live=args["active"], logits=args["kept_logits"],
        beam=(args["beam"], args["next_beam"]), parent_row=(None, args["next_row"]),
        child_start=(args["child_start"],), next_node=(args["next_node"],),
        **{name: args[name] for name in names},
    )  # fmt: skip
    sampling = _sampling(args) if args["drawn"] else None
    rng, vocab = tk.RngState(args["seed"], rng.round, rng.position), _vocab(args)
    return lambda: tk.tree_expand(
        args["logits"], draft, 0, sampling, rng, vocab=vocab, token_mask=args["token_mask"],
        threshold=args["threshold"], rows=args["rows"], next_token=args["next_token"],
        backend=backend,
    )  # fmt: skip


def _tree_rerank(args, backend, rng):
    """The operator alone: the public function makes what it writes."""
    return lambda: call_operator("tree_rerank", backend, **args)


def _compact_kv(args, backend, rng):
    return lambda: tk.compact_kv(
        args["cache"], args["path"], args["num_accepted"], args["start"],
        block_table=args["block_table"], length=args["length"], backend=backend,
    )  # fmt: skip


_CALLS = {
    "row_stats": _row_stats, "sample": _sample, "proposal_reset": _proposal_reset,
    "proposal_load": _proposal_load, "draft_step": _draft_step, "verify": _verify,
    "bandit_select": _bandit_select, "bandit_update": _bandit_update,
    "bandit_step": _bandit_step, "tree_layout": _tree_layout, "tree_mask": _tree_mask,
    "tree_mask_flat": _tree_mask_flat, "tree_verify": _tree_verify,
    "tree_attention": _tree_attention, "tree_expand": _tree_expand,
    "tree_rerank": _tree_rerank, "compact_kv": _compact_kv,
}  # fmt: skip
