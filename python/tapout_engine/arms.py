"""Tables of arms as people type them: ``fixed_length:n=4,svip:threshold=0.6,adaedl``.

Where there are several drafters, an arm also names the one that drafts, or several in turn:
``prompt-lookup|draft/svip`` is prompt lookup where it finds something, and ``draft`` where not.
"""

from __future__ import annotations

from .errors import EngineError

Arm = tuple[str, dict[str, float]] | tuple[str, dict[str, float], tuple[str, ...]]
"""A stop rule, its parameters, and the drafters it is for, the first that offers a draft first."""

TAPOUT_ARMS: tuple[Arm, ...] = (
    ("fixed_length", {}),
    ("max_confidence", {}),
    ("svip", {}),
    ("svip_difference", {}),
    ("logit_margin", {}),
    ("adaedl", {}),
)
"""TapOut's rules at their defaults, and a fixed length; the others read the distribution."""

LENGTH_ARMS: tuple[Arm, ...] = tuple(("fixed_length", {"n": n}) for n in (0, 2, 4, 8))
"""For drafters without a distribution there is only a length to choose; 0 is not to draft."""

HEAD_ARMS: tuple[Arm, ...] = (
    ("fixed_length", {"n": 0}),
    ("fixed_length", {"n": 1}),
    ("survival", {"threshold": 0.6}),
    ("survival", {"threshold": 0.2}),
    ("fixed_length", {"n": 3}),
)
"""For a drafter that costs a few percent of its target. A token more pays while the odds that it is
accepted exceed its cost times the tokens per forward: low odds for one request, high ones for many
together, where not to draft may be best."""

DRAFTER_ARMS: tuple[Arm, ...] = (
    ("fixed_length", {"n": 0}, ("draft",)),
    ("fixed_length", {"n": 1}, ("prompt-lookup", "draft")),
    ("survival", {"threshold": 0.2}, ("prompt-lookup", "draft")),
    ("survival", {"threshold": 0.6}, ("draft",)),
    ("fixed_length", {"n": 4}, ("prompt-lookup",)),
)
"""For a drafter beside prompt lookup: not to draft, lookup where it finds something and the drafter
where not, the drafter or lookup alone."""


def parse_arms(text: str) -> tuple[Arm, ...]:
    """Arms of a list such as ``svip:threshold=0.6,adaedl:gamma=0.2,initial_threshold=0.5``.

    A piece without a colon that holds ``=`` belongs to the arm before it.

    Examples
    --------
    >>> parse_arms("fixed_length:n=4,svip")
    (('fixed_length', {'n': 4.0}), ('svip', {}))
    >>> parse_arms("prompt-lookup|draft/svip")
    (('svip', {}, ('prompt-lookup', 'draft')),)
    """
    arms: list[Arm] = []
    for piece in filter(None, (piece.strip() for piece in text.split(","))):
        name, colon, setting = piece.partition(":")
        if not colon and "=" in piece:
            name, setting = "", piece
        if name:
            drafters, _, rule = name.rpartition("/")
            arms.append((rule.strip(), {}, *([tuple(drafters.split("|"))] if drafters else [])))
        elif not arms:
            raise EngineError(f"arms: a list must begin with the name of a rule, got {piece!r}")
        if setting:
            arms[-1][1].update([_setting(setting)])
    if not arms:
        raise EngineError("arms: expected a list such as fixed_length:n=4,svip, got nothing")
    return tuple(arms)


def _setting(text: str) -> tuple[str, float]:
    key, equals, value = text.partition("=")
    try:
        if not (key.strip() and equals):
            raise ValueError
        return key.strip(), float(value)
    except ValueError:
        raise EngineError(f"arms: expected name=number, got {text!r}") from None
