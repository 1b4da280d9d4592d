"""Keep all degrees of hardness alike, without the hardest of all."""

from __future__ import annotations

import numpy as np

from sspruning.errors import UsageError
from sspruning.policies.balance import first_seats, order_by, place_in_group
from sspruning.policies.radix import ByScore, ByTie, Piece, Rule, Stream, Whole, Within, find_borders
from sspruning.records import F32, I64, BoolArray, Candidates

__all__ = ["coverage_centric", "coverage_centric_rule"]


def _stratum(score: F32, low: float, high: float, strata: int) -> I64:
    """(m,) which of the equally wide parts of [low, high] each one lies in; the last holds its upper end."""
    if low == high:
        return np.zeros(len(score), np.int64)
    return np.minimum((score.astype(np.float64) - low) * strata / (high - low), strata - 1).astype(np.int64)


def _turns(sizes: I64) -> I64:
    """(strata,) strata in the order of their turns: the largest first, of equal ones the harder."""
    return np.argsort(sizes, kind="stable")[::-1]


def _check(beta: float, strata: int) -> None:
    if not 0 <= beta < 1:
        raise UsageError(f"policy 'ccs': beta is the share of the hardest samples to cut, in [0, 1); got {beta}")
    if strata < 1:
        raise UsageError(f"policy 'ccs': strata is the number of parts of the score range, at least 1; got {strata}")


def _cut(n: int, beta: float) -> int:
    """Samples that are cut at the hard end."""
    return min(int(beta * n + 1e-9), n - 1)


def coverage_centric(candidates: Candidates, *, beta: float = 0.0, strata: int = 50) -> I64:
    """Ranks that give every stratum of the score range the same number of samples, as far as it has them.

    For keeping little: random and score-based choices leave parts of the score range empty there. The hardest samples
    are cut off, the remaining range is parted into strata of equal width, and samples are drawn from strata in turn, in
    random order inside each.

    The paper fixes the number K first and gives budgets from the smallest stratum to the largest, each the smaller of
    its size and (what remains of K) // (strata left). Taking turns comes to the same budgets for every K: round p takes
    the p-th sample of every stratum that has one, and what is left of K for an incomplete round, fewer samples than
    strata, goes to the largest strata first (of equal ones, to the harder first), as the rest of the division does in
    the paper.

    The samples that were cut rank last, the least hard first, so that every K is exact and nested; they come in only
    when K is larger than what the cut leaves. ``balance`` plays no part.

    Args:
        candidates: scores and ties of n samples.
        beta: share of the n samples, in [0, 1), that is cut at the hard end. The paper tunes it by the share kept:
            0.3 where 10 % of CIFAR-10 or ImageNet are kept, 0.2 for 20 % of ImageNet.
        strata: strata of equal width; 50 in the paper.

    Returns:
        (n,) int64 permutation.

    Raises:
        UsageError: ``beta`` or ``strata`` is outside its range.

    Cost:
        O(n log n); about 0.7 s for a million samples.

    Source:
        CCS: Zheng et al. 2022, arXiv:2210.15809. It scores by the accumulated margin of a training run; without labels
        this takes the score, by default the distance to the prototype.
    """
    _check(beta, strata)
    n = len(candidates)
    ranks = np.empty(n, np.int64)
    if n == 0:
        return ranks
    hardest_first = order_by(-candidates.score, candidates.tie)
    cut = _cut(n, beta)
    ranks[hardest_first[:cut]] = np.arange(n - 1, n - 1 - cut, -1)
    rest = np.sort(hardest_first[cut:])  # of equal ties the earlier goes first
    rest = rest[np.argsort(candidates.tie[rest], kind="stable")]
    score = candidates.score[rest]
    stratum = _stratum(score, float(score.min()), float(score.max()), strata)
    turn = np.empty(strata, np.int64)
    turn[_turns(np.bincount(stratum, minlength=strata))] = np.arange(strata)
    ranks[rest[np.lexsort((turn[stratum], place_in_group(stratum)))]] = np.arange(n - cut)
    return ranks


class _Others:
    """`Rule` that keeps what lies outside a border."""

    def __init__(self, inside: Within) -> None:
        self._inside = inside
        self.needs = inside.needs

    def __call__(self, piece: Piece) -> BoolArray:
        return ~self._inside(piece)


class _Strata:
    """Each stratum of the samples that were not cut as a group."""

    def __init__(self, uncut: _Others, low: float, high: float, strata: int) -> None:
        self._uncut, self._low, self._high, self._strata = uncut, low, high, strata
        self.needs = uncut.needs

    def __call__(self, piece: Piece) -> I64:
        return np.where(self._uncut(piece), _stratum(piece.score, self._low, self._high, self._strata), -1)


def coverage_centric_rule(stream: Stream, *, beta: float = 0.0, strata: int = 50) -> Rule:
    """`Rule` that keeps what `coverage_centric` ranks first.

    Cost:
        about seven passes over all samples; memory for one piece and 100 MB.
    """
    _check(beta, strata)
    hardest, n = ByScore(stream, hardest_first=True), np.array([stream.n])
    gone = min(_cut(stream.n, beta), stream.n - stream.count)
    uncut = _Others(Within(find_borders(stream, hardest, Whole(), n, np.array([gone])), hardest, Whole()))
    if stream.n - stream.count == gone:
        return uncut
    high = max(float(piece.score.max(initial=-np.inf, where=uncut(piece))) for piece in stream.read(uncut.needs))
    group = _Strata(uncut, stream.low, high, strata)
    sizes = np.zeros(strata, np.int64)
    for piece in stream.read(group.needs):
        own = group(piece)
        sizes += np.bincount(own[own >= 0], minlength=strata)
    turns, budget = _turns(sizes), np.zeros(strata, np.int64)
    budget[turns] = first_seats(sizes[turns], stream.count, uniform=True)
    return Within(find_borders(stream, ByTie(), group, sizes, budget), ByTie(), group)
