"""The cluster balance floor, in a form that is exact, nested and one pass."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from itertools import chain

import numpy as np

from sspruning.policies.radix import ByCluster, ByScore, Piece, Rule, Stream, Whole, Within, find_borders
from sspruning.records import F32, F64, I32, I64, BoolArray, Candidates

__all__ = [
    "balanced_ranks",
    "balanced_rule",
    "first_levels",
    "first_seats",
    "order_by",
    "place_in_group",
    "places_within",
]

LISTED = 1 << 16  # numbers that are turned into Python's at once


def order_by(key: F32, tie: np.ndarray) -> I64:
    """(n,) indices that sort by (``key`` ascending, ``tie``, position): a total order without ties."""
    return np.lexsort((tie, key)).astype(np.int64)


def place_in_group(group: I32 | I64) -> I64:
    """(n,) how many earlier entries belong to the same group, for groups numbered from 0."""
    sizes = np.bincount(group)
    place = np.empty(len(group), np.int64)
    place[np.argsort(group, kind="stable")] = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return place


def places_within(group: I32 | I64, order: I64) -> I64:
    """(n,) how many samples of the same group stand before each in ``order``, a permutation.

    Args:
        group: (n,) of each sample, at least 0.
        order: (n,) samples from the first to the last.
    """
    place = np.empty(len(group), np.int64)
    place[order] = place_in_group(group[order])
    return place


def _seat_order(order: I64, candidates: Candidates) -> I64:
    """(n,) samples in the order in which the floors protect them.

    Seats go to clusters by the Jefferson rule (largest size / (seats + 1) next), which is monotone in the number of
    seats and never gives a cluster less than the whole part of its share; `uniform` deals them out in turn.
    """
    cluster = candidates.cluster[order]
    sizes = np.bincount(cluster)
    seat = place_in_group(cluster) + 1.0
    if candidates.floor == "proportional":
        seat /= sizes[cluster]
    return order[np.lexsort((cluster, seat))]


def balanced_ranks(order: I64, candidates: Candidates) -> I64:
    """Rank of each sample when K samples are the floors' ceil(balance * K) plus the best of the rest in ``order``.

    For every K at once: each cluster keeps at least floor(balance * K * its size / n) (or floor(balance * K / clusters)
    for `uniform`) of its best samples, or all it has; the remaining places go to the best of all. Sets for smaller K
    are subsets of those for larger K.

    Args:
        order: (n,) samples from the first to keep to the last.
        candidates: clusters, ``balance`` and ``floor``.

    Returns:
        (n,) int64 permutation.

    Cost:
        O(n log n); about 0.6 s and 40 MB for a million samples.

    Source:
        50 % class balance of Sorscher et al. 2022, arXiv:2206.14486, on clusters; seats by Jefferson's method.
    """
    n = len(order)
    ranks = np.empty(n, np.int64)
    if candidates.balance == 0 or n == 0:
        ranks[order] = np.arange(n)
        return ranks
    is_seat = np.diff(_seats(np.arange(n + 1), candidates.balance)) > 0
    protected, free = _one_by_one(_seat_order(order, candidates)), _one_by_one(order)
    taken, kept = bytearray(n), array("q")
    for seat in _one_by_one(is_seat):
        sample = next(protected) if seat else -1
        if sample < 0 or taken[sample]:
            sample = next(free)
            while taken[sample]:
                sample = next(free)
        taken[sample] = 1
        kept.append(sample)
    ranks[np.frombuffer(kept, np.int64)] = np.arange(n)
    return ranks


def _one_by_one(values: I64 | BoolArray) -> Iterator[int]:
    """The values as Python's numbers; a list of all of them would take 40 bytes each."""
    return chain.from_iterable(values[at : at + LISTED].tolist() for at in range(0, len(values), LISTED))


def _seats(count: I64, balance: float) -> I64:
    """How many of ``count`` kept samples the floors protect."""
    return np.ceil(count * balance - 1e-9).astype(np.int64)


