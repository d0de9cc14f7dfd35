"""Names of verification rules."""

from __future__ import annotations

from ..reference.accept import LOSSY_RULES, RULES, VERIFY_RULES


def rule_id(op: str, rule: str) -> int:
    """The integer of a lossless rule; raises for others."""
    if rule not in RULES:
        raise ValueError(f"{op}: rule must be one of {', '.join(RULES)}, got {rule!r}")
    return RULES[rule]


def verify_rule_id(rule: str, allow_lossy: bool) -> int:
    """The integer of a rule of ``verify``; a lossy one has to be allowed."""
    if rule not in VERIFY_RULES:
        raise ValueError(f"verify: rule must be one of {', '.join(VERIFY_RULES)}, got {rule!r}")
    if rule in LOSSY_RULES and allow_lossy is not True:
        raise ValueError(f"verify: allow_lossy must be True for rule {rule!r}, got {allow_lossy}")
    return VERIFY_RULES[rule]
