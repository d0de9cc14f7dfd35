"""Small models for the engine's tests: a random Llama in float32, and a directory of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


def tiny_llama(
    seed: int, vocab: int = 96, layers: int = 4, perturb: float = 0.0, positions: int = 512
):
    """A float32 Llama whose random weights are large enough to have opinions."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocab, hidden_size=48, intermediate_size=96, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=positions,
        bos_token_id=0, eos_token_id=1, pad_token_id=1, initializer_range=0.15,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config).eval()
    if perturb:
        with torch.no_grad():
            for weight in model.parameters():
                weight += perturb * weight.std() * torch.randn_like(weight)
    return model


def tiny_tokenizer(vocab: int = 96):
    """One printable character a token, after the two special ones."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    characters = [chr(32 + i) for i in range(vocab - 2)]
    table = {"<s>": 0, "</s>": 1, **{c: i + 2 for i, c in enumerate(characters)}}
    tokenizer = Tokenizer(models.WordLevel(table, unk_token=" "))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="session")
def llama():
    return tiny_llama(seed=1)


@pytest.fixture(scope="session")
def model_dir(llama, tmp_path_factory) -> Path:
    """The tiny Llama as a model directory."""
    directory = tmp_path_factory.mktemp("tiny-llama")
    llama.save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return directory


def run_python(*arguments: str, text_in: str | None = None, **env: str):
    """Run Python with the repository's packages on its path."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "python"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        input=text_in, capture_output=True, text=True, timeout=300, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, **env}, check=False,
    )  # fmt: skip
