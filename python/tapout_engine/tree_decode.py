"""Speculative decoding with trees: grow, verify every branch in one forward, keep a path."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from functools import partial

import torch
from torch import Tensor

import tapout_kernels as tk

from .decode import BatchDecoder
from .depth import TREE_DEPTH, DepthController
from .engine import (
    Tokenizer,
    TreeDrafter,
    TreeTarget,
    check_vocabulary,
    draft_cost,
    has_static_outputs,
    max_length,
)
from .errors import EngineError
from .rows import RoundReport, Row
from .rules import require_lossless

TREE_RULES = {
    "token": "tree_token", "block": "tree_traversal", "gumbel": "tree_gumbel",
    "greedy": "tree_greedy",
}  # fmt: skip


def tree_depth(nodes: int) -> int:
    """Levels of trees of ``nodes``: what few nodes do not reach costs a step of the drafter."""
    return min(TREE_DEPTH, math.isqrt(nodes) + 1)


def eagle2(nodes: int, depth: int | None = None) -> tk.TreeShape:
    """EAGLE-2's shape for trees of ``nodes``: rows of a level and children of a row are about their
    square root; ``depth`` None: :func:`tree_depth`."""
    top_k = math.isqrt(nodes - 1) + 1
    return tk.TreeShape.dynamic(depth or tree_depth(nodes), top_k, nodes)


class TreeDecoder(BatchDecoder):
    """Drafts a tree of one shape every round, as deep as the shape or a bandit has it.

    A request ends as many tokens before the longest that the models can read as the tree is deep.

    Parameters
    ----------
    target : TreeTarget
    drafter : TreeDrafter
        Must share the target's vocabulary.
    shape : TreeShape
    tokenizer : Tokenizer, optional
        For text, streaming and stop strings.
    rule : {"token", "block", "gumbel", "greedy"}
        How nodes are accepted; ``block`` is ``tree_traversal``, ``greedy`` decodes at temperature 0
        whatever requests say.
    drawn : bool
        Children are drawn from the drafter's distribution, which needs a static shape and rule
        ``token`` or ``block``, not its most probable tokens. The output has the target's law either
        way.
    backend : str, optional
        Of every kernel, see :func:`tapout_kernels.available_backends`.
    controller : DepthController, optional
        Its arms say after which level a tree is deep enough. Whether all are is read by the host
        after every level then. None: every tree has all levels.
    """

    def __init__(
        self,
        target: TreeTarget,
        drafter: TreeDrafter,
        shape: tk.TreeShape,
        tokenizer: Tokenizer | None = None,
        rule: str = "token",
        drawn: bool = False,
        backend: str | None = None,
        controller: DepthController | None = None,
    ):
        require_lossless("TreeDecoder", rule)
        super().__init__(target, tokenizer, rule, backend)
        for name, model, protocol in (
            ("target", target, TreeTarget), ("drafter", drafter, TreeDrafter)
        ):  # fmt: skip
            if not isinstance(model, protocol):
                raise EngineError(
                    f"TreeDecoder: {name} must be a {protocol.__name__}, got a "
                    f"{type(model).__name__}"
                )
        check_vocabulary(drafter, target)
        if drawn and rule not in ("token", "block"):
            raise EngineError(f"TreeDecoder: drawn children need rule token or block, got {rule}")
        if controller is not None and controller.slots != shape.depth:
            raise EngineError(
                f"TreeDecoder: controller must be for trees of {shape.depth} levels, got one of "
                f"{controller.slots}"
            )
        self.drafter, self.shape, self.drawn, self.controller = drafter, shape, drawn, controller
        self.cost = torch.tensor([draft_cost(drafter)], device=target.device)
        self.vocab: tk.DraftVocab | None = getattr(drafter, "draft_vocab", None)
        self.max_length = min(self.max_length, max_length(drafter)) - shape.depth
        self.prompt_below = self.max_length

    def reset(self) -> None:
        """Forget what the bandit learned; it persists over calls of ``generate`` otherwise."""
        if self.controller is not None:
            self.controller.reset()

    def _keys(self, seeds: Sequence[int]) -> list[int]:
        return super()._keys(seeds) if self.controller is None else self.controller.admit(seeds)

    def _prefill(self, prompts: list[list[int]]) -> None:
        self.target.prefill(prompts)
        self.drafter.prefill(prompts)
        width = len(self.vocab) if self.vocab else self.target.vocab_size
        kept = (width, self.drafter.dtype) if self.drawn else (None, None)
        self.draft = tk.TreeDraft.empty(len(prompts), self.shape, *kept, self.target.device)
        self.verdict = tk.TreeVerdict.empty(
            len(prompts), self.shape.nodes, device=self.target.device
        )
        self.root = torch.zeros_like(self.rng.position)
        self.next_token = [
            torch.zeros_like(beam, dtype=torch.int64) for beam in self.draft.beam[1:]
        ] + [None]
        self.tree = tk.tree_rerank(self.draft, position=self.root, backend=self.backend)

    def _advance(self, rows: list[Row]) -> list[RoundReport]:
        live = self.repeated.tensor("live", [row.live for row in rows], torch.bool)
        self._grow(live)
        tree = self.tree
        with self._clock("verify"):
            input_ids = tree.input_ids(self.last, self.target.vocab_size)
            logits = self.target.forward_tree(input_ids, tree.layout)
        key = ("verify", logits.data_ptr()) if has_static_outputs(self.target) else None
        self._again(key, lambda: self._verify(logits))
        reports = self._read()
        emitted = [report.emitted for report in reports]
        with self._clock("verify"):
            self.target.keep_path(self.verdict.path, self.verdict.num_accepted)
            self.target.commit(emitted)
        with self._clock("draft"):
            self.drafter.commit(emitted)
        self.last = torch.where(live, self.verdict.last_token, self.last)
        return reports

    def _again(self, key: tuple[Hashable, ...] | None, kernels: Callable[[], object]) -> None:
        with self._clock("kernels"):
            self.repeated(key, kernels)

    def _grow(self, live: Tensor) -> None:
        """The tree of every live row."""
        static, token = has_static_outputs(self.drafter), self.last[:, None]
        thresholds = self._begin(live)
        for level in range(self.shape.depth):
            if level and thresholds is not None and not self.draft.active.any():
                break
            with self._clock("draft"):
                logits = self.drafter.expand(token, self.draft, level)  # [B, W, V or D]
            threshold = None if thresholds is None else thresholds[level]
            key = ("expand", level, logits.data_ptr()) if static else None
            self._again(key, partial(self._expand, logits, level, threshold))
            token = self.next_token[level]
        torch.sub(self.rng.position, 1, out=self.root)
        self._again(("rerank",), self._rerank)

    def _begin(self, live: Tensor) -> Tensor | None:
        """No tree yet, and [depth, B] where the bandit has it end, if there is one."""
        with self._clock("kernels"):
            self.draft.reset(self.rng, live)
        if self.controller is None:
            return None
        self._again(("select",), lambda: self.controller.select(live, self.backend))
        return self.repeated.kept("thresholds", self.controller.thresholds())

    def _expand(self, logits: Tensor, level: int, threshold: Tensor | None) -> None:
        tk.tree_expand(
            logits, self.draft, level, self.sampling if self.drawn else None, self.rng,
            threshold=threshold, vocab=self.vocab, next_token=self.next_token[level],
            backend=self.backend,
        )  # fmt: skip

    def _rerank(self) -> None:
        tk.tree_rerank(self.draft, position=self.root, out=self.tree, backend=self.backend)

    def _verify(self, logits: Tensor) -> None:
        tk.tree_verify(
            logits, self.tree, self.sampling, self.rng, rule=TREE_RULES[self.rule],
            vocab=self.vocab, out=self.verdict, backend=self.backend,
        )  # fmt: skip
        if self.controller is not None:
            self.controller.learn(self.draft, self.verdict, self.cost, self.backend)

    def _read(self) -> list[RoundReport]:
        """One transfer to the host: all it will know of this round."""
        verdict, size = self.verdict, self.tree.layout.size
        arm = torch.zeros_like(size) if self.controller is None else self.controller.state.arm
        counts = (verdict.num_emitted, verdict.num_accepted, size, verdict.status, arm)
        numbers = torch.stack([count.long() for count in counts], dim=1)
        table = torch.cat([numbers, verdict.tokens], dim=1).tolist()
        return [RoundReport(row[5 : 5 + row[0]], *row[1:4], 0, row[4], 0) for row in table]
