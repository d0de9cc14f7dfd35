"""Rules of verification: which are lossy, and what their drafts and their baseline go by."""

from __future__ import annotations

from .errors import EngineError

LOSSLESS = ("token", "block", "gumbel", "greedy")
LOSSY = ("lossy_typical", "lossy_ears", "lossy_consultant", "lossy_fly", "lossy_adasd")
_GREEDY = ("greedy", "lossy_fly", "lossy_adasd")  # emit the argmax where they do not accept


def is_lossy(rule: str) -> bool:
    return rule in LOSSY


def require_lossless(where: str, rule: str) -> None:
    """Raise EngineError for a lossy rule."""
    if is_lossy(rule):
        raise EngineError(f"{where}: rule must be one of {', '.join(LOSSLESS)}, got {rule!r}")


def require_allowed(where: str, rule: str, allow_lossy: bool) -> None:
    """Raise EngineError for a lossy rule that was not asked for as such."""
    if is_lossy(rule) and allow_lossy is not True:
        raise EngineError(f"{where}: allow_lossy must be True for rule {rule!r}, got {allow_lossy}")


def draft_rule(rule: str) -> str:
    """What ``draft_step`` is told: drafts of lossy rules are drawn as those of ``token``."""
    return "token" if is_lossy(rule) else rule


def plain_rule(rule: str) -> str:
    """The lossless rule whose output a lossy one approximates."""
    if not is_lossy(rule):
        return rule
    return "greedy" if rule in _GREEDY else "token"


def labelled(name: str, rule: str) -> str:
    """``name`` of a line or a row of a table, which says so where the rule is lossy."""
    return f"{name} (lossy)" if is_lossy(rule) else name
