"""The page of the study: every number and every verdict from its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product

from study_short import BOTH, CHOSEN, EVERY, HEAD, OWN, SAMPLED, UNTUNED, short
from study_tables import (
    LOAD_GOAL,
    MIXTURES,
    NEAR,
    by_reward,
    cost_table,
    levels,
    load_table,
    middle,
    of,
    of_best,
    oracle_table,
    policies,
    ranks,
    sections,
    streams,
    trace_table,
    worst_half,
    zero_table,
)

from tapout_engine.replay.report import Rows, markdown


def report(rows: Rows) -> str:
    """The page."""
    parts = [HEADER, "## In short", "\n".join(short(rows)), "## Traces and costs"]
    parts += [trace_table(rows), COSTS, cost_table(rows)]
    for title, answer in ANSWERS:
        parts += [f"## {title}", *answer(rows)]
    return "\n\n".join(part for part in parts if part) + "\n"


HEADER = """# A study of policies on real outputs

Generated: tables and verdicts by `bench/study.py` from `bench/results/study.jsonl`, and that from
traces ([replay.md](replay.md)) which are made by the commands at the end of this page. What is
replayed is what live decoding would have done with these costs; speeds are tokens a time relative
to the same stream without drafts, means over orders of the requests, which also seed the bandits.
The target is a small model on two CPU cores: where a draft step or a token more in a forward costs
something else, other lengths win (see the sweep of costs). The default arms for the head and for
both drafters, and how much `ucb1` and `thompson_gaussian` explore with `throughput`, were chosen on
part of these traces, with costs measured elsewhere."""

COSTS = """Traces of every drafter are fewer, or none: `self`, the target with a fifth of its layers
left out, takes most of a forward for each of its drafts at every position.

