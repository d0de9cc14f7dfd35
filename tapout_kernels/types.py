"""Plain dataclasses of tensors: sampling parameters, randomness, the verdict of a round.

They hold state, not behaviour; every field lives on the device and keeps its storage, so a
captured graph can use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from .reference.stats import NUM_STATS

__all__ = ["NUM_STATS", "RngState", "SamplingParams", "Verdict"]


@dataclass
class SamplingParams:
    """Per-request sampling parameters, applied as mask, temperature, top-k, top-p, min-p.

    Parameters
    ----------
    temperature : Tensor or None
        [B] float32; below 1e-5 counts as 0 (exact argmax). None: 1 for every row.
    top_k : Tensor or None
        [B] int32; 0 or at least the vocabulary size: off for that row. None: off for every row.
    top_p : Tensor or None
        [B] float32 in (0, 1]; 1 is off. None: off for every row.
    min_p : Tensor or None
        [B] float32 in [0, 1]: keeps tokens of at least ``min_p`` times the largest probability;
        0 is off. None: off for every row.

    Notes
    -----
    The launch plan depends only on which fields are None, never on values: nothing on the host
    reads a tensor. With ``rows`` in a call each is [R], one row for each request slot of the
    engine.

    Examples
    --------
    >>> SamplingParams.of(2, temperature=0.7).top_k is None
    True
    """

    temperature: Tensor | None = None
    top_k: Tensor | None = None
    top_p: Tensor | None = None
    min_p: Tensor | None = None

    @classmethod
    def of(
        cls,
        batch: int,
        temperature: float | Sequence[float] = 1.0,
        top_k: int | Sequence[int] = 0,
        top_p: float | Sequence[float] = 1.0,
        min_p: float | Sequence[float] = 0.0,
        device: torch.device | str | None = None,
    ) -> SamplingParams:
        """Build from scalars (a scalar that means "off" is stored as None) or [B] sequences.

        Raises
        ------
        TypeError, ValueError
            For a ``top_k`` that is no whole number, or a sequence that is not [B].
        """

        def column(name: str, value, off: float, dtype: torch.dtype) -> Tensor | None:
            if isinstance(value, Real):
                if value == off:
                    return None
                value = [value] * batch
            values = _as_tensor(f"SamplingParams.of: {name}", value, dtype, device)
            if values.shape != (batch,):
                raise ValueError(
                    f"SamplingParams.of: {name} must be [{batch}], got {list(values.shape)}"
                )
            return values

        return cls(
            column("temperature", temperature, 1.0, torch.float32),
            column("top_k", top_k, 0, torch.int32),
            column("top_p", top_p, 1.0, torch.float32),
            column("min_p", min_p, 0.0, torch.float32),
        )

    def arguments(self) -> dict[str, Tensor | None]:
        """The fields as arguments of an operator."""
        return dict(vars(self))


@dataclass
class RngState:
    """Addresses of randomness: no generator, only where in the stream each request stands.

    Parameters
    ----------
    seed : Tensor
        [B] int64, the Philox key. Requests seen by one bandit need distinct keys
        (:func:`tapout_kernels.mix64`).
    round : Tensor
        [B] int64, advanced when a draft begins; never repeats for a key.
    position : Tensor
        [B] int64, absolute index in the sequence of the token being decided.
    """

    seed: Tensor
    round: Tensor
    position: Tensor

    @classmethod
    def of(
        cls,
        seeds: int | Sequence[int] | Tensor,
        position: int | Sequence[int] | Tensor = 0,
        device: torch.device | str | None = None,
    ) -> RngState:
        """Round 0 at ``position``; a single int seed is one request.

        Examples
        --------
        >>> RngState.of([1, 2]).round.tolist()
        [0, 0]
        """
        seed = (
            _as_tensor("RngState.of: seeds", _signed(seeds), torch.int64, device)
            .reshape(-1)
            .clone()
        )
        start = _as_tensor("RngState.of: position", position, torch.int64, seed.device)
        return cls(seed, torch.zeros_like(seed), start.expand_as(seed).clone())

    def reset_rows(self, mask: Tensor, seed: Tensor | int, position: Tensor | int) -> None:
        """Admit new requests: where ``mask``, take ``seed`` and ``position`` and start at round 0.

        In place, without a sync.

        Parameters
        ----------
        mask : Tensor
            [B] bool.
        seed, position : Tensor or int
            [B] int64, read where ``mask``. A seed must not have been used before with the same
            bandit (:func:`tapout_kernels.mix64`).

        Raises
        ------
        TypeError, ValueError
            For a tensor of the wrong dtype or shape; nothing is written.

        Examples
        --------
        >>> rng = RngState.of([1, 2], position=5)
        >>> rng.reset_rows(torch.tensor([False, True]), seed=9, position=0)
        >>> rng.seed.tolist(), rng.position.tolist()
        ([1, 9], [5, 0])
        """
        columns = {"seed": seed, "position": position}
        given = {name: value for name, value in columns.items() if not _whole(value)}
        require_rows("RngState.reset_rows", self.seed, torch.int64, **given)
        require_rows("RngState.reset_rows", self.seed, torch.bool, mask=mask)
        self.seed.copy_(torch.where(mask, seed, self.seed))
        self.position.copy_(torch.where(mask, position, self.position))
        self.round.masked_fill_(mask, 0)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def require_rows(op: str, like: Tensor, dtype: torch.dtype, **tensors: Tensor) -> None:
    """Each must be a tensor of ``dtype``, one entry for each row of ``like``, on its device."""
    for name, value in tensors.items():
        if not isinstance(value, Tensor) or value.dtype != dtype:
            got = str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
            expected = str(dtype).removeprefix("torch.")
            raise TypeError(f"{op}: {name} must be {expected}, got {got.removeprefix('torch.')}")
        if value.shape != like.shape[:1]:
            raise ValueError(f"{op}: {name} must be [{like.shape[0]}], got {list(value.shape)}")
        if value.device != like.device:
            raise ValueError(f"{op}: {name} must be on {like.device}, got {value.device}")


def _signed(seeds: int | Sequence[int] | Tensor) -> int | list[int] | Tensor:
    """Unsigned 64-bit seeds, as many engines keep them, as the same 64 bits signed."""
    if isinstance(seeds, Sequence):
        return [_signed(seed) for seed in seeds]
    if isinstance(seeds, int) and 1 << 63 <= seeds < 1 << 64:
        return seeds - (1 << 64)
    return seeds


def _as_tensor(
    name: str, value: object, dtype: torch.dtype, device: torch.device | str | None
) -> Tensor:
    """``value`` as a contiguous tensor; a fraction where whole numbers belong is refused."""
    given = torch.as_tensor(value, device=device)
    if given.is_floating_point() and not dtype.is_floating_point and given.numel():
        raise TypeError(f"{name} must hold whole numbers, got {given.dtype}")
    return given.to(dtype).contiguous()


@dataclass
class Verdict:
    """What one verification emitted.

    Parameters
    ----------
    tokens : Tensor
        [B, K+1] int64: accepted drafts, then one token of the target; padded with -1.
    num_accepted, num_emitted : Tensor
        [B] int32. ``num_emitted = num_accepted + 1`` unless the row is invalid or not live.
    last_token : Tensor
        [B] int64, the last emitted token, 0 if none.
    status : Tensor
        [B] int32: OK 0, NAN 1 (NaN or +inf logits, bad temperature), EMPTY 2 (nothing allowed),
        BAD_DRAFT 3 (a drafted id outside the vocabulary or of draft probability 0).
    accept_prob : Tensor
        [B, K] float32: min(1, p_target/p_draft) of every decided slot (``greedy``, ``gumbel``: 1
        or 0; lossy rules: see :func:`verify`); -1 after the deciding slot (``block``: after the
        draft).
    overlap : Tensor or None
        [B, K] float32: the sum over the vocabulary of min(p_target, p_draft) at every drafted
        slot up to the first that cannot be verified, -1 after it. A one-hot draft: p_target of
        the drafted token.
    logprobs : Tensor or None
        [B, K+1] float32: log-probability of every emitted token, 0 where there is none, so that a
        row's sum is the log-likelihood of what it emitted.
    """

    tokens: Tensor
    num_accepted: Tensor
    num_emitted: Tensor
    last_token: Tensor
    status: Tensor
    accept_prob: Tensor
    overlap: Tensor | None = None
    logprobs: Tensor | None = None

    @classmethod
    def empty(
        cls,
        batch: int,
        slots: int,
        overlap: bool = False,
        logprobs: bool = False,
        device: torch.device | str | None = None,
    ) -> Verdict:
        """Buffers for ``verify(..., out=)``; their contents are undefined until then.

        Examples
        --------
        >>> Verdict.empty(2, slots=4, logprobs=True).logprobs.shape
        torch.Size([2, 5])
        """

        def ints(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        def floats(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float32, device=device)

        return cls(
            tokens=ints(batch, slots + 1, dtype=torch.int64),
            num_accepted=ints(batch),
            num_emitted=ints(batch),
            last_token=ints(batch, dtype=torch.int64),
            status=ints(batch),
            accept_prob=floats(batch, slots),
            overlap=floats(batch, slots) if overlap else None,
            logprobs=floats(batch, slots + 1) if logprobs else None,
        )
