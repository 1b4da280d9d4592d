"""K-means in plain numpy: the oracle that the fast one is tested against. Holds an (m, k) matrix; for small data."""

from __future__ import annotations

import numpy as np

from sspruning.clusterers import Clustering, KMeansSettings
from sspruning.records import F32, F64, I64

__all__ = ["numpy_kmeans"]


def _squared_distances(points: F64, centroids: F64) -> F64:
    cross = points @ centroids.T
    squares = (points**2).sum(axis=1)[:, None] - 2 * cross + (centroids**2).sum(axis=1)
    return np.maximum(squares, 0.0)


def _start(points: F64, settings: KMeansSettings, rng: np.random.Generator) -> F64:
    """Starting centroids: k-means++ (Arthur and Vassilvitskii 2007), or distinct random points."""
    if settings.init == "random":
        return points[rng.choice(len(points), settings.k, replace=False)]
    chosen = [int(rng.integers(len(points)))]
    nearest = _squared_distances(points, points[chosen])[:, 0]
    while len(chosen) < settings.k:
        total = nearest.sum()
        weights = nearest / total if total > 0 else None
        chosen.append(int(rng.choice(len(points), p=weights)))
        nearest = np.minimum(nearest, _squared_distances(points, points[chosen[-1:]])[:, 0])
    return points[chosen]


def _normalised(rows: F64) -> F64:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1.0)


def _refill(centroids: F64, labels: I64, distances: F64, points: F64) -> int:
    """Give every empty cluster the farthest point that is left; returns how many there were."""
    empty = np.flatnonzero(np.bincount(labels, minlength=len(centroids)) == 0)
    farthest = np.argsort(-distances, kind="stable")[: len(empty)]
    centroids[empty] = points[farthest]
    return len(empty)


def numpy_kmeans(sample: F32, settings: KMeansSettings) -> Clustering:
    """`Clustering` by Lloyd's algorithm in float64.

    Args:
        sample: (m, d) float32 with m >= k.
        settings: ``init`` "afk-mc2" is served by k-means++, of which it is an approximation.

    Cost:
        O(niter m k d) time, O(m k) memory.
    """
    points = sample.astype(np.float64)
    rng = np.random.default_rng(settings.seed)
    centroids = _start(points, settings, rng)
    if settings.spherical:
        centroids = _normalised(centroids)
    objective, refilled = [], 0
    for _ in range(settings.niter):
        if settings.spherical:
            similarity = points @ centroids.T
            labels = similarity.argmax(axis=1)
            best = similarity.max(axis=1)
            objective.append(best.sum())
            distances = -best
        else:
            squares = _squared_distances(points, centroids)
            labels = squares.argmin(axis=1)
            distances = squares.min(axis=1)
            objective.append(distances.sum())
        sums = np.zeros_like(centroids)
        np.add.at(sums, labels, points)
        centroids = sums / np.maximum(np.bincount(labels, minlength=settings.k), 1)[:, None]
        refilled += _refill(centroids, labels, distances, points)
        if settings.spherical:
            centroids = _normalised(centroids)
    return Clustering(centroids.astype(np.float32), np.array(objective), {"device": "cpu", "split_clusters": refilled})
