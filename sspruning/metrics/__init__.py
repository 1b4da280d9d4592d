"""How hard is a sample? One pure function a metric; larger = harder, always."""

from __future__ import annotations

from typing import Protocol

from sspruning.records import F32, ScoringChunk
from sspruning.registry import Registry

__all__ = ["METRICS", "Metric"]


class Metric(Protocol):
    """A metric: scores of m samples from what is known of each, row by row."""

    def __call__(self, chunk: ScoringChunk) -> F32:
        """(m,) float32, finite; a row's score depends on that row alone."""
        ...


METRICS: Registry[Metric] = Registry(
    "metric",
    {
        "prototype_distance": "sspruning.metrics.prototype_distance:prototype_distance",
        "prototype_margin": "sspruning.metrics.prototype_margin:prototype_margin",
        "random": "sspruning.metrics.random_score:random_score",
    },
)
