"""A decoder with a static cache, for models of the Llama family, and draft heads for it."""

from .branches import Branches
from .cache import StaticCache
from .config import DecoderConfig
from .decoder import Decoder
from .head import DraftHead, HeadConfig, SavedHead, load_head, read_head, save_head

__all__ = [
    "Branches",
    "Decoder",
    "DecoderConfig",
    "DraftHead",
    "HeadConfig",
    "SavedHead",
    "StaticCache",
    "load_head",
    "read_head",
    "save_head",
]
