"""What is far from everything: often broken or off-topic images."""

from __future__ import annotations

import numpy as np

from sspruning.errors import UsageError
from sspruning.filters import Dropped
from sspruning.filters.unit_vectors import UnitVectors, need_vectors
from sspruning.records import F32, F64, I64, Candidates

__all__ = ["outliers"]

QUERIES, MEMBERS = 2_048, 4_096  # rows compared at once: 32 MB of products
ALONE = 2.0  # distance to its neighbours of a sample that has none: the largest cosine distance


def outliers(candidates: Candidates, *, quantile: float = 0.99, by: str = "distance", neighbors: int = 5) -> Dropped:
    """`Dropped` of the round((1 - quantile) * n) samples that lie farthest out, ties by ``tie``.

    For the guard before keep-hard, whose hard end holds broken and off-topic images. `distance` finds whatever is far
    from its prototype, tight groups of odd images too; `density` spares groups and takes what has no neighbours.

    Args:
        candidates: n samples; with vectors for `density`.
        quantile: share of the samples that stays, in (0, 1].
        by: `distance` to the own prototype; or `density`: mean cosine distance to the nearest samples among the members
            of its two nearest clusters, to as many as there are if there are fewer.
        neighbors: how many nearest samples, for `density`.

    Raises:
        UsageError: an option is outside its range, the candidates lack vectors, or nothing would be left.

    Cost:
        `distance`: O(n log n). `density`: O(n m d) for clusters of m samples, and 4 * n * neighbors bytes.

    Source:
        The outlier cut of coverage-centric selection, Zheng et al. 2023, arXiv:2210.15809, without labels.
    """
    if not 0 < quantile <= 1:
        raise UsageError(f"filter 'outliers': quantile must lie in (0, 1]; got {quantile}")
    if by not in {"distance", "density"}:
        raise UsageError(f"filter 'outliers': by must be distance or density; got {by!r}")
    if neighbors < 1:
        raise UsageError(f"filter 'outliers': neighbors must be at least 1; got {neighbors}")
    n = len(candidates)
    count = round((1 - quantile) * n)
    if count and count == n:
        raise UsageError(f"filter 'outliers': quantile {quantile} leaves none of {n} samples")
    drop = np.zeros(n, np.bool_)
    if count:
        far = candidates.distance if by == "distance" else _isolation(candidates, neighbors, count)
        drop[np.lexsort((candidates.tie, -far))[:count]] = True
    return Dropped(drop, "outlier")


def _isolation(candidates: Candidates, neighbors: int, count: int) -> F64:
    """(n,) mean cosine distances to neighbours: from float32 products, and exact where ``count`` might turn on it."""
    units = UnitVectors(need_vectors(candidates, "outliers"))
    first, second = (column.astype(np.int64) for column in (candidates.cluster, candidates.second_cluster))
    k = int(max(first.max(), second.max())) + 1
    members = _lists(first, np.arange(len(first)), k)
    other = np.flatnonzero(first != second)
    guests = _lists(second[other], other, k)
    nearest = np.full((len(first), neighbors), -np.inf, np.float32)
    for cluster in range(k):
        if len(members[cluster]):
            for rows in (members[cluster], guests[cluster]):
                _take_nearest(units, rows, members[cluster], nearest)
    far = _mean_distance(nearest.astype(np.float64))
    border = np.partition(far, len(far) - count)[len(far) - count]
    for row in np.flatnonzero(np.abs(far - border) <= 2 * units.tolerance).tolist():
        around = members[first[row]]
        if first[row] != second[row]:
            around = np.concatenate([around, members[second[row]]])
        around = around[around != row]
        # what is farther than this cannot be among the nearest, whatever the rounding of both products
        close = units[around] @ units[np.array([row])][0] >= nearest[row].min() - 2 * units.tolerance
        similar = units.cosine(np.full(int(close.sum()), row), around[close])
        far[row] = _mean_distance(np.sort(similar)[None, ::-1][:, :neighbors])[0]
    return far


def _lists(cluster: I64, rows: I64, k: int) -> list[I64]:
    """Rows of each of k clusters, ascending."""
    by_cluster = np.argsort(cluster, kind="stable")
    return np.split(rows[by_cluster], np.cumsum(np.bincount(cluster, minlength=k))[:-1])


def _take_nearest(units: UnitVectors, rows: I64, members: I64, nearest: F32) -> None:
    """Merge the cosines of ``rows`` to ``members``, themselves apart, into their largest so far."""
    found = nearest.shape[1]
    for start in range(0, len(members), MEMBERS):
        block = members[start : start + MEMBERS]
        theirs = units[block]
        for begin in range(0, len(rows), QUERIES):
            some = rows[begin : begin + QUERIES]
            similar = units[some] @ theirs.T
            _, own, place = np.intersect1d(some, block, assume_unique=True, return_indices=True)
            similar[own, place] = -np.inf
            both = np.concatenate([nearest[some], similar], axis=1)
            nearest[some] = np.partition(both, both.shape[1] - found, axis=1)[:, -found:]


def _mean_distance(cosines: F64) -> F64:
    """(m,) mean of 1 - cosine over each row's entries, those of -inf apart; `ALONE` where there is no other."""
    there = np.isfinite(cosines)
    amount = there.sum(axis=1)
    total = np.where(there, 1.0 - np.where(there, cosines, 0.0), 0.0).sum(axis=1)
    return np.where(amount > 0, total / np.maximum(amount, 1), ALONE)
