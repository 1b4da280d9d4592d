"""Several numbers of prototypes compared on a sample of a store: how stable, how even, how much the scores change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from sspruning.clusterers import CLUSTERERS, KMeansSettings
from sspruning.clusterers.faiss_kmeans import NearestPrototypes
from sspruning.config import ClusterConfig
from sspruning.errors import DataError, UsageError
from sspruning.metrics.distances import pair_distance
from sspruning.progress import Progress, SilentProgress
from sspruning.records import F32, F64, I32, I64
from sspruning.stages.cluster import MIN_POINTS_PER_CLUSTER, choose_sample, read_sample
from sspruning.storage.store import Store

__all__ = ["KSweep", "TriedK", "adjusted_rand_index", "gini", "rank_correlation", "sweep_k"]

EVALUATION_ROWS = 200_000
SEARCH_ROWS = 8192
SEEDS = 1 << 31

SAME_ORDER = 0.9  # rank correlation, corrected for the seed, from which on two k order the samples alike: a plateau
LEAST_AGREEMENT = 0.5  # of two seeds, below which nothing can be said about a plateau: the order is mostly chance
SURE_ORDER = 0.9  # seed agreement below which people are warned that the order of samples is partly chance
MANY_SMALL = 0.1  # share of clusters below the minimum from which on people are warned
CAVEAT = "Clusterings were compared, not trained models; on ImageNet the paper saw no difference from k = 100 to 10,000"


@dataclass(frozen=True, slots=True, kw_only=True)
class TriedK:
    """What one number of prototypes gave."""

    k: int
    mean_distance: float
    """Of the evaluated rows to their own prototype: 1 - cosine, mean of both clusterings. Falls with k in any case."""
    stability: float
    """Adjusted Rand index of two clusterings that differ in their seed only: 1 the same, 0 as by chance."""
    seed_agreement: float
    """Rank correlation of the scores under these two clusterings."""
    next_agreement: float | None
    """Rank correlation of the scores with those of the next larger k; None for the largest, as is the next one."""
    next_corrected: float | None
    """The same over the geometric mean of both k's ``seed_agreement``: 1 if k changes no more than the seed does.
    0 where that mean is below 0.5."""
    size_gini: float
    """Inequality of cluster sizes: 0 all equal, near 1 one has everything; mean of both clusterings, as below."""
    size_ratio: float
    """Largest cluster over the mean."""
    small_share: float
    """Share of clusters with fewer than 32 samples of the store, estimated from the evaluated rows."""
    rows_each: float
    """Samples of the store for each prototype."""

    @property
    def firmness(self) -> float:
        """Mean of ``stability`` and ``seed_agreement``: how little a seed changes, in clusters and in scores."""
        return (self.stability + self.seed_agreement) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class KSweep:
    """A comparison of numbers of prototypes, and what it speaks for."""

    tried: tuple[TriedK, ...]
    """In the order of k."""
    recommended: int
    reason: str
    warnings: tuple[str, ...]
    n_embedded: int
    n_evaluated: int


def adjusted_rand_index(first: I32, second: I32) -> float:
    """Agreement of two clusterings of the same rows, corrected for chance: 1 for the same, about 0 for unrelated ones.

    Args:
        first: (m,) labels >= 0.
        second: (m,) labels >= 0.

    Returns:
        At most 1; 1 as well where chance leaves no choice: one cluster each, or one for each row.

    Cost:
        O(m log m); only the pairs of labels that occur are counted.

    Source:
        Hubert and Arabie 1985, "Comparing partitions".
    """

    def pairs(counts: I64) -> float:
        return float((counts * (counts - 1) // 2).sum())

    width = int(second.max(initial=0)) + 1
    _, both = np.unique(first.astype(np.int64) * width + second, return_counts=True)
    in_first, in_second = pairs(np.bincount(first)), pairs(np.bincount(second))
    every = len(first) * (len(first) - 1) / 2
    by_chance = in_first * in_second / every if every else 0.0
    best = (in_first + in_second) / 2
    return 1.0 if best == by_chance else (pairs(both) - by_chance) / (best - by_chance)


def _ranks(values: F32 | F64) -> F64:
    """(m,) ranks from 1; equal values share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def rank_correlation(first: F32 | F64, second: F32 | F64) -> float:
    """Spearman's rank correlation of two scores of the same rows, in [-1, 1].

    Args:
        first: (m,) finite.
        second: (m,) finite.

    Returns:
        0 where only one of the two is constant, 1 where both are.
    """
    a, b = (ranks - ranks.mean() for ranks in (_ranks(first), _ranks(second)))
    spread = float(np.sqrt((a * a).sum() * (b * b).sum()))
    if spread == 0:
        return float(not a.any() and not b.any())
    return float((a * b).sum() / spread)


