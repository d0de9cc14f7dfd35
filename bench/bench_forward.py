"""Time of a forward of the default model by the number of its tokens, against reading its weights.

    python bench/bench_forward.py --out bench/results/forward.jsonl

`of_read`: the bytes of all weights over the time, as a share of a streaming read.  What
`tapout_engine.slot_cost` charges for a token comes from here.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import torch
from harness import environment, read_gb_s, summary, write_rows

from tapout_engine.models import Decoder
from tapout_engine.models.forwards import Forwards
from tapout_engine.models.linear import weights_read
from tapout_engine.session import Session

TOKENS = (1, 2, 3, 4, 5, 6, 8, 9, 12, 16, 20, 24, 32, 36, 64, 72)
PAST = 256  # tokens in the cache
RUNS = 41


@torch.no_grad()
def measure(dtype: str) -> list[dict[str, object]]:
    """One request up to 9 tokens, then four together; widths take turns, so that all of them see
    the same machine."""
    decoder = Session(dtype=dtype).target.decoder
    nbytes = weights_read(decoder) * decoder.embedding.element_size()
    forwards = {tokens: _forward(decoder, tokens) for tokens in TOKENS}
    samples: dict[int, list[float]] = {tokens: [] for tokens in TOKENS}
    for _ in range(RUNS):
        for tokens, forward in forwards.items():
            samples[tokens].append(_time_us(forward))
    rows: list[dict[str, object]] = []
    for tokens in TOKENS:
        found = summary(sorted(samples[tokens][1:]))
        gb_s = nbytes / found["median_us"] / 1e3
        rows.append({
            "op": "forward", "B": _batch(tokens), "N": tokens, "dtype": dtype, "gb_s": gb_s, **found
        })  # fmt: skip
    for row in rows:
        row["times_one"] = round(row["median_us"] / rows[0]["median_us"], 2)
    return rows


def _batch(tokens: int) -> int:
    return 1 if tokens <= 9 else 4


def _forward(decoder: Decoder, tokens: int) -> Callable[[], object]:
    batch = _batch(tokens)
    n = tokens // batch
    forwards = Forwards(decoder, decoder.cache(batch, PAST + n))
    rows = torch.randint(decoder.config.vocab_size, (batch, n)).tolist()
    return lambda: forwards(rows, [PAST] * batch, [n] * batch)


def _time_us(function: Callable[[], object]) -> float:
    begin = perf_counter()
    function()
    return (perf_counter() - begin) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    shared = {**environment(), "read_gb_s": round(read_gb_s(), 1)}
    rows = [row for dtype in ("bfloat16", "float32") for row in measure(dtype)]
    for row in rows:
        row["of_read"] = row["gb_s"] / shared["read_gb_s"]
        row["gb_s"] = round(row["gb_s"], 1)
    write_rows(arguments.out, [{**row, **shared} for row in rows])


if __name__ == "__main__":
    main()
