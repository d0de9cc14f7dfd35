"""The tables of the study, from its rows."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from tapout_engine.replay.report import Rows, best_arm, markdown, mean, names, select

NEAR, LOAD_GOAL, VOLUME = 0.98, 0.98, 50_000
MIXTURES = ("mixed", "drifting")


def sections(rows: Rows) -> list[str]:
    """Those that compare every policy at the measured costs."""
    return [name for name in names(rows, "section")
            if name not in ("traces", "costs", "cost", "load")]  # fmt: skip


def of(rows: Rows, section: str, **values: object) -> list[dict]:
    """A section's rows at the measured costs, one request at a time, unless told otherwise."""
    own = [row for row in rows if row["section"] == section]
    wanted = {"cost_ratio": None, "batch": 1} | values
    return [row for row in own if all(row.get(key) == value for key, value in wanted.items())]


def streams(rows: Rows) -> list[str]:
    return names(of(rows, sections(rows)[0]), "stream")


def domains(rows: Rows) -> list[str]:
    return [stream for stream in streams(rows) if stream not in MIXTURES]


def speed(rows: Rows) -> float:
    return mean(rows, "speed")


def best_fixed(rows: Rows, section: str, stream: str) -> tuple[str, float]:
    """The fastest arm played alone: its label and its speed."""
    own = of(rows, section, stream=stream)
    label = best_arm(own)
    return label, speed(select(own, way="arm", label=label))


def of_best(rows: Rows, section: str, label: str, stream: str) -> float:
    """A policy's speed as a share of the best fixed arm's."""
    own = of(rows, section, stream=stream, way="policy", label=label)
    return speed(own) / best_fixed(rows, section, stream)[1]


def ranks(rows: Rows, section: str, label: str) -> dict[str, tuple[int, float, str, float]]:
    """By stream: the policy's rank among the section's arms and it, its speed, the best arm's."""
    found = {}
    for stream in streams(rows):
        arms = of(rows, section, stream=stream, way="arm")
        own = speed(of(rows, section, stream=stream, way="policy", label=label))
        place = 1 + sum(row["speed"] > own for row in arms)
        found[stream] = (place, own, *best_fixed(rows, section, stream))
    return found


def middle(rows: Rows, section: str) -> float:
    """Each domain's best arm in its place, as a share of the one best arm of the whole stream."""
    best = {domain: best_fixed(rows, section, domain)[0] for domain in domains(rows)}
    arms = [of(rows, section, stream=domain, way="arm", label=label)[0]
            for domain, label in best.items()]  # fmt: skip
    label, _ = best_fixed(rows, section, MIXTURES[-1])
    one = of(rows, section, stream=MIXTURES[-1], way="arm", label=label)[0]
    return one["cost"] / sum(arm["cost"] for arm in arms)


def policies(rows: Rows, section: str) -> list[tuple[str, float, float]]:
    """Policy and reward, the mean share of the best fixed arm and the least, best first."""
    rows = [row for row in rows if row["section"] == section]
    best = {stream: best_fixed(rows, section, stream)[1] for stream in streams(rows)}
    found = []
    for label in names(of(rows, section, way="policy"), "label"):
        own = of(rows, section, way="policy", label=label)
        shares = [row["speed"] / best[row["stream"]] for row in own]
        found.append((label, fmean(shares), min(shares)))
    return sorted(found, key=lambda entry: -entry[1])


def trace_table(rows: Rows) -> str:
    own = select(rows, section="traces")
    drafters = list(max(own, key=lambda row: len(row["accepted"]))["accepted"])
    lines = [
        [row["domain"] + ", every drafter" * row["every"], f"{row['requests']}",
         f"{row['greedy']}", f"{row['positions']}",
         *(f"{row['accepted'][name]:.2f}" if name in row["accepted"] else "" for name in drafters)]
        for row in own
    ]  # fmt: skip
    header = ["domain", "answers", "of them greedy", "positions",
              *(f"{name}: accepted of {costs(rows)['slots']}" for name in drafters)]  # fmt: skip
    short = [row["domain"] for row in own if not row["every"] and row["positions"] < VOLUME]
    goal = f"missed on {', '.join(short)}" if short else "met"
    return f"{markdown(header, lines)}\n\nGoal, {VOLUME:,} positions of each domain: {goal}."


def costs(rows: Rows, every: bool = True) -> dict:
    """Those of every drafter, if there are traces of them."""
    return select(rows, section="costs")[-1 if every else 0]


def cost_table(rows: Rows) -> str:
    found = costs(rows)
    lines = [["verify", *(f"{value:.2f}" for value in found["verify"])]]
    tables = [markdown(["drafts", *map(str, range(found["slots"] + 1))], lines)]
    lines = [[name, f"{found['draft'][name]:.3f}", f"{found['catch_up'][name]:.3f}"]
             for name in found["draft"]]  # fmt: skip
    tables.append(markdown(["drafter", "a draft step", "catching up on a token"], lines))
    about = found["made_with"]
    tables.append(
        f"{found['target']}: a forward without drafts took {found['forward_ms']:.2f} ms; "
        f"{about['machine']}, {about['threads']} threads, torch {about['torch']}; "
        + ("measured apart." if found["apart"] else "measured at the end of the first recording.")
    )
    if "batch" in found:
        ways = ("no drafts", f"{found['slots']} drafts each")
        lines = [[way, *(f"{pair[i]:.1f}" for pair in found["by_batch"])]
                 for i, way in enumerate(ways)]  # fmt: skip
        tables.append(markdown(["requests together", *map(str, found["batch"])], lines))
    return "\n\n".join(tables)


