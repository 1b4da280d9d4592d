"""The metric that knows nothing: the baseline every other one has to beat."""

from __future__ import annotations

import numpy as np

from sspruning.records import F32, ScoringChunk

__all__ = ["random_score"]


def random_score(chunk: ScoringChunk) -> F32:
    """Uniform number for each sample, from the seeded hash of its key; the same whatever the order of shards.

    Args:
        chunk: m samples; only ``tie`` is used.

    Returns:
        (m,) float32 in [0, 1).
    """
    return ((chunk.tie >> np.uint64(40)).astype(np.float64) * 2.0**-24).astype(np.float32)
