"""A decoder's layers, norms and products in the native library's CPU kernels, where they are.

Each function is what PyTorch's operators would compute one after the other, in one call: a forward
of one token is some three hundred of theirs, which cost as much as half of reading the weights.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

import tapout_kernels as tk

from .huge_pages import settled

HERE: bool = "cpu" in tk.available_backends("tree_attention", "cpu")
PANEL = 16  # outputs that lie side by side
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def serves(x: Tensor) -> bool:
    """Whether there are kernels for tensors like ``x``."""
    return HERE and x.device.type == "cpu" and x.dtype in DTYPES


def panels_of(weight: Tensor) -> Tensor:
    """[out, in] -> [ceil(out / 16), in, 16], the last panel padded with zeros.

    In bf16 two inputs' weights lie side by side, as processors multiply them:
    [ceil(out / 16), ceil(in / 2), 16 * 2].
    """
    together = inputs_together(weight.dtype)
    sizes = (0, -weight.shape[1] % together, 0, -len(weight) % PANEL)
    padded = torch.nn.functional.pad(weight, sizes)
    steps = padded.unflatten(1, (-1, together)).unflatten(0, (-1, PANEL)).transpose(1, 2)
    return settled(steps.flatten(2))


def rows_of(panels: Tensor, index: Tensor, inputs: int) -> Tensor:
    """A copy of some rows of the weights in panels: [n] int64 -> [n, in]."""
    steps = panels.unflatten(2, (PANEL, inputs_together(panels.dtype)))
    return steps[index // PANEL, :, index % PANEL].flatten(1)[:, :inputs]


def inputs_together(dtype: torch.dtype) -> int:
    """Inputs whose weights lie side by side."""
    return 2 if dtype == torch.bfloat16 else 1


def in_bytes(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 [out, in] and float32 [out]: each output's weights as multiples of a scale of its own,
    the largest being 127 of them."""
    scale = weight.float().abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
    return (weight.float() / scale[:, None]).round().to(torch.int8), scale


def linear(
    x: Tensor, panels: Tensor, scale: Tensor | None, bias: Tensor | None, outputs: int,
    out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """[rows, in] -> [rows, out]: x W^T + bias, the latter in float32; ``scale`` for int8 weights.

    A row's bits depend on that row alone, not on how many there are.
    """
    y = x.new_empty(len(x), outputs) if out is None else out
    torch.ops.tapout_kernels.linear.default(x, panels, scale, bias, y)
    return y


def rms_norm(
    x: Tensor, delta: Tensor | None, weight: Tensor, eps: float, out: Tensor | None = None
) -> Tensor:
    """x / rms(x) * weight over the last dimension, after ``delta`` was added to ``x`` in place;
    ``out`` is contiguous, and of two dimensions as ``x`` then."""
    rows = x if x.dim() == 2 else x.view(-1, x.shape[-1])
    more = None if delta is None else delta.view(rows.shape)
    normed = torch.empty_like(rows) if out is None else out
    torch.ops.tapout_kernels.rms_norm.default(rows, more, weight, eps, normed)
    return normed if x.dim() == 2 else normed.view(x.shape)


def copy_rows(
    source: Tensor, out: Tensor, take: Tensor | None = None, place: Tensor | None = None
) -> None:
    """``out[place[i]] = source[take[i]]``, both [rows, size]; ``take``, ``place`` [n] int64, or i.

    Rows that ``source`` has not are zeros, those that ``out`` has not are left out.
    """
    torch.ops.tapout_kernels.copy_rows.default(source, take, place, out)


def head_inputs(
    ids: Tensor, embedding: Tensor, states: Tensor, token_norm: Tensor, state_norm: Tensor,
    eps: float,
) -> Tensor:  # fmt: skip
    """[T], [V, size], [T, size] -> [T, 2 size]: embeddings of tokens, normed, beside states,
    normed."""
    normed = states.new_empty(len(states), 2 * states.shape[1])
    operator = torch.ops.tapout_kernels.head_inputs.default
    operator(ids, embedding, states, token_norm, state_norm, eps, normed)
    return normed


class LayerWeights(NamedTuple):
    """What ``decoder_layer`` reads of a layer: products in panels, the bias in float32."""

    before: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    q_norm: Tensor | None
    k_norm: Tensor | None
    out: Tensor
    between: Tensor
    gate_up: Tensor
    down: Tensor
    scale: Tensor | None  # of int8 panels: of each output of the products in their order
    heads: int
    eps: float


class Tokens(NamedTuple):
    """The T tokens of a forward, those of a row side by side."""

    cos: Tensor  # [T, head_dim]
    sin: Tensor  # [T, head_dim], with the sign that `rotary.rotate` needs
    slot: Tensor  # [T] int64, of the cache
    start: Tensor  # [B+1] int32, the first token of each row
    past: Tensor  # [B] int32
    tree_mask: Tensor | None  # as of `tapout_kernels.tree_attention`
    among: int


def decoder_layer(
    x: Tensor, tokens: Tokens, kept: tuple[Tensor, Tensor], weights: LayerWeights
) -> None:
    """One layer, ``x`` [T, hidden] in place; ``kept``: keys and values [B, kv_heads, slots, d]."""
    torch.ops.tapout_kernels.decoder_layer.default(x, *tokens, *kept, *weights)
