"""Keep the same from every branch of a tree of concepts: balanced sampling on hierarchical k-means."""

from __future__ import annotations

import math

import numpy as np

from sspruning.clusterers import KMeansSettings
from sspruning.clusterers.faiss_kmeans import NearestPrototypes, faiss_kmeans
from sspruning.errors import UsageError
from sspruning.metrics.distances import pair_distance
from sspruning.policies.balance import places_within
from sspruning.records import F32, I32, I64, U64, Candidates

__all__ = ["hierarchical"]

BRANCHING = 8  # nodes below a node, on average; 3 to 25 in the paper's own trees
ITERATIONS = 50  # as in the paper


def hierarchical(candidates: Candidates, *, levels: int = 2, resamples: int = 10, leaf: str = "random") -> I64:
    """Ranks that give every branch of a tree over the prototypes its equal share, or all it has.

    The first level of the tree are the prototypes as they are: k-means on the data was the cluster stage, without
    resampling. Each further level is a k-means on the centroids of the level below, with an eighth as many nodes, made
    flatter by rounds of {take the points nearest to each centroid, k-means on those, assign all points again}.

    From the top down, a node that may keep t samples lets its children keep min(c, size) each, with the largest whole
    c that t allows; what is left goes to children that have more, one each, in an order that is drawn once for each
    node. Here for every t at once, from the bottom up: a node's samples are its children's samples dealt out in turn.
    Concepts that fill half of the data end up as large as rare ones, for good and for ill: a branch of junk too.

    Args:
        candidates: clusters, distances, ties and centroids; embeddings are not read.
        levels: of the tree, at least 1. 1: the prototypes alone. A level of one node is the top, so no more are made.
        resamples: rounds of resampling at each level above the prototypes, at least 0. From each centroid's points they
            take half as many as centroids have on average.
        leaf: which samples of a prototype go first: `random` (by ``tie``), or `closest` to it.

    Returns:
        (n,) int64 permutation. Nested: it does not depend on how many are kept. The cluster floor plays no part.

    Raises:
        UsageError: an option is out of its range.
        MachineError: FAISS is missing, and there are prototypes enough for a second level.

    Cost:
        O(n log n) for each level, and O(resamples k^2 d) for k prototypes: 0.2 s for 50,000 samples and
        224 prototypes; the tree of 3,162 prototypes takes 3 s on one core.

    Source:
        Vo et al. 2024, arXiv:2405.15613. There, k-means of the data is resampled too.
    """
    if levels < 1:
        raise UsageError(f"policy 'hierarchical': levels must be at least 1; got {levels}")
    if resamples < 0:
        raise UsageError(f"policy 'hierarchical': resamples must be at least 0; got {resamples}")
    if leaf not in {"random", "closest"}:
        raise UsageError(f"policy 'hierarchical': leaf must be 'random' or 'closest'; got {leaf!r}")
    n = len(candidates)
    by_tie = np.argsort(candidates.tie, kind="stable")
    tie = candidates.tie[by_tie]
    occupied, node = np.unique(candidates.cluster[by_tie], return_inverse=True)
    order = np.argsort(candidates.distance[by_tie], kind="stable") if leaf == "closest" else np.arange(n)
    place = places_within(node, order)
    for parents in _parents(candidates.centroids[occupied], levels - 1, resamples):
        turn = _turns(node, tie)[node]
        node = parents[node]
        place = places_within(node, np.lexsort((turn, place)))
    ranks = np.empty(n, np.int64)
    ranks[by_tie[np.lexsort((_turns(node, tie)[node], place))]] = np.arange(n)
    return ranks


def _turns(node: I64, tie: U64) -> I64:
    """(nodes,) when each node's turn comes: a random permutation drawn from the smallest tie of its samples.

    ``tie`` ascends. The mixing takes away that large nodes have smaller ties.
    """
    key = tie[np.unique(node, return_index=True)[1]]
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # the finalizer of SplitMix64
        key = (key ^ (key >> np.uint64(shift))) * np.uint64(factor)
    turn = np.empty(len(key), np.int64)
    turn[np.argsort(key ^ (key >> np.uint64(31)), kind="stable")] = np.arange(len(key))
    return turn


def _parents(points: F32, levels: int, resamples: int) -> list[I64]:
    """For each further level, the node above each node of the level below; nodes without children do not count."""
    found: list[I64] = []
    for _ in range(levels):
        k = math.ceil(len(points) / BRANCHING)
        if k <= 1:
            break
        centroids, labels = _flattened(points, k, resamples)
        occupied, labels = np.unique(labels, return_inverse=True)
        points = centroids[occupied]
        found.append(labels)
    return found


def _flattened(points: F32, k: int, resamples: int) -> tuple[F32, I64]:
    """(k, d) centroids of (m, d) points and (m,) the nearest of each, after rounds of resampling."""
    centroids, labels = _means(points, points, k, 0)
    for round_ in range(1, resamples + 1):
        distance = pair_distance(points, centroids, labels, cosine=False)
        order = np.argsort(distance, kind="stable")
        chosen = np.flatnonzero(places_within(labels, order) < len(points) // (2 * k))
        if len(chosen) < k:
            break  # centroids without points, as among copies
        centroids, labels = _means(points[chosen], points, k, round_)
    return centroids, labels.astype(np.int64)


def _means(sample: F32, points: F32, k: int, seed: int) -> tuple[F32, I32]:
    """(k, d) centroids of a sample of the points, and (m,) the nearest of each point."""
    settings = KMeansSettings(k=k, niter=ITERATIONS, spherical=False, init="k-means++", seed=seed, device="cpu")
    centroids = faiss_kmeans(sample, settings).centroids
    return centroids, NearestPrototypes(centroids, cosine=False).search(points)[0]
