"""The tables of bench_decode.py: one for each dtype, batch, temperature and run."""

from __future__ import annotations

from itertools import groupby

NAMES = {
    "code": "code (HumanEval)",
    "prose": "prose",
    "questions": "questions",
    "summaries": "summaries",
}


def decode_table(rows: list[dict]) -> str:
    """Ways to decode down, domains across: tokens/s, its ratio to plain, accepted a round."""

    def key(row: dict) -> tuple:
        return row["dtype"], row["batch"], row["temperature"], row["command"]

    return "\n\n".join(_table(list(group)) for _, group in groupby(sorted(rows, key=key), key=key))


def _table(rows: list[dict]) -> str:
    domains = list(dict.fromkeys(row["domain"] for row in rows))
    cells = {(row["way"], row["domain"]): row for row in rows}
    prompts = ", ".join(
        f"{next(row['prompts'] for row in rows if row['domain'] == d)} {d}" for d in domains
    )
    first = rows[0]
    heat = "greedy" if first["temperature"] == 0 else f"temperature {first['temperature']}"
    lines = [
        f"{first['dtype']}, batch {first['batch']}, {heat}; prompts: {prompts}. {first['cpu']}, "
        f"{first['backend']}, {first['threads']} threads, torch {first['torch']}, commit "
        f"{first['commit']}; "
        f"`{first['command']}`",
        "",
        "| | " + " | ".join(NAMES[domain] for domain in domains) + " | not plain's output |",
        "|---" * (len(domains) + 2) + "|",
    ]
    for way in dict.fromkeys(row["way"] for row in rows):
        found = [cells.get((way, domain)) for domain in domains]
        shown = [_cell(row) for row in found]
        lines.append(f"| {way} | " + " | ".join(shown) + f" | {_differ(found)} |")
    return "\n".join(lines)


def _cell(row: dict | None) -> str:
    if row is None:
        return ""
    text = f"{row['tokens_per_second']:.1f} tok/s"
    if "speedup" in row:
        text += f", ×{row['speedup']:.2f}"
    if row["mean_drafted"]:
        text += f", {row['mean_accepted']:.2f} of {row['mean_drafted']:.2f}"
    return text


def _differ(found: list[dict | None]) -> str:
    rows = [row for row in found if row and "differ" in row]
    if not rows:
        return ""
    unexplained = sum(row["unexplained"] for row in rows)
    return f"{sum(row['differ'] for row in rows)} ({unexplained} beyond rounding)"
