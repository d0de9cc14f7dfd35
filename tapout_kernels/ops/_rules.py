"""Names of verification rules and which of them this version runs."""

from __future__ import annotations

from ..backends import NotYetSupported
from ..reference.accept import GREEDY, RULES, TOKEN


def rule_id(op: str, rule: str) -> int:
    """The integer of a rule; raises for unknown ones and for those planned but not here yet."""
    if isinstance(rule, str) and rule.startswith("lossy_"):
        raise NotYetSupported(f"{op}: rule must be token or greedy in version 0.1, got {rule!r}")
    if rule not in RULES:
        raise ValueError(f"{op}: rule must be one of {', '.join(RULES)}, got {rule!r}")
    if RULES[rule] not in (TOKEN, GREEDY):
        raise NotYetSupported(f"{op}: rule must be token or greedy in version 0.1, got {rule!r}")
    return RULES[rule]
