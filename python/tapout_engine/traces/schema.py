"""The file of a trace: one safetensors file, its schema versioned and checked when it is read.

P positions (tokens of the target's output) of R requests, D drafters, K slots:

``start`` [R + 1] i64
    Request r has the positions ``start[r]`` to ``start[r + 1]``.
``domain`` [R] i32, ``key`` [R] i64, ``prompt_length`` [R] i32
    Index into the domains; the random key; tokens of the prompt.
``tokens`` [P] i32
    What the target said at each position.
``budget`` [P] i32
    The longest draft that live decoding allows there.
``drafts`` [P, D, K] i32, ``offered`` [P, D] i32
    What each drafter says after the tokens before the position; -1 after the offered ones.
``stats`` [P, D, K, 8] f32
    Statistics of each slot, as ``draft_step`` leaves them in a proposal.
``accepted`` [P, D] i32
    Drafts that the target says itself, from the first on; it was asked beyond its own end.

The metadata are ``format``, ``version`` and ``meta``, a JSON object: :class:`TraceMeta`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np

from ..errors import EngineError

FORMAT, VERSION = "tapout-trace", 1
STATS = 8
_I32, _I64, _F32 = np.dtype(np.int32), np.dtype(np.int64), np.dtype(np.float32)
_TENSORS = {  # name -> dtype, dimensions: their names, or the number of a fixed one
    "start": (_I64, ("R + 1",)),
    "domain": (_I32, ("R",)),
    "key": (_I64, ("R",)),
    "prompt_length": (_I32, ("R",)),
    "tokens": (_I32, ("P",)),
    "budget": (_I32, ("P",)),
    "drafts": (_I32, ("P", "D", "K")),
    "offered": (_I32, ("P", "D")),
    "stats": (_F32, ("P", "D", "K", STATS)),
    "accepted": (_I32, ("P", "D")),
}


@dataclass(frozen=True)
class TraceMeta:
    """How a trace was made.

    Parameters
    ----------
    target : str
    drafters : list of str
        Names, as arms say them.
    always : list of bool
        Drafters that are asked even where they have nothing to offer: all but prompt lookup.
    cost_ratio : list of float
        What live decoding tells the bandit a draft step of each costs, in target forwards.
    slots : int
        K.
    rule : {"greedy", "gumbel"}
    temperature : float
    seed : int
    domains : list of str
    verify_seconds : list of float
        Measured: a verification of 0 to K drafts, one request.
    draft_seconds, catch_up_seconds : list of float
        Measured: a draft step of each drafter; reading one token it has missed.
    made_with : dict
        Versions, threads and machine.
    """

    target: str
    drafters: list[str]
    always: list[bool]
    cost_ratio: list[float]
    slots: int
    rule: str
    temperature: float
    seed: int
    domains: list[str]
    verify_seconds: list[float] = field(default_factory=list)
    draft_seconds: list[float] = field(default_factory=list)
    catch_up_seconds: list[float] = field(default_factory=list)
    made_with: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Trace:
    """A trace in memory; see the module for its arrays."""

    meta: TraceMeta
    start: np.ndarray
    domain: np.ndarray
    key: np.ndarray
    prompt_length: np.ndarray
    tokens: np.ndarray
    budget: np.ndarray
    drafts: np.ndarray
    offered: np.ndarray
    stats: np.ndarray
    accepted: np.ndarray

    @property
    def positions(self) -> int:
        return len(self.tokens)

    @property
    def requests(self) -> int:
        return len(self.domain)

    @property
    def request(self) -> np.ndarray:
        """[P] the request of every position."""
        return np.repeat(np.arange(self.requests), np.diff(self.start))

    @property
    def position(self) -> np.ndarray:
        """[P] where in its sequence each position is, the prompt counted."""
        first = (self.prompt_length - self.start[:-1])[self.request]
        return np.arange(self.positions) + first


def assemble(meta: TraceMeta, domain: Sequence[int], parts: Sequence[Mapping]) -> Trace:
    """A trace of requests, each with its domain and, but for it and ``start``, its arrays."""
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    start = np.concatenate(([0], np.cumsum([len(part["tokens"]) for part in parts])))
    return Trace(meta, start=start.astype(_I64), domain=np.array(domain, _I32), **joined)


def save_trace(trace: Trace, path: Path) -> None:
    """Write a trace; a file of that name is replaced once the new one is complete."""
    from safetensors.numpy import save_file

    partial = path.with_name(path.name + ".partial")
    arrays = {name: np.ascontiguousarray(getattr(trace, name)) for name in _TENSORS}
    meta = json.dumps(asdict(trace.meta))
    save_file(arrays, partial, {"format": FORMAT, "version": str(VERSION), "meta": meta})
    os.replace(partial, path)


def load_trace(path: Path) -> Trace:
    """Read a trace and check everything it says.

    Raises
    ------
    EngineError
        If the file cannot be read, is no trace of this version, or contradicts itself; the
        message names the file, the part, what was expected and what was found.
    """
    from safetensors import safe_open

    try:
        with safe_open(path, "numpy") as file:
            about = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise EngineError(f"trace: {path} cannot be read: {error}") from error
    if (about.get("format"), about.get("version")) != (FORMAT, str(VERSION)):
        found = f"{about.get('format')!r}, version {about.get('version')}"
        raise EngineError(
            f"trace: {path}: format must be {FORMAT!r}, version {VERSION}, got {found}"
        )
    check = _Check(path)
    trace = Trace(check.meta(about.get("meta", "")), **check.names(arrays))
    check.arrays(trace)
    check.numbers(trace)
    return trace


class _Check:
    """Complaints about one file."""

    def __init__(self, path: Path):
        self.path = path

    def that(self, right: bool, part: str, expected: object, got: object) -> None:
        if not right:
            raise EngineError(f"trace: {self.path}: {part} must be {expected}, got {got}")

    def meta(self, text: str) -> TraceMeta:
        known = [entry.name for entry in fields(TraceMeta)]
        try:
            found = json.loads(text)
            names = sorted(found)
        except (ValueError, TypeError):
            found, names = {}, text[:40]
        self.that(names == sorted(known), "meta", f"an object with {', '.join(known)}", names)
        meta = TraceMeta(**found)
        drafters = len(meta.drafters)
        for name, size in (
            ("always", drafters), ("cost_ratio", drafters), ("draft_seconds", drafters),
            ("catch_up_seconds", drafters), ("verify_seconds", meta.slots + 1),
        ):  # fmt: skip
            got = len(getattr(meta, name))
            self.that(got == size, f"meta: {name}", f"a list of {size}", f"{got} entries")
        self.that(meta.rule in ("greedy", "gumbel"), "meta: rule", "greedy or gumbel", meta.rule)
        return meta

    def names(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        expected, got = sorted(_TENSORS), sorted(arrays)
        self.that(got == expected, "tensors", ", ".join(expected), ", ".join(got))
        return arrays

    def arrays(self, trace: Trace) -> None:
        meta = trace.meta
        sizes = {
            "R": trace.domain.size, "R + 1": trace.domain.size + 1, "P": trace.tokens.size,
            "D": len(meta.drafters), "K": meta.slots,
        }  # fmt: skip
        for name, (dtype, dimensions) in _TENSORS.items():
            array = getattr(trace, name)
            shape = tuple(sizes.get(dimension, dimension) for dimension in dimensions)
            self.that(array.dtype == dtype, name, dtype, array.dtype)
            self.that(array.shape == shape, name, list(shape), list(array.shape))

    def numbers(self, trace: Trace) -> None:
        start, slots = trace.start, trace.meta.slots
        rises = start[0] == 0 and start[-1] == trace.positions and (np.diff(start) > 0).all()
        self.that(rises, "start", f"rising from 0 to {trace.positions}", start)
        self._between(trace, "domain", 0, len(trace.meta.domains) - 1)
        self._between(trace, "budget", 0, slots)
        self._between(trace, "offered", 0, slots)
        self._between(trace, "prompt_length", 1, np.iinfo(np.int32).max)
        self._between(trace, "tokens", 0, np.iinfo(np.int32).max)
        there = np.arange(slots) < trace.offered[..., None]  # [P, D, K]
        self.that(((trace.drafts >= 0) == there).all(), "drafts", "ids where offered, else -1",
                  "others")  # fmt: skip
        probability = trace.stats[..., 2:4]
        sane = np.isfinite(trace.stats).all() and probability.min(initial=0) >= 0
        self.that(sane and probability.max(initial=0) <= 1.00001, "stats",
                  "finite, with probabilities in [0, 1]", "others")  # fmt: skip
        self._accepted(trace)

    def _between(self, trace: Trace, name: str, least: int, most: int) -> None:
        array = getattr(trace, name)
        if array.size:
            found = array.min(), array.max()
            right = found[0] >= least and found[1] <= most
            self.that(right, name, f"in [{least}, {most}]", f"[{found[0]}, {found[1]}]")

    def _accepted(self, trace: Trace) -> None:
        """As far as the trace goes, what is accepted is what the target said."""
        ends = trace.start[1:][trace.request]  # [P]
        place = np.arange(trace.positions)[:, None] + np.arange(trace.meta.slots)  # [P, K]
        known = place < ends[:, None]
        said = np.where(known, trace.tokens[np.minimum(place, trace.positions - 1)], -2)
        matches = np.cumprod(trace.drafts == said[:, None], axis=-1).sum(-1)  # [P, D]
        left = (ends - np.arange(trace.positions))[:, None]
        right = (np.minimum(trace.accepted, left) == matches).all()
        self.that(right and (trace.accepted <= trace.offered).all(), "accepted",
                  "the number of drafts that are the target's own tokens", "others")  # fmt: skip