def gini(sizes: I64) -> float:
    """Gini coefficient of cluster sizes: 0 if all are equal, 1 - 1/k if one cluster has every row.

    Args:
        sizes: (k,) >= 0, not all of them 0.
    """
    k, ordered = len(sizes), np.sort(sizes).astype(np.float64)
    return float(2 * (np.arange(1, k + 1) * ordered).sum() / (k * ordered.sum()) - (k + 1) / k)


def sweep_k(store: Store, ks: Sequence[int], config: ClusterConfig, progress: Progress | None = None) -> KSweep:
    """`KSweep`: each number of prototypes tried with two seeds, on rows that are read once. Writes nothing.

    Each k sees the rows that `cluster` would give it: the ``points_per_centroid * k`` smallest hash(seed, key). The
    two clusterings see the same rows and start from the seeds ``seed`` and ``seed + 1``, so stability is that of the
    search, not of the sample. All are judged on the same rows: the 200,000 smallest hashes, by the cosine distance to
    the nearest prototype, which is the default score.

    Args:
        store: where the embeddings are.
        ks: numbers of prototypes, at least two different ones, each from 2 to the number of samples.
        config: clusterer, iterations, geometry, start, sample size, seed; its ``n_clusters`` is not used.
        progress: told while the sample is read, and after each clustering.

    Raises:
        UsageError: fewer than two different k, one below 2, or one above the number of samples.
        DataError: the store is empty.

    Cost:
        Two clusterings for each k. 4 d bytes of memory for each of the largest k's rows or 200,000, whichever is
        more, and the same again for the copy that a clusterer may overwrite.

    Source:
        Stability: Ben-Hur, Elisseeff and Guyon 2002, "A stability based method for discovering structure in clustered
        data". Correction of correlations for chance: Spearman 1904. That k hardly matters: Sorscher et al. 2022,
        arXiv:2206.14486, for k from 100 to 10,000 on ImageNet; this looks whether it is so here.
    """
    progress = progress or SilentProgress()
    n, wanted = store.n_rows, _checked(ks, store)
    most = min(n, config.points_per_centroid * wanted[-1])
    evaluated = min(n, EVALUATION_ROWS)
    sample = read_sample(store, choose_sample(store, max(most, evaluated), config.seed), progress)
    rows = sample[:evaluated]
    tried: list[TriedK] = []
    scores: list[F32] = []
    with progress.stage("sweep", 2 * len(wanted), "clusterings") as ticker:
        for k in wanted:
            found = []
            for seed in (config.seed, (config.seed + 1) % SEEDS):
                centroids = _clustered(sample[: min(n, config.points_per_centroid * k)], k, seed, config)
                found.append(_scored(rows, centroids))
                ticker.tick()
            tried.append(_summary(k, found, n))
            scores.append(found[0][1])
    for number, pair in enumerate(pairwise(scores)):
        tried[number] = _compared(tried[number], tried[number + 1], rank_correlation(*pair))
    chosen, reason = _recommended(tried)
    return KSweep(
        tried=tuple(tried),
        recommended=chosen.k,
        reason=reason,
        warnings=tuple(_warnings(tried, chosen)),
        n_embedded=n,
        n_evaluated=evaluated,
    )


