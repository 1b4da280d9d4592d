"""Prototypes and scores of the survivors alone: without it, the copies that went would still shape the clusters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sspruning.clusterers import CLUSTERERS, KMeansSettings
from sspruning.clusterers.faiss_kmeans import NearestPrototypes
from sspruning.config import Config
from sspruning.metrics import METRICS
from sspruning.metrics.distances import pair_distance
from sspruning.records import Candidates, ScoringChunk, Vectors
from sspruning.stages.cluster import choose_k

__all__ = ["recluster"]

ASSIGN_ROWS = 8192


def recluster(candidates: Candidates, config: Config, *, n_clusters: int | None = None) -> Candidates:
    """`Candidates` with prototypes, distances and scores made of them alone.

    Settings are those of the section `cluster`; scores that come from outside or are drawn stay as they are.

    Args:
        candidates: survivors, with vectors.
        config: sections `cluster` and `score`.
        n_clusters: prototypes; None: the number of the section, or as many as suit the survivors.

    Raises:
        UsageError: more prototypes than survivors.

    Cost:
        as the stages `cluster` and `score`, in one process.

    Source:
        D4, arXiv:2308.12284, and Density-Based Pruning, arXiv:2401.04578, cluster again after near copies are gone.
    """
    vectors, settings = candidates.vectors, config.cluster
    if vectors is None or len(candidates) == 0:
        return candidates
    k, _ = choose_k(len(candidates), n_clusters or settings.n_clusters)
    sample = np.lexsort((np.arange(len(candidates)), candidates.tie))[: settings.points_per_centroid * k]
    wanted = KMeansSettings(
        k=k,
        niter=settings.niter,
        spherical=settings.spherical,
        init=settings.init,
        seed=settings.seed,
        device=settings.device,
    )
    found = CLUSTERERS.resolve(settings.name)(vectors[sample], wanted)
    return _scored(replace(candidates, centroids=found.centroids), vectors, config)


def _scored(candidates: Candidates, vectors: Vectors, config: Config) -> Candidates:
    """``candidates`` with assignments and scores that belong to their centroids."""
    centroids, cosine = candidates.centroids, config.score.distance == "cosine"
    n = len(candidates)
    search = NearestPrototypes(centroids, cosine=cosine)
    label, second = np.empty(n, np.int32), np.empty(n, np.int32)
    near, far, angle = (np.empty(n, np.float32) for _ in range(3))
    for start in range(0, n, ASSIGN_ROWS):
        rows = slice(start, min(start + ASSIGN_ROWS, n))
        block = vectors[rows]
        label[rows], second[rows] = search.search(block)
        near[rows] = pair_distance(block, centroids, label[rows], cosine=cosine)
        far[rows] = pair_distance(block, centroids, second[rows], cosine=cosine)
        angle[rows] = near[rows] if cosine else pair_distance(block, centroids, label[rows], cosine=True)
    score = candidates.score
    if config.score.metric in {"prototype_distance", "prototype_margin"}:
        members = ScoringChunk(
            label=label,
            distance=near,
            second_label=second,
            second_distance=far,
            cluster_size=np.bincount(label, minlength=len(centroids))[label],
            tie=candidates.tie,
        )
        score = METRICS.resolve(config.score.metric)(members)
    return replace(candidates, cluster=label, second_cluster=second, distance=angle, score=score)
