"""Inputs and tolerances shared by ``tests/`` and ``bench/``.

A :class:`Case` names one point of op x shape x dtype x sampling; :meth:`Case.inputs` builds the
arguments of the raw operator, outputs included, so that a case can be run on any backend, timed,
or spoiled one argument at a time.  ``TOLERANCES`` is the only table of numbers two backends may
differ by.
"""

from .bandit import BANDITS
from .cases import CASES, DTYPES, MORE_VOCABS, VOCABS, Case
from .inputs import ARMS, SAMPLINGS, draw_drafts, draw_logits, sampling_columns
from .tolerances import NEAR, STATS_COLUMNS, TOLERANCES, Tolerance

__all__ = [
    "ARMS", "BANDITS", "CASES", "DTYPES", "MORE_VOCABS", "NEAR", "SAMPLINGS", "STATS_COLUMNS",
    "TOLERANCES", "VOCABS", "Case", "Tolerance", "draw_drafts", "draw_logits", "sampling_columns",
]  # fmt: skip
