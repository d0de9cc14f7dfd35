"""What goes in and what comes out: requests, results and where the time went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Request:
    """One sequence to continue.

    Parameters
    ----------
    prompt : sequence of int
        Token ids, at least one.
    max_new_tokens : int
    temperature, top_k, top_p, min_p : float, int, float, float
        As in :class:`tapout_kernels.SamplingParams`; temperature 0 is greedy.
    seed : int
        The user's seed. The random key also depends on how many requests the decoder's bandit
        has seen, so equal seeds never share noise.
    stop : sequence of str
        Text that ends the request; the text is cut before it.
    eos : sequence of int
        Token ids that end the request; they are kept in ``tokens`` and leave no text.
    """

    prompt: Sequence[int]
    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    stop: Sequence[str] = ()
    eos: Sequence[int] = ()


@dataclass
class Times:
    """Seconds a batch spent in each place; ``other`` is what none of the clocks covered."""

    prefill: float = 0.0
    draft: float = 0.0
    verify: float = 0.0
    kernels: float = 0.0
    total: float = 0.0

    @property
    def other(self) -> float:
        return max(0.0, self.total - self.prefill - self.draft - self.verify - self.kernels)

    def to_dict(self) -> dict[str, float]:
        return {**asdict(self), "other": self.other}


@dataclass
class Result:
    """One finished request.

    Parameters
    ----------
    tokens : list of int
        New tokens only, cut at the end of sequence, the stop string or ``max_new_tokens``, or
        where the target can read no more.
    text : str
    finish_reason : str
        ``length``, ``eos``, ``stop`` or ``error``.
    error : str or None
        Why decoding of this row could not go on.
    accepted, drafted, arms : list of int
        One entry a round: accepted drafts that are in ``tokens`` (the target's own token not
        counted), drafts made, and the bandit's arm.
    stop_reasons : list of str
        Why drafting ended, one entry a round.
    key : int
        The random key this request was decoded with.
    times : Times
        Of the whole batch the request was decoded in.
    """

    tokens: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: str = ""
    error: str | None = None
    accepted: list[int] = field(default_factory=list)
    drafted: list[int] = field(default_factory=list)
    arms: list[int] = field(default_factory=list)
    stop_reasons: list[str] = field(default_factory=list)
    key: int = 0
    times: Times = field(default_factory=Times)

    @property
    def rounds(self) -> int:
        return len(self.accepted)

    def to_dict(self) -> dict[str, object]:
        """Everything, ready for ``json.dumps``."""
        return {**asdict(self), "rounds": self.rounds, "times": self.times.to_dict()}
