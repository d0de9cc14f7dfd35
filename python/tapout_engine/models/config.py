"""What a Llama-family decoder is made of, read off a Hugging Face configuration."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import EngineError

# What differs from plain Llama inside a layer is the bias and the norm of queries and keys.
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


def unsupported(config) -> str | None:
    """What of a ``transformers`` configuration the decoder does not compute, or None."""
    if config.model_type not in FAMILIES:
        return f"model_type must be one of {', '.join(FAMILIES)}, got {config.model_type!r}"
    if config.hidden_act != "silu":
        return f"hidden_act must be 'silu', got {config.hidden_act!r}"
    if getattr(config, "mlp_bias", False):
        return "feed-forwards must have no bias, got mlp_bias"
    if getattr(config, "sliding_window", None) is not None:
        return f"attention must be full, got a sliding window of {config.sliding_window}"
    return None


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of a decoder of pre-normed layers with rotary positions and gated feed-forwards."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    norm_eps: float
    max_length: int  # positions there are rotary tables for
    qkv_bias: bool
    qk_norm: bool  # queries and keys are normed, head by head

    @classmethod
    def of(cls, config) -> DecoderConfig:
        """Of a ``transformers`` configuration.

        Raises
        ------
        EngineError
            For an architecture that this decoder does not compute.
        """
        reason = unsupported(config)
        if reason:
            raise EngineError(f"Decoder: {reason}")
        heads = config.num_attention_heads
        return cls(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            num_layers=config.num_hidden_layers,
            num_heads=heads,
            num_kv_heads=config.num_key_value_heads or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            intermediate_size=config.intermediate_size,
            norm_eps=config.rms_norm_eps,
            max_length=config.max_position_embeddings,
            qkv_bias=config.model_type == "qwen2" or bool(getattr(config, "attention_bias", False)),
            qk_norm=config.model_type == "qwen3",
        )
