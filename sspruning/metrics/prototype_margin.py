"""How undecided a sample is between its two nearest prototypes."""

from __future__ import annotations

from sspruning.records import F32, ScoringChunk

__all__ = ["prototype_margin"]


def prototype_margin(chunk: ScoringChunk) -> F32:
    """Nearest minus second nearest prototype distance; 0 = on the border between two = hard, very negative = easy.

    Args:
        chunk: m samples; distances in the geometry chosen for the scoring.

    Returns:
        (m,) float32 <= 0.

    Source:
        The margin of active learning, with prototypes for classes; label-free relative of AUM (Pleiss et al. 2020).
    """
    return chunk.distance - chunk.second_distance
