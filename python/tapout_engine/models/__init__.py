"""A decoder with a static cache, for models of the Llama family."""

from .cache import StaticCache
from .config import DecoderConfig
from .decoder import Decoder

__all__ = ["Decoder", "DecoderConfig", "StaticCache"]
