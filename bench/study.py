"""The study of policies on real traces: docs/study.md, its plots and its rows.

    python bench/study.py record traces --spec-bench spec_bench_dev.jsonl
    python bench/study.py costs traces
    python bench/study.py replay traces
    python bench/study.py report

`record` goes on where it was cut off, and with more --seeds it goes on further. Without costs
measured apart, in a quiet moment, those at the end of the first recording count.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

from bench_decode import DOMAINS, prompts
from study_plots import plots
from study_report import report
from study_runs import BATCHES, SECTIONS, costs_row, described, study

from tapout_engine.cli import main as engine
from tapout_engine.traces import load_trace

ROOT = Path(__file__).parent.parent
ROWS, PAGE, FIGURES = (
    ROOT / "bench/results/study.jsonl",
    ROOT / "docs/study.md",
    ROOT / "docs/study",
)
SLOTS, TEMPERATURE = 8, 0.8
FEW = ("head", "prompt-lookup")
EVERY = (*FEW, "self")


def traces(folder: Path, every: bool) -> list[Path]:
    """Recorded ones, those of every drafter apart; the greedy ones first."""
    found = [path for path in folder.glob("*.safetensors") if every == path.stem.startswith("all-")]
    places = list(DOMAINS)
    return sorted(found, key=lambda path: (places.index(domain_of(path)),
                                           "greedy" not in path.stem, path.stem))  # fmt: skip


def domain_of(path: Path) -> str:
    return path.stem.removeprefix("all-").partition("-")[0]


def record(arguments: argparse.Namespace) -> None:
    """Each domain greedily, then at a temperature with one seed after another."""
    for domain, seed in wanted(arguments.domains, arguments.seeds):
        prefix = "all-" if arguments.every else ""
        out = arguments.folder / f"{prefix}{domain}-{seed or 'greedy'}.safetensors"
        if not out.exists():
            _record(arguments, domain, seed, out)


def wanted(domains: Sequence[str], seeds: int) -> Iterator[tuple[str, int]]:
    """Domains and seeds; 0 is greedy decoding."""
    for seed in range(seeds + 1):
        yield from ((domain, seed) for domain in domains)


def _record(arguments: argparse.Namespace, domain: str, seed: int, out: Path) -> None:
    asked = arguments.folder / "prompts" / f"{domain}.jsonl"
    asked.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"prompt": prompt}) for prompt in prompts(domain, arguments.spec_bench))
    asked.write_text("".join(line + "\n" for line in lines))
    heat = ["--rule", "gumbel", "--temperature", TEMPERATURE, "--seed", seed] if seed else []
    limit = ["--limit", arguments.limit] if arguments.limit else []
    command = [
        "trace", "record", "--out", out, "--prompts", f"{domain}={asked}", *limit, *heat,
        "--draft", *(EVERY if arguments.every else FEW), "--slots", SLOTS,
        "--max-new-tokens", arguments.tokens, "--batch", arguments.batch, "--dtype", "float32",
    ]  # fmt: skip
    if engine([str(part) for part in command]):
        raise SystemExit(f"{out} was not recorded")


def costs(arguments: argparse.Namespace) -> None:
    """Of every drafter, by batch; those of fewer drafters are the first columns."""
    out = arguments.folder / "costs-all.json"
    command = ["trace", "costs", "--out", out, "--draft", *EVERY, "--slots", SLOTS,
               "--batch", ",".join(map(str, BATCHES)), "--context", 64,
               "--dtype", "float32"]  # fmt: skip
    if engine([str(part) for part in command]):
        raise SystemExit("costs were not measured")
    found = json.loads(out.read_text())
    count = len(FEW)
    few = {"drafters": found["drafters"][:count], "draft": [row[:count] for row in found["draft"]],
           "catch_up": found["catch_up"][:count]}  # fmt: skip
    (arguments.folder / "costs.json").write_text(json.dumps(found | few) + "\n")


def replay(arguments: argparse.Namespace) -> None:
    """Write the rows, then the page."""
    folder = arguments.folder

    def measured(every: bool) -> Path | None:
        path = folder / ("costs-all.json" if every else "costs.json")
        return path if path.exists() else None

    domains = [{domain_of(path) for path in traces(folder, every)} for every in (False, True)]
    sections = [part for part in SECTIONS if domains[part.every] == domains[False]]
    rows: list[dict] = []
    for every in sorted({part.every for part in sections}):
        found = [load_trace(path) for path in traces(folder, every)]
        rows += [*described(found, every), costs_row(found[0].meta, every, measured(every))]
    rows += study(
        sections, lambda every: traces(folder, every), arguments.orders, measured, arguments.jobs
    )
    ROWS.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write()


def write(_: SimpleNamespace | argparse.Namespace | None = None) -> None:
    """The page and its plots, from the rows."""
    rows = read()
    PAGE.write_text(report(rows))
    plots(FIGURES, rows)


def read() -> list[dict]:
    return [json.loads(line) for line in ROWS.read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    add = commands.add_parser("record")
    add.set_defaults(run=record)
    add.add_argument("folder", type=Path)
    add.add_argument("--spec-bench", type=Path, help="questions as the file of Spec-Bench has them")
    add.add_argument("--domains", nargs="+", default=list(DOMAINS), choices=DOMAINS)
    add.add_argument("--seeds", type=int, default=5, help="runs of each domain besides the greedy")
    add.add_argument("--every", action="store_true", help="every drafter, also self")
    add.add_argument("--limit", type=int, help="prompts of each domain")
    add.add_argument("--tokens", type=int, default=320)
    add.add_argument("--batch", type=int, default=20)
    add = commands.add_parser("costs")
    add.set_defaults(run=costs)
    add.add_argument("folder", type=Path)
    add = commands.add_parser("replay")
    add.set_defaults(run=replay)
    add.add_argument("folder", type=Path)
    add.add_argument("--orders", type=int, default=5, help="of the requests, and bandit seeds")
    add.add_argument("--jobs", type=int, default=os.cpu_count())
    commands.add_parser("report").set_defaults(run=write)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
