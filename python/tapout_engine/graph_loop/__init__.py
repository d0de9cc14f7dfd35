"""Rounds that never ask the host: every length lives on the device, one launch makes a round."""

from .decoder import MODES, GraphDecoder

__all__ = ["MODES", "GraphDecoder"]
