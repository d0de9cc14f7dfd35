"""The plots of the study, from its rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from study_short import BOTH
from study_tables import best_fixed, of, sections, speed, streams

from tapout_engine.replay.report import Rows, names

COLUMNS, DPI, COLOURS = 3, 70, 256


def plots(folder: Path, rows: Rows) -> None:
    """Write every plot that the page shows."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in PLOTS.items():
        figure = make(rows)
        figure.savefig(drawn := BytesIO(), dpi=DPI)
        plt.close(figure)
        Image.open(drawn).convert("RGB").quantize(COLOURS).save(
            folder / f"{name}.png", optimize=True
        )


def _speeds(rows: Rows) -> Figure:
    """Two policies of each set of arms beside its best arm and the oracle."""
    figure, axes = plt.subplots(figsize=(12, 4), layout="constrained")
    bars: dict[str, Callable[[str], float]] = {}
    for section in sections(rows):
        for label in ("ucb1, blend", "ucb1, throughput"):
            if of(rows, section, way="policy", label=label):
                bars[f"{section}: {label}"] = lambda stream, section=section, label=label: speed(
                    of(rows, section, stream=stream, way="policy", label=label)
                )
        bars[f"{section}: best fixed arm"] = lambda stream, section=section: best_fixed(
            rows, section, stream
        )[1]
    bars["oracle of head and lookup"] = lambda stream: speed(
        of(rows, BOTH, stream=stream, way="oracle")
    )
    place, width = np.arange(len(streams(rows))), 0.85 / len(bars)
    for index, (label, value) in enumerate(bars.items()):
        heights = [value(stream) for stream in streams(rows)]
        colour = plt.get_cmap("tab20")(index % 20)
        axes.bar(place + index * width, heights, width, label=label, color=colour)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set(ylabel="tokens a time, no drafts = 1")
    axes.set_xticks(place + 0.4, streams(rows))
    figure.legend(fontsize="x-small", loc="outside right center")
    return figure


def _each_stream(rows: Rows, draw: Callable[[Axes, str], None]) -> Figure:
    shown = streams(rows)
    lines = -(-len(shown) // COLUMNS)
    figure, axes = plt.subplots(
        lines, COLUMNS, figsize=(4.4 * COLUMNS, 3 * lines), layout="constrained", squeeze=False
    )
    for unused in axes.flat[len(shown) :]:
        unused.axis("off")
    for each, stream in zip(axes.flat, shown, strict=False):
        draw(each, stream)
        each.set_title(stream)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize="x-small", loc="outside lower center", ncols=4)
    return figure


def _sweep(rows: Rows, section: str, key: str, value: str, what: str) -> Figure:
    own = [row for row in rows if row["section"] == section and row.get(key) is not None]
    at = sorted(names(own, key))
    labels = names([row for row in own if row["way"] == "policy"], "label")

    def draw(axes: Axes, stream: str) -> None:
        def line(name: str, way: str, **wanted: str) -> None:
            found = [of(rows, section, stream=stream, way=way, **wanted, **{key: x}) for x in at]
            heights = [max((row[value] for row in each), default=np.nan) for each in found]
            axes.plot(at, heights, marker=".", linewidth=1.2, label=name)

        for label in labels:
            line(label, "policy", label=label)
        line("best fixed arm", "arm")
        line("best static", "static")
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set(xlabel=what, ylabel=f"speed{', second half' * (value != 'speed')}", xscale="log")

    return _each_stream(rows, draw)


def _regret(rows: Rows) -> Figure:
    def draw(axes: Axes, stream: str) -> None:
        for section in sections(rows):
            for row in of(rows, section, stream=stream, way="policy"):
                if "regret" in row and row["label"] in ("ucb1, blend", "ucb1, throughput"):
                    share = np.linspace(0, 1, len(row["regret"]))
                    label = f"{section}: {row['label']}"
                    axes.plot(share, row["regret"], linewidth=1.2, label=label)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set(xlabel="share of the tokens", ylabel="forwards beyond the best arm's")

    return _each_stream(rows, draw)


PLOTS: dict[str, Callable[[Rows], Figure]] = {
    "speed": _speeds,
    "regret": _regret,
    "cost": lambda rows: _sweep(
        rows, "cost", "cost_ratio", "speed", "draft step, in target forwards"
    ),
    "load": lambda rows: _sweep(rows, "load", "batch", "second_half", "requests together"),
}


def files() -> Sequence[str]:
    """Names of the plots."""
    return [f"{name}.png" for name in PLOTS]
