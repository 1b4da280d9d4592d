"""Keep a random subset that shows every cluster in proportion to its size."""

from __future__ import annotations

import numpy as np

from sspruning.policies.balance import first_levels, place_in_group
from sspruning.policies.radix import ByCluster, ByTie, Rule, Stream, Within, find_borders
from sspruning.records import F64, I64, Candidates

__all__ = ["stratified_random", "stratified_random_rule"]


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
    offset = _offsets(len(sizes), int(candidates.tie.min()))
    level = (place_in_group(cluster) + offset[cluster]) / sizes[cluster]
    ranks[order[np.argsort(level, kind="stable")]] = np.arange(n)
    return ranks


def _offsets(k: int, seed: int) -> F64:
    """(k,) where each cluster's first level stands: spread evenly over (0, 1), so that the roundings cancel out."""
    return (np.random.default_rng(seed).permutation(k) + 0.5) / k


def stratified_random_rule(stream: Stream) -> Rule:
    """`Rule` that keeps what `stratified_random` ranks first.

    Cost:
        about five passes over all samples; memory for one piece and 100 MB.
    """
    order, group = ByTie(), ByCluster()
    sizes = stream.sizes[: int(np.flatnonzero(stream.sizes)[-1]) + 1]
    offset = _offsets(len(sizes), min(int(piece.tie.min()) for piece in stream.read(order.needs) if piece.size))
    below, at_level = first_levels(sizes, lambda place: (place + offset) / np.maximum(sizes, 1), stream.count)
    borders = find_borders(stream, order, group, sizes, below + at_level, by_name=True)
    equal = np.flatnonzero(at_level)  # the last sample of each of these clusters: the smaller tie goes first
    over = equal[np.lexsort((borders.at[equal], borders.tie[equal]))][stream.count - int(below.sum()) :]
    borders.at[over] -= 1
    return Within(borders, order, group)
