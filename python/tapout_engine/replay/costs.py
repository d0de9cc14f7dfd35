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


def costs_of_file(
    path: Path, meta: TraceMeta, batch: int, ratio: float | None = None, padded: bool = False
) -> RoundCosts:
    """Measured tables, as ``trace costs`` writes them; between its batches costs rise evenly.

    Parameters
    ----------
    path : Path
        A JSON object: ``verify`` [N][K + 1], ``draft`` [N][D] and, if not that of the trace,
        ``catch_up`` [D], in one unit; row i is for ``batch[i]`` requests (default: i + 1).
    meta : TraceMeta
    batch : int
    ratio, padded
        As for :func:`measured_costs`.

    Raises
    ------
    EngineError
        If the file holds something else, other drafters, or no row for ``batch`` or more.
    """
    tables = _tables(path, meta, batch)
    rows, verify, draft = tables["batch"], tables["verify"], tables["draft"]
    alone = verify[0, 0]
    if ratio is not None:
        growth = np.divide(draft, draft[0], out=np.ones_like(draft), where=draft[0] > 0)
        draft = np.where(meta.always, ratio * alone * growth, draft)
    each = np.arange(1, batch + 1)
    verify, draft = (
        np.stack([np.interp(each, rows, column) for column in table.T], 1) / alone
        for table in (verify, draft)
    )
    return with_ratio(verify, draft, tables["catch_up"] / alone, padded)


def _tables(path: Path, meta: TraceMeta, batch: int) -> dict[str, np.ndarray]:
    """Of a file, checked; catching up in its unit, too."""
    try:
        found = json.loads(path.read_text())
        tables = {name: np.array(found[name], dtype=np.float64) for name in ("verify", "draft")}
        tables["batch"] = np.array(found.get("batch", range(1, len(found["verify"]) + 1)))
        of_trace = np.array(meta.catch_up_seconds) / meta.verify_seconds[0]
        tables["catch_up"] = np.array(found.get("catch_up", of_trace * found["verify"][0][0]))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise EngineError(
            f"replay: {path} must be a JSON object with verify and draft: {error!r}"
        ) from None

    def must(right: bool, name: str, expected: object, got: object) -> None:
        if not right:
            raise EngineError(f"replay: {path}: {name} must be {expected}, got {got}")

    drafters = len(meta.drafters)
    names, rows = found.get("drafters", meta.drafters), tables["batch"]
    must(names == meta.drafters, "drafters", meta.drafters, names)
    count = len(rows) if "batch" in found else batch
    for name, width in (("verify", meta.slots + 1), ("draft", drafters)):
        shape = tables[name].shape
        right = len(shape) == 2 and shape[0] >= count and shape[1] == width
        must(right, name, f"at least {[count, width]}", list(shape))
    tables |= {name: tables[name][: len(rows)] for name in ("verify", "draft")}
    shape = tables["catch_up"].shape
    must(shape == (drafters,), "catch_up", [drafters], list(shape))
    rises = rows.ndim == 1 and rows[0] == 1 and (np.diff(rows) > 0).all() and rows[-1] >= batch
    must(rises, "batch", f"rising from 1 to {batch} or more", rows.tolist())
    return tables


def with_ratio(
    verify: np.ndarray, draft: np.ndarray, catch_up: np.ndarray, padded: bool
) -> RoundCosts:
    """Costs, and what the bandit is told: a draft step and the extra verify time of its token,
    in forwards without drafts of as many requests. It is told one number for drafts of every
    length: of those the steepest, so that no length looks cheaper than it is."""
    drafts = np.arange(1, verify.shape[1])
    token = ((verify[:, 1:] - verify[:, :1]) / drafts).max(axis=1, keepdims=True)
    ratio = np.maximum(0.0, (draft + token) / verify[:, :1])
    return RoundCosts(
        np.ascontiguousarray(verify, np.float64), np.ascontiguousarray(draft, np.float64),
        np.ascontiguousarray(catch_up, np.float64), ratio.astype(np.float32), padded,
    )  # fmt: skip
