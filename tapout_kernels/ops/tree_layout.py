"""``tree_layout``: what parent pointers say of every node, in one launch."""

from __future__ import annotations

from torch import Tensor

from .._check import require_tensor
from ..backends import call
from ..tree import MOST_NODES, TreeLayout


def tree_layout(
    parents: Tensor,  # [B, N]
    *,
    position: Tensor | None = None,  # [B]
    out: TreeLayout | None = None,
    backend: str | None = None,
) -> TreeLayout:
    """Depths, links and ancestors of B trees given by parent pointers, in one launch.

    Parameters
    ----------
    parents : Tensor
        [B, N] int32, N at most 1024: the node each node hangs on, -1 for a child of the root (the
        last token before the draft, which is no node), -2 where there is no node. Parents come
        before their children and absent nodes after all others; children of one parent stand in
        the order they were drawn in.
    position : Tensor, optional
        [B] int64, the position of the root. None: 0, so that ``position_ids`` are offsets.
    out : TreeLayout, optional
        Buffers to write, see :meth:`TreeLayout.empty`.
    backend : {"reference", "cpu", "triton", "cuda"}, optional

    Returns
    -------
    TreeLayout
        Where ``parents`` is no tree (a cycle, a pointer forward or out of range, a node after an
        absent one) ``valid`` is False and the tree has no nodes.

    Raises
    ------
    TypeError, ValueError
        For a tensor of the wrong dtype, shape, device or layout; nothing is written.

    Examples
    --------
    >>> layout = tree_layout(torch.tensor([[-1, -1, 0, 2, -2]], dtype=torch.int32))
    >>> layout.depth.tolist(), layout.first_child.tolist()
    ([[1, 1, 2, 3, 0]], [[0, 2, -1, 3, -1, -1]])
    >>> layout.next_sibling.tolist(), layout.ancestors.flatten().tolist()
    ([[1, -1, -1, -1, -1]], [1, 2, 5, 13, 16])
    """
    require_tensor("tree_layout", "parents", parents)
    if parents.dim() != 2 or not 1 <= parents.shape[1] <= MOST_NODES or not parents.shape[0]:
        raise ValueError(
            f"tree_layout: parents must be [B > 0, 1 to {MOST_NODES}], got {list(parents.shape)}"
        )
    if out is None:
        out = TreeLayout.empty(*parents.shape, device=parents.device)
    call("tree_layout", backend, parents=parents, position=position, **vars(out))
    return out
