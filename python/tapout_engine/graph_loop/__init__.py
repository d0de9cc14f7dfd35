"""Rounds that never ask the host: every length lives on the device, one launch makes a round."""

from .decoder import GraphDecoder
from .runners import MODES, chosen_mode

__all__ = ["MODES", "GraphDecoder", "chosen_mode"]
