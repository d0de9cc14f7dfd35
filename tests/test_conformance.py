"""Every operator of every compiled backend against the reference, over ``CASES``."""

from __future__ import annotations

import pytest
import torch
from helpers import compare, compare_expand, compare_trees, compare_verify, raw
from helpers.device import affordable, few, interpreted_if, is_refused

from tapout_kernels._library import NO_KERNEL
from tapout_kernels.reference.accept import GREEDY
from tapout_kernels.testing import CASES, MORE_VOCABS, SAMPLINGS, VOCABS, Case

ROW_OPS = ("row_stats", "sample", "draft_step", "proposal_load", "verify")


def outputs(backend: str, case: Case) -> tuple[dict, dict, dict]:
    """Arguments, and what the backend and the reference wrote."""
    args = case.inputs()
    return args, raw.run(raw.caller(backend), case.op, args), raw.run(raw.reference, case.op, args)


def check_case(backend: str, case: Case) -> int:
    """Number of rows that differ in an integer, all of them allowed to."""
    return check_outputs(backend, case, *outputs(backend, case))


def check_outputs(backend: str, case: Case, args: dict, found: dict, expected: dict) -> int:
    if case.op == "row_stats":
        return compare.check_row_stats(args, found, expected, case.name)
    explained = case.op in ("sample", "verify") and few(backend, False, True)
    if explained and compare_verify.plainly_equal(found, expected):
        return 0  # the rows' cutoffs, which only explain differences, are not looked for
    if case.op == "sample":
        return compare.check_sample(args, found, expected, row_cutoffs(backend, args))
    if case.op == "draft_step":
        return compare.check_draft_step(args, found, expected)
    if case.op == "proposal_load":
        return compare.check_proposal_load(args, found, expected)
    if case.op == "verify":
        return compare_verify.check_verify(args, found, expected, target_cutoffs(backend, args))
    if case.op == "tree_verify":
        return compare_trees.check_tree_verify(args, found, expected, target_cutoffs(backend, args))
    if case.op == "tree_attention":
        compare.check_attention(args, found["mixed"], expected["mixed"], backend, case.name)
        return 0
    if case.op == "tree_expand":
        return compare_expand.check_tree_expand(args, found, expected)
    if case.op == "compact_kv":
        raw.same(found, expected, case.name)
        return 0
    for name, value in expected.items():
        if value.is_floating_point():
            compare.close(
                name if name in ("memory", "arm_prob") else "bandit", found[name], value, case.name
            )
        else:
            assert torch.equal(found[name], value), f"{case.name} {name}"
    return 0


def check_draft_steps(backend: str, case: Case) -> int:
    """Every slot in turn, each from the reference's state, so that one near tie stays one."""
    args, different = case.inputs(), 0
    for step in range(case.slots):
        args["logits"] = args["logits"].roll(step, dims=-1)
        found = raw.run(raw.caller(backend), case.op, args)
        expected = raw.run(raw.reference, case.op, args)
        different += compare.check_draft_step(args, found, expected)
        assert raw.equal_bits(found["kept_logits"], expected["kept_logits"])
        args.update(expected)
    return different


def row_cutoffs(backend: str, args: dict) -> torch.Tensor:
    """[B] what the backend's own row_stats keeps of each row of ``sample``."""
    batch = compare.batch_of(args, len(args["logits"]))
    return cutoffs(backend, args["logits"], batch.sampling, args["token_mask"], args["rule"])


def target_cutoffs(backend: str, args: dict) -> torch.Tensor:
    """[B, K+1]; ragged rows are taken one by one, a row that does not exist is NaN."""
    slots = args["draft_tokens"].shape[1]
    batch = compare.batch_of(args, len(args["draft_tokens"]))
    sampling = batch.sampling.map(lambda x: x.repeat_interleave(slots + 1))
    logits, mask, missing = args["target_logits"], args["token_mask"], None
    if args.get("row_start") is not None:
        index = args["row_start"][:-1, None] + torch.arange(slots + 1)
        missing = index >= args["row_start"][1:, None]
        index = index.clamp(max=len(logits) - 1)
        logits, mask = logits[index], None if mask is None else mask[index]
    mask = None if mask is None else mask.flatten(0, 1)
    found = cutoffs(backend, logits.flatten(0, 1), sampling, mask, args["rule"])
    found = found.view(-1, slots + 1)
    return found if missing is None else found.masked_fill(missing, torch.nan)