def _checked(ks: Sequence[int], store: Store) -> list[int]:
    """The different k in order."""
    n, wanted = store.n_rows, sorted(set(ks))
    if n == 0:
        raise DataError(f"{store.path}: no sample was embedded, so there is nothing to cluster; see `sspruning status`")
    if len(wanted) < 2:
        raise UsageError(
            f"a sweep compares at least two numbers of prototypes; got {', '.join(map(str, ks)) or 'none'}"
        )
    if wanted[0] < 2:
        raise UsageError(f"a sweep over {wanted[0]} prototypes says nothing; the smallest number is 2")
    if wanted[-1] > n:
        most = max(2, n // MIN_POINTS_PER_CLUSTER)
        raise UsageError(f"{wanted[-1]} prototypes for {n} samples; ask for at most {most}")
    return wanted


def _clustered(sample: F32, k: int, seed: int, config: ClusterConfig) -> F32:
    settings = KMeansSettings(
        k=k, niter=config.niter, spherical=config.spherical, init=config.init, seed=seed, device=config.device
    )
    return CLUSTERERS.resolve(config.name)(sample.copy(), settings).centroids


def _scored(rows: F32, centroids: F32) -> tuple[I32, F32, I64]:
    """Label and score of each row, and (k,) cluster sizes."""
    search = NearestPrototypes(centroids, cosine=True)
    labels, score = np.empty(len(rows), np.int32), np.empty(len(rows), np.float32)
    for start in range(0, len(rows), SEARCH_ROWS):
        some = rows[start : start + SEARCH_ROWS]
        nearest = search.search(some)[0]
        labels[start : start + SEARCH_ROWS] = nearest
        score[start : start + SEARCH_ROWS] = pair_distance(some, centroids, nearest, cosine=True)
    return labels, score, np.bincount(labels, minlength=len(centroids))


def _summary(k: int, found: list[tuple[I32, F32, I64]], n: int) -> TriedK:
    (labels, score, _), (other_labels, other_score, _) = found
    sizes = [size for _, _, size in found]
    whole = n / len(labels)
    return TriedK(
        k=k,
        mean_distance=float(np.mean([score.mean(dtype=np.float64), other_score.mean(dtype=np.float64)])),
        stability=adjusted_rand_index(labels, other_labels),
        seed_agreement=rank_correlation(score, other_score),
        next_agreement=None,
        next_corrected=None,
        size_gini=float(np.mean([gini(size) for size in sizes])),
        size_ratio=float(np.mean([size.max() / size.mean() for size in sizes])),
        small_share=float(np.mean([(size * whole < MIN_POINTS_PER_CLUSTER).mean() for size in sizes])),
        rows_each=n / k,
    )


def _compared(entry: TriedK, larger: TriedK, agreement: float) -> TriedK:
    """``entry`` with what its scores have to do with those of the next larger k."""
    by_seed = float(np.sqrt(max(entry.seed_agreement, 0) * max(larger.seed_agreement, 0)))
    corrected = min(1.0, agreement / by_seed) if by_seed >= LEAST_AGREEMENT else 0.0
    return replace(entry, next_agreement=agreement, next_corrected=corrected)


def _recommended(tried: list[TriedK]) -> tuple[TriedK, str]:
    """The number of prototypes that the comparison speaks for, and why.

    Of the k with enough samples for each prototype, those on a plateau count, where the order of the samples is that of
    a neighbouring k. Of these, the one whose clusters and scores together change least with the seed; of equals the
    smaller. Where nothing meets a condition, the condition is dropped, and the reason or a warning says so.
    """
    enough = [entry for entry in tried if entry.rows_each >= MIN_POINTS_PER_CLUSTER] or tried
    pairs = list(pairwise(tried))[: len(enough)]  # without those of which both have too few samples
    flat = {entry.k for pair in pairs if (pair[0].next_corrected or 0.0) >= SAME_ORDER for entry in pair}
    plateau = [entry for entry in enough if entry.k in flat]
    chosen = max(plateau or enough, key=lambda entry: entry.firmness)
    listed = ", ".join(str(entry.k) for entry in plateau or enough)
    agreement = "rank correlation of its scores with a neighbouring k's, corrected for what the seed changes,"
    if plateau:
        ground = f"on the plateau k = {listed} ({agreement} {SAME_ORDER} or more)"
    else:
        highest = max(smaller.next_corrected or 0.0 for smaller, _ in pairs)
        ground = f"there is no plateau ({agreement} at most {highest:.2f}); among k = {listed}"
    return chosen, (
        f"{ground}, another seed changes least at k = {chosen.k}: adjusted Rand index of the clusters "
        f"{chosen.stability:.2f}, rank correlation of the scores {chosen.seed_agreement:.2f}. {CAVEAT}"
    )


def _warnings(tried: list[TriedK], chosen: TriedK) -> list[str]:
    """What speaks against trusting the recommendation, or against some of the k."""
    told = [
        f"k = {entry.k}: only {entry.rows_each:.1f} samples for each prototype, fewer than {MIN_POINTS_PER_CLUSTER}; "
        "small clusters make unreliable prototypes"
        for entry in tried
        if entry.rows_each < MIN_POINTS_PER_CLUSTER
    ]
    if chosen.rows_each >= MIN_POINTS_PER_CLUSTER and chosen.small_share > MANY_SMALL:
        told.append(
            f"k = {chosen.k}: about {chosen.small_share:.0%} of the clusters have fewer than {MIN_POINTS_PER_CLUSTER} "
            "samples"
        )
    if chosen.seed_agreement < SURE_ORDER:
        told.append(
            f"k = {chosen.k}: another seed changes the order of the samples (rank correlation "
            f"{chosen.seed_agreement:.2f}, below {SURE_ORDER})"
        )
    if chosen.k in {tried[0].k, tried[-1].k}:
        side = "smallest" if chosen.k == tried[0].k else "largest"
        told.append(f"k = {chosen.k} is the {side} that was tried; what lies beyond was not looked at")
    return told
