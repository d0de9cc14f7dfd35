"""The ``train-draft`` command from end to end, on a tiny model."""

from __future__ import annotations

import hashlib
import json
from types import SimpleNamespace

import pytest
import torch

from tapout_engine import Controller, PlainDecoder, Request, SpeculativeDecoder
from tapout_engine.adapters.head import HeadDrafter
from tapout_engine.adapters.static import StaticModel
from tapout_engine.cli import main
from tapout_engine.loading import load
from tapout_engine.models import load_head
from tapout_engine.models.weights import decoder_of
from tapout_engine.training import data, loop

from .conftest import tiny_llama
from .test_training import VOCAB
from .test_training_corpus import EIGHT
from .test_training_data import chatty


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """``train-draft`` on a tiny model, with clocks that make a run of 0.05 minutes short."""
    small = {"BATCH": 4, "LENGTH": 24, "ASKED": 14, "CHUNK": 10, "SHORT": 3, "READ": 2}
    for name, value in small.items():
        monkeypatch.setattr(data, name, value)
    ticks = iter(range(10**9))
    monkeypatch.setattr(data, "perf_counter", lambda: next(ticks) / 4)
    monkeypatch.setattr(loop, "perf_counter", lambda: next(ticks) / 10)
    monkeypatch.setattr(loop, "TOKENS", 96)
    target = tmp_path / "tiny-target"
    tiny_llama(seed=1, layers=1).save_pretrained(target)
    chatty().save_pretrained(target)
    (tmp_path / "asked.txt").write_text("\n\n".join([*(f"q{i}" for i in range(24)), EIGHT]))
    (tmp_path / "read.md").write_text("".join(chr(40 + i % 79) for i in range(120)))
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge/a.jsonl").write_text(json.dumps({"turns": [EIGHT]}) + "\n")
    out = tmp_path / "out"
    capsys.readouterr()  # of making the target

    def run(*arguments, target=target):
        given = ["--out", out, "--target", target, "--prompts", tmp_path / "asked.txt",
                 "--text", tmp_path / "read.md", "--held-out", tmp_path / "judge",
                 "--minutes", "0.05", *arguments]  # fmt: skip
        code = main(["train-draft", *map(str, given)])
        return SimpleNamespace(code=code, error=capsys.readouterr().err)

    run.out, run.target = out, target
    return run


def check_files(out, kind: str, steps: int) -> dict:
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["target"], manifest["kind"]) == ("tiny-target", kind)
    assert set(manifest["data"]) == {"own", "prompt", "text"}
    for found in manifest["acceptance"].values():
        assert len(found["greedy"]) == len(found["sampled"]) == steps
        assert all(0 <= value <= 1 for value in found["greedy"] + found["sampled"])
    names = [file["name"] for file in manifest["held_out"]]
    assert names == ["a.jsonl", "demo prompts"]
    assert manifest["dropped"] == 1
    assert manifest["training"]["updates"] > 0
    for name in ("loss.png", "acceptance.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    card = (out / "README.md").read_text()
    for words in ("tiny-target", "asked.txt", "read.md", "a.jsonl", "| own, greedy |"):
        assert words in card
    return manifest


def test_a_head_from_a_model_directory(command):
    refused = command(target=command.out / "nowhere")
    assert refused.code == 2
    assert "nowhere" in refused.error
    arguments = ("--vocab", "40", "--steps", "2")
    first = command(*arguments)
    assert (first.code, first.error) == (0, "")
    manifest = check_files(command.out, "head", steps=2)
    model = load(str(command.target)).model
    decoder = decoder_of(model)
    head, static = load_head(command.out / "head.safetensors", decoder), StaticModel(decoder)
    assert len(head.d2t) == 40
    request = [Request([0, 55, 7], 20)]
    found = SpeculativeDecoder(static, HeadDrafter(head, static), Controller(slots=3))
    plain = PlainDecoder(StaticModel(decoder)).generate(request)[0].tokens
    assert found.generate(request)[0].tokens == plain

    other = command(*arguments, "--seed", "1")
    assert other.code == 2
    assert f"train-draft: {command.out} was begun with other settings" in other.error
    longer = command(*arguments, "--minutes", "0.1")
    assert longer.code == 0
    more = check_files(command.out, "head", steps=2)
    assert more["training"]["updates"] > manifest["training"]["updates"]
    assert more["data"]["own"]["texts"] > manifest["data"]["own"]["texts"]


def test_a_head_that_goes_on_from_another(command):
    assert command("--vocab", "40", "--steps", "2").code == 0
    old = load_head(command.out / "head.safetensors", decoder_of(load(str(command.target)).model))
    arguments = ("--out", command.out / "more", "--init-from", command.out, "--steps", "2",
                 "--note", "Of more texts.")  # fmt: skip
    assert command(*arguments, "--vocab", "30").code == 0
    manifest = check_files(command.out / "more", "head", steps=2)
    origin = manifest["init_from"]
    assert origin["name"] == "out"
    weights = (command.out / "head.safetensors").read_bytes()
    assert origin["sha256"] == hashlib.sha256(weights).hexdigest()
    assert origin["manifest"] == json.loads((command.out / "manifest.json").read_text())
    card = (command.out / "more/README.md").read_text()
    assert f"It went on from the head `out` (sha256 {origin['sha256'][:16]}…)" in card
    assert f"had seen {origin['manifest']['training']['tokens']} positions" in card
    assert "Of more texts." in card
    new = load_head(
        command.out / "more/head.safetensors", decoder_of(load(str(command.target)).model)
    )
    assert new.d2t.tolist() == old.d2t[:30].tolist()

    (command.out / "manifest.json").unlink()
    bare = ("--out", command.out / "bare", "--init-from", command.out, "--steps", "2")
    assert command(*bare).code == 0
    assert (
        json.loads((command.out / "bare/manifest.json").read_text())["init_from"]["manifest"]
        is None
    )
    other = command("--out", command.out / "more", "--steps", "2", "--vocab", "30")
    assert other.code == 2
    assert "other settings" in other.error
    missing = command("--out", command.out / "none", "--init-from", command.out / "nowhere")
    assert missing.code == 2
    assert "nowhere" in missing.error
    llama = command("--out", command.out / "llama", "--init-from", "head", "--kind", "llama")
    assert llama.code == 2
    assert "init-from is for heads" in llama.error


def test_a_llama_from_a_model_directory(command):
    """Wide vocabularies are cut to the target's; what is written loads as any model."""
    found = command("--kind", "llama")
    assert (found.code, found.error) == (0, "")
    check_files(command.out, "llama", steps=1)
    loaded = load(str(command.out))
    assert loaded.tokenizer.get_vocab() == load(str(command.target)).tokenizer.get_vocab()
    assert loaded.model.config.num_hidden_layers == 1
    logits = decoder_of(loaded.model).logits(torch.zeros(1, 1, 192))
    assert logits.shape == (1, 1, VOCAB)


def test_too_little_time_is_said(command):
    found = command("--minutes", "0")
    assert found.code == 2
    assert "train-draft: minutes must be enough" in found.error
