"""Trees: links, the bits of who sees whom, and rejection without replacement.

Bit j & 31 of word j >> 5 of a node's row says that it sees node j.  With the root before the nodes
it sees itself and is seen by all.

tree_token (SpecInfer 2305.09781, Sequoia 2402.12374): children x_1, x_2, .. in the order they were
drawn, accept x iff u q_k(x) < p_k(x), else p_{k+1} = norm[p_k - q_k]+ and q_{k+1} is q_k without x,
renormalised.  With p_k ~ [p - s_k q]+ of mass M_k and q_k = q / R_k: s_{k+1} = s_k + M_k / R_k from
s_0 = 0, M_0 = R_0 = 1.  A child of its own one-hot q is rejected from p without the children before
it, of mass M_k: accept iff u M_k < p(x).
"""

from __future__ import annotations

import triton
import triton.language as tl

ROOT = tl.constexpr(-1)  # in `parents`: a child of the root
ABSENT = tl.constexpr(-2)  # no node
MOST_WORDS = tl.constexpr(32)  # of the ancestors of a node
FAR = tl.constexpr(2**31 - 1)


@triton.jit
def last_word(nodes):
    """The bits of nodes in the last word of a row."""
    rest = nodes & 31
    return tl.where(rest == 0, -1, (1 << rest) - 1)


@triton.jit
def sees(ancestors, nodes, root, q, k, known):
    """Whether row q of one request sees column k, of any shape; ``root`` is 0 or 1."""
    node, column = q - root, k - root
    inside = known & (node >= 0) & (column >= 0)
    at = node.to(tl.int64) * tl.cdiv(nodes, 32) + (column >> 5)
    word = tl.load(ancestors + at, mask=inside, other=0)
    bit = ((word >> (column & 31)) & 1) != 0
    return tl.where(inside, bit, column < 0)


@triton.jit
def visible_word(ancestors, nodes, root, q, w, known):
    """Word w of row q as ``sees`` has its bits, of any shape."""
    words, node = tl.cdiv(nodes, 32), q - root
    last = last_word(nodes)
    inside = known & (node >= 0)
    at = ancestors + node.to(tl.int64) * words + w
    here = tl.load(at, mask=inside & (w < words), other=0)
    below = tl.load(at - 1, mask=inside & (w > 0), other=0)
    here = tl.where(w == words - 1, here & last, here)
    below = tl.where(w == words, below & last, below)
    shifted = (here << 1) | tl.where(w > 0, (below >> 31) & 1, 1)
    return tl.where(root > 0, shifted, here)


@triton.jit
def next_child(link, after, nodes):
    """A link as a node, -1 for none: children come after their row and their earlier siblings, so
    that a walk ends whatever the links say."""
    return tl.where((link >= after) & (link < nodes), link, -1)


@triton.jit
def accepts_child(uniform, p_target, p_draft, slope, mass, left):
    """Both sides are sums of one sign."""
    return p_draft * (uniform * mass + slope * left) < p_target * left


@triton.jit
def next_slope(slope, mass, left):
    return slope + mass / left