def cutoffs(backend: str, logits, sampling, mask, rule: int) -> torch.Tensor:
    stats = torch.zeros(len(logits), 8)
    columns = sampling._asdict()
    if rule == GREEDY:
        columns = {**dict.fromkeys(columns), "temperature": torch.zeros(len(logits))}
    raw.caller(backend)(
        "row_stats", logits=logits, **columns, token_mask=mask, token=None, stats=stats
    )
    return stats[:, 5]


TREE_ROW_OPS = ("tree_verify", "tree_expand")


def interpreted_slice() -> set[Case]:
    """All of the smallest vocabulary and half of every larger one; none of those that matter where
    a chunk has 1024 ids, as no tile of Triton's has. Of trees every
    seventh, of up to 33 nodes."""
    able = [case for case in CASES if case.op not in NO_KERNEL["triton"]]
    rows = [case for case in able if case.op in ROW_OPS]
    trees = [case for case in able if case.op in TREE_ROW_OPS]
    shapes = [case for case in able if case.op.startswith(("tree", "compact"))]
    shapes = [case for case in shapes if case.op not in TREE_ROW_OPS and case.slots < 64]
    large = [case for case in rows if case.vocab not in (7, 1024, 1025)]
    rest = {case for case in able if not case.op.startswith(("tree", "compact"))} - set(rows)
    small = {case for case in rows if case.vocab == 7}
    few_trees = [case for case in trees if case.vocab == 7][::7]
    few_trees += [case for case in trees if case.vocab not in (7, 1024, 1025)][::13]
    return rest | small | set(large[::2]) | set(few_trees) | set(shapes[::7])


INTERPRETED = interpreted_slice()


@pytest.mark.parametrize(
    "case", [interpreted_if(case in INTERPRETED, case) for case in CASES],
    ids=lambda case: case.name,
)  # fmt: skip
@pytest.mark.sliced(6)
def test_matches_the_reference(compiled, case):
    if is_refused(compiled, case):
        return
    case = affordable(compiled, case)
    if case.op == "draft_step":
        check_draft_steps(compiled, case)
    else:
        check_case(compiled, case)


@pytest.mark.parametrize(
    ("op", "rule"),
    [interpreted_if(op == "verify" or rule != "block", op, rule)  # block draws as token does
     for op in ("sample", "draft_step", "verify") for rule in ("token", "block", "gumbel")]
    + [interpreted_if(False, "tree_verify", rule) for rule in ("token", "block", "gumbel")],
)  # fmt: skip
@pytest.mark.parametrize(  # top_k = 5 would cut nothing
    "sampling", ["plain", "mixed", interpreted_if(False, "all")]
)
@pytest.mark.sliced(4)
def test_equal_decisions_at_five_ids(compiled, op, sampling, rule):
    """The same noise, the same decisions: ties the compiled backend to the exact law."""
    batch = few(compiled, 3000, 30, emulated=600)
    case = Case(op, batch=batch, slots=3, vocab=5, sampling=sampling, rule=rule)
    if is_refused(compiled, case):
        return
    assert check_case(compiled, case) <= 3, "near ties are rarer than one in a thousand"


@pytest.mark.slow
@pytest.mark.parametrize("vocab", [32000, 151936, 152064])
@pytest.mark.parametrize("op", ROW_OPS)
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_matches_the_reference_at_more_vocabularies(compiled, op, vocab, sampling):
    check_case(compiled, Case(op, batch=2, slots=2, vocab=vocab, sampling=sampling))


# ---- the comparison and the matrix themselves ----------------------------------------------------


WRITTEN = [(op, name) for op in raw.ALL_OPS for name in raw.written(op)]


