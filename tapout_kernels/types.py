"""Plain dataclasses of tensors: sampling parameters, randomness, the verdict of a round.

They hold state, not behaviour; every field lives on the device and keeps its storage, so a
captured graph can use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .backends import refuse
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
        Not supported in this version: operators raise if it is given.

    Notes
    -----
    The launch plan depends only on which fields are None, never on values: nothing on the host
    reads a tensor.

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
            if isinstance(value, (int, float)):
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
        seed = _as_tensor("RngState.of: seeds", seeds, torch.int64, device).reshape(-1).clone()
        start = _as_tensor("RngState.of: position", position, torch.int64, seed.device)
        return cls(seed, torch.zeros_like(seed), start.expand_as(seed).clone())


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
        [B, K] float32: min(1, p_target/p_draft) of every decided slot (``greedy``: 1 or 0);
        -1 after the deciding slot.
    overlap, logprobs : Tensor or None
        Not produced in this version.
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
        """Buffers for ``verify(..., out=)``; their contents are undefined until then."""
        refuse("Verdict.empty", overlap=overlap, logprobs=logprobs)

        def ints(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        return cls(
            tokens=ints(batch, slots + 1, dtype=torch.int64),
            num_accepted=ints(batch),
            num_emitted=ints(batch),
            last_token=ints(batch, dtype=torch.int64),
            status=ints(batch),
            accept_prob=torch.zeros(batch, slots, device=device),
        )
