"""Lloyd's two steps, for clusterers that steer k-means themselves: the same bytes for any number of threads."""

from __future__ import annotations

import numpy as np

from sspruning.clusterers.faiss_kmeans import NearestPrototypes
from sspruning.records import F16, F32, F64, I32, I64

__all__ = ["add_by_label", "assign", "move_to_means", "split_clusters", "total_cost"]

BLOCK_ROWS = 16384  # 50 MB of float64 at d = 384
STEP = 0.1  # of the way to a member, by which the two halves of a cluster start apart


def assign(sample: F32, centroids: F32, *, cosine: bool, penalty: F64 | None = None) -> I32:
    """(m,) nearest centroid of each row, exactly; ties go to the lower one.

    Args:
        sample: (m, d) rows.
        centroids: (k, d).
        cosine: nearest by angle; False: by Euclidean distance. A penalty needs False.
        penalty: (k,) >= 0, added to the squared distances to each centroid: one more dimension, in which the
            centroids lie at sqrt(penalty) and the rows at 0.

    Returns:
        (m,) int32.

    Cost:
        One FAISS search, O(m k d); on the CPU.
    """
    further = 0 if penalty is None else 1
    if penalty is not None:
        centroids = np.concatenate([centroids, np.sqrt(penalty)[:, None].astype(np.float32)], axis=1)
    search = NearestPrototypes(centroids, cosine=cosine)
    labels = np.empty(len(sample), np.int32)
    for start in range(0, len(sample), BLOCK_ROWS):
        rows = np.pad(sample[start : start + BLOCK_ROWS], ((0, 0), (0, further)))
        labels[start : start + BLOCK_ROWS] = search.nearest(rows)
    return labels


def total_cost(sample: F32, centroids: F32, labels: I32, *, spherical: bool) -> float:
    """Sum over the rows: of dot products with the own centroid when ``spherical``, of squared distances to it else.

    Args:
        sample: (m, d) rows.
        centroids: (k, d).
        labels: (m,) in [0, k).
        spherical: which of the two.
    """
    total = 0.0
    for start in range(0, len(sample), BLOCK_ROWS):
        rows = sample[start : start + BLOCK_ROWS].astype(np.float64)
        own = centroids[labels[start : start + BLOCK_ROWS]].astype(np.float64)
        if spherical:
            total += float(np.einsum("ij,ij->i", rows, own).sum())
        else:
            difference = rows - own
            total += float(np.einsum("ij,ij->i", difference, difference).sum())
    return total


def add_by_label(sums: F64, rows: F16 | F32, labels: I32) -> None:
    """Add each of (m, d) rows, in float64, to the one of the (k, d) sums that its label names, in place.

    Cost:
        O(m d) time. Within a label, rows are added in their order.
    """
    order = np.argsort(labels, kind="stable")
    first = np.flatnonzero(np.diff(labels[order], prepend=-1))
    for label, own in zip(labels[order[first]].tolist(), np.split(order, first[1:]), strict=False):
        sums[label] += rows[own].sum(axis=0, dtype=np.float64)  # in half the time of np.add.reduceat


def move_to_means(sample: F32, labels: I32, centroids: F32, *, spherical: bool) -> F32:
    """(k, d) means of the rows of each label, of length 1 when ``spherical``; a centroid without rows stays.

    Args:
        sample: (m, d) rows.
        labels: (m,) in [0, k).
        centroids: (k, d) where the centroids are.
        spherical: normalise the means; one of length 0 stays as well.

    Cost:
        O(m d) time; a block of rows in float64. Sums are taken in the order of the rows.
    """
    order = np.argsort(labels, kind="stable")
    sums = np.zeros(centroids.shape, np.float64)
    for start in range(0, len(order), BLOCK_ROWS):
        some = order[start : start + BLOCK_ROWS]
        add_by_label(sums, sample[some], labels[some])
    if spherical:
        scale = np.sqrt(np.einsum("ij,ij->i", sums, sums))
    else:
        scale = np.bincount(labels, minlength=len(centroids)).astype(np.float64)
    moved = centroids.copy()
    full = scale > 0
    moved[full] = sums[full] / scale[full, None]
    return moved


def split_clusters(
    sample: F32, labels: I32, centroids: F32, large: I64, spare: I64, rng: np.random.Generator, *, spherical: bool
) -> F32:
    """(k, d) centroids in which each spare one has left its place to share a large cluster with that cluster's own.

    The two start on opposite sides of where the large one was, so that in any number of dimensions the next assignment
    halves the cluster; one that only steps aside would win nothing but the member it stepped towards.

    Args:
        sample: (m, d) rows.
        labels: (m,) in [0, k).
        centroids: (k, d) means of their rows.
        large: (s,) clusters to split, none twice, each with a row.
        spare: (s,) centroids to use, none of them in ``large``.
        rng: draws the member of each cluster that gives the direction.
        spherical: put the halves back on the sphere.
    """
    order = np.argsort(labels, kind="stable")
    first, end = (np.searchsorted(labels[order], large, side=side) for side in ("left", "right"))
    step = np.float32(STEP) * (sample[order[rng.integers(first, end)]] - centroids[large])
    halves = np.stack([centroids[large] + step, centroids[large] - step])
    if spherical:
        length = np.linalg.norm(halves, axis=-1, keepdims=True)
        halves /= np.where(length > 0, length, 1)
    moved = centroids.copy()
    moved[spare], moved[large] = halves
    return moved
