"""K-means whose clusters are of more even size: prototypes move from small clusters to large ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sspruning.clusterers import Clustering, KMeansSettings
from sspruning.clusterers.faiss_kmeans import faiss_kmeans
from sspruning.clusterers.lloyd import assign, move_to_means, split_clusters, total_cost
from sspruning.records import F32, I64, JSONValue

__all__ = ["balanced_kmeans"]

RATIO = 4.0  # of sizes, from which on a prototype moves: the halves of the larger stay larger than the smaller
PENALTY = 0.1  # an iteration, in mean squared distances, for a cluster of twice the mean size


def balanced_kmeans(sample: F32, settings: KMeansSettings) -> Clustering:
    """`Clustering` with clusters of more even size, judged by the nearest prototype of each row, as samples are later.

    For long-tailed corpora: fewer prototypes of a handful of samples, and none that stands for a tenth of everything.
    Sizes become more even, not equal. Four phases: k-means (half of ``niter`` iterations); moves (as many), in which
    the smallest cluster gives its prototype to the largest, the second smallest to the second largest and so on, as
    far as the larger has more than four times the rows; penalties (as many), in which each cluster's squared distances
    grow by its excess size; last ``niter`` plain Lloyd iterations, which put every prototype back in the mean of the
    rows that are nearest to it. The objective is that of the last phase. Groups that are far apart and as many as the
    prototypes cannot be evened out cheaply: the fewer prototypes a group has, the more a move costs. Rounds over
    everything that may follow are plain Lloyd iterations like those of the last phase, and leave sizes as even: on
    50,000 image embeddings with k = 300 the coefficient of variation was 0.11 before and after three of them, and fell
    from 0.28 to 0.18 in ten where the sample had been a tenth.

    Args:
        sample: (m, d) float32, m >= k.
        settings: k, iterations, geometry, start, seed; the device is that of the first phase.

    Raises:
        MachineError: FAISS is missing, or a GPU was asked for and none works.

    Cost:
        O(niter m k d) time, 2.5 times the iterations of `faiss_kmeans`, four fifths of them always on the CPU; the
        sample is not copied. Measured at k = 1000 and niter = 20, one thread: 3.6 times the time; coefficient of
        variation of the sizes 0.71 -> 0.20 and 0.39 -> 0.09, largest over mean 4.1 -> 1.7 and 2.5 -> 1.4, 1 - cosine
        0.7 % and 1.3 % smaller (60,000 planted long-tailed rows with d = 128, 50,000 image embeddings with d = 384).

    Source:
        Moves: splits and merges as of ISODATA, Ball and Hall 1965, with a fixed k. Penalties: frequency-sensitive
        competitive learning, Banerjee and Ghosh 2004 (IEEE Trans. Neural Networks 15:702), in the additive form of Liu
        et al. 2018 ("Fast clustering with flexible balance constraints", doi:10.1109/BigData.2018.8621917).
    """
    if len(sample) == settings.k:
        return faiss_kmeans(sample, settings)
    half = max(1, settings.niter // 2)
    spherical = settings.spherical
    started = faiss_kmeans(sample, replace(settings, niter=half))
    centroids, moved = _with_moves(sample, started.centroids, half, settings)
    centroids = _with_penalties(sample, centroids, half, spherical=spherical)
    objective = np.empty(settings.niter)
    for iteration in range(settings.niter):
        labels = assign(sample, centroids, cosine=spherical)
        objective[iteration] = total_cost(sample, centroids, labels, spherical=spherical)
        centroids = move_to_means(sample, labels, centroids, spherical=spherical)
    info: dict[str, JSONValue] = {**started.info, "moved_prototypes": moved}
    return Clustering(centroids, objective, info)


def _with_moves(sample: F32, centroids: F32, rounds: int, settings: KMeansSettings) -> tuple[F32, int]:
    """Centroids after rounds of Lloyd iterations with moves from small clusters to large ones; how many moved."""
    rng = np.random.default_rng(settings.seed)
    moved = 0
    for _ in range(rounds):
        labels = assign(sample, centroids, cosine=settings.spherical)
        centroids = move_to_means(sample, labels, centroids, spherical=settings.spherical)
        small, large = _pairs(np.bincount(labels, minlength=len(centroids)))
        centroids = split_clusters(sample, labels, centroids, large, small, rng, spherical=settings.spherical)
        moved += len(small)
    return centroids, moved


def _pairs(sizes: I64) -> tuple[I64, I64]:
    """Clusters that give their prototype away, and those that get it: smallest with largest, as far as it helps."""
    order = np.argsort(sizes, kind="stable")
    small, large = order[: len(order) // 2], order[::-1][: len(order) // 2]
    worth = sizes[large] > RATIO * sizes[small]
    return small[worth], large[worth]


def _with_penalties(sample: F32, centroids: F32, rounds: int, *, spherical: bool) -> F32:
    """Centroids after Lloyd iterations in which the penalty of a cluster grows with its excess size."""
    k, penalty = len(centroids), np.zeros(len(centroids))
    for _ in range(rounds):
        labels = assign(sample, centroids, cosine=False, penalty=penalty - penalty.min())
        spread = total_cost(sample, centroids, labels, spherical=False) / len(sample)
        centroids = move_to_means(sample, labels, centroids, spherical=spherical)
        excess = np.bincount(labels, minlength=k) * (k / len(sample)) - 1
        penalty += PENALTY * spread * excess
    return centroids
