"""Where prototypes come from: a sample of embeddings in, centroids out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from sspruning.records import F32, F64, JSONValue
from sspruning.registry import Registry

__all__ = ["CLUSTERERS", "Clusterer", "Clustering", "KMeansSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KMeansSettings:
    """What a k-means needs to know."""

    k: int
    niter: int
    spherical: bool
    init: Literal["afk-mc2", "k-means++", "random"]
    seed: int
    device: Literal["auto", "cpu", "gpu"] = "auto"


@dataclass(frozen=True, slots=True)
class Clustering:
    """What a clusterer found."""

    centroids: F32
    """(k, d); unit norm when spherical."""
    objective: F64
    """(niter,): sum over the sample after each iteration; of similarities when spherical, of squared distances else."""
    info: dict[str, JSONValue]
    """Facts for people: device used, clusters that had to be split."""


class Clusterer(Protocol):
    """A clusterer: uses every row it is given, draws only from the seed."""

    def __call__(self, sample: F32, settings: KMeansSettings) -> Clustering:
        """`Clustering` of an (m, d) float32 sample, m >= k; rows may be overwritten."""
        ...


CLUSTERERS: Registry[Clusterer] = Registry(
    "clusterer",
    {
        "faiss_kmeans": "sspruning.clusterers.faiss_kmeans:faiss_kmeans",
        "numpy_kmeans": "sspruning.clusterers.numpy_kmeans:numpy_kmeans",
        "hierarchical_kmeans": "sspruning.clusterers.hierarchical_kmeans:hierarchical_kmeans",
        "balanced_kmeans": "sspruning.clusterers.balanced_kmeans:balanced_kmeans",
    },
)
