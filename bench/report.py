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
        if "of_read" in row:
            shown["of_read"] = f"{row['of_read']:.0%}"
        lines.append("| " + " | ".join(str(shown.get(key, "")) for key in COLUMNS) + " |")
    return "\n".join(lines)


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
