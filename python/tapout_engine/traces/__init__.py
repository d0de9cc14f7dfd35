"""Traces: what drafters would have said at every position of a target's output."""

from .schema import VERSION, Trace, TraceMeta, assemble, load_trace, save_trace

__all__ = ["VERSION", "Trace", "TraceMeta", "assemble", "load_trace", "save_trace"]
