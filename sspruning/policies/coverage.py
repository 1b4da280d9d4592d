"""Keep one sample for each region: representatives that leave nothing far from what is kept."""

from __future__ import annotations

import numpy as np

from sspruning.errors import UsageError
from sspruning.policies.balance import place_in_group, places_within
from sspruning.records import F32, F64, I64, Candidates, Vectors

__all__ = ["coverage"]

GROUP = 1024  # rows of one k-means problem: 8 MB of similarities, 20 ms to make them at d = 384
FEW = 8  # representatives that are found among GROUP random members as well as among all
BLOCK = 8192  # rows read at a time: 25 MB at d = 384
CANCELLED = 1e-6  # squared length of a sum of unit rows that has no direction
TILT = 10.0  # most that hardness multiplies or divides a budget by


def coverage(candidates: Candidates, *, niter: int = 10, hardness: float = 0.0) -> I64:
    """Ranks that keep one sample for each region: of each small group of like samples, the most typical one.

    Every cluster has a budget by its size, in whole samples that add up to ``count``. A spherical k-means (start:
    k-means++) parts its members into as many groups as its budget; each group keeps the member nearest to its centre.
    Groups that came out empty, as among copies, are made up for by the members farthest from what is kept. So
    redundant samples go first, wherever they lie, and nothing is left far from a kept sample.

    A cluster of more than 1,024 members is halved first, across the direction that parts a sample of it in two, until
    parts are small enough. The halves share the budget by size times spread (mean cosine distance to the half's mean),
    which is what one k-means would do: a dense clump is given little. A part with at most 8 to keep is not halved
    any more: 1,024 random members stand for it.

    Args:
        candidates: clusters, ties, embeddings, ``count`` and, for ``hardness``, scores of n samples. The floor plays no
            part: every cluster has its share.
        niter: rounds of k-means at most, at least 1.
        hardness: 0: budgets by size alone. 1: by size times mean score, so that clusters of hard samples keep more; in
            between: mean score to that power. Mean scores count from 0, or from the lowest score if that is negative,
            and change a budget tenfold at most.

    Returns:
        (n,) int64 permutation for ``count``: another count chooses other samples. Representatives come first, those of
        all clusters in turn, then the others likewise.

    Raises:
        UsageError: an option is out of its range.

    Cost:
        O(n m d) for m members a cluster, of which 1,024 count: 3 s for 100,000 samples in 316 clusters and 85 s for a
        million in 1,000, half of them kept, d = 384, on one core. Memory: 40 MB at a time, 60 bytes for each sample.

    Source:
        No paper. The aim is that of core-sets (Sener and Savarese 2018, arXiv:1708.00489), for the mean distance, not
        the largest, which belongs to outliers. k-means++: Arthur and Vassilvitskii 2007.
    """
    if niter < 1:
        raise UsageError(f"policy 'coverage': niter must be at least 1; got {niter}")
    if not 0 <= hardness <= 1:
        raise UsageError(f"policy 'coverage': hardness must be in [0, 1]; got {hardness}")
    if candidates.vectors is None:
        raise UsageError("policy 'coverage' reads embeddings, and there are none")
    n = len(candidates)
    by_tie = np.argsort(candidates.tie, kind="stable")
    part, vectors = candidates.take(by_tie), candidates.vectors.take(by_tie)
    kept = np.zeros(n, np.bool_)
    by_cluster, ends = np.argsort(part.cluster, kind="stable"), np.cumsum(np.bincount(part.cluster)).tolist()
    for start, end, budget in zip([0, *ends], ends, _budgets(part, hardness).tolist(), strict=False):
        kept[_representatives(vectors, by_cluster[start:end], budget, niter)] = True
    group = 2 * part.cluster.astype(np.int64) + ~kept
    place = place_in_group(group)
    seat = (place + 0.5) / np.bincount(group)[group]
    ranks = np.empty(n, np.int64)
    ranks[by_tie[np.lexsort((group, seat, ~kept))]] = np.arange(n)
    return ranks


def _budgets(part: Candidates, hardness: float) -> I64:
    """(clusters,) samples to keep of each, ``count`` in all, no more than it has.

    Seats go one by one to the cluster with the largest weight / (seats + 1/2) (Webster's method): shares are rounded to
    the nearest, neither small nor large clusters gain by it.
    """
    cluster, size = part.cluster, np.bincount(part.cluster)
    score = part.score.astype(np.float64)
    score -= min(0.0, score.min(initial=0.0))
    mean = np.bincount(cluster, score) / np.maximum(size, 1)
    overall = score.sum() / max(len(score), 1)
    ratio = mean / overall if overall > 0 else np.ones(len(size))
    weight = size * np.clip(ratio, 1 / TILT, TILT) ** hardness
    seat = (place_in_group(cluster) + 0.5) / weight[cluster]
    return np.bincount(cluster[np.lexsort((cluster, seat))[: part.count]], minlength=len(size))


