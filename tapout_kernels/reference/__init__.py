"""Plain PyTorch: the living definition of every operator, on any device, in float64.

``accept``, ``bandit``, ``gumbel``, ``rng``, ``sampling``, ``stats`` and ``stop`` mirror
``csrc/core``; ``rows``, ``vocab``, ``draft``, ``target`` and ``decide`` arrange their arguments for
whole batches; the other modules are one operator each.
"""

from .bandit_select import bandit_select
from .bandit_step import bandit_step
from .bandit_update import bandit_update
from .draft_step import draft_step
from .proposal_load import proposal_load
from .proposal_reset import proposal_reset
from .row_stats import row_stats
from .sample import sample
from .verify import verify

OPS = {
    function.__name__: function
    for function in (
        bandit_select, bandit_step, bandit_update, draft_step, proposal_load,
        proposal_reset, row_stats, sample, verify,
    )
}  # fmt: skip
__all__ = ["OPS"]
