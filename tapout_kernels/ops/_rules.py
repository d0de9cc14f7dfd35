"""Names of verification rules."""

from __future__ import annotations

from ..backends import NotYetSupported
from ..reference.accept import RULES


def rule_id(op: str, rule: str) -> int:
    """The integer of a rule; raises for unknown ones and for those planned but not here yet."""
    if isinstance(rule, str) and rule.startswith("lossy_"):
        raise NotYetSupported(f"{op}: lossy rules are not supported in version 0.1, got {rule!r}")
    if rule not in RULES:
        raise ValueError(f"{op}: rule must be one of {', '.join(RULES)}, got {rule!r}")
    return RULES[rule]
