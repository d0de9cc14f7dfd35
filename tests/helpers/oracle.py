"""The processed distribution and the target's law, written again from the text of the contract.

numpy in float64, one row at a time, no code in common with the package.
"""

from __future__ import annotations

import itertools

import numpy as np


def softmax(z: np.ndarray, temperature: float) -> np.ndarray:
    shifted = np.exp((z - z.max()) / temperature)
    return shifted / shifted.sum()


def processed(
    logits: np.ndarray,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    allowed: np.ndarray | None = None,
) -> np.ndarray:
    """[V] probabilities after mask, temperature, top-k, top-p, min-p; ties at a cutoff are kept."""
    z = np.asarray(logits, dtype=np.float64)
    if allowed is not None:
        z = np.where(allowed, z, -np.inf)
    if temperature < 1e-5:
        return np.eye(len(z))[z.argmax()]
    keep = z > -np.inf
    if 0 < top_k < len(z):
        keep &= z >= np.sort(z)[-top_k]
    if top_p < 1:
        mass = softmax(np.where(keep, z, -np.inf), temperature)
        falling = np.argsort(-z, kind="stable")
        reached = np.cumsum(mass[falling]) >= top_p
        keep &= z >= z[falling[reached.argmax()]]  # the largest t with mass{z >= t} >= top_p
    if min_p > 0:
        keep &= np.exp((z - z.max()) / temperature) >= min(min_p, 1.0)
    return softmax(np.where(keep, z, -np.inf), temperature)


def markov(tables: np.ndarray, start: int, steps: int) -> np.ndarray:
    """[V] * steps: the law of ``steps`` tokens of a chain with rows ``tables`` [V, V]."""
    vocab = tables.shape[-1]
    law = np.zeros((vocab,) * steps)
    for sequence in itertools.product(range(vocab), repeat=steps):
        path = (start, *sequence)
        law[sequence] = np.prod([tables[a, b] for a, b in itertools.pairwise(path)])
    return law


def complete(tables: np.ndarray, emitted: tuple[int, ...], steps: int) -> np.ndarray:
    """The law of ``steps`` tokens that begin with ``emitted`` and go on as the target would."""
    vocab = tables.shape[-1]
    law = np.zeros((vocab,) * steps)
    if len(emitted) < steps:
        law[emitted] = markov(tables, emitted[-1], steps - len(emitted))
    else:
        law[emitted] = 1.0
    return law
