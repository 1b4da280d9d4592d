"""Keep what is rare."""

from __future__ import annotations

from sspruning.policies.balance import balanced_ranks, balanced_rule, order_by
from sspruning.policies.radix import Rule, Stream
from sspruning.records import I64, Candidates

__all__ = ["hardest_rule", "keep_hardest"]


def keep_hardest(candidates: Candidates) -> I64:
    """Ranks from the hardest sample to the easiest, with the cluster floor.

    For plentiful data and fractions of about 0.7 and more. Below 0.5 it loses to random in the literature, and on raw
    web data the hard end holds broken and off-topic images.

    Args:
        candidates: scores, clusters and ties of n samples.

    Returns:
        (n,) int64 permutation.

    Source:
        Sorscher et al. 2022, arXiv:2206.14486.
    """
    return balanced_ranks(order_by(-candidates.score, candidates.tie), candidates)


def hardest_rule(stream: Stream) -> Rule:
    """`Rule` that keeps what `keep_hardest` ranks first."""
    return balanced_rule(stream, hardest_first=True)