def first_levels(sizes: I64, level: Callable[[I64], F64], count: int) -> tuple[I64, BoolArray]:
    """Which places come first if all places of all groups are put in the order of their levels, without listing them.

    Args:
        sizes: (k,) places of each group.
        level: of one place of each group, counted from 0: rises with the place.
        count: places that come first; at least 1, at most as many as there are.

    Returns:
        (k,) places of each group below the level of the last of them, and (k,) whether the next is at it. Of those at
        it, count - (sum of those below) are among the first.

    Cost:
        O(k log n), 63 times: the level is found by halving, to its last bit.
    """

    def up_to(highest: float) -> I64:
        low, high = np.zeros_like(sizes), sizes.copy()
        while (low < high).any():
            middle = (low + high) // 2
            inside = (low < high) & (level(middle) <= highest)
            high = np.where((low < high) & ~inside, middle, high)
            low = np.where(inside, middle + 1, low)
        return low

    first, last = 0, _bits(float(level(np.maximum(sizes - 1, 0)).max()))
    while first < last:
        middle = (first + last) // 2
        if up_to(_float(middle)).sum() >= count:
            last = middle
        else:
            first = middle + 1
    found = up_to(_float(last))
    below = up_to(_float(last - 1)) if last else np.zeros_like(sizes)
    return below, found > below


def _bits(value: float) -> int:
    """Bits of a float64 that is not below 0, as a number: they are in the order of the values."""
    return int(np.array(value).view(np.int64))


def _float(bits: int) -> float:
    return float(np.array(bits, np.int64).view(np.float64))


def first_seats(sizes: I64, seats: int, *, uniform: bool) -> I64:
    """(k,) samples of each cluster among the first ``seats`` in the order of `_seat_order`, from sizes alone.

    Args:
        sizes: (k,) samples of each cluster.
        seats: at most as many as there are samples.
        uniform: clusters take turns; else the next seat goes to the largest size / (seats + 1).
    """
    if seats == 0:
        return np.zeros_like(sizes)
    weight = np.ones(len(sizes)) if uniform else np.maximum(sizes, 1)
    granted, more = first_levels(sizes, lambda place: (place + 1.0) / weight, seats)
    granted[np.flatnonzero(more)[: seats - int(granted.sum())]] += 1
    return granted


class _Unprotected:
    """Those samples as one group that the floors do not protect."""

    def __init__(self, protected: Within) -> None:
        self._protected = protected
        self.needs = protected.needs

    def __call__(self, piece: Piece) -> I64:
        return -self._protected(piece).astype(np.int64)


class _Either:
    """`Rule` that keeps what one of two keeps."""

    def __init__(self, first: Within, second: Within) -> None:
        self._first, self._second = first, second
        self.needs = first.needs | second.needs

    def __call__(self, piece: Piece) -> BoolArray:
        return self._first(piece) | self._second(piece)


def balanced_rule(stream: Stream, *, hardest_first: bool) -> Rule:
    """`Rule` that keeps what `balanced_ranks` ranks first: the floors' samples, then the best of the others.

    Args:
        stream: all samples, ``count``, ``balance`` and ``floor``.
        hardest_first: which end of the scores is the best.

    Cost:
        four to six passes over all samples, two or three without balance; memory for one piece and 100 MB.
    """
    order = ByScore(stream, hardest_first=hardest_first)
    seats = int(_seats(np.array(stream.count), stream.balance))
    granted = first_seats(stream.sizes, seats, uniform=stream.floor == "uniform")
    others, left = np.array([stream.n - seats]), np.array([stream.count - seats])
    if seats == 0:
        return Within(find_borders(stream, order, Whole(), others, left), order, Whole())
    protected = Within(find_borders(stream, order, ByCluster(), stream.sizes, granted), order, ByCluster())
    border = find_borders(stream, order, _Unprotected(protected), others, left)
    return _Either(protected, Within(border, order, Whole()))
