"""Which layers a drafter made of the target itself leaves out.

Zhang et al., "Draft & Verify: lossless acceleration via self-speculative decoding",
arXiv 2309.08168.
"""

from __future__ import annotations

from collections.abc import Collection

from .errors import EngineError


def middle_layers(total: int, fraction: float = 0.2) -> tuple[int, ...]:
    """Layers to skip when nothing better is known: a block in the middle.

    A default, not a search: the paper searches for the layers to skip, model by model.
    """
    count = min(max(1, round(fraction * total)), total - 1)
    first = (total - count) // 2
    return tuple(range(first, first + count))


def kept_layers(total: int, skip: Collection[int]) -> list[int]:
    """The layers of ``range(total)`` without those of ``skip``.

    Raises
    ------
    EngineError
        For indices that do not exist, or if no layer is left.
    """
    outside = sorted(set(skip) - set(range(total)))
    if outside:
        raise EngineError(f"skip_layers: skip must be layers of [0, {total}), got {outside}")
    kept = [layer for layer in range(total) if layer not in set(skip)]
    if not kept:
        raise EngineError(f"skip_layers: skip must leave at least one of {total} layers")
    return kept
