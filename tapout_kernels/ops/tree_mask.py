"""``tree_mask``: who may attend to whom, in the forms attention kernels take."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .._check import require_tensor
from ..backends import call
from ..tree import FlatMask, TreeLayout

_DENSE = ("bits", "bool", "additive", "full", "sglang_qlen", "sglang_bits")
_FLAT = {"flashinfer": True, "sglang_full": False}  # whether eight entries share a byte
KINDS = (*_DENSE, *_FLAT, "flex")
_SGLANG_WORDS = {8: torch.uint8, 16: torch.uint16, 32: torch.uint32}


def tree_mask(
    layout: TreeLayout,
    kind: str = "bool",
    *,
    root: bool = False,
    past: Tensor | None = None,  # [B]
    max_past: int | None = None,
    dtype: torch.dtype = torch.float32,
    out: Tensor | FlatMask | None = None,
    backend: str | None = None,
) -> Tensor | FlatMask | Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The attention mask of B trees.

    A node sees the prefix, itself and its ancestors. Q below is N, or N + 1 with ``root``: then
    the first row and column are the root's, for engines that feed the last token with the nodes.

    Parameters
    ----------
    layout : TreeLayout
    kind : str
        ``"bits"``: int32 [B, Q, ceil(Q/32)], bit k & 31 of word k >> 5; ``"bool"``: [B, Q, Q],
        True is seen; ``"additive"``: 0 or -inf of ``dtype`` [B, Q, Q]; ``"full"``: bool
        [B, Q, max_past + Q], the tree in the last Q columns: the mask of a request with fewer
        tokens before it is ``[b, :, max_past - past[b]:]``.

        ``"flashinfer"``: a :class:`FlatMask` of bytes, for ``packed_custom_mask``;
        ``"sglang_full"``, ``"sglang_qlen"``, ``"sglang_bits"``: SGLang's modes 0 (a
        :class:`FlatMask` of bools), 1 (bool [B Q Q]) and 2 (uint8, uint16 or uint32 [B Q] for Q
        up to 8, 16 or 32); SGLang counts the root among its draft tokens.

        ``"flex"``: a ``mask_mod`` for FlexAttention, over keys of which request b's first
        ``past[b]`` are its prefix.
    root : bool
    past : Tensor, optional
        [B] int32, tokens before the tree, of the flat kinds and ``"flex"`` (there None: 0). What
        exceeds the room of a flat mask counts as that room.
    max_past : int, optional
        Columns of the prefix, of ``"full"`` and the flat kinds.
    dtype : torch.dtype
        Of ``"additive"``: float32, bfloat16 or float16.
    out : Tensor or FlatMask, optional
        What to write. ``"full"``: its prefix columns are not touched, it must have been made of
        ones. Not for ``"sglang_bits"`` and ``"flex"``.
    backend : {"reference", "cpu", "triton", "cuda"}, optional

    Returns
    -------
    Tensor, FlatMask or callable
        ``out``, or a new one. Prefix columns are never filled by this operator: those of a new
        tensor come with the tensor, later calls leave them (``"full"``), or restore what the call
        before has written (:class:`FlatMask`).

    Raises
    ------
    TypeError, ValueError
        For a tensor of the wrong dtype, shape, device or layout; nothing is written.

    Examples
    --------
    >>> layout = tree_layout(torch.tensor([[-1, 0, -1]], dtype=torch.int32))
    >>> tree_mask(layout).int().tolist()
    [[[1, 0, 0], [1, 1, 0], [0, 0, 1]]]
    >>> tree_mask(layout, "bits", root=True).flatten().tolist()
    [1, 3, 7, 9]
    """
    if kind not in KINDS:
        raise ValueError(f"tree_mask: kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if kind in _FLAT:
        return _flat(layout, kind, root, past, max_past, out, backend)
    if kind == "flex":
        _refuse_out(kind, out)
        return _mask_mod(_dense(layout, "bits", root, None, dtype, None, backend), past)
    if kind == "sglang_bits":
        _refuse_out(kind, out)
        return _sglang_bits(layout, root, backend)
    return _dense(layout, kind, root, max_past, dtype, out, backend)


def _refuse_out(kind: str, out: object) -> None:
    if out is not None:
        raise ValueError(f"tree_mask: out must be None for {kind!r}, got {type(out).__name__}")


def _dense(
    layout: TreeLayout, kind: str, root: bool, max_past: int | None, dtype: torch.dtype,
    out: Tensor | None, backend: str | None,
) -> Tensor:  # fmt: skip
    batch, nodes = _shape("tree_mask", layout.ancestors)
    rows, device = nodes + root, layout.ancestors.device
    prefix = _prefix(max_past) if kind == "full" else 0
    columns = -(-rows // 32) if kind == "bits" else prefix + rows
    dtype = {"bits": torch.int32, "additive": dtype}.get(kind, torch.bool)
    shape = (batch, rows, columns)
    if kind == "sglang_qlen":
        shape = (batch * rows * rows,)
    if out is None:
        make = torch.ones if kind == "full" else torch.empty
        out = make(shape, dtype=dtype, device=device)
    require_tensor("tree_mask", "mask", out)
    if out.shape != shape:
        raise ValueError(f"tree_mask: mask must be {list(shape)}, got {list(out.shape)}")
    if out.dtype != dtype:
        names = [str(x).removeprefix("torch.") for x in (dtype, out.dtype)]
        raise TypeError(f"tree_mask: mask must be {names[0]}, got {names[1]}")
    whole = out.view(batch, rows, rows) if kind == "sglang_qlen" else out
    whole = whole[..., prefix:] if prefix else whole
    call("tree_mask", backend, ancestors=layout.ancestors, mask=whole)
    return out


def _shape(op: str, ancestors: Tensor) -> tuple[int, int]:
    """B and N, where there are any."""
    require_tensor(op, "ancestors", ancestors)
    if ancestors.dim() != 3 or 0 in ancestors.shape:
        raise ValueError(
            f"{op}: ancestors must be [B > 0, N > 0, ceil(N/32)], got {list(ancestors.shape)}"
        )
    return ancestors.shape[0], ancestors.shape[1]


def _prefix(max_past: int | None) -> int:
    if not isinstance(max_past, int) or max_past < 0:
        raise ValueError(f"tree_mask: max_past must be a number >= 0, got {max_past!r}")
    return max_past


def _flat(
    layout: TreeLayout, kind: str, root: bool, past: Tensor | None, max_past: int | None,
    out: FlatMask | None, backend: str | None,
) -> FlatMask:  # fmt: skip
    require_tensor("tree_mask_flat", "past", past)
    batch, nodes = _shape("tree_mask_flat", layout.ancestors)
    rows = nodes + root
    if out is None:
        out = FlatMask.empty(batch, nodes, _prefix(max_past), _FLAT[kind], root, past.device)
    require_tensor("tree_mask_flat", "mask", out.data)
    packed = out.data.dtype == torch.uint8
    if packed != _FLAT[kind]:
        expected = "uint8" if _FLAT[kind] else "bool"
        raise TypeError(f"tree_mask_flat: mask must be {expected}, got {out.data.dtype}")
    least = batch * (-(-rows * rows // 8) if packed else rows * rows)
    if out.data.dim() != 1 or out.data.shape[0] < least:
        raise ValueError(
            f"tree_mask_flat: mask must be [{least} or more], got {list(out.data.shape)}"
        )
    call(
        "tree_mask_flat", backend, ancestors=layout.ancestors, past=past, root=root,
        mask=out.data, written=out.written, start=out.start,
    )  # fmt: skip
    return out


def _sglang_bits(layout: TreeLayout, root: bool, backend: str | None) -> Tensor:
    rows = _shape("tree_mask", layout.ancestors)[1] + root
    size = next((size for size in _SGLANG_WORDS if rows <= size), None)
    if size is None:
        raise ValueError(f"tree_mask: sglang_bits must have at most 32 rows, got {rows}")
    words = _dense(layout, "bits", root, None, torch.float32, None, backend).flatten()
    return words.view(torch.uint32) if size == 32 else words.to(_SGLANG_WORDS[size])


def _mask_mod(bits: Tensor, past: Tensor | None) -> Callable[..., Tensor]:
    last = bits.shape[1] - 1

    def mask_mod(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        column = key if past is None else key - past[batch]
        inside = column.clamp(0, last)
        word = bits[batch, query.clamp(max=last), inside >> 5]
        seen = (word >> (inside & 31) & 1) == 1
        return (column < 0) | seen & (column <= last)

    return mask_mod
