"""Numbers of one or more finished requests, and the tables people read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .controller import ArmReport
from .requests import Result, Times


@dataclass(frozen=True)
class Summary:
    """What a run of requests did, together.

    ``mean_accepted`` counts accepted drafts a round, the target's own token not included.
    ``acceptance`` has one entry a slot: the share of drafts made there that were accepted.
    """

    tokens: int
    seconds: float
    tokens_per_second: float
    rounds: int
    mean_accepted: float
    mean_drafted: float
    acceptance: list[float]
    seconds_by_part: dict[str, float]


def summarise(results: Sequence[Result]) -> Summary:
    """Add up results; requests decoded in one batch share their time."""
    parts = list({id(result.times): result.times for result in results}.values())
    seconds = sum(times.total for times in parts)
    tokens = sum(len(result.tokens) for result in results)
    accepted = [n for result in results for n in result.accepted]
    drafted = [n for result in results for n in result.drafted]
    return Summary(
        tokens=tokens,
        seconds=seconds,
        tokens_per_second=_ratio(tokens, seconds),
        rounds=len(accepted),
        mean_accepted=_ratio(sum(accepted), len(accepted)),
        mean_drafted=_ratio(sum(drafted), len(drafted)),
        acceptance=[
            _ratio(sum(n > slot for n in accepted), sum(n > slot for n in drafted))
            for slot in range(max(drafted, default=0))
        ],
        seconds_by_part=_added(parts),
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of text: the first aligned left, the others right."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def arm_table(arms: Sequence[ArmReport]) -> str:
    """Pulls and mean reward of every arm."""
    rows = [(arm.label, str(arm.pulls), f"{arm.value:.3f}") for arm in arms]
    return table(("arm", "pulls", "value"), rows)


def time_line(summary: Summary) -> str:
    """Where the time went, as shares of the whole."""
    shares = {
        name: _ratio(seconds, summary.seconds) for name, seconds in summary.seconds_by_part.items()
    }
    return "time: " + ", ".join(f"{name} {share:.0%}" for name, share in shares.items())


def _added(parts: Sequence[Times]) -> dict[str, float]:
    names = ("prefill", "draft", "verify", "kernels", "other")
    return {name: sum(getattr(times, name) for times in parts) for name in names}


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
