"""Tables out of benchmark rows, printed and put into docs/: no number there is typed by hand.

python bench/report.py bench/results/cpu.jsonl
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from decode_table import decode_table
from goals import goals_of

ROOT = Path(__file__).parents[1]
COLUMNS = {
    "op": "operator",
    "backend": "backend",  # where there are several
    "shape": "shape",
    "dtype": "dtype",
    "median_us": "median µs",
    "spread": "p20–p80",
    "gb_s": "GB/s",
    "of_read": "of a streaming read",
    "floor_us": "floor µs",
    "of_floor": "of the floor",
    "of_empty_pair": "× two empty kernels",
    "step_over_replay_us": "µs a step over replays",
    "host_us": "host µs",
    "goals": "goals",
    "times_one": "× one token",
    "times_triton": "× Triton",
    "times_reference": "× reference",
    "times_sdpa": "× SDPA with a mask",
    "times_eager": "× eager PyTorch",
    "times_topk": "× eager with topk",
    "times_compile": "× torch.compile",
    "times_flashspec": "× flashspec",
    "times_economize": "× economize",
    "times_flashinfer": "× FlashInfer",
    "times_vllm": "× vLLM MRV2",
}
NOTHING = "Not measured yet: there is no number."
SHAPE = (
    "rule", "B", "W", "children", "K", "candidates", "N", "V", "A", "layers", "heads", "width",
    "acceptance", "accepted", "drafts", "top_k", "top_p",
)  # fmt: skip


def table(rows: list[dict]) -> str:
    """A Markdown table of benchmark rows, with the conditions they share above it."""
    if "way" in rows[0]:
        return decode_table(rows)
    columns = {k: name for k, name in COLUMNS.items() if any(k in _shown(row) for row in rows)}
    backends = list(dict.fromkeys(row["backend"] for row in rows))
    if len(backends) == 1:
        columns.pop("backend")
    lines = [
        _conditions({**rows[0], "backend": ", ".join(backends)}),
        "",
        "| " + " | ".join(columns.values()) + " |",
        "|" + "---|" * len(columns),
    ]
    for row in rows:
        shown = _shown(row)
        lines.append("| " + " | ".join(str(shown.get(key, "")) for key in columns) + " |")
    return "\n".join(lines)


def _conditions(row: dict) -> str:
    peers = "".join(f", {k[:-8]} {row[k]}" for k in row if k.endswith("_version"))
    where = f"{row.get('cpu')}, {row.get('threads')} threads"
    limit = f"streaming read {row.get('read_gb_s')} GB/s"
    if "gpu" in row:
        where = f"{row['gpu']}, triton {row['triton']}"
        limit = f"an empty kernel in a graph {row['empty_kernel_us']} µs"
    return (
        f"{where}, torch {row['torch']}{peers}, backend {row['backend']}, {limit}, "
        f"commit {row['commit']}; `{row['command']}`"
    )


def _shown(row: dict) -> dict:
    shown = {**row, "shape": ", ".join(f"{k}={row[k]}" for k in SHAPE if k in row)}
    if "refused" in row:
        return {**shown, "median_us": f"not timed: {row['refused']}"}
    digits = 0 if row["p20_us"] >= 10 else 2
    shown["spread"] = f"{row['p20_us']:.{digits}f}–{row['p80_us']:.{digits}f}"
    for name in ("of_read", "of_floor"):
        if name in row:
            shown[name] = f"{row[name]:.0%}"
    judged = [f"{goal}: {'met' if met else 'missed'}" for goal, met in goals_of(row)]
    if judged:
        shown["goals"] = "; ".join(judged)
    return shown


def read_rows(results: Path) -> list[dict]:
    return [json.loads(line) for line in results.read_text().splitlines()]


def with_tables(document: str, root: Path) -> str:
    """The document with every ``<!-- table: PATH -->`` block made anew from its results."""

    def block(match: re.Match) -> str:
        results = root / match[2]
        made = table(read_rows(results)) if results.exists() else NOTHING
        return f"{match[1]}\n{made}\n<!-- end -->"

    return re.sub(r"(<!-- table: (\S+) -->)\n.*?<!-- end -->", block, document, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    print(table(read_rows(parser.parse_args().results)))
    for document in sorted((ROOT / "docs").glob("*.md")):
        document.write_text(with_tables(document.read_text(), ROOT))


if __name__ == "__main__":
    main()
