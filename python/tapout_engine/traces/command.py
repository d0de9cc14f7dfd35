"""The ``trace record`` command: from prompts to one file, going on where it was cut off."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

import tapout_kernels as tk

from ..engine import Drafter
from ..errors import EngineError
from ..progress import progress_bar
from ..prompts import DEMO_PROMPTS
from ..requests import Request
from ..session import Session
from ..slot_cost import slot_cost
from ..training.corpus import prompts as prompts_of
from .costs import BEHIND, measure
from .recorder import Recorded, Recorder
from .schema import Trace, TraceMeta, assemble, save_trace

CONTEXT = 256  # tokens of context at which costs are measured, at most
SETTINGS = (
    "target", "dtype", "draft", "skip_layers", "prompts", "limit", "slots", "rule", "temperature",
    "max_new_tokens", "seed",
)  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """A prompt and the domain it stands for."""

    domain: str
    prompt: str


def run(arguments: argparse.Namespace, say: Callable[..., None] = print) -> int:
    """Record a trace into ``arguments.out``."""
    asked = read_prompts(arguments.prompts, arguments.limit)
    if arguments.rule == "greedy" and arguments.temperature:
        raise EngineError(
            "trace record: rule greedy is for temperature 0: expected --rule gumbel for "
            f"--temperature {arguments.temperature}"
        )
    parts = Parts(arguments.out.with_name(arguments.out.name + ".parts"), _settings(arguments))
    session = Session(arguments.target, arguments.dtype, say, arguments.device)
    drafters = drafters_of(session, arguments)
    recorder = Recorder(session.target, drafters, arguments.slots, arguments.rule)
    requests = [_request(session, entry.prompt, arguments) for entry in asked]
    _record(recorder, requests, parts, arguments)
    costs = measure(recorder, _context(parts, requests))
    domains = list(dict.fromkeys(entry.domain for entry in asked))
    meta = TraceMeta(
        target=session.name, drafters=list(drafters),
        always=[not lane.blocks for lane in recorder.lanes],
        cost_ratio=[
            slot_cost(drafter, 1, arguments.slots, session.target)
            for drafter in drafters.values()
        ],
        slots=arguments.slots, rule=arguments.rule, temperature=arguments.temperature,
        seed=arguments.seed, domains=domains, **costs, made_with=made_with(),
    )  # fmt: skip
    trace = parts.trace(meta, [domains.index(entry.domain) for entry in asked])
    save_trace(trace, arguments.out)
    parts.remove()
    say(summary(trace, arguments.out))
    return 0


def read_prompts(given: Sequence[str], limit: int | None) -> list[Asked]:
    """``DOMAIN=PATH`` each, files as ``train-draft --prompts`` reads them; none: the demo's."""
    if not given:
        return [Asked(domain, prompt) for domain, prompt in DEMO_PROMPTS.items()][:limit]
    found = []
    for entry in given:
        domain, equals, path = entry.partition("=")
        if not (domain and equals and path):
            raise EngineError(f"trace record: --prompts must be DOMAIN=PATH, got {entry}")
        try:
            texts = list(islice(prompts_of([Path(path)]), limit))
        except EngineError as error:
            message = str(error).replace("train-draft", "trace record", 1)
            raise EngineError(message) from None
        if not texts:
            raise EngineError(f"trace record: {path} must hold at least one prompt, got none")
        found += [Asked(domain, text) for text in texts]
    return found


class Parts:
    """What has been recorded so far, a file a request; settings must stay what they were."""

    def __init__(self, folder: Path, settings: dict[str, object]):
        self.folder = folder
        path = folder / "settings.json"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(settings))
        elif json.loads(path.read_text()) != settings:
            raise EngineError(
                f"trace record: {folder} was begun with other settings: repeat them, or choose "
                "another --out"
            )

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06}.safetensors"

    def missing(self, count: int) -> list[int]:
        return [number for number in range(count) if not self._path(number).exists()]

    def add(self, number: int, recorded: Recorded) -> None:
        partial = self._path(number).with_suffix(".partial")
        save_file(recorded.arrays(), partial)
        os.replace(partial, self._path(number))

    def read(self, number: int) -> dict[str, np.ndarray]:
        try:
            return load_file(self._path(number))
        except Exception as error:
            raise EngineError(
                f"trace record: {self._path(number)} cannot be read, remove it: {error}"
            ) from error

    def trace(self, meta: TraceMeta, domain: Sequence[int]) -> Trace:
        return assemble(meta, domain, [self.read(number) for number in range(len(domain))])

    def remove(self) -> None:
        shutil.rmtree(self.folder)


def summary(trace: Trace, path: Path) -> str:
    """A line for each drafter: how many of its drafts the target says itself."""
    lines = [f"wrote {path}: {trace.positions} positions of {trace.requests} requests"]
    for index, name in enumerate(trace.meta.drafters):
        mean = trace.accepted[:, index].mean()
        step = 1e3 * trace.meta.draft_seconds[index]
        lines.append(f"  {name}: {mean:.2f} drafts accepted of {trace.meta.slots}, {step:.2f} ms")
    lines.append(f"  verification without drafts: {1e3 * trace.meta.verify_seconds[0]:.2f} ms")
    return "\n".join(lines)


def _record(
    recorder: Recorder, requests: list[Request], parts: Parts, arguments: argparse.Namespace
) -> None:
    missing = parts.missing(len(requests))
    with progress_bar(len(requests), "request", "trace") as bar:
        bar.update(len(requests) - len(missing))
        asked = [requests[number] for number in missing]
        for number, entry in recorder.record(asked, missing, arguments.batch):
            parts.add(number, entry)
            bar.update()


def _request(session: Session, prompt: str, arguments: argparse.Namespace) -> Request:
    return Request(
        session.tokenizer.encode(prompt), arguments.max_new_tokens, arguments.temperature,
        seed=arguments.seed, eos=session.eos,
    )  # fmt: skip


def drafters_of(session: Session, arguments: argparse.Namespace) -> dict[str, Drafter]:
    """By the names that arms will say: of a folder the last part."""
    found: dict[str, Drafter] = {}
    for kind in arguments.draft:
        drafter = session.drafter(kind, arguments.skip_layers).drafter
        if isinstance(drafter, dict):
            raise EngineError(f"trace record: --draft names one drafter each, got {kind}")
        name = Path(kind).resolve().name if Path(kind).is_dir() else kind
        if name in found:
            raise EngineError(f"trace record: --draft must name different drafters, got two {name}")
        found[name] = drafter
    return found


def _context(parts: Parts, requests: list[Request]) -> list[int]:
    """The tokens of the longest request, or what comes of repeating them."""
    texts = (
        [*request.prompt, *parts.read(number)["tokens"].tolist()]
        for number, request in enumerate(requests)
    )
    longest = max(texts, key=len)
    return (longest * (BEHIND + 1))[-max(BEHIND + 1, min(len(longest), CONTEXT)) :]


def _settings(arguments: argparse.Namespace) -> dict[str, object]:
    found = {name: getattr(arguments, name) for name in SETTINGS}
    return json.loads(json.dumps(found))  # as they are read back


def made_with() -> dict[str, object]:
    return {
        "tapout_kernels": tk.__version__, "torch": torch.__version__,
        "threads": torch.get_num_threads(), "machine": platform.machine(),
    }  # fmt: skip
