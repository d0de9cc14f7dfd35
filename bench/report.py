"""Tables out of benchmark rows; no number in the documentation is typed by hand.

python bench/report.py bench/results/cpu.jsonl
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

COLUMNS = {
    "op": "operator",
    "shape": "shape",
    "dtype": "dtype",
    "median_us": "median µs",
    "spread": "p20–p80",
    "gb_s": "GB/s",
    "of_read": "of a streaming read",
    "times_eager": "× eager PyTorch",
}


def table(rows: list[dict]) -> str:
    """A Markdown table of benchmark rows, with the conditions they share above it."""
    first = rows[0]
    lines = [
        f"{first['cpu']}, {first['threads']} threads, torch {first['torch']}, "
        f"backend {first['backend']}, streaming read {first['read_gb_s']} GB/s, "
        f"commit {first['commit']}; `{first['command']}`",
        "",
        "| " + " | ".join(COLUMNS.values()) + " |",
        "|" + "---|" * len(COLUMNS),
    ]
    for row in rows:
        shape = ", ".join(f"{k}={row[k]}" for k in ("B", "K", "V", "A", "acceptance") if k in row)
        shown = {**row, "shape": shape, "spread": f"{row['p20_us']:.0f}–{row['p80_us']:.0f}"}
        lines.append("| " + " | ".join(str(shown.get(key, "")) for key in COLUMNS) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    rows = [json.loads(line) for line in parser.parse_args().results.read_text().splitlines()]
    print(table(rows))


if __name__ == "__main__":
    main()
