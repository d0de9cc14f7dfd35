"""In which order requests come: one domain, several mixed, or one after the other."""

from __future__ import annotations

from itertools import chain, zip_longest

import numpy as np

MIXED, DRIFTING = "mixed", "drifting"


def streams(domains: list[str], domain: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Every stream of a trace: a name, and requests in their order [N] i64.

    Parameters
    ----------
    domains : list of str
    domain : array
        [R], each request's index into ``domains``.
    seed : int
        0 keeps the order of the trace; others shuffle the requests of each domain, and the order
        of the domains of the drifting stream.
    """
    generator = np.random.default_rng(seed)
    each = [np.flatnonzero(domain == index) for index in range(len(domains))]
    order = list(range(len(domains)))
    if seed:
        each = [generator.permutation(requests) for requests in each]
        order = generator.permutation(len(domains)).tolist()
    found = dict(zip(domains, each, strict=True))
    if len(domains) > 1:
        turns = chain.from_iterable(zip_longest(*(requests.tolist() for requests in each)))
        found[MIXED] = np.array([request for request in turns if request is not None])
        found[DRIFTING] = np.concatenate([each[index] for index in order])
    return {name: requests.astype(np.int64) for name, requests in found.items()}
