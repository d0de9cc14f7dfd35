"""``compact_kv``: the accepted path's keys and values to their final slots."""

from __future__ import annotations

from torch import Tensor

from ..backends import call


def compact_kv(
    cache: Tensor,  # [layers, 2, B, heads, slots, width]
    path: Tensor,  # [B, N]
    num_accepted: Tensor,  # [B]
    start: Tensor,  # [B]
    *,
    block_table: Tensor | None = None,  # [B, M]
    length: Tensor | None = None,  # [B]
    backend: str | None = None,
) -> Tensor:
    """Move keys and values of the accepted path to where plain decoding had put them.

    The verify forward has put node i of request b into slot ``start[b] + i``. Entry j of the path
    goes to slot ``start[b] + j``: in place, in all layers, in one launch. Nothing else is touched,
    and what the rejected nodes leave behind is for the next tokens to write over.

    Parameters
    ----------
    cache : Tensor
        [layers, 2, B, heads, slots, width], keys and values of every layer, float32, bfloat16,
        float16, float8_e4m3fn, float8_e5m2, int8 or uint8: entries are moved as bytes. Any
        strides, but a contiguous last dimension; a cache in another order is given as a view
        (``permute``, ``[None]`` for one layer). With ``block_table`` paged:
        [layers, 2, pages, heads, page_size, width].
    path : Tensor
        [B, N] int32, accepted nodes from the root down (:class:`TreeVerdict`'s).
    num_accepted : Tensor
        [B] int32, how many entries of ``path`` count.
    start : Tensor
        [B] int32, the slot of node 0: the tokens before it, the root's with them.
    block_table : Tensor, optional
        [B, M] int32: slot s of request b is slot ``s % page_size`` of page
        ``block_table[b, s // page_size]``. No page that a tree was written to may belong to two
        requests, or twice to one.
    length : Tensor, optional
        [B] int32, written: ``start + num_accepted``, the tokens the cache now holds.
    backend : {"reference", "cpu", "triton", "cuda"}, optional

    Returns
    -------
    Tensor
        ``cache``.

    Raises
    ------
    TypeError, ValueError
        For a tensor of the wrong dtype, shape, device or layout; nothing is written.

    Notes
    -----
    Path indices rise, so that entry j is node j or a later one: moved in order, no entry is
    written before it was read. A path is taken up to the first entry that does not rise, is no
    node, or whose slots do not exist, and ``length`` counts it so.

    Examples
    --------
    >>> cache = torch.arange(6.0).view(1, 1, 1, 1, 6, 1).repeat(1, 2, 1, 1, 1, 1)
    >>> path = torch.tensor([[1, 3, -1, -1]], dtype=torch.int32)
    >>> two = torch.tensor([2], dtype=torch.int32)
    >>> compact_kv(cache, path, num_accepted=two, start=two)[0, 0].flatten().tolist()
    [0.0, 1.0, 3.0, 5.0, 4.0, 5.0]
    """
    call(
        "compact_kv", backend, path=path, num_accepted=num_accepted, start=start,
        block_table=block_table, cache=cache, length=length,
    )  # fmt: skip
    return cache
