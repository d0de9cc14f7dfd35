"""The ``demo`` command: three prompts, several ways to decode them, one table."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

import torch

from .arms import HEAD_ARMS, LENGTH_ARMS
from .controller import Controller
from .decode import SpeculativeDecoder, StreamCallback
from .divergence import Divergence, first_divergence
from .errors import EngineError
from .plain_decode import PlainDecoder
from .progress import progress_bar
from .prompts import DEMO_PROMPTS
from .requests import Request, Result
from .session import NamedDrafter, Session
from .summary import summarise, table

NEW_TOKENS = 48
TEMPERATURES = (0.0, 0.8)
FIXED_LENGTH = 4
WIDTH = 110
WAYS = 5

Decoder = PlainDecoder | SpeculativeDecoder


@dataclass
class Run:
    """One way to decode, over all prompts."""

    name: str
    temperature: float
    decoder: Decoder
    results: dict[str, Result] = field(default_factory=dict)
    divergences: dict[str, Divergence] = field(default_factory=dict)

    @property
    def pulls(self) -> list[int]:
        plain = isinstance(self.decoder, PlainDecoder)
        return [] if plain else [arm.pulls for arm in self.decoder.controller.report()]


def run(dtype: str = "float32", device: str = "cpu", say: Callable[..., None] = print) -> int:
    """Decode everything and print it; 1 if greedy decoding differs by more than rounding."""
    begin = perf_counter()
    say("Speculative decoding: a drafter proposes tokens, the target verifies them in one")
    say("forward, and a bandit learns when to stop drafting. The output keeps the target's law.")
    session = Session(dtype=dtype, notify=say, device=device)
    both = session.drafter("auto")
    ways = _decoders(session, both)
    _show(ways["draft or lookup, TapOut"], session, say)
    say(
        f"Now {len(DEMO_PROMPTS)} prompts, {NEW_TOKENS} new tokens each, {len(ways)} ways, greedy "
        "and sampled."
    )
    runs = _decode_all(session, both)
    threads = torch.get_num_threads()
    say(_table(f"{session.name}; threads: {threads}; draft: {both.name}", runs))
    say(_notes(runs))
    say(f"\nWhole demo: {perf_counter() - begin:.0f} s")
    unexplained = [d for run in runs for d in run.divergences.values() if not d.explained]
    return 1 if unexplained else 0


def _show(decoder: SpeculativeDecoder, session: Session, say: Callable[..., None]) -> None:
    """Stream one answer; it also pays for the first touch of the weights, before any clock."""
    say(f"\nThe first prompt:\n\n{DEMO_PROMPTS['code']}\nThe answer, as TapOut generates it:\n")
    _generate(
        decoder, _request(session, DEMO_PROMPTS["code"], 0.0),
        lambda row, tokens, text: say(text, end="", flush=True),
    )  # fmt: skip
    say("\n")


def _decode_all(session: Session, both: NamedDrafter) -> list[Run]:
    runs = []
    bar = progress_bar(WAYS * len(TEMPERATURES) * len(DEMO_PROMPTS), "run")
    for temperature in TEMPERATURES:
        decoders = _decoders(session, both)
        group = [Run(name, temperature, decoder) for name, decoder in decoders.items()]
        for topic, prompt in DEMO_PROMPTS.items():
            request = _request(session, prompt, temperature)
            for way in group:
                way.results[topic] = _generate(way.decoder, request)
                bar.update()
            if temperature == 0:
                _compare(session, group, topic, request)
        runs += group
    bar.close()
    return runs


def _request(session: Session, prompt: str, temperature: float) -> Request:
    tokens = session.tokenizer.encode(prompt)
    return Request(tokens, NEW_TOKENS, temperature, eos=session.eos)


def _decoders(session: Session, both: NamedDrafter) -> dict[str, Decoder]:
    """The bandit of each decoder lives on over the prompts."""

    def speculative(drafter, arms, **policy) -> SpeculativeDecoder:
        controller = Controller(arms, device=session.device, **policy)
        return SpeculativeDecoder(session.target, drafter, controller, session.tokenizer)

    draft, lookup = both.drafter["draft"], both.drafter["prompt-lookup"]
    fixed = (("fixed_length", {"n": FIXED_LENGTH}),)
    return {
        "plain": PlainDecoder(session.target, session.tokenizer),
        "lookup, bandit": speculative(lookup, LENGTH_ARMS, reward="throughput"),
        "draft, fixed": speculative(draft, fixed, policy="fixed"),
        "draft, TapOut": speculative(draft, HEAD_ARMS, reward=both.reward, policy=both.policy),
        "draft or lookup, TapOut": speculative(
            both.drafter, both.arms, reward=both.reward, policy=both.policy
        ),
    }


def _generate(decoder: Decoder, request: Request, stream: StreamCallback | None = None) -> Result:
    result = decoder.generate([request], stream)[0]
    if result.error:
        raise EngineError(f"demo: {result.error}")
    return result


def _compare(session: Session, group: list[Run], topic: str, request: Request) -> None:
    plain = group[0].results[topic].tokens
    for way in group[1:]:
        found = first_divergence(session.target, request.prompt, plain, way.results[topic].tokens)
        if found is not None:
            way.divergences[topic] = found


def _table(caption: str, runs: list[Run]) -> str:
    plain = {run.temperature: run for run in runs if run.name == "plain"}
    header = ("", "tokens/s", "speed-up", *DEMO_PROMPTS, "accepted", "= plain", "arm pulls")
    rows = [_table_row(run, plain[run.temperature]) for run in runs]
    return f"\n{caption}\n{table(header, rows)}"


def _table_row(run: Run, plain: Run) -> list[str]:
    def speed(of: Run, *topics: str) -> float:
        return summarise([of.results[topic] for topic in topics]).tokens_per_second

    mode = "greedy" if run.temperature == 0 else f"T={run.temperature}"
    speedups = [speed(run, topic) / speed(plain, topic) for topic in DEMO_PROMPTS]
    total = speed(run, *DEMO_PROMPTS)
    speculative = run is not plain
    equal = f"{len(DEMO_PROMPTS) - len(run.divergences)}/{len(DEMO_PROMPTS)}"
    return [
        f"{mode}: {run.name}",
        f"{total:.1f}",
        f"{total / speed(plain, *DEMO_PROMPTS):.2f}",
        *(f"{x:.2f}" for x in speedups),
        f"{summarise(list(run.results.values())).mean_accepted:.2f}" if speculative else "-",
        equal if speculative and run.temperature == 0 else "-",
        "/".join(str(n) for n in run.pulls) or "-",
    ]


def _notes(runs: list[Run]) -> str:
    lines = [
        "",
        "speed-up: over plain decoding, all prompts together, then each; below 1 is slower.",
        "accepted: mean accepted drafts a round, the target's own token not counted.",
        "= plain: prompts whose greedy output equals plain greedy decoding token for token.",
    ]
    for run in runs:
        lines += [
            f"  {run.name}, {topic}: differs from {divergence}"
            for topic, divergence in run.divergences.items()
        ]
    return "\n".join([*lines, *_arm_order(runs)])


def _arm_order(runs: list[Run]) -> list[str]:
    """Which arms the pulls of each way to decode belong to, once for all temperatures."""
    ways = {run.name: run.decoder for run in runs if isinstance(run.decoder, SpeculativeDecoder)}
    lines = ["arm pulls: how often the bandit played each arm, in this order:"]
    for name, decoder in ways.items():
        labels = ", ".join(arm.label for arm in decoder.controller.report())
        lines += textwrap.wrap(
            f"{name}: {labels}",
            WIDTH,
            initial_indent="  ",
            subsequent_indent="    ",
            break_on_hyphens=False,
        )
    return lines
