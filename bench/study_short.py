"""The answers of the study in a sentence each, numbers and verdicts from its rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from statistics import fmean

from study_tables import (
    LOAD_GOAL,
    MIXTURES,
    NEAR,
    best_static,
    domains,
    levels,
    middle,
    of_best,
    oracle_shares,
    policies,
    ranks,
    sections,
    streams,
    swept,
    worst_half,
)

from tapout_engine.replay.report import Rows

OWN, HEAD, BOTH, EVERY = ("TapOut's own arms", "arms for the head", "head and lookup",
                          "every drafter")  # fmt: skip
UNTUNED, CHOSEN, SAMPLED = "ucb1, blend", "ucb1, throughput", "thompson_gaussian, throughput"
REWARDS = ("blend", "simple", "throughput")


def short(rows: Rows) -> Iterator[str]:
    """A bullet for each question."""
    yield _top_two(rows)
    yield from _near(rows)
    yield _drifting(rows)
    yield _rewards(rows)
    yield _levels(rows)
    yield _policies(rows)
    yield _oracle(rows)
    yield _zero(rows)
    yield _load(rows)


def listed(found: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(found[:-1]), found[-1]]))


def _top_two(rows: Rows) -> str:
    found = ranks(rows, OWN, UNTUNED)
    missed = [stream for stream, (place, *_) in found.items() if place > 2]
    verdict = f"**Missed** on {listed(missed)}" if missed else "**Met**"
    places = ", ".join(f"{stream} {place}" for stream, (place, *_) in found.items())
    return f"- Untuned TapOut among the top two everywhere: {verdict}. Its ranks: {places}."


def _near(rows: Rows) -> Iterator[str]:
    ways = [(OWN, UNTUNED), *product((OWN, HEAD, BOTH), (CHOSEN, SAMPLED))]
    for section, label in ways:
        shares = {domain: of_best(rows, section, label, domain) for domain in domains(rows)}
        far = [domain for domain, share in shares.items() if share < NEAR]
        verdict = f"**missed** on {listed(far)}" if far else "**met**"
        yield (
            f"- Within {1 - NEAR:.0%} of the best fixed arm on every domain, {section}, {label}: "
            f"{verdict} ({min(shares.values()):.1%} to {max(shares.values()):.1%})."
        )


def _drifting(rows: Rows) -> str:
    above = []
    for section in sections(rows):
        label, share = max(
            ((label, of_best(rows, section, label, MIXTURES[-1])) for label, *_ in
             policies(rows, section)), key=lambda entry: entry[1],
        )  # fmt: skip
        above.append((section, label, share, middle(rows, section)))
    verdict = "**Met**" if all(share > 1 for *_, share, _ in above) else (
        f"**Met** with {listed([s for s, _, share, _ in above if share > 1])}, missed otherwise"
        if any(share > 1 for *_, share, _ in above) else "**Missed**"
    )  # fmt: skip
    best = "; ".join(
        f"{section}: {share:.1%} ({label}; each domain's own best arm: {bound:.1%})"
        for section, label, share, bound in above
    )
    return (
        f"- Faster than every fixed arm on the drifting stream: {verdict}. The best policy, {best}."
        " There is little to gain where one arm is the best of every domain."
    )


def _rewards(rows: Rows) -> str:
    found = {
        reward: fmean(fmean(of_best(rows, section, f"ucb1, {reward}", stream)
                            for stream in streams(rows)) for section in sections(rows))
        for reward in REWARDS
    }  # fmt: skip
    each = ", ".join(f"{reward} {found[reward]:.1%}" for reward in sorted(
        found, key=lambda name: -found[name]))  # fmt: skip
    return f"- Which reward works: with UCB1, the mean over all arms and streams, {each}."


def _levels(rows: Rows) -> str:
    parts = []
    for section in sections(rows):
        found = {reward: (label, share) for reward, label, share, _ in levels(rows, section)}
        token = {reward: value for reward, value in found.items() if reward not in REWARDS}
        if token:
            label, share = max((found[r] for r in REWARDS), key=lambda entry: entry[1])
            each = ", ".join(f"{reward} {value[1]:.1%}" for reward, value in token.items())
            parts.append(f"{section}: {each}, the best of sequence level {share:.1%} ({label})")
    return f"- Sequence or token level, the best policy of each: {'; '.join(parts)}."


def _policies(rows: Rows) -> str:
    shares = [{label: share for label, share, _ in policies(rows, section)}
              for section in sections(rows)]  # fmt: skip
    common = {label: fmean(each[label] for each in shares)
              for label in shares[0] if all(label in each for each in shares)}  # fmt: skip
    first = sorted(common, key=lambda label: -common[label])
    asked = ["ucb1, throughput", "thompson_gaussian, throughput", "ucbspec, simple",
             "exp3spec, simple"]  # fmt: skip
    hedges = ", ".join(
        f"{label} {share:.1%} ({section})"
        for section in sections(rows)
        for label, share, _ in policies(rows, section)
        if label in ("hedge, blend", "hedge")
    )
    return (
        "- Which policy, the mean over all arms and streams: "
        + ", ".join(f"{label} {common[label]:.1%}" for label in first[:4])
        + "; "
        + ", ".join(f"{label} {common[label]:.1%}" for label in asked if label not in first[:4])
        + f"; {hedges}."
    )


def _oracle(rows: Rows) -> str:
    shares = oracle_shares(rows, BOTH)
    return (
        f"- The oracle: the best policy for head and lookup reaches {min(shares.values()):.0%} to "
        f"{max(shares.values()):.0%} of it; the rest is the price of not knowing what comes."
    )


def _zero(rows: Rows) -> str:
    ratios = swept(rows, "cost", "cost_ratio")
    stops = {}
    for stream in streams(rows):
        idle = [ratio for ratio in ratios
                if best_static(rows, "cost", stream, "head", cost_ratio=ratio)[1] <= 1]  # fmt: skip
        stops[stream] = f"from {idle[0]:g}" if idle else "at none of the costs"
    loads = {}
    for stream in streams(rows):
        idle = [
            batch for batch in swept(rows, "load", "batch")
            if max(best_static(rows, "load", stream, drafter, batch=batch)[1]
                   for drafter in ("head", "prompt-lookup")) <= 1
        ]  # fmt: skip
        loads[stream] = f"from {idle[0]}" if idle else "at none of the batches"
    return (
        "- When not to draft: with the head alone where a draft step costs, in forwards, "
        + "; ".join(f"{stream} {at}" for stream, at in stops.items())
        + ". With either drafter, by requests together: "
        + "; ".join(f"{stream} {at}" for stream, at in loads.items())
        + "."
    )


def _load(rows: Rows) -> str:
    found = {label: value for label, value in worst_half(rows).items() if "throughput" in label}
    value, batch, stream = found[CHOSEN]
    verdict = "**met**" if value >= LOAD_GOAL else "**missed**"
    mean = min(row["second_half"] for row in rows
               if row["section"] == "load" and row["label"] == CHOSEN)  # fmt: skip
    others = [label for label, (other, *_) in found.items() if other >= LOAD_GOAL]
    return (
        f"- Load, {CHOSEN}: never below {LOAD_GOAL} of no speculation in the second half: "
        f"{verdict}, {value:.3f} in the worst order (batch {batch}, {stream}), {mean:.3f} as the "
        f"lowest mean over the orders. Of the policies with that "
        f"reward {len(others)} of {len(found)} meet it."
    )
