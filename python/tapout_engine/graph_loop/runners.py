"""Ways to run the pieces of a round. What is emitted is the same, who decides is not.

| mode | how long a round drafts | the target reads | who asks |
|---|---|---|---|
| ``graph`` | while a row drafts | the least width that holds the drafts | the device |
| ``replay``, ``eager`` | K steps, without effect on rows that stopped | K + 1 tokens | nobody |
| ``checked`` | as ``graph`` | as ``graph`` | the host, after every step |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import torch

from ..errors import EngineError
from .round import Piece, Pieces

MODES = ("auto", "graph", "replay", "eager", "checked")


class Runner(Protocol):
    """Runs one round after the other."""

    def launch(self) -> None:
        """Enqueue a round."""


class Predicated:
    """As many steps as there are slots, then the widest verification: nothing is read."""

    def __init__(self, pieces: Pieces):
        self.pieces = pieces

    def launch(self) -> None:
        pieces = self.pieces
        pieces.before()
        for _ in range(pieces.slots):
            pieces.body()
        pieces.steps.fill_(pieces.slots)
        pieces.verify[pieces.slots]()
        pieces.after()


class Checked:
    """The host asks after every step whether a row drafts on."""

    def __init__(self, pieces: Pieces):
        self.pieces = pieces

    def launch(self) -> None:
        pieces, steps = self.pieces, 0
        pieces.before()
        while steps < pieces.slots and pieces.num_active.item():
            pieces.body()
            steps += 1
        pieces.steps.fill_(steps)
        pieces.verify[min(width for width in pieces.verify if width >= steps)]()
        pieces.after()


def graphs_unavailable() -> str | None:
    """Why a round cannot be one graph here, or None."""
    from tapout_kernels.round_graph import round_graphs_unavailable

    return round_graphs_unavailable()


def chosen_mode(mode: str, device: torch.device) -> str:
    """What ``auto`` is on a device; any other mode if it can run there.

    Raises
    ------
    EngineError
        For a mode that does not exist, or one that needs a GPU or a driver that is not there.
    """
    if mode not in MODES:
        raise EngineError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")
    gpu = device.type == "cuda"
    if mode == "auto":
        return "eager" if not gpu else "replay" if graphs_unavailable() else "graph"
    if mode in ("graph", "replay") and not gpu:
        raise EngineError(f"mode: {mode} needs a GPU, got {device}")
    reason = graphs_unavailable() if mode == "graph" else None
    if reason:
        raise EngineError(f"mode: graph is not there: {reason}")
    return mode


def runner_of(mode: str, pieces: Pieces, idle: Callable[[Pieces], None]) -> Runner:
    """The pieces as ``mode`` runs them.

    ``idle(pieces)`` runs all of them once, without any row and without a trace: what is compiled,
    or allocated at a first call, is before a capture.
    """
    if mode == "eager":
        return Predicated(pieces)
    if mode == "checked":
        return Checked(pieces)
    graphs = captured(pieces, idle, keep=mode == "graph")
    if mode == "replay":
        return Replayed(graphs)
    return one_graph(graphs)


def captured(pieces: Pieces, idle: Callable[[Pieces], None], keep: bool) -> Pieces:
    """CUDA graphs in place of the functions; they share one pool: none runs beside another."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            idle(pieces)
    torch.cuda.synchronize()
    pool = torch.cuda.graph_pool_handle()

    def capture(piece: Piece) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph(keep_graph=keep)
        with torch.cuda.graph(graph, pool=pool, stream=stream):
            piece()
        return graph

    return replace(
        pieces, before=capture(pieces.before), body=capture(pieces.body),
        verify={width: capture(piece) for width, piece in pieces.verify.items()},
        after=capture(pieces.after),
    )  # fmt: skip


class Replayed(Predicated):
    """The same, of captured graphs."""

    def __init__(self, graphs: Pieces):
        super().__init__(replace(
            graphs, before=graphs.before.replay, body=graphs.body.replay,
            verify={width: graph.replay for width, graph in graphs.verify.items()},
            after=graphs.after.replay,
        ))  # fmt: skip


def one_graph(graphs: Pieces) -> Runner:
    """All of a round as one graph, with a loop and a branch inside."""
    from tapout_kernels.round_graph import RoundGraph

    return RoundGraph(
        graphs.before, graphs.body, graphs.verify, graphs.after,
        num_active=graphs.num_active, steps=graphs.steps, slots=graphs.slots,
    )  # fmt: skip
