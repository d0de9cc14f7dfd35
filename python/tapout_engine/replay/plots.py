"""The plots of a comparison, from its rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from .report import Rows, best_arm, mean, names, plot_name, select, tracked

SHOWN = 6  # policies in a plot of curves: the fastest


def plots(folder: Path, rows: Rows, arms: Sequence[str]) -> None:
    """Write every plot that the report shows."""
    first = min(row["batch"] for row in rows)
    base = select(rows, cost_ratio=None, batch=first)
    streams = names(base, "stream")
    _save(_speeds(base, streams), folder / "speed.png")
    _save(_regret(base, streams), folder / "regret.png")
    _save(_accepted(base, streams), folder / "accepted.png")
    for stream in streams:
        _save(_shares(select(base, stream=stream), arms), folder / plot_name(stream))
    swept = [row for row in rows if row["cost_ratio"] is not None]
    if swept:
        axes = ("cost_ratio", "draft step, in target forwards", "speed")
        _save(_sweep(swept, streams, *axes), folder / "cost_ratio.png")
    if len(names(rows, "batch")) > 1:
        axes = ("batch", "requests together", "second_half")
        _save(_sweep(select(rows, cost_ratio=None), streams, *axes), folder / "batch.png")


def fastest(rows: Rows) -> list[str]:
    """Labels of the policies with the highest mean speed."""
    found = select(rows, way="policy")
    labels = names(found, "label")
    return sorted(labels, key=lambda label: -mean(select(found, label=label), "speed"))[:SHOWN]


def _grid(count: int, width: float = 5.0, height: float = 3.4) -> tuple[Figure, list]:
    columns = min(3, count)
    lines = -(-count // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(width * columns, height * lines), layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for unused in axes.flat[count:]:
        unused.axis("off")
    return figure, list(axes.flat[:count])


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _speeds(rows: Rows, streams: Sequence[str]) -> Figure:
    shown = tracked(rows)
    figure, axes = plt.subplots(figsize=(5 + 2.2 * len(streams), 5), layout="constrained")
    width, colours = 0.8 / len(shown), plt.get_cmap("tab20")
    for index, (label, of) in enumerate(shown.items()):
        speeds = [mean(of(select(rows, stream=stream)) or [{"speed": np.nan}], "speed")
                  for stream in streams]  # fmt: skip
        place = np.arange(len(streams)) + index * width
        axes.bar(place, speeds, width, label=label, color=colours(index % 20))
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set(ylabel="tokens a time, no drafts = 1")
    axes.set_xticks(np.arange(len(streams)) + 0.4 - width / 2, streams)
    figure.legend(fontsize="x-small", loc="outside right center")
    return figure


def _regret(rows: Rows, streams: Sequence[str]) -> Figure:
    figure, each = _grid(len(streams))
    for axes, stream in zip(each, streams, strict=True):
        own = select(rows, stream=stream, way="policy")
        for label in fastest(own):
            curve = select(own, label=label)[0]["curves"]
            axes.plot(curve["rounds"], curve["regret"], label=label, linewidth=1.2)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set(title=stream, xlabel="rounds", ylabel="target forwards beyond the best arm's")
        axes.legend(fontsize="x-small")
    return figure


def _shares(rows: Rows, arms: Sequence[str]) -> Figure:
    labels = fastest(rows)
    figure, each = _grid(len(labels))
    for axes, label in zip(each, labels, strict=True):
        shares = np.array(select(rows, way="policy", label=label)[0]["curves"]["shares"])
        place = np.linspace(0, 1, shares.shape[1])
        axes.stackplot(place, shares, labels=arms)
        axes.set(title=label, xlabel="share of the rounds", ylabel="share of arms",
                 xlim=(0, 1), ylim=(0, 1))  # fmt: skip
    each[0].legend(fontsize="xx-small", loc="lower left")
    return figure


def _accepted(rows: Rows, streams: Sequence[str]) -> Figure:
    figure, each = _grid(len(streams))
    for axes, stream in zip(each, streams, strict=True):
        own = select(rows, stream=stream)
        ways = {
            f"best fixed arm: {best_arm(own)}": select(own, way="arm", label=best_arm(own)),
            fastest(own)[0]: select(own, way="policy", label=fastest(own)[0]),
            "oracle": select(own, way="oracle"),
        }
        for index, (label, found) in enumerate((k, v) for k, v in ways.items() if v):
            lengths = np.array(found[0]["lengths"], dtype=float)
            place = np.arange(len(lengths)) + 0.27 * (index - 1)
            axes.bar(place, lengths / lengths.sum(), 0.27, label=label)
        axes.set(title=stream, xlabel="accepted drafts of a round", ylabel="share of rounds")
        axes.legend(fontsize="x-small")
    return figure


def _sweep(rows: Rows, streams: Sequence[str], key: str, what: str, value: str) -> Figure:
    figure, each = _grid(len(streams))
    for axes, stream in zip(each, streams, strict=True):
        own = select(rows, stream=stream)
        kept = {*fastest(own), "best fixed arm", "oracle"}
        for label, of in tracked(own).items():
            points = [(at, mean(found, value)) for at in sorted(names(own, key))
                      if (found := of(select(own, **{key: at})))]  # fmt: skip
            if label in kept and len(points) > 1:
                axes.plot(*zip(*points, strict=True), marker=".", label=label, linewidth=1.2)
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set(title=stream, xlabel=what, ylabel=f"speed{', second half' * (value != 'speed')}")
        if key == "batch":
            axes.set_xscale("log", base=2)
        axes.legend(fontsize="x-small")
    return figure
