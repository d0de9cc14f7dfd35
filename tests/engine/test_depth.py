"""Bandits over the depth of trees: what their arms do, what they learn, and what stays the same."""

from __future__ import annotations

import pytest

import tapout_kernels as tk
from tapout_engine import EngineError, PlainDecoder, Request, TreeDecoder
from tapout_engine.adapters.head import HeadDrafter
from tapout_engine.adapters.static import StaticModel
from tapout_engine.depth import DepthController
from tapout_engine.models.weights import decoder_of

from .heads import guessable_llama, guessing, prompts

SHAPES = {
    "eagle2": tk.TreeShape.dynamic(depth=4, top_k=3, nodes=12),
    "chain": tk.TreeShape.static([-1, 0, 1, 2]),
}
ARMS = (("fixed_length", {"n": 1}), ("fixed_length", {"n": 4}), ("survival", {"threshold": 0.5}))


@pytest.fixture(scope="module")
def decoder():
    return decoder_of(guessable_llama())


def tree_decoder(
    decoder, shape: str, controller: DepthController | None, rule: str = "token", drawn=False
) -> TreeDecoder:
    target = StaticModel(decoder)
    drafter = HeadDrafter(guessing(decoder), target)
    return TreeDecoder(
        target, drafter, SHAPES[shape], rule=rule, drawn=drawn, controller=controller
    )


def requests(temperature: float = 1.0) -> list[Request]:
    return [Request(prompt, 40, temperature=temperature, seed=i)
            for i, prompt in enumerate(prompts(9, 1, 30))]  # fmt: skip


@pytest.mark.parametrize("policy", ["ucb1", "exp3"])
@pytest.mark.parametrize("shape", SHAPES)
def test_output_is_plain_decodings_whatever_the_depth(decoder, shape, policy):
    controller = DepthController(ARMS, 4, policy=policy)
    found = tree_decoder(decoder, shape, controller).generate(requests(0.0))
    plain = PlainDecoder(StaticModel(decoder)).generate(requests(0.0))
    assert [result.tokens for result in found] == [result.tokens for result in plain]
    arms = [arm for result in found for arm in result.arms]
    assert set(arms) == {0, 1, 2}, "every arm was played"
    assert [report.pulls for report in controller.report()] == [arms.count(arm) for arm in range(3)]


@pytest.mark.parametrize("levels", [1, 2, 4, 9])
def test_a_fixed_depth_is_that_of_every_tree(decoder, levels):
    """A chain of n nodes a level each, cut off: what a shape of n levels drafts from the start."""
    controller = DepthController((("fixed_length", {"n": levels}),), 4, policy="fixed")
    found = tree_decoder(decoder, "chain", controller, drawn=True).generate(requests())
    levels = min(levels, 4)
    assert {n for result in found for n in result.drafted} == {levels}
    short = TreeDecoder(
        (target := StaticModel(decoder)), HeadDrafter(guessing(decoder), target),
        tk.TreeShape.static([i - 1 for i in range(levels)]), drawn=True,
    )  # fmt: skip
    alone = short.generate(requests())
    assert [r.tokens[:20] for r in found] == [r.tokens[:20] for r in alone]


def test_survival_of_one_row_a_level_is_that_of_chains(decoder):
    """It stops where the product of the probabilities down to a node falls below the threshold."""
    controller = DepthController((("survival", {"threshold": 0.05}),), 4, policy="fixed")
    tree = tree_decoder(decoder, "chain", controller)
    grow, seen = tree._grow, []

    def watched(live):
        proposal = grow(live)
        seen.append((tree.draft.score.clone(), tree.draft.depth.clone()))
        return proposal

    tree._grow = watched
    tree.generate(requests(0.0)[:1])
    depths = set()
    for score, depth in seen:
        levels = int(depth)
        above = score[0, :levels].exp() >= 0.05
        assert above[:-1].all()
        assert levels == 4 or not above[-1]
        depths.add(levels)
    assert len(depths) > 1


def test_throughput_finds_that_depth_does_not_pay(decoder):
    """Four levels of this head emit more tokens, and cost more than they are worth."""
    arms = tuple(("fixed_length", {"n": n}) for n in (1, 4))
    controller = DepthController(arms, 4, reward="throughput", exploration=0.2)
    tree = tree_decoder(decoder, "chain", controller)
    for _ in range(3):
        tree.generate(requests(0.0))
    one, four = (report.pulls for report in controller.report())
    bandit = controller.bandit
    assert (bandit.tokens[0] / bandit.count[0]).diff() > 0
    assert one > 2 * four > 0
    tree.reset()
    assert [report.pulls for report in controller.report()] == [0, 0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"arms": (("svip", {}),)}, "rules of trees are fixed_length and survival, got svip"),
     ({"arms": (("fixed_length", {"n": 0}),)}, "a tree has at least one level"),
     ({"arms": (("survival", {}, ("head",)),)}, "trees have one drafter"),
     ({"policy": "hedge"}, "trees have no hedge"),
     ({"level": "token"}, "trees have no ucb1 of level token"),
     ({"reward": "overlap"}, "with reward overlap")],
)  # fmt: skip
def test_what_trees_have_not_is_refused(fields, message):
    with pytest.raises(EngineError, match=message):
        DepthController(**fields)


def test_a_controller_of_another_depth_is_refused(decoder):
    with pytest.raises(EngineError, match="controller must be for trees of 4 levels, got one of 5"):
        tree_decoder(decoder, "chain", DepthController())


def test_requests_of_one_bandit_have_keys_of_their_own(decoder):
    controller = DepthController(ARMS, 4)
    tree = tree_decoder(decoder, "chain", controller, drawn=True)
    keys = [result.key for _ in range(2) for result in tree.generate(requests()[:2])]
    assert keys == [tk.mix64(seed, i) for i, seed in enumerate((0, 1, 0, 1))]
