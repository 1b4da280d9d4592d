"""Keep a random subset: the baseline that any clever one must beat."""

from __future__ import annotations

import numpy as np

from sspruning.policies.radix import ByTie, Rule, Stream, Whole, Within, find_borders
from sspruning.records import I64, Candidates

__all__ = ["keep_random", "random_rule"]


def keep_random(candidates: Candidates) -> I64:
    """Ranks in an order drawn from the seed and the keys; scores, clusters and floors play no part.

    Args:
        candidates: only ``tie`` is used.

    Returns:
        (n,) int64 permutation, independent of the order of shards.
    """
    ranks = np.empty(len(candidates.tie), np.int64)
    ranks[np.argsort(candidates.tie, kind="stable")] = np.arange(len(ranks))
    return ranks


def random_rule(stream: Stream) -> Rule:
    """`Rule` that keeps what `keep_random` ranks first."""
    borders = find_borders(stream, ByTie(), Whole(), np.array([stream.n]), np.array([stream.count]))
    return Within(borders, ByTie(), Whole())
