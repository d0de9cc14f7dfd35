"""The table of arms and the state each arm keeps between rounds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .backends import NotYetSupported
from .reference.stop import KINDS, NUM_MEMORY, NUM_PARAMS, STOP_RULES
from .types import require_rows

_LATER = ("depth_logsumexp",)  # of trees


class StopRules:
    """A table of stop rules, one arm each, built once on the device.

    Parameters
    ----------
    *arms : str or (str, dict)
        Name of a rule, with parameters where they differ from the defaults: ``fixed_length``
        (n), ``max_confidence``, ``svip_difference``, ``logit_margin`` (threshold; TapOut,
        arXiv 2511.02017), ``svip`` (threshold; 2411.18462), ``adaedl`` (gamma,
        initial_threshold; 2410.18351), ``survival`` (threshold on the product of top-1
        probabilities, or of the estimates passed to ``draft_step``; 2405.19715). Rules that learn
        from finished rounds (``bandit_update`` with ``rules`` and ``state``): ``adaedl``,
        ``gammatune`` (initial_length, delta, eta; 2504.00030), ``gammatune_plus`` (threshold on
        the top-1 probability, too), ``heuristic`` (initial_length; Hugging Face),
        ``hysteresis`` (high, low, alpha, probe_every), ``adasd_entropy`` (after 2512.11280),
        ``adl`` (rho, delta, shortest, longest; 2510.02358). ``predicted_length`` takes its length
        from ``Proposal.reset(prediction=)`` (2412.18910). The formulas: docs/algorithms.md.
    device : torch.device or str, optional

    Attributes
    ----------
    kind : Tensor
        [A] int32, index of the rule.
    param : Tensor
        [A, 4] float32.
    initial_memory : Tensor
        [A, 4] float32.
    names : tuple of str

    Raises
    ------
    ValueError
        For an unknown rule or parameter, or an empty table.

    Examples
    --------
    >>> rules = StopRules(("svip", {"threshold": 0.6}), "fixed_length")
    >>> len(rules), rules.names
    (2, ('svip', 'fixed_length'))
    """

    def __init__(
        self, *arms: str | tuple[str, dict[str, float]], device: torch.device | str | None = None
    ):
        if not arms:
            raise ValueError("StopRules: arms must name at least one stop rule, got none")
        parsed = [_parse(arm) for arm in arms]
        self.names: tuple[str, ...] = tuple(name for name, _ in parsed)
        self.params: tuple[dict[str, float], ...] = tuple(params for _, params in parsed)
        kinds = [KINDS[name] for name in self.names]
        values = [list(params.values()) for params in self.params]
        memory = [STOP_RULES[k].initial_memory(v) for k, v in zip(kinds, values, strict=True)]
        self.kind: Tensor = torch.tensor(kinds, dtype=torch.int32, device=device)
        self.param: Tensor = _table(values, NUM_PARAMS, device)
        self.initial_memory: Tensor = _table(memory, NUM_MEMORY, device)

    def __len__(self) -> int:
        return len(self.names)

    def label(self, arm: int) -> str:
        """An arm as people read it: ``svip(threshold=0.6)``."""
        shown = ", ".join(f"{key}={value:g}" for key, value in self.params[arm].items())
        return f"{self.names[arm]}({shown})"


def _parse(arm: str | tuple[str, dict[str, float]]) -> tuple[str, dict[str, float]]:
    name, given = (arm, {}) if isinstance(arm, str) else arm
    if name in _LATER:
        raise NotYetSupported(f"StopRules: {name} is not supported in version 0.1")
    if name not in KINDS:
        raise ValueError(f"StopRules: rule must be one of {', '.join(KINDS)}, got {name!r}")
    defaults = STOP_RULES[KINDS[name]].defaults
    unknown = set(given) - set(defaults)
    if unknown:
        known = ", ".join(defaults)
        raise ValueError(f"StopRules: {name} takes {known}, got {', '.join(sorted(unknown))}")
    params = {key: float(given.get(key, default)) for key, default in defaults.items()}
    if any(math.isnan(value) for value in params.values()):
        raise ValueError(f"StopRules: parameters of {name} must be numbers, got {params}")
    return name, params


def _table(rows: list[list[float]], width: int, device: torch.device | str | None) -> Tensor:
    padded = [row + [0.0] * (width - len(row)) for row in rows]
    return torch.tensor(padded, dtype=torch.float32, device=device)


@dataclass
class StopState:
    """Which arm each request uses now, and what every arm of every request remembers.

    Parameters
    ----------
    arm : Tensor
        [B] int32, or [B, K] at token level (the arm of slot j decides after slot j); an arm
        outside the table means "no rule".
    memory : Tensor
        [B, A, 4] float32, updated by ``bandit_update`` in rounds the arm ran and drafted something
        (``hysteresis``: or refused to), and by ``Proposal.reset`` with the predictions.
    initial_memory : Tensor
        [A, 4] float32, what a new request starts with.

    Notes
    -----
    With ``rows`` in a call, B is the number of request slots of the engine.
    """

    arm: Tensor
    memory: Tensor
    initial_memory: Tensor

    @classmethod
    def of(
        cls,
        batch: int,
        rules: StopRules,
        arm: int = 0,
        device: torch.device | str | None = None,
        slots: int | None = None,
    ) -> StopState:
        """Every request at ``arm`` with the rules' initial memory; ``slots``: token level.

        Examples
        --------
        >>> StopState.of(2, StopRules("svip", "adaedl")).memory.shape
        torch.Size([2, 2, 4])
        """
        device = rules.kind.device if device is None else device
        shape = (batch,) if slots is None else (batch, slots)
        arms = torch.full(shape, arm, dtype=torch.int32, device=device)
        initial = rules.initial_memory.to(device)
        return cls(arms, initial.repeat(batch, 1, 1), initial)

    def reset_rows(self, mask: Tensor) -> None:
        """Admit new requests: where ``mask`` [B] bool, forget what the arms remember.

        In place, without a sync; arms stay until the next ``bandit_select``.

        Raises
        ------
        TypeError, ValueError
            For a mask of the wrong dtype or shape.

        Examples
        --------
        >>> state = StopState.of(2, StopRules("adaedl"))
        >>> state.memory.fill_(7).sum().item()
        56.0
        >>> state.reset_rows(torch.tensor([True, False]))
        >>> state.memory[0, 0].tolist()
        [0.5, 0.0, 0.0, 0.0]
        """
        require_rows("StopState.reset_rows", self.arm, torch.bool, mask=mask)
        self.memory.copy_(torch.where(mask[:, None, None], self.initial_memory, self.memory))


def rule_arguments(
    op: str, rules: StopRules | None, state: StopState | None
) -> dict[str, Tensor | None]:
    """The operator arguments of a table and its state; both or neither must be given."""
    if (rules is None) != (state is None):
        missing = "rules" if rules is None else "state"
        raise ValueError(f"{op}: {missing} must be given with the other of rules and state")
    if rules is None:
        return {"rule_kind": None, "rule_param": None, "arm": None, "memory": None}
    return {
        "rule_kind": rules.kind,
        "rule_param": rules.param,
        "arm": state.arm,
        "memory": state.memory,
    }
