"""The self-supervised prototype metric."""

from __future__ import annotations

import numpy as np

from sspruning.records import F32, ScoringChunk

__all__ = ["TINY_CLUSTER", "prototype_distance"]

TINY_CLUSTER = 2  # members; such a prototype is made of its own members, so the distance to it says nothing


def prototype_distance(chunk: ScoringChunk) -> F32:
    """Distance from each sample to its own prototype; far = hard.

    A sample alone or in a pair is rare, yet its prototype lies on it and would make it the easiest of all. Members of
    such tiny clusters get the distance to the second nearest prototype instead.

    Args:
        chunk: m samples; distances are cosine (0 to 2) or Euclidean, as chosen for the scoring.

    Returns:
        (m,) float32 >= 0.

    Source:
        Sorscher et al. 2022, arXiv:2206.14486. The rule for tiny clusters is ours.
    """
    tiny = chunk.cluster_size <= TINY_CLUSTER
    return np.where(tiny, chunk.second_distance, chunk.distance).astype(np.float32)
