"""K-means for thousands of prototypes: coarse cells first, then k-means inside each of them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from sspruning.clusterers import Clustering, KMeansSettings
from sspruning.clusterers.faiss_kmeans import faiss_kmeans
from sspruning.clusterers.lloyd import assign, move_to_means, split_clusters, total_cost
from sspruning.records import F32, I64, JSONValue

__all__ = ["hierarchical_kmeans"]

REFINEMENTS = 2  # iterations over all prototypes at the end
SEEDS = 1 << 31


def hierarchical_kmeans(sample: F32, settings: KMeansSettings) -> Clustering:
    """`Clustering` by two levels of k-means and a few iterations over everything, for k of about 500 and more.

    About sqrt(k) coarse cells; each is given prototypes in proportion to its rows, which k-means finds inside it; then
    at most two Lloyd iterations over all rows and all k, in which rows cross the borders of the cells. k < 3, and as
    many prototypes as rows, are left to `faiss_kmeans`. The same bytes for 1, 2 or 4 threads (measured).

    The objective's ``niter`` values, each a sum over the whole sample: first those of the iterations inside the cells,
    where a row counts with the nearest prototype of its own cell, then those of the iterations over everything. The
    coarse level runs ``niter`` iterations before that; its last value is ``info["coarse_objective"]``.

    Args:
        sample: (m, d) float32, m >= k.
        settings: k, iterations, geometry, start, seed; the device is that of the two levels.

    Raises:
        MachineError: FAISS is missing, or a GPU was asked for and none works.

    Cost:
        O(m d (2 niter sqrt(k) + 2 k)) time instead of O(m d niter k): a sixth at niter = 20 and k = 1000 by this count.
        Memory for one cell's rows besides the sample. The last two iterations always run on the CPU.

    Source:
        Two-level k-means as for large vocabularies: Nister and Stewenius 2006, "Scalable recognition with a vocabulary
        tree", with leaves in proportion to the cells and iterations over everything added.
    """
    k, m = settings.k, len(sample)
    if k < 3 or m == k:
        return faiss_kmeans(sample, settings)
    coarse = faiss_kmeans(sample, replace(settings, k=round(math.sqrt(k))))
    cell = assign(sample, coarse.centroids, cosine=settings.spherical)
    sizes = np.bincount(cell, minlength=len(coarse.centroids))
    shares = _shares(sizes, k)
    refinements = min(REFINEMENTS, settings.niter // 2)
    inside = settings.niter - refinements
    order, ends, slots = np.argsort(cell, kind="stable"), np.cumsum(sizes), np.cumsum(shares)
    centroids, objective = np.empty((k, sample.shape[1]), np.float32), np.zeros(settings.niter)
    splits, rng = _splits(coarse), np.random.default_rng(settings.seed)
    for number in np.flatnonzero(shares).tolist():
        rows = sample[order[ends[number] - sizes[number] : ends[number]]]
        seed = (settings.seed + 1 + number) % SEEDS
        found = faiss_kmeans(rows, replace(settings, k=int(shares[number]), niter=inside, seed=seed))
        centroids[slots[number] - shares[number] : slots[number]] = found.centroids
        objective[:inside] += np.pad(
            found.objective, (0, inside - len(found.objective)), mode="edge"
        )  # it may stop early
        splits += _splits(found)
    for iteration in range(inside, settings.niter):
        labels = assign(sample, centroids, cosine=settings.spherical)
        objective[iteration] = total_cost(sample, centroids, labels, spherical=settings.spherical)
        centroids = move_to_means(sample, labels, centroids, spherical=settings.spherical)
        if iteration < settings.niter - 1:
            spare, large = _empty_and_largest(np.bincount(labels, minlength=k))
            centroids = split_clusters(sample, labels, centroids, large, spare, rng, spherical=settings.spherical)
            splits += len(spare)
    info: dict[str, JSONValue] = {
        **coarse.info,
        "split_clusters": splits,
        "cells": int(np.count_nonzero(shares)),
        "coarse_objective": float(coarse.objective[-1]),
        "refinements": refinements,
    }
    return Clustering(centroids, objective, info)


def _splits(found: Clustering) -> int:
    count = found.info["split_clusters"]
    return count if isinstance(count, int) else 0


def _shares(sizes: I64, k: int) -> I64:
    """(cells,) prototypes of each cell: their sum is k, each is in proportion to the cell's rows, rounded.

    A cell with rows has at least one and at most as many as rows, one without rows none; k lies between the number of
    cells that have rows and the number of rows. Whoever is farthest from the exact share is corrected first.
    """
    exact = k * sizes / sizes.sum()
    shares = np.where(sizes > 0, np.maximum(k * sizes // sizes.sum(), 1), 0)
    while (missing := k - int(shares.sum())) != 0:
        step = 1 if missing > 0 else -1
        free = shares < sizes if step > 0 else shares > 1
        shares[np.argmax(np.where(free, step * (exact - shares), -np.inf))] += step
    return shares


def _empty_and_largest(sizes: I64) -> tuple[I64, I64]:
    """Clusters without rows, and as many of the largest, if these have at least two rows."""
    order = np.argsort(sizes, kind="stable")
    count = min(np.count_nonzero(sizes == 0), np.count_nonzero(sizes > 1))
    return order[:count], order[::-1][:count]
