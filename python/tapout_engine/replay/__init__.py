"""Policies compared on traces: see docs/replay.md."""

from .costs import measured_costs
from .play import Play, Player

__all__ = ["Play", "Player", "measured_costs"]
