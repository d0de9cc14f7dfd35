"""The ``generate`` command."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import torch

import tapout_kernels as tk
from tapout_kernels.policies import suits

from .arms import Arm, parse_arms
from .controller import Controller
from .decode import SpeculativeDecoder
from .depth import DepthController
from .divergence import Divergence, first_divergence
from .errors import EngineError
from .graph_loop import GraphDecoder, chosen_mode
from .loading import DEFAULT_TARGET
from .plain_decode import PlainDecoder
from .progress import progress_bar
from .requests import Request, Result
from .rules import is_lossy, labelled, plain_rule, require_allowed, require_lossless
from .session import NamedDrafter, Session
from .summary import Summary, arm_table, summarise, table, time_line
from .tree_decode import TreeDecoder, eagle2, tree_depth

Decoder = SpeculativeDecoder | GraphDecoder | TreeDecoder


def run(arguments: argparse.Namespace, say: Callable[..., None] = print) -> int:
    """Continue one prompt and say how it went."""
    prompt = _prompt(arguments)
    arms = _checked_early(arguments)
    session = Session(
        arguments.target, arguments.dtype, lambda text: say(text, file=sys.stderr),
        arguments.device,
    )  # fmt: skip
    drafter = session.drafter(_chosen_draft(arguments), arguments.skip_layers)
    arguments.bandit = arguments.bandit or drafter.policy
    controller = _controller(session, drafter, arms, arguments)
    request = Request(
        session.tokenizer.encode(prompt),
        max_new_tokens=arguments.max_new_tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        seed=arguments.seed,
        stop=arguments.stop,
        eos=session.eos,
    )
    decoder = _decoder(session, drafter, controller, request, arguments)
    if arguments.compare:
        _warm_up(session, drafter, request, arguments)
    result = _decode(decoder, request, arguments, say)
    plain = _decode_plainly(session, request, arguments) if arguments.compare else None
    report = _Report(arguments, session, drafter, controller, request, result, plain)
    say(report.as_json() if arguments.json else report.as_text())
    return 0


def _controller(
    session: Session, drafter: NamedDrafter, arms: tuple[Arm, ...] | None,
    arguments: argparse.Namespace,
) -> Controller | None:  # fmt: skip
    """None: trees, all of the same depth."""
    if arguments.tree:
        return arms and DepthController(
            arms, arguments.slots, policy=arguments.bandit, device=session.device
        )
    fits = suits(arguments.bandit, "sequence", drafter.reward)
    return Controller(
        arms or drafter.arms, arguments.slots, policy=arguments.bandit,
        reward=drafter.reward if fits else None, device=session.device,
    )  # fmt: skip


def _decoder(
    session: Session, drafter: NamedDrafter, controller: Controller | None, request: Request,
    arguments: argparse.Namespace,
) -> Decoder:  # fmt: skip
    options = {"rule": arguments.rule, "backend": arguments.backend}
    if arguments.tree:
        shape = eagle2(arguments.nodes, arguments.slots)
        models = (session.target, drafter.drafter, shape, session.tokenizer)
        return TreeDecoder(*models, controller=controller, **options)
    models = (session.target, drafter.drafter, controller, session.tokenizer)
    if arguments.loop is None:
        return SpeculativeDecoder(*models, **options, allow_lossy=arguments.allow_lossy)
    capacity = len(request.prompt) + request.max_new_tokens
    return GraphDecoder(*models, capacity=capacity, mode=arguments.loop, **options)


def _checked_early(arguments: argparse.Namespace) -> tuple[Arm, ...] | None:
    """Whatever needs no model is refused before one is loaded; returns the arms, if given."""
    tk.row_stats(torch.zeros(1, 2), backend=arguments.backend)
    require_allowed("generate", arguments.rule, arguments.allow_lossy)
    if arguments.tree or arguments.loop is not None:
        require_lossless(f"generate --{'tree' if arguments.tree else 'loop'}", arguments.rule)
    if arguments.loop is not None:
        chosen_mode(arguments.loop, torch.device(arguments.device))
    if arguments.tree and arguments.loop is not None:
        raise EngineError("generate: --loop is for chains: expected it without --tree")
    arguments.slots = arguments.slots or (tree_depth(arguments.nodes) if arguments.tree else 8)
    if arguments.tree:  # what suits a chain need not suit them
        arguments.bandit = arguments.bandit or "ucb1"
    if arguments.arms is None:
        return None
    arms = parse_arms(arguments.arms)
    if arguments.tree:
        DepthController(arms, arguments.slots, policy=arguments.bandit)
    else:
        tk.StopRules(*(arm[:2] for arm in arms))
    return arms


def _chosen_draft(arguments: argparse.Namespace) -> str:
    """Trees need a head, and loops that do not ask the host one model."""
    if arguments.draft != "auto" or not (arguments.tree or arguments.loop):
        return arguments.draft
    return "head" if arguments.tree or arguments.target == DEFAULT_TARGET else "self"


def _prompt(arguments: argparse.Namespace) -> str:
    if arguments.prompt is not None and arguments.file is not None:
        raise EngineError("generate: expected --prompt or --file, got both")
    if arguments.prompt is not None:
        prompt = arguments.prompt
    elif arguments.file is not None:
        prompt = Path(arguments.file).read_text()
    elif sys.stdin.isatty():
        raise EngineError("generate: expected --prompt, --file or text on standard input")
    else:
        prompt = sys.stdin.read()
    if not prompt.strip():
        raise EngineError("generate: the prompt must hold some text, got none")
    return prompt


def _decode(
    decoder: Decoder,
    request: Request,
    arguments: argparse.Namespace,
    say: Callable[..., None],
) -> Result:
    def show(row: int, tokens: list[int], text: str) -> None:
        say(text, end="", flush=True)

    if arguments.stream and not arguments.json:
        result = decoder.generate([request], show)[0]
        say()
    else:
        with _progress(request, arguments) as advance:
            result = decoder.generate([request], advance)[0]
    if result.error:
        raise EngineError(f"generate: {result.error}")
    return result


def _warm_up(
    session: Session, drafter: NamedDrafter, request: Request, arguments: argparse.Namespace
) -> None:
    """The first touch of the weights is paid for before any clock."""
    short = replace(request, prompt=request.prompt[-8:], max_new_tokens=16)
    PlainDecoder(session.target, session.tokenizer).generate([short])
    fresh = _controller(session, drafter, None, arguments)
    _decoder(session, drafter, fresh, short, arguments).generate([short])


def _decode_plainly(session: Session, request: Request, arguments: argparse.Namespace) -> Result:
    rule = plain_rule(arguments.rule)
    decoder = PlainDecoder(session.target, session.tokenizer, rule, arguments.backend)
    with _progress(request, arguments, "plain") as advance:
        return decoder.generate([request], advance)[0]


@contextmanager
def _progress(request: Request, arguments: argparse.Namespace, label: str = "speculative"):
    with progress_bar(request.max_new_tokens, "tok", label, off=arguments.json) as bar:
        yield lambda row, tokens, text: bar.update(len(tokens))


class _Report:
    """Everything ``generate`` has to say, as text or JSON."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        session: Session,
        drafter: NamedDrafter,
        controller: Controller | None,
        request: Request,
        result: Result,
        plain: Result | None,
    ):
        self.arguments, self.session, self.drafter = arguments, session, drafter
        self.arms = controller.report() if controller is not None else []
        self.result, self.plain = result, plain
        self.summary: Summary = summarise([result])
        self.divergence: Divergence | None = None
        self.greedy = arguments.rule == "greedy" or arguments.temperature == 0
        if plain is not None and self.greedy:
            self.divergence = first_divergence(
                session.target, request.prompt, plain.tokens, result.tokens
            )

    @property
    def speedup(self) -> float | None:
        if self.plain is None:
            return None
        return self.summary.tokens_per_second / summarise([self.plain]).tokens_per_second

    def as_json(self) -> str:
        content = {
            "target": self.session.name,
            "draft": self.drafter.name,
            "rule": self.arguments.rule,
            "lossy": is_lossy(self.arguments.rule),
            "bandit": self.arguments.bandit if self.arms else None,
            "slots": self.arguments.slots,
            "loop": self.arguments.loop,
            "tree": self.arguments.tree,
            "nodes": self.arguments.nodes if self.arguments.tree else None,
            "result": self.result.to_dict(),
            "summary": asdict(self.summary),
            "arms": [asdict(arm) for arm in self.arms],
        }
        if self.plain is not None:
            content["plain"] = self.plain.to_dict()
            content["speedup"] = self.speedup
            content["divergence"] = self.divergence and asdict(self.divergence)
        return json.dumps(content, indent=2)

    def as_text(self) -> str:
        parts = [] if self.arguments.stream else [self.result.text]
        arguments = self.arguments
        parts += [
            "",
            f"target {self.session.name}; draft {self.drafter.name}; "
            f"{labelled(f'rule {arguments.rule}', arguments.rule)}; {self._how()}",
            self._speed_table(),
            *([f"speedup {self.speedup:.2f}"] if self.plain else []),
            *self._equality(),
            time_line(self.summary),
            "acceptance per slot: "
            + " ".join(f"{x:.2f}" for x in self.summary.acceptance[: arguments.slots]),
            *(["", arm_table(self.arms)] if self.arms else []),
        ]
        return "\n".join(parts)

    def _how(self) -> str:
        arguments = self.arguments
        if arguments.tree:
            bandit = f"bandit {arguments.bandit}; " if self.arms else ""
            shape = f"tree {arguments.tree}; nodes {arguments.nodes}; depth {arguments.slots}"
            return bandit + shape
        loop = f"; loop {arguments.loop}" if arguments.loop else ""
        return f"bandit {arguments.bandit}; K {arguments.slots}{loop}"

    def _speed_table(self) -> str:
        runs = [("plain", summarise([self.plain]))] if self.plain else []
        runs.append((labelled("speculative", self.arguments.rule), self.summary))
        rows = [
            (
                name, str(run.tokens), f"{run.tokens_per_second:.1f}", str(run.rounds),
                f"{run.mean_accepted:.2f}", f"{run.mean_drafted:.2f}",
            )
            for name, run in runs
        ]  # fmt: skip
        return table(("", "tokens", "tokens/s", "rounds", "accepted/round", "drafted/round"), rows)

    def _equality(self) -> list[str]:
        if self.plain is None or not self.greedy:
            return []
        same = "yes" if self.divergence is None else f"no, differs from {self.divergence}"
        return [f"equal to plain greedy decoding: {same}"]