def _representatives(vectors: Vectors, rows: I64, budget: int, niter: int) -> I64:
    """(budget,) of the given rows, which are in order of ``tie``."""
    if budget in {0, len(rows)}:
        return rows[:budget]
    if len(rows) <= GROUP or budget <= FEW:
        some = rows[:GROUP]
        return some[_typical(_similarity(vectors[some]), budget, niter)]
    halves, spread = _halves(vectors, rows)
    sizes = [len(half) for half in halves]
    weight = [size * width for size, width in zip(sizes, spread, strict=True)]
    weight = weight if sum(weight) > 0 else sizes
    share = round(budget * weight[0] / sum(weight))
    share = min(max(share, 1, budget - sizes[1]), sizes[0], budget - 1)
    budgets = (share, budget - share)
    return np.concatenate(
        [_representatives(vectors, half, own, niter) for half, own in zip(halves, budgets, strict=True)]
    )


def _halves(vectors: Vectors, rows: I64) -> tuple[tuple[I64, I64], tuple[float, float]]:
    """The rows in two halves of one size, in their order, and the spread of each, of those of its rows in a sample."""
    sample = vectors[rows[:GROUP]].astype(np.float64)
    side = _lloyd(_similarity(sample), 2, niter=10) == 0
    direction = sample[side].mean(axis=0) - sample[~side].mean(axis=0) if 0 < side.sum() < GROUP else sample[0]
    along = np.concatenate(
        [
            np.einsum("ij,j->i", vectors[rows[start : start + BLOCK]].astype(np.float64), direction)
            for start in range(0, len(rows), BLOCK)
        ]
    )
    left = np.zeros(len(rows), np.bool_)
    left[np.argsort(along, kind="stable")[: len(rows) // 2]] = True
    seen = left[:GROUP]
    return (rows[left], rows[~left]), (_spread(sample[seen]), _spread(sample[~seen]))


def _spread(rows: F64) -> float:
    """Mean cosine distance of unit rows to their mean; 0 of none."""
    return max(0.0, 1.0 - float(np.sqrt(np.square(rows.mean(axis=0)).sum()))) if len(rows) else 0.0


def _similarity(rows: F32 | F64) -> F32:
    """(m, m) cosines of (m, d) unit rows.

    Embeddings are float16 of at most unit length, so their products are whole multiples of 2^-48 and their sums fit
    float64 without rounding: cosines are exact before they are rounded, whatever the number of threads.
    """
    wide = rows.astype(np.float64)
    length = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    length[length == 0] = 1.0
    return ((wide @ wide.T) / np.outer(length, length)).astype(np.float32)


def _typical(similarity: F32, count: int, niter: int) -> I64:
    """(count,) members, the most typical of each of ``count`` groups; where some are empty, the farthest from those."""
    labels = _lloyd(similarity, count, niter)
    own = _sums(similarity, labels)[labels, np.arange(len(labels))]
    in_groups = np.lexsort((-own, labels))
    picks = in_groups[places_within(labels, in_groups)[in_groups] == 0].tolist()
    near = similarity[picks].max(axis=0)
    near[picks] = np.inf
    while len(picks) < count:
        farthest = int(near.argmin())
        picks.append(farthest)
        near = np.maximum(near, similarity[farthest])
        near[farthest] = np.inf
    return np.array(picks, np.int64)


def _lloyd(similarity: F32, k: int, niter: int) -> I64:
    """(m,) group of each member, of k groups or fewer: spherical k-means that needs no more than the cosines."""
    labels = similarity[_seeds(similarity, k)].argmax(axis=0)
    for _ in range(niter):
        labels = np.unique(labels, return_inverse=True)[1]
        toward = _sums(similarity, labels)
        square = np.bincount(labels, toward[labels, np.arange(len(labels))])
        toward /= np.sqrt(np.where(square > CANCELLED, square, 1.0)).astype(np.float32)[:, None]
        before, labels = labels, toward.argmax(axis=0)
        if np.array_equal(before, labels):
            break
    return np.unique(labels, return_inverse=True)[1]


def _sums(similarity: F32, labels: I64) -> F32:
    """(groups, m) sum of each member's cosines to the members of each group; no group is empty."""
    order = np.argsort(labels, kind="stable")
    sizes = np.bincount(labels)
    return np.add.reduceat(similarity[order], np.cumsum(sizes) - sizes, axis=0)


def _seeds(similarity: F32, k: int) -> I64:
    """(k,) or fewer different members by k-means++: the first, then each with a chance that grows with its distance.

    Fewer if the others are copies of those.
    """
    draws = np.random.default_rng(0).random(k).tolist()  # members are in random order already
    seeds = [0]
    apart = 1.0 - similarity[0].astype(np.float64)
    for draw in draws[1:]:
        reach = np.cumsum(np.maximum(apart, 0.0))
        if reach[-1] <= 0:
            break
        seeds.append(int(np.searchsorted(reach, draw * reach[-1], side="right")))
        apart = np.minimum(apart, 1.0 - similarity[seeds[-1]])
    return np.array(seeds, np.int64)
