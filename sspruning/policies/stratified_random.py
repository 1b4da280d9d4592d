"""Keep a random subset that shows every cluster in proportion to its size."""

from __future__ import annotations

import numpy as np

from sspruning.policies.balance import place_in_group
from sspruning.records import I64, Candidates

__all__ = ["stratified_random"]


def stratified_random(candidates: Candidates) -> I64:
    """Ranks in a random order that takes every cluster in proportion to its size, for every number kept.

    The fair baseline of anything that uses clusters: random, without the luck of which clusters it hits. Within a
    cluster of m samples the order is drawn; its p-th sample (from 0) stands at level (p + u) / m with one offset u in
    (0, 1) for each cluster, and ranks follow the levels. Up to any level t a cluster has therefore kept less than one
    sample more or less than t * m, and as the offsets are drawn at random, so are the clusters that are rounded up:
    each sample is kept with probability t, whatever the size of its cluster. Seats by Jefferson's rule, as the floors
    of the other policies use them, are not for this: they round down, so that small clusters keep nothing at all.

    The score, ``balance`` and ``floor`` play no part.

    Args:
        candidates: clusters and ties of n samples; the smallest tie seeds the offsets.

    Returns:
        (n,) int64 permutation.

    Cost:
        O(n log n); about 0.4 s for a million samples.

    Source:
        Systematic sampling with a random start in each stratum, a textbook method. Ayed and Hayou 2023,
        arXiv:2302.06960, on random as a strong baseline where little is kept.
    """
    n = len(candidates)
    ranks = np.empty(n, np.int64)
    if n == 0:
        return ranks
    order = np.argsort(candidates.tie, kind="stable")
    cluster = candidates.cluster[order]
    sizes = np.bincount(cluster)
    rng = np.random.default_rng(int(candidates.tie.min()))
    offset = (rng.permutation(len(sizes)) + 0.5) / len(sizes)  # spread evenly, so that the roundings cancel out
    level = (place_in_group(cluster) + offset[cluster]) / sizes[cluster]
    ranks[order[np.argsort(level, kind="stable")]] = np.arange(n)
    return ranks
