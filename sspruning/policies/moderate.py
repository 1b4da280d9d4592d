"""Keep what is neither typical nor rare."""

from __future__ import annotations

import numpy as np

from sspruning.policies.balance import order_by
from sspruning.policies.radix import ByScore, Piece, Rule, Stream, Whole, Within, find_borders
from sspruning.records import I64, BoolArray, Candidates

__all__ = ["moderate", "moderate_rule"]


def moderate(candidates: Candidates) -> I64:
    """Ranks from the sample in the middle of the score order outwards to the easiest and the hardest.

    For corpora with junk, mislabelled or corrupt images at the hard end and redundant ones at the easy end: both ends
    go. With the samples in the order of (score, tie), the K kept are the K consecutive ones from position (n - K) // 2,
    counted from the easiest: the window [0.5 - r/2, 0.5 + r/2] of quantiles for r = K / n. Where n - K is odd, the
    window lies half a place nearer to the easy end. Windows of different K contain one another.

    The paper takes the distance to the median feature of the sample's class. Without labels this takes the score, which
    by default is the distance to the prototype of the sample's cluster. The order is global, as in the paper;
    ``balance`` plays no part.

    Args:
        candidates: scores and ties of n samples.

    Returns:
        (n,) int64 permutation.

    Cost:
        O(n log n); about 0.4 s for a million samples.

    Source:
        Xia et al. 2023, "Moderate coreset", ICLR 2023.
    """
    n = len(candidates)
    place = np.arange(n)
    ranks = np.empty(n, np.int64)
    ranks[order_by(candidates.score, candidates.tie)] = np.abs(2 * place - (n - 1)) - (2 * place < n - 1)
    return ranks


class _Window:
    """`Rule` that keeps what the wider of two borders holds and the narrower does not."""

    def __init__(self, wider: Within, narrower: Within) -> None:
        self._wider, self._narrower = wider, narrower
        self.needs = wider.needs

    def __call__(self, piece: Piece) -> BoolArray:
        return self._wider(piece) & ~self._narrower(piece)


def moderate_rule(stream: Stream) -> Rule:
    """`Rule` that keeps what `moderate` ranks first: a window of the score order."""
    order, n, start = ByScore(stream, hardest_first=False), np.array([stream.n]), (stream.n - stream.count) // 2
    narrower, wider = (
        Within(find_borders(stream, order, Whole(), n, np.array([end])), order, Whole())
        for end in (start, start + stream.count)
    )
    return _Window(wider, narrower)
