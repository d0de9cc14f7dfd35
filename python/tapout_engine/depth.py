"""Arms that are rules about the depth of a tree, and the bandit that picks among them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

import tapout_kernels as tk
from tapout_kernels.policies import HEDGES

from .arms import Arm
from .controller import Controller
from .errors import EngineError

TREE_DEPTH = 5
DEPTH_ARMS: tuple[Arm, ...] = (
    ("fixed_length", {"n": 2}),
    ("fixed_length", {"n": TREE_DEPTH}),
    ("survival", {"threshold": 0.6}),
    ("survival", {"threshold": 0.3}),
)


class DepthController(Controller):
    """Depth rules and the bandit that picks one for every tree, before it is drafted.

    ``fixed_length`` is n levels. ``survival`` stops after a level where the odds that the text goes
    on within the tree, the sum of the cumulative probabilities of the next level's rows, are below
    its threshold: of one row a level they are the product that it is for chains. That is
    ``depth_logsumexp`` (Dynamic Depth Decoding 2409.00142) asked after every level, with
    ln(threshold) for its limit.

    Parameters
    ----------
    arms : sequence of Arm
        Of these two rules; ``fixed_length`` of at least one level.
    depth : int
        Levels of the deepest tree, those of its shape.
    policy, reward, device, **policy_params
        As for :class:`Controller`, at sequence level. Nodes on the accepted path are the accepted
        tokens, and levels the drafted ones.

    Raises
    ------
    EngineError
        For arms, policies, levels or rewards that trees have not.
    """

    def __init__(
        self,
        arms: Sequence[Arm] = DEPTH_ARMS,
        depth: int = TREE_DEPTH,
        policy: str = "ucb1",
        reward: str | None = None,
        device: torch.device | str | None = None,
        **policy_params: float,
    ):
        super().__init__(arms, depth, policy, reward, device, **policy_params)
        if policy in HEDGES or self.bandit.level == "token" or self.bandit.reward == "overlap":
            raise EngineError(
                f"arms: trees have no {policy} of level {self.bandit.level} with reward "
                f"{self.bandit.reward}: what it learns from is a chain's"
            )
        if any(self.drafters):
            raise EngineError("arms: trees have one drafter: an arm must name none")
        limits = [
            _limits(name, params, depth)
            for name, params in zip(self.rules.names, self.rules.params, strict=True)
        ]
        self.limits = torch.tensor(limits, dtype=torch.float32, device=device)  # [A, depth]

    def begin(self, rows: int) -> None:
        super().begin(rows)
        self.chain = tk.Proposal.empty(rows, self.slots, device=self.device)
        self.path = tk.Verdict.empty(rows, self.slots, device=self.device)

    def thresholds(self) -> Tensor:
        """[depth, B] what ``tree_expand`` is given for each level."""
        return self.limits[self.state.arm.long().clamp(min=0)].T.contiguous()

    def learn(
        self,
        draft: tk.TreeDraft,
        verdict: tk.TreeVerdict,
        cost_ratio: Tensor,
        backend: str | None = None,
    ) -> None:
        """Learn from a verified round, a level of which cost ``cost_ratio`` [1] f32."""
        chain = replace(self.chain, length=draft.depth, live=draft.live)
        path = replace(self.path, num_accepted=verdict.num_accepted, status=verdict.status)
        self.update(self.learner(cost_ratio), chain, path, backend)


def _limits(name: str, params: dict[str, float], depth: int) -> list[float]:
    """What the sum of a level's scores must reach, as a logarithm."""
    if name == "survival":
        threshold = params["threshold"]
        return [math.log(threshold) if threshold > 0 else -math.inf] * depth
    if name != "fixed_length":
        raise EngineError(f"arms: rules of trees are fixed_length and survival, got {name}")
    levels = int(params["n"])
    if levels < 1:
        raise EngineError(f"arms: a tree has at least one level, got fixed_length of {levels}")
    return [math.inf if level + 1 >= levels else -math.inf for level in range(depth)]
