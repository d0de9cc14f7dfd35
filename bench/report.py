"""Tables out of benchmark rows, printed and put into docs/: no number there is typed by hand.

python bench/report.py bench/results/cpu.jsonl
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
COLUMNS = {
    "op": "operator",
    "shape": "shape",
    "dtype": "dtype",
    "median_us": "median µs",
    "spread": "p20–p80",
    "gb_s": "GB/s",
    "of_read": "of a streaming read",
    "times_eager": "× eager PyTorch",
    "times_topk": "× eager with topk",
    "times_compile": "× torch.compile",
    "times_flashspec": "× flashspec",
    "times_economize": "× economize",
}
SHAPE = ("rule", "B", "K", "V", "A", "acceptance", "top_k", "top_p")


def table(rows: list[dict]) -> str:
    """A Markdown table of benchmark rows, with the conditions they share above it."""
    first = rows[0]
    columns = {k: name for k, name in COLUMNS.items() if any(k in _shown(row) for row in rows)}
    peers = "".join(f", {k[:-8]} {first[k]}" for k in first if k.endswith("_version"))
    lines = [
        f"{first['cpu']}, {first['threads']} threads, torch {first['torch']}{peers}, "
        f"backend {first['backend']}, streaming read {first['read_gb_s']} GB/s, "
        f"commit {first['commit']}; `{first['command']}`",
        "",
        "| " + " | ".join(columns.values()) + " |",
        "|" + "---|" * len(columns),
    ]
    for row in rows:
        shown = _shown(row)
        lines.append("| " + " | ".join(str(shown.get(key, "")) for key in columns) + " |")
    return "\n".join(lines)


def _shown(row: dict) -> dict:
    shown = {**row, "shape": ", ".join(f"{k}={row[k]}" for k in SHAPE if k in row)}
    digits = 0 if row["p20_us"] >= 10 else 2
    shown["spread"] = f"{row['p20_us']:.{digits}f}–{row['p80_us']:.{digits}f}"
    if "of_read" in row:
        shown["of_read"] = f"{row['of_read']:.0%}"
    return shown


def read_rows(results: Path) -> list[dict]:
    return [json.loads(line) for line in results.read_text().splitlines()]


def with_tables(document: str, root: Path) -> str:
    """The document with every ``<!-- table: PATH -->`` block made anew from its results."""

    def block(match: re.Match) -> str:
        return f"{match[1]}\n{table(read_rows(root / match[2]))}\n<!-- end -->"

    return re.sub(r"(<!-- table: (\S+) -->)\n.*?<!-- end -->", block, document, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    print(table(read_rows(parser.parse_args().results)))
    for document in sorted((ROOT / "docs").glob("*.md")):
        document.write_text(with_tables(document.read_text(), ROOT))


if __name__ == "__main__":
    main()
