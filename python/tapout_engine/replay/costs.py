"""What rounds cost in a replay, in target forwards of one request without drafts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tapout_kernels.replay import RoundCosts

from ..errors import EngineError
from ..traces import TraceMeta


def measured_costs(
    meta: TraceMeta,
    batch: int = 1,
    ratio: float | None = None,
    token_cost: float | None = None,
    padded: bool = False,
) -> RoundCosts:
    """A trace's measured costs for up to ``batch`` requests together.

    One request costs what was measured. Every further token in a forward of the target, whichever
    request it belongs to, costs ``token_cost`` more, and in a drafter's step the same share more.

    Parameters
    ----------
    meta : TraceMeta
    batch : int
    ratio : float, optional
        The cost of a draft step of one request, for drafters that are models, instead of the
        measured one.
    token_cost : float, optional
        None: what was measured between 0 and K drafts.
    padded : bool
        See :class:`RoundCosts`.
    """
    alone = meta.verify_seconds[0]
    verify = np.array(meta.verify_seconds) / alone  # [K + 1]
    slots = meta.slots
    token_cost = max(0.0, verify[-1] - 1) / slots if token_cost is None else token_cost
    draft = np.array(meta.draft_seconds) / alone  # [D]
    if ratio is not None:
        draft = np.where(meta.always, ratio, draft)
    others = np.arange(batch)[:, None]  # requests besides the first
    return with_ratio(
        verify=verify + token_cost * others * np.arange(1, slots + 2),
        draft=draft * (1 + token_cost * others),
        catch_up=np.array(meta.catch_up_seconds) / alone,
        padded=padded,
    )


def costs_of_file(path: Path, meta: TraceMeta, batch: int, padded: bool = False) -> RoundCosts:
    """A JSON object of tables by batch: ``verify`` [B][K + 1], ``draft`` [B][D], in one unit.

    Raises
    ------
    EngineError
        If the file holds something else, or fewer than ``batch`` rows.
    """
    try:
        found = json.loads(path.read_text())
        tables = {name: np.array(found[name], dtype=np.float64) for name in ("verify", "draft")}
    except (ValueError, KeyError, TypeError) as error:
        raise EngineError(
            f"replay: {path} must be a JSON object with verify and draft: {error!r}"
        ) from None
    for name, width in (("verify", meta.slots + 1), ("draft", len(meta.drafters))):
        shape = tables[name].shape
        if len(shape) != 2 or shape[0] < batch or shape[1] != width:
            raise EngineError(
                f"replay: {path}: {name} must be at least {[batch, width]}, got {list(shape)}"
            )
    alone = tables["verify"][0, 0]
    catch_up = np.array(meta.catch_up_seconds) / meta.verify_seconds[0]
    verify, draft = (tables[name][:batch] / alone for name in ("verify", "draft"))
    return with_ratio(verify, draft, catch_up, padded)


def with_ratio(
    verify: np.ndarray, draft: np.ndarray, catch_up: np.ndarray, padded: bool
) -> RoundCosts:
    """Costs, and what the bandit is told: a draft step and the extra verify time of its token,
    in forwards without drafts of as many requests."""
    token = (verify[:, -1:] - verify[:, :1]) / (verify.shape[1] - 1)
    ratio = np.maximum(0.0, (draft + token) / verify[:, :1])
    return RoundCosts(
        np.ascontiguousarray(verify, np.float64), np.ascontiguousarray(draft, np.float64),
        np.ascontiguousarray(catch_up, np.float64), ratio.astype(np.float32), padded,
    )  # fmt: skip
