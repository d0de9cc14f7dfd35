"""The ``bench`` command: one batch, decoded by the ordinary decoder and by loops that ask less."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, islice

import torch

from .controller import Controller
from .decode import SpeculativeDecoder
from .errors import EngineError
from .graph_loop import MODES, GraphDecoder, chosen_mode
from .loading import DEFAULT_TARGET
from .profiling import profile_rounds, profile_table
from .prompts import DEMO_PROMPTS
from .requests import Request, Result
from .rules import is_lossy, labelled, require_allowed, require_lossless
from .session import NamedDrafter, Session
from .summary import summarise, table

LOOPS = ("ordinary", *(mode for mode in MODES if mode != "auto"))
Decoder = SpeculativeDecoder | GraphDecoder


@dataclass(frozen=True)
class Bench:
    """What every loop decodes, with a bandit of its own."""

    session: Session
    drafter: NamedDrafter
    requests: list[Request]
    slots: int
    rule: str

    def decoder(self, loop: str) -> Decoder:
        session = self.session
        controller = Controller(
            self.drafter.arms, self.slots, reward=self.drafter.reward, device=session.device
        )
        models = (session.target, self.drafter.drafter, controller, session.tokenizer)
        if loop == "ordinary":
            return SpeculativeDecoder(*models, rule=self.rule, allow_lossy=is_lossy(self.rule))
        longest = max(len(r.prompt) + r.max_new_tokens for r in self.requests)
        return GraphDecoder(
            *models, rule=self.rule, rows=len(self.requests), capacity=longest, mode=loop
        )


def run(arguments: argparse.Namespace, say: Callable[..., None] = print) -> int:
    """Decode in every way asked for, and say how fast, and what a round is made of."""
    loops = _loops(arguments)
    session = Session(arguments.target, arguments.dtype, say, arguments.device)
    kind = arguments.draft or ("head" if arguments.target == DEFAULT_TARGET else "self")
    prompts = islice(cycle(DEMO_PROMPTS.values()), arguments.batch)
    requests = [
        Request(session.tokenizer.encode(prompt), arguments.max_new_tokens, arguments.temperature,
                eos=session.eos)
        for prompt in prompts
    ]  # fmt: skip
    drafter = session.drafter(kind, arguments.skip_layers)
    bench = Bench(session, drafter, requests, arguments.slots, arguments.rule)
    rule = labelled(f"rule {bench.rule}", bench.rule)
    say(f"target {session.name}; draft {drafter.name}; batch {arguments.batch}; {rule}")
    say(_speeds(bench, loops))
    if arguments.profile is not None:
        arguments.profile.mkdir(parents=True, exist_ok=True)
        traces = {loop: arguments.profile / f"{loop}.json" for loop in loops}
        profiles = {
            loop: profile_rounds(bench.decoder(loop), requests, traces[loop]) for loop in loops
        }
        say("\n" + profile_table(profiles, gpu=arguments.device.startswith("cuda")))
        say("traces: " + ", ".join(map(str, traces.values())))
    return 0


def _loops(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Those asked for, or all that can run; what cannot is refused before a model is loaded."""
    require_allowed("bench", arguments.rule, arguments.allow_lossy)
    device = torch.device(arguments.device)
    if arguments.loops:
        for loop in arguments.loops:
            if loop not in LOOPS:
                raise EngineError(f"loops: expected some of {', '.join(LOOPS)}, got {loop!r}")
            if loop != "ordinary":
                require_lossless(f"bench --loops {loop}", arguments.rule)
                chosen_mode(loop, device)
        return arguments.loops
    if is_lossy(arguments.rule):
        return ("ordinary",)
    return tuple(loop for loop in LOOPS if loop == "ordinary" or _runs(loop, device))


def _runs(loop: str, device: torch.device) -> bool:
    try:
        return chosen_mode(loop, device) == loop
    except EngineError:
        return False


def _speeds(bench: Bench, loops: tuple[str, ...]) -> str:
    """Of a second call, after one that warms up; equal: to what the first loop emitted."""
    rows, first = [], None
    for loop in loops:
        decoder = bench.decoder(loop)
        decoder.generate(bench.requests)
        results = decoder.generate(bench.requests)
        tokens = [result.tokens for result in results]
        first = first or tokens
        name, equal = labelled(loop, bench.rule), "yes" if tokens == first else "no"
        rows.append((name, *_numbers(results), equal))
    header = ("", "tokens", "tokens/s", "rounds", "drafted/round", "accepted/round", "equal")
    return table(header, rows)


def _numbers(results: list[Result]) -> tuple[str, ...]:
    total = summarise(results)
    return (
        str(total.tokens), f"{total.tokens_per_second:.1f}", str(total.rounds),
        f"{total.mean_drafted:.2f}", f"{total.mean_accepted:.2f}",
    )  # fmt: skip
