"""Keep what is typical."""

from __future__ import annotations

from sspruning.policies.balance import balanced_ranks, balanced_rule, order_by
from sspruning.policies.radix import Rule, Stream
from sspruning.records import I64, Candidates

__all__ = ["easiest_rule", "keep_easiest"]


def keep_easiest(candidates: Candidates) -> I64:
    """Ranks from the easiest sample to the hardest, with the cluster floor.

    For scarce data: with few samples for each thing to be learnt, typical ones teach more.

    Args:
        candidates: scores, clusters and ties of n samples.

    Returns:
        (n,) int64 permutation.

    Source:
        Sorscher et al. 2022, arXiv:2206.14486 (the flip from easy to hard as data grows).
    """
    return balanced_ranks(order_by(candidates.score, candidates.tie), candidates)


def easiest_rule(stream: Stream) -> Rule:
    """`Rule` that keeps what `keep_easiest` ranks first."""
    return balanced_rule(stream, hardest_first=False)
