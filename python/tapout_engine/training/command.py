"""The ``train-draft`` command: from a model to a drafter for it."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from ..errors import EngineError
from ..loading import HEAD_FILE, LoadedModel, load
from ..models import Decoder, SavedHead, read_head
from ..models.linear import multiplies
from ..models.weights import decoder_of
from ..progress import progress_bar
from ..prompts import DEMO_PROMPTS
from ..session import head_folder
from .batches import split
from .corpus import HeldOut, check_paths, held_out_files
from .data import ANSWERS, BATCH, CURIOSITY, Collector, Sources
from .loop import Trainer
from .report import write_card, write_curves, write_manifest
from .shards import Shard, Shards
from .students import HeadStudent, LlamaStudent, Student

DATA = 2 / 3  # of the time goes into texts and hidden states
SETTINGS = (
    "target", "kind", "text", "prompts", "held_out", "init_from", "layers", "vocab", "steps",
    "seed",
)  # fmt: skip


def run(arguments: argparse.Namespace, say: Callable[..., None] = print) -> int:
    """Train a drafter into ``arguments.out``, or go on with one that was cut off."""
    check_paths(arguments.text, arguments.prompts)
    if arguments.kind == "llama" and arguments.init_from is not None:
        raise EngineError("train-draft: init-from is for heads: expected none with --kind llama")
    out = Path(arguments.out)
    work = out / "work"
    work.mkdir(parents=True, exist_ok=True)
    loaded = load(arguments.target, "bfloat16", say)
    target = decoder_of(loaded.model).to(arguments.device)
    begun = _begun(arguments, target)
    held_out = HeldOut.of(arguments.held_out, *DEMO_PROMPTS.values())
    _same_settings(work / "settings.json", arguments)
    shards = Shards(work / "shards")
    _collect(arguments, loaded, target, held_out, shards)
    train, judged = split(shards)
    student = _student(arguments, loaded, target, train, begun)
    seconds = (1 - DATA) * 60 * arguments.minutes
    dtype = torch.bfloat16
    if torch.device(arguments.device).type == "cpu" and not multiplies(dtype):
        dtype = torch.float32
    full_head = target.head.rows(torch.arange(target.config.vocab_size)).to(dtype)
    trainer = Trainer(
        student, full_head, train, judged, seconds, work / "checkpoint.pt", arguments.seed
    )
    with progress_bar(round(seconds), "s", "training") as bar:
        trainer.run(lambda progress, losses: bar.update(int(progress.seconds) - bar.n))
    student.save(out, loaded.name)
    write_curves(out, trainer)
    manifest = _manifest(arguments, loaded, shards, held_out, trainer)
    write_manifest(out / "manifest.json", manifest)
    write_card(out, manifest)
    say(f"wrote {out}: use it with --draft {out}")
    return 0


def _begun(arguments: argparse.Namespace, target: Decoder) -> SavedHead | None:
    """The head to go on with."""
    if arguments.init_from is None:
        return None
    return read_head(head_folder(arguments.init_from) / HEAD_FILE, target.config)


def _same_settings(path: Path, arguments: argparse.Namespace) -> None:
    """What a run began with it goes on with; only its time may change."""
    settings = {
        name: [str(path) for path in value] if isinstance(value, list) else value
        for name, value in ((name, getattr(arguments, name)) for name in SETTINGS)
    }
    if not path.exists():
        path.write_text(json.dumps(settings))
    elif json.loads(path.read_text()) != settings:
        raise EngineError(
            f"train-draft: {path.parent.parent} was begun with other settings: "
            "repeat them, or choose another --out"
        )


def _collect(
    arguments: argparse.Namespace, loaded: LoadedModel, target: Decoder, held_out: HeldOut,
    shards: Shards,
) -> None:  # fmt: skip
    sources = Sources(arguments.text, arguments.prompts, held_out)
    packed = decoder_of(loaded.model).to(arguments.device).pack(BATCH)
    collector = Collector(packed, loaded.tokenizer, loaded.eos, sources, arguments.seed)
    seconds = DATA * 60 * arguments.minutes
    with progress_bar(round(seconds), "s", "texts") as bar:
        collector.collect(shards, seconds, lambda kind, n, spent: bar.update(int(spent) - bar.n))


def _student(
    arguments: argparse.Namespace, loaded: LoadedModel, target: Decoder, train: list[Path],
    begun: SavedHead | None,
) -> Student:  # fmt: skip
    torch.manual_seed(arguments.seed)
    if arguments.kind == "llama":
        return LlamaStudent(target, loaded.tokenizer, layers=arguments.layers)
    if begun is not None:
        d2t = begun.d2t[: arguments.vocab].long()
    else:
        d2t = frequent(train, target.config.vocab_size, arguments.vocab)
    return HeadStudent(target, d2t, arguments.layers, arguments.steps, begun)


def frequent(train: list[Path], vocab_size: int, size: int) -> torch.Tensor:
    """The ``size`` tokens seen most often, the most frequent first: [size] int64."""
    counts = sum(torch.bincount(Shard(path).tokens, minlength=vocab_size) for path in train)
    return counts.sort(descending=True, stable=True).indices[:size]


def _manifest(
    arguments: argparse.Namespace, loaded: LoadedModel, shards: Shards, held_out: HeldOut,
    trainer: Trainer,
) -> dict:  # fmt: skip
    data: dict[str, dict[str, int]] = {}
    files = [Shard(path) for path in shards.files()]
    for shard in files:
        found = data.setdefault(shard.kind, {"texts": 0, "tokens": 0})
        found["texts"] += len(shard.spans)
        found["tokens"] += len(shard.tokens)
    return {
        "target": loaded.name,
        "kind": arguments.kind,
        "licence": "Apache-2.0",
        "description": _description(arguments, trainer.student),
        "init_from": _origin(arguments.init_from),
        "text": [path.name for path in arguments.text],
        "prompts": [path.name for path in arguments.prompts],
        "temperatures": [CURIOSITY, *ANSWERS],
        "data": data,
        "data_seconds": sum(shard.seconds for shard in files),
        "training": asdict(trainer.progress),
        "judged": {kind: sum(len(b.tokens) for b in v) for kind, v in trainer.judged.items()},
        "held_out": [
            {"name": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            for path in held_out_files(arguments.held_out)
        ]
        + [{"name": "demo prompts", "sha256": digest_of_demo()}],
        "dropped": held_out.dropped + sum(shard.dropped for shard in files),
        "acceptance": {kind: asdict(found) for kind, found in trainer.measured[-1][1].items()},
        "settings": {
            name: getattr(arguments, name)
            for name in ("layers", "vocab", "steps", "seed", "minutes")
        },
        "machine": _machine(),
        "note": arguments.note,
    }


def _origin(init_from: str | None) -> dict | None:
    """The head that training went on from: its file, and what it was trained on."""
    if init_from is None:
        return None
    folder = head_folder(init_from)
    manifest = folder / "manifest.json"
    return {
        "name": folder.name,
        "sha256": hashlib.sha256((folder / HEAD_FILE).read_bytes()).hexdigest(),
        "manifest": json.loads(manifest.read_text()) if manifest.exists() else None,
    }


def digest_of_demo() -> str:
    """sha256 of the demo's prompts, which every drafter is kept from."""
    return hashlib.sha256("\0".join(DEMO_PROMPTS.values()).encode()).hexdigest()


def _description(arguments: argparse.Namespace, student: Student) -> str:
    weights = sum(p.numel() for p in student.module.parameters())
    if arguments.kind == "llama":
        return f"A Llama of {arguments.layers} layers, {weights / 1e6:.1f} M weights."
    return (
        f"An EAGLE-style head of {len(student.module.layers)} decoder layer(s), "
        f"{weights / 1e6:.1f} M weights, on the target's last hidden state, with the target's own "
        f"embedding and head; it scores {len(student.vocab)} frequent tokens. Trained for "
        f"{arguments.steps} steps on its own features."
    )


def _machine() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} {platform.machine()} CPU cores, torch {torch.__version__}"