What is charged, in forwards of the target for one request without drafts:"""


def top_two(rows: Rows) -> Iterable[str]:
    """Untuned TapOut beside the rules it chooses from."""
    found = ranks(rows, OWN, UNTUNED)
    lines = [
        [stream, str(place), f"{value:.3f}", best, f"{top:.3f}"]
        for stream, (place, value, best, top) in found.items()
    ]
    count = len(of(rows, OWN, stream=MIXTURES[0], way="arm")) + 1
    yield (
        "UCB1 over TapOut's own rules at their defaults with the `blend` reward, beside each of "
        f"these rules played alone: {count} ways. Goal: the top two everywhere."
    )
    yield markdown(["stream", f"rank of {count}", "speed", "best rule", "its speed"], lines)


def distance(rows: Rows) -> Iterable[str]:
    """How far from the best fixed arm of the same set."""
    ways = [(OWN, UNTUNED), *product((OWN, HEAD, BOTH), (CHOSEN, SAMPLED)),
            (BOTH, f"{CHOSEN}, discounted"), (EVERY, CHOSEN)]  # fmt: skip
    ways = [way for way in ways if way[0] in sections(rows)]
    lines = []
    for section, label in ways:
        cells = [of_best(rows, section, label, stream) for stream in streams(rows)]
        lines.append([f"{section}: {label}", *(f"{cell:.1%}" for cell in cells)])
    yield (
        "Speed as a share of that of the fastest arm of the same set, which is chosen in hindsight "
        f"for each stream. Goals: {NEAR:.0%} on a domain, above 100% on the drifting stream."
    )
    yield markdown(["arms: policy", *streams(rows)], lines)
    yield (
        "What changing arms with the domain could gain at most on the drifting stream: each "
        "domain's best arm there, over the one best arm for all of it."
    )
    lines = [[name, f"{middle(rows, name):.1%}"] for name in sections(rows)]
    yield markdown(["arms", "of the best fixed arm"], lines)


def rewards(rows: Rows) -> Iterable[str]:
    yield (
        "Share of the best fixed arm's speed, the mean over the streams and in brackets the worst "
        "stream. Rewards of token level are credited slot by slot: `decision` and `token_accept`. "
        "Only `throughput` knows what a draft costs; `simple` counts accepted drafts, and `blend` "
        "also the share of drafts that are accepted: where drafts are cheap it favours rules that "
        "stop early. One or the other: three tokens of the head, or of lookup; hedges learn there "
        "from every token of the text what either would have had accepted, and read no reward."
    )
    for section in sections(rows):
        yield by_reward(rows, section)
    lines = [
        [section, reward, label, f"{average:.1%}", f"{least:.1%}"]
        for section in sections(rows)
        for reward, label, average, least in levels(rows, section)
    ]
    yield "The best policy of each reward:"
    yield markdown(["arms", "reward", "policy", "mean", "worst stream"], lines)


def best_policies(rows: Rows) -> Iterable[str]:
    yield (
        "The ten best pairs of policy and reward by their mean over the streams, and the last. "
        "Share of the best fixed arm."
    )
    for section in sections(rows):
        found = policies(rows, section)
        lines = [[label, f"{mean:.1%}", f"{worst:.1%}"]
                 for label, mean, worst in [*found[:10], found[-1]]]  # fmt: skip
        yield f"**{section}**"
        yield markdown(["policy, reward", "mean", "worst stream"], lines)


def oracle(rows: Rows) -> Iterable[str]:
    yield (
        "The oracle knows what the target will say and pays nothing for a drafter that has fallen "
        "behind: no policy reaches it. Best static: the fastest fixed length of one drafter."
    )
    yield oracle_table(rows, BOTH)
    yield "![speeds](study/speed.png)"


def zero(rows: Rows) -> Iterable[str]:
    yield (
        "By the cost of a draft step (the head's; lookup stays as cheap as it was measured): the "
        "best static length of each stream, and on the mean of the streams what policies and the "
        "best arm reach. 0 is not to draft."
    )
    yield zero_table(rows)
    yield "![by the cost of a draft step](study/cost.png)"


def load(rows: Rows) -> Iterable[str]:
    yield (
        "Requests decoded together, each with its own length (`verify[b, n]` measured at every "
        "batch shown). In each cell the worst stream: over the whole, and in its second half, "
        f"in the worst order of the requests, where the goal is {LOAD_GOAL} at every batch. The "
        "difference is what exploring cost."
    )
    yield load_table(rows)
    lines = [[label, "met" if value >= LOAD_GOAL else "missed", f"{value:.3f}", str(batch), stream]
             for label, (value, batch, stream) in worst_half(rows).items()]  # fmt: skip
    yield markdown(["second half, worst of all", "goal", "speed", "batch", "stream"], lines)
    yield "![by requests together](study/load.png)"


def regret(_: Rows) -> Iterable[str]:
    yield "The cost beyond that of the best arm for as many tokens, first order of the requests:"
    yield "![regret](study/regret.png)"


def commands(rows: Rows) -> Iterable[str]:
    yield """```bash
python bench/study.py record traces --spec-bench spec_bench_dev.jsonl
python bench/study.py record traces --spec-bench spec_bench_dev.jsonl --every --seeds 0 \\
    --limit 8
python bench/study.py costs traces
python bench/study.py replay traces
```"""
    yield (
        "Recording takes hours and goes on where it was cut off; `costs` wants a quiet machine. "
        "The prompts: HumanEval, and a file of Spec-Bench's questions by category, raw, without a "
        "chat template; each answer is up to 320 tokens. Where there are too few prompts for "
        "50,000 greedy tokens, runs at temperature 0.8 (rule `gumbel`) with further seeds follow."
    )


ANSWERS: tuple[tuple[str, Callable[[Rows], Iterable[str]]], ...] = (
    ("Is untuned TapOut among the top two?", top_two),
    ("How far from the best fixed arm?", distance),
    ("Which reward, which level?", rewards),
    ("Which policy?", best_policies),
    ("What the oracle leaves on the table", oracle),
    ("When not to draft", zero),
    ("Load", load),
    ("Regret", regret),
    ("Commands", commands),
)