@pytest.mark.parametrize(("op", "name"), WRITTEN, ids=lambda x: x)
def test_the_comparison_can_fail(op, name):
    """One wrong element in any output of any operator is noticed."""
    case = Case(op, vocab=7, seed=2, extras=True, masked=True)
    if name == "arm_prob":  # of policies that draw by weight
        case = case.with_(bandit="exp3")
    if name == "lossy_memory":
        case = case.with_(rule="lossy_adasd")
    args = case.inputs()
    expected = raw.run(raw.reference, op, args)
    check_outputs("reference", case, args, expected, expected)
    found = raw.clone(expected)
    value, first = found[name].view(-1), 0
    value[first] = ~value[first] if value.dtype == torch.bool else value[first] * 1.001 + 1
    with pytest.raises(AssertionError):
        check_outputs("reference", case, args, found, expected)


def test_matrix_covers_what_it_says():
    assert {(case.op, case.vocab) for case in INTERPRETED} >= {
        (op, vocab) for op in ROW_OPS for vocab in (7, 8193, 49152, 128256)
    }
    assert {case.vocab for case in CASES} >= {*VOCABS, *MORE_VOCABS}
    assert {case.op for case in CASES} == set(raw.ALL_OPS)
    assert len({case.name for case in CASES}) == len(CASES)


AXES = [
    ("batch", 5), ("slots", 2), ("vocab", 9), ("dtype", torch.float16), ("sampling", "mixed"),
    ("rule", "greedy"), ("drafts", "one_hot"), ("masked", True), ("draft_vocab", True),
    ("ragged", True), ("rows", True), ("extras", True), ("level", "token"),
    ("arms", "learning"), ("bandit", "gaussian_token"), ("seed", 1),
]  # fmt: skip
_SHAPE = {"batch", "seed"}
_ROW = _SHAPE | {"vocab", "dtype", "sampling", "masked"}
USES = {  # the axes an operator has arguments for
    "row_stats": _ROW,
    "sample": _ROW | {"rule", "rows"},
    "draft_step": _ROW | {"slots", "rule", "draft_vocab", "rows", "extras", "level", "arms"},
    "proposal_reset": _SHAPE | {"slots", "rows", "level", "arms"},
    "proposal_load": _ROW | {"slots", "rule", "drafts", "draft_vocab", "rows", "level", "arms"},
    "verify": _ROW | {"slots", "rule", "drafts", "draft_vocab", "ragged", "rows", "extras"},
    "bandit_select": _SHAPE | {"slots", "bandit"},
    "bandit_update": _SHAPE | {"slots", "bandit", "arms"},
    "bandit_step": _SHAPE | {"slots", "bandit", "arms"},
    "tree_layout": _SHAPE | {"slots"},
    "tree_mask": _SHAPE | {"slots"},
    "tree_mask_flat": _SHAPE | {"slots"},
    "tree_verify": _ROW | {"slots", "rule", "drafts", "draft_vocab", "rows"},
    "tree_attention": _SHAPE | {"slots", "dtype"},
    "tree_expand": _ROW | {"slots", "drafts", "draft_vocab", "rows", "extras"},
    "tree_rerank": _SHAPE | {"slots"},
    "compact_kv": _SHAPE | {"slots", "dtype", "ragged", "extras"},
}


@pytest.mark.parametrize("op", raw.ALL_OPS)
@pytest.mark.parametrize(("axis", "value"), AXES)
@pytest.mark.sliced(3)
def test_every_axis_changes_the_inputs(op, axis, value):
    base = Case(op, vocab=7)
    left, right = base.inputs(), base.with_(**{axis: value}).inputs()
    changed = any(not _equal(left[name], right[name]) for name in left)
    assert changed == (axis in USES[op])


def _equal(left: object, right: object) -> bool:
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        return raw.equal_bits(left, right)
    return left is None and right is None if left is None or right is None else left == right


@pytest.mark.parametrize("sampling", [name for name in SAMPLINGS if name != "plain"])
def test_every_sampling_changes_the_outcome(sampling):
    base = Case("row_stats", vocab=7, batch=12)
    plain, other = (raw.run(raw.reference, "row_stats", base.with_(sampling=s).inputs())["stats"]
                    for s in ("plain", sampling))  # fmt: skip
    assert not plain[:, :7].equal(other[:, :7])
    if sampling in ("top_k", "top_p", "min_p", "all", "mixed"):
        assert not plain[:, 5].equal(other[:, 5]), "a filter must cut something"
