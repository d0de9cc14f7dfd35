"""A decoder from the weights of a Hugging Face model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import DecoderConfig
from .decoder import Attention, Decoder, FeedForward, Layer, RMSNorm
from .linear import Linear
from .rotary import Rotary


def decoder_of(model: nn.Module, max_length: int | None = None) -> Decoder:
    """A decoder that computes what ``model`` does.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Of a family in :data:`.config.FAMILIES`; safetensors or GGUF, it has been loaded already.
    max_length : int, optional
        Rotary tables for so many positions; by default as many as the model was made for.

    Returns
    -------
    Decoder
        With copies of the weights: ``model`` may be dropped.

    Raises
    ------
    EngineError
        For an architecture that the decoder does not compute.
    """
    config = DecoderConfig.of(model.config)
    body = model.model
    layers = [_layer(config, layer) for layer in body.layers]
    embedding = _plain(body.embed_tokens.weight)
    rotary = Rotary(
        body.rotary_emb.inv_freq, body.rotary_emb.attention_scaling,
        max_length or config.max_length, embedding.dtype,
    )  # fmt: skip
    norm = _norm(config, body.norm)
    return Decoder(config, embedding, layers, norm, _fused(model.lm_head), rotary)


def _layer(config: DecoderConfig, layer: nn.Module) -> Layer:
    mine, mlp = layer.self_attn, layer.mlp
    qkv = _fused(mine.q_proj, mine.k_proj, mine.v_proj)
    attention = Attention(config, qkv, _fused(mine.o_proj))
    if config.qk_norm:
        attention.q_norm = _norm(config, mine.q_norm)
        attention.k_norm = _norm(config, mine.k_norm)
    feed = FeedForward(_fused(mlp.gate_proj, mlp.up_proj), _fused(mlp.down_proj))
    before, between = layer.input_layernorm, layer.post_attention_layernorm
    return Layer(attention, feed, _norm(config, before), _norm(config, between))


def _norm(config: DecoderConfig, norm: nn.Module) -> RMSNorm:
    return RMSNorm(_plain(norm.weight), config.norm_eps)


def _fused(*parts: nn.Linear) -> Linear:
    """One product for several that read the same input."""
    weight = torch.cat([_plain(part.weight) for part in parts])
    if parts[0].bias is None:
        return Linear(weight)
    return Linear(weight, torch.cat([_plain(part.bias) for part in parts]))


def _plain(parameter: Tensor) -> Tensor:
    return parameter.detach().clone()
