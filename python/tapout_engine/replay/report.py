"""The tables of a comparison, as Markdown, from its rows alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from .play import Player

Rows = Sequence[dict]


def report(player: Player, rows: Rows, arms: Sequence[str]) -> str:
    """One page: what was replayed, a table for each stream, then costs and batches."""
    parts = [_head(player, rows)]
    base = select(rows, cost_ratio=None, batch=min(row["batch"] for row in rows))
    for stream in names(rows, "stream"):
        found = select(base, stream=stream)
        parts += [f"## {stream}", _ways(found), _statics(found), f"![]({plot_name(stream)})"]
    parts += ["## Over the stream", "![](regret.png)", "![](accepted.png)"]
    if any(row["cost_ratio"] is not None for row in rows):
        parts += ["## Cost of a draft step", _sweep(rows, "cost_ratio"), "![](cost_ratio.png)"]
    if len(names(rows, "batch")) > 1:
        parts += ["## Requests together", _batches(rows), "![](batch.png)"]
    labels = "\n".join(f"{index}. `{label}`" for index, label in enumerate(arms))
    return "\n\n".join([*parts, "## Arms", labels]) + "\n"


def plot_name(stream: str) -> str:
    """File of a stream's arm shares."""
    return f"arms_{''.join(c if c.isalnum() else '_' for c in stream)}.png"


def names(rows: Rows, key: str) -> list:
    """The values of a column, in the order of the rows."""
    return list(dict.fromkeys(row[key] for row in rows))


def select(rows: Rows, **values: object) -> list[dict]:
    """The rows that have all these values."""
    return [row for row in rows if all(row[key] == value for key, value in values.items())]


def mean(rows: Rows, key: str) -> float:
    return sum(row[key] for row in rows) / len(rows)


def best_arm(rows: Rows) -> str:
    """The label of the arm that is fastest in hindsight, over all orders."""
    arms = select(rows, way="arm")
    return max(names(arms, "label"), key=lambda label: mean(select(arms, label=label), "speed"))


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table; a bar inside a cell is escaped."""
    table = [header, ["---"] * len(header), *lines]
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in table]
    return "\n".join("| " + " | ".join(line) + " |" for line in escaped)


def _head(player: Player, rows: Rows) -> str:
    meta, trace = player.meta, player.trace
    heat = meta.rule if meta.rule == "greedy" else f"{meta.rule}, temperature {meta.temperature}"
    verify = 1e3 * meta.verify_seconds[0]
    drafts = ", ".join(
        f"{name} {seconds / meta.verify_seconds[0]:.3f}"
        for name, seconds in zip(meta.drafters, meta.draft_seconds, strict=True)
    )
    return "\n\n".join(
        [
            "# Policies replayed",
            f"{meta.target}; {heat}; {trace.positions} positions of {trace.requests} requests; "
            f"K = {meta.slots}; {len(names(rows, 'seed'))} orders of the requests. A forward of "
            f"the target without drafts took {verify:.2f} ms; a draft step, in such forwards: "
            f"{drafts}; verifying {meta.slots} drafts "
            f"{meta.verify_seconds[-1] / meta.verify_seconds[0]:.2f}.",
            "Speeds are tokens a time relative to decoding without drafts, a mean over the orders. "
            "The best fixed arm is known in hindsight only; the oracle knows what the target will "
            "say, so no policy reaches it.",
        ]
    )


def _ways(rows: Rows) -> str:
    best = mean(select(rows, way="arm", label=best_arm(rows)), "speed")
    bound = select(rows, way="oracle")
    lines = []
    for way in ("plain", "arm", "policy", "oracle"):
        found = select(rows, way=way)
        each = {label: select(found, label=label) for label in names(found, "label")}
        speed = {label: mean(own, "speed") for label, own in each.items()}
        for label in sorted(speed, key=lambda name: -speed[name]):
            own = each[label]
            shown = f"**{label}**" if way == "policy" else label
            lines.append([
                shown, f"{speed[label]:.3f}", _spread(own), f"{speed[label] / best:.1%}",
                f"{speed[label] / mean(bound, 'speed'):.1%}" if bound else "",
                f"{mean(own, 'accepted'):.2f} of {mean(own, 'drafted'):.2f}",
                f"{mean(own, 'undrafted'):.0%}",
            ])  # fmt: skip
    header = ("", "speed", "min to max", "of best arm", "of oracle", "accepted", "undrafted rounds")
    return markdown(header, lines)


def _spread(rows: Rows) -> str:
    speeds = [row["speed"] for row in rows]
    return f"{min(speeds):.3f} to {max(speeds):.3f}" if len(speeds) > 1 else ""


def _statics(rows: Rows) -> str:
    found = select(rows, way="static")
    speeds: dict[str, dict[int, float]] = {}
    for label in names(found, "label"):
        drafter, _, length = label.rpartition(", ")
        speeds.setdefault(drafter, {})[int(length)] = mean(select(found, label=label), "speed")
    lengths = sorted(next(iter(speeds.values())))
    lines = [
        [drafter, "1.000", *(f"{own[n]:.3f}" for n in lengths)] for drafter, own in speeds.items()
    ]
    return markdown(["static length", "0", *map(str, lengths)], lines)


def tracked(rows: Rows) -> dict[str, Callable[[Rows], Rows]]:
    """What sweeps show: the policies, the best arm of each point, the oracle."""
    labels = names(select(rows, way="policy"), "label")
    found: dict[str, Callable[[Rows], Rows]] = {
        label: lambda rows, label=label: select(rows, way="policy", label=label) for label in labels
    }
    found["best fixed arm"] = lambda rows: select(rows, way="arm", label=best_arm(rows))
    found["oracle"] = lambda rows: select(rows, way="oracle")
    return found


def _sweep(rows: Rows, key: str) -> str:
    """The mean over streams of the speed at every value of ``key``."""
    ratios = sorted(ratio for ratio in names(rows, key) if ratio is not None)
    first = min(row["batch"] for row in rows)
    lines = []
    for label, of in tracked(rows).items():
        cells = []
        for ratio in ratios:
            at = select(rows, cost_ratio=ratio, batch=first)
            speeds = [mean(found, "speed") for stream in names(at, "stream")
                      if (found := of(select(at, stream=stream)))]  # fmt: skip
            cells.append(f"{sum(speeds) / len(speeds):.3f}" if speeds else "")
        lines.append([label, *cells])
    return markdown(["speed, mean over streams", *(f"{ratio:g}" for ratio in ratios)], lines)


def _batches(rows: Rows) -> str:
    """The whole stream and its second half, the worst stream of each."""
    batches = sorted(names(rows, "batch"))
    lines = []
    for label, of in tracked(rows).items():
        cells = []
        for batch in batches:
            at = select(rows, cost_ratio=None, batch=batch)
            found = [own for stream in names(at, "stream")
                     if (own := of(select(at, stream=stream)))]  # fmt: skip
            worst = [min(mean(own, key) for own in found) for key in ("speed", "second_half")
                     if found]  # fmt: skip
            cells.append(", ".join(f"{value:.3f}" for value in worst))
        lines.append([label, *cells])
    header = ["worst stream: speed, of its second half", *(f"batch {batch}" for batch in batches)]
    return markdown(header, lines)