def by_reward(rows: Rows, section: str) -> str:
    """Policies down, rewards across."""
    found = {label: (average, least) for label, average, least in policies(rows, section)}
    rewards = names(of(rows, section, way="policy"), "reward")
    lines = []
    for policy in names(of(rows, section, way="policy"), "policy"):
        labels = [names(of(rows, section, way="policy", policy=policy, reward=reward), "label")
                  for reward in rewards]  # fmt: skip
        cells = [found[label[0]] if label else None for label in labels]  # the undiscounted one
        lines.append([policy, *(f"{c[0]:.1%} ({c[1]:.1%})" if c else "" for c in cells)])
    return markdown([section, *rewards], lines)


def levels(rows: Rows, section: str) -> Iterator[tuple[str, str, float, float]]:
    """The best of each reward: its label, its mean and its worst share."""
    known = {row["label"]: row["reward"] for row in of(rows, section, way="policy")}
    for reward in dict.fromkeys(known.values()):
        yield next((reward, *entry) for entry in policies(rows, section)
                   if known[entry[0]] == reward)  # fmt: skip


def oracle_table(rows: Rows, section: str) -> str:
    lines = []
    for stream in streams(rows):
        own = of(rows, section, stream=stream)
        static = max(select(own, way="static"), key=lambda row: row["speed"])
        policy = max(select(own, way="policy"), key=lambda row: row["speed"])
        arm, fixed = best_fixed(rows, section, stream)
        bound = speed(select(own, way="oracle"))
        lines.append([
            stream, f"{static['speed']:.3f} ({static['label']})", f"{fixed:.3f} ({arm})",
            f"{policy['speed']:.3f} ({policy['label']})", f"{bound:.3f}",
            f"{policy['speed'] / bound:.0%}",
        ])  # fmt: skip
    header = ["stream", "best static", "best fixed arm", "best policy", "oracle",
              "best policy of oracle"]  # fmt: skip
    return markdown(header, lines)


def oracle_shares(rows: Rows, section: str) -> dict[str, float]:
    """By stream: the best policy's speed as a share of the oracle's."""
    found = {}
    for stream in streams(rows):
        own = of(rows, section, stream=stream)
        best = max(row["speed"] for row in select(own, way="policy"))
        found[stream] = best / speed(select(own, way="oracle"))
    return found


def swept(rows: Rows, section: str, key: str) -> list:
    """The values of a sweep, rising."""
    found = {row.get(key) for row in rows if row["section"] == section}
    return sorted(value for value in found if value is not None)


def best_static(
    rows: Rows, section: str, stream: str, drafter: str, **at: object
) -> tuple[int, float]:
    """The fastest length of one drafter, and its speed; 0 where no length pays."""
    own = of(rows, section, stream=stream, way="static", **at)
    own = [row for row in own if row["label"].startswith(f"{drafter}, ")]
    best = max(own, key=lambda row: row["speed"])
    pays = best["speed"] > 1
    return (int(best["label"].rpartition(", ")[2]), best["speed"]) if pays else (0, 1.0)


def zero_table(rows: Rows) -> str:
    """Columns are costs of a draft step."""
    ratios = swept(rows, "cost", "cost_ratio")
    lines = []
    for stream in streams(rows):
        found = [best_static(rows, "cost", stream, "head", cost_ratio=ratio) for ratio in ratios]
        cells = [f"{n} ({value:.2f})" if n else "0" for n, value in found]
        lines.append([f"{stream}: best length of the head", *cells])
    labels = names(of(rows, "cost", way="policy"), "label")
    for way, label in [("arm", None), *(("policy", label) for label in labels)]:
        cells = [
            f"{fmean(_at(rows, ratio, stream, way, label) for stream in streams(rows)):.3f}"
            for ratio in ratios
        ]
        lines.append([f"mean speed: {label or 'best fixed arm'}", *cells])
    return markdown(["a draft step costs", *(f"{ratio:g}" for ratio in ratios)], lines)


def _at(rows: Rows, ratio: float, stream: str, way: str, label: str | None) -> float:
    own = of(rows, "cost", cost_ratio=ratio, stream=stream, way=way)
    return max(row["speed"] for row in own if label in (None, row["label"]))


def load_policies(rows: Rows) -> list[str]:
    return names([row for row in rows if row["section"] == "load" and row["way"] == "policy"],
                 "label")  # fmt: skip


def load_table(rows: Rows) -> str:
    """Columns are batches."""
    batches = swept(rows, "load", "batch")
    lines = []
    for drafter in costs(rows, every=False)["draft"]:
        cells = []
        for batch in batches:
            lengths = [best_static(rows, "load", stream, drafter, batch=batch)[0]
                       for stream in streams(rows)]  # fmt: skip
            cells.append(" to ".join(map(str, sorted({min(lengths), max(lengths)}))))
        lines.append([f"best length of {drafter}, by stream", *cells])
    for label in load_policies(rows):
        cells = []
        for batch in batches:
            at = of(rows, "load", batch=batch, way="policy", label=label)
            whole, half = (min(row[key] for row in at) for key in ("least", "worst_half"))
            cells.append(f"{whole:.3f}, {half:.3f}")
        lines.append([label, *cells])
    return markdown(["requests together", *map(str, batches)], lines)


def worst_half(rows: Rows) -> dict[str, tuple[float, int, str]]:
    """Of each policy the lowest speed in a second half, its batch and its stream."""
    found = {}
    for label in load_policies(rows):
        own = [row for row in rows if row["section"] == "load" and row["label"] == label]
        worst = min(own, key=lambda row: row["worst_half"])
        found[label] = (worst["worst_half"], worst["batch"], worst["stream"])
    return found
