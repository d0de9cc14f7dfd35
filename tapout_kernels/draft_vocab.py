"""A draft model's own, smaller vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor


class DraftVocab:
    """Maps between the ids of a draft model and those of its target.

    Draft heads often score only the frequent part of the target's vocabulary (EAGLE-3). Given to
    ``draft_step`` and ``verify``, draft logits stay [.., D] and no target-wide tensor is made.

    Parameters
    ----------
    d2t : Tensor
        [D] int32, the target id of every draft id: absolute, non-negative, each at most once.
        (EAGLE-3 checkpoints store offsets: pass ``arange(D) + d2t``.)

    Attributes
    ----------
    d2t : Tensor
        [D] int32.
    t2d : Tensor
        [largest target id + 1] int32, the draft id of every target id, -1 where there is none.

    Raises
    ------
    TypeError, ValueError
        If ``d2t`` is no [D] int32 tensor of distinct, non-negative ids. Built outside captures:
        the check reads the tensor.

    Examples
    --------
    >>> vocab = DraftVocab(torch.tensor([7, 2], dtype=torch.int32))
    >>> len(vocab), vocab.t2d.tolist()
    (2, [-1, -1, 1, -1, -1, -1, -1, 0])
    """

    def __init__(self, d2t: Tensor):
        if not isinstance(d2t, Tensor) or d2t.dtype != torch.int32:
            got = d2t.dtype if isinstance(d2t, Tensor) else type(d2t).__name__
            raise TypeError(f"DraftVocab: d2t must be int32, got {got}")
        if d2t.dim() != 1 or not len(d2t):
            raise ValueError(f"DraftVocab: d2t must be [D > 0], got {list(d2t.shape)}")
        if d2t.min() < 0:
            raise ValueError(f"DraftVocab: d2t must be non-negative, got {d2t.min().item()}")
        if d2t.unique().shape != d2t.shape:
            raise ValueError("DraftVocab: d2t must map to distinct target ids, got duplicates")
        self.d2t: Tensor = d2t.contiguous()
        self.t2d: Tensor = torch.full(
            (int(d2t.max()) + 1,), -1, dtype=torch.int32, device=d2t.device
        )
        self.t2d[d2t.long()] = torch.arange(len(d2t), dtype=torch.int32, device=d2t.device)

    def __len__(self) -> int:
        return len(self.d2t)


def vocab_tables(op: str, vocab: DraftVocab | None) -> tuple[Tensor | None, Tensor | None]:
    """d2t and t2d, or None twice: ids are the target's."""
    if vocab is None:
        return None, None
    if not isinstance(vocab, DraftVocab):
        raise TypeError(f"{op}: vocab must be a DraftVocab, got {type(vocab).__name__}")
    return vocab.d2t, vocab.t2d
