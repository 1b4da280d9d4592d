"""A corpus with a known make-up, as candidates: clusters of unequal size, duplicates at a chosen cosine, outliers."""

from dataclasses import dataclass

import numpy as np

from sspruning.metrics.distances import pair_distance, unit_rows
from sspruning.records import Candidates, Vectors


@dataclass(frozen=True)
class Planted:
    """Candidates, and what was planted among them; rows are shuffled, so that no order gives anything away."""

    candidates: Candidates
    source: np.ndarray
    """(n,) the cluster that each row was drawn from; -1 for outliers."""
    copy_of: np.ndarray
    """(n,) the row that each row is a near copy of; -1 for originals."""
    outlier: np.ndarray
    """(n,) bool."""


def candidates_of(vectors, centroids, *, seed=0, count=None, balance=0.0, floor="proportional", score=None):
    """`Candidates` of rows (n, d) and prototypes (k, d): the nearest two by cosine; score = distance to the nearest."""
    rows = unit_rows(vectors).astype(np.float16)
    centroids = unit_rows(centroids).astype(np.float32)
    order = np.argsort(-(unit_rows(rows) @ unit_rows(centroids).T), axis=1, kind="stable")
    first = order[:, 0].astype(np.int32)
    second = order[:, min(1, order.shape[1] - 1)].astype(np.int32)
    distance = pair_distance(rows, centroids, first, cosine=True)
    rng = np.random.default_rng(seed)
    n = len(rows)
    return Candidates(
        score=distance if score is None else np.asarray(score, np.float32),
        cluster=first,
        second_cluster=second,
        distance=distance,
        tie=rng.permutation(n).astype(np.uint64) * np.uint64(2**40 + 3),
        centroids=centroids,
        count=n if count is None else count,
        balance=balance,
        floor=floor,
        vectors=Vectors(rows),
        content=np.arange(n, dtype=np.uint64) + np.uint64(1000),
        defects=np.zeros(n, np.uint8),
    )


def planted(seed=0, sizes=(200, 100, 50, 25), d=16, spread=0.25, copies=0, cosine=0.99, outliers=0, **options):
    """`Planted`: clusters of these sizes around random directions, near copies of random members, lone directions.

    Args:
        seed: of everything.
        sizes: members of each cluster, copies apart.
        d: dimensions.
        spread: length of the noise around a cluster's direction; 0.25 gives a cosine to it of about 0.97.
        copies: near copies, each of another random original.
        cosine: of a copy to its original, up to the rounding to float16.
        outliers: rows in random directions of their own.
        options: of `candidates_of`.
    """
    rng = np.random.default_rng(seed)
    centers = unit_rows(rng.standard_normal((len(sizes), d)))
    source = np.repeat(np.arange(len(sizes)), sizes)
    rows = unit_rows(centers[source] + spread * unit_rows(rng.standard_normal((len(source), d))))
    of = rng.choice(len(rows), copies, replace=False) if copies else np.empty(0, np.int64)
    off = rng.standard_normal((copies, d))
    off = unit_rows(off - (off * rows[of]).sum(1, keepdims=True) * rows[of])
    near = cosine * rows[of] + np.sqrt(1 - cosine**2) * off
    lone = unit_rows(rng.standard_normal((outliers, d)))
    everything = np.concatenate([rows, near, lone])
    source = np.concatenate([source, source[of], np.full(outliers, -1)])
    copy_of = np.concatenate([np.full(len(rows), -1), of, np.full(outliers, -1)])
    order = rng.permutation(len(everything))
    place = np.argsort(order)
    copy_of = np.where(copy_of[order] >= 0, place[copy_of[order]], -1)
    found = candidates_of(everything[order], centers, seed=seed, **options)
    return Planted(found, source[order], copy_of, source[order] < 0)
