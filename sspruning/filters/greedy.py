"""The greedy choice behind `dedup`: keep a sample unless one like it has been kept before."""

from __future__ import annotations

import numpy as np

from sspruning.filters.unit_vectors import UnitVectors, need_vectors
from sspruning.records import I64, BoolArray, Candidates

__all__ = ["Greedy", "equal_content"]

PAIRS = 2**21  # pairs within a chunk: bounds its memory, and gives each cluster enough rows for fast products
CHUNK = 2**17  # samples in a chunk
KEPT_BLOCK = 2_048  # kept rows compared at once


def equal_content(ordered: Candidates, *, exact: bool) -> I64:
    """(n,) int64: the first sample with equal content; n for that sample itself, and for all unless ``exact``."""
    n = len(ordered)
    first = _first_equal(ordered, exact=exact)
    return np.where(first < np.arange(n), first, n)


def _first_equal(ordered: Candidates, *, exact: bool) -> I64:
    """(n,) the first sample with equal content, which may be the sample itself."""
    if not exact or ordered.content is None:
        return np.arange(len(ordered), dtype=np.int64)
    _, first, group = np.unique(ordered.content, return_index=True, return_inverse=True)
    return first[group].astype(np.int64)


class Greedy:
    """Goes through n samples in the order in which they are listed, for as many thresholds as asked.

    A sample is kept unless a kept sample before it has equal content, or shares one of its two clusters and has a
    cosine above the threshold with it. Samples come in chunks, which are compared with what is kept of their clusters
    and then among themselves. Products are float32; a cosine that lies within their rounding error of the threshold is
    computed again in float64 for its pair alone, so neither chunks nor threads can change the outcome.

    Cost:
        time: n x (kept members of two clusters) x d; copies of one sample are compared with the one that is kept.
        memory: about 200 bytes a sample, and 200 MB.
    """

    def __init__(self, ordered: Candidates, *, exact: bool) -> None:
        """List the members of each cluster.

        Args:
            ordered: n samples in the order of priority, with vectors.
            exact: whether samples of equal content are duplicates.
        """
        n = len(ordered)
        first, second = ordered.cluster.astype(np.int64), ordered.second_cluster.astype(np.int64)
        self._units = UnitVectors(need_vectors(ordered, "dedup"))
        self._clusters = (first, second)
        self._has_second = np.flatnonzero(first != second)
        cluster = np.concatenate([first, second[self._has_second]])
        position = np.concatenate([np.arange(n), self._has_second])
        by_cluster = np.lexsort((position, cluster))
        self._entries: I64 = position[by_cluster]
        self._sizes = np.bincount(cluster)
        self._starts = np.cumsum(self._sizes) - self._sizes
        place = np.empty(len(cluster), np.int64)
        place[by_cluster] = np.arange(len(cluster)) - self._starts[cluster[by_cluster]]
        self._places = (place[:n], np.zeros(n, np.int64))
        self._places[1][self._has_second] = place[n:]
        self._first_equal = _first_equal(ordered, exact=exact)
        self._repeated: BoolArray = np.bincount(self._first_equal, minlength=n)[self._first_equal] > 1

    def run(self, threshold: float) -> I64:
        """(n,) int64: the earlier sample that each one goes for; n for those that are kept.

        A sample with the content of a kept one goes for that; another for the first kept one that is near.
        """
        n = len(self._units)
        found = np.full(n, n, np.int64)
        keeper = np.full(n, n, np.int64)  # by first equal: the sample that is kept of this content
        passed = np.zeros(len(self._sizes), np.int64)
        start = 0
        while start < n:
            stop = self._end_of_chunk(start, passed)
            seconds = slice(*np.searchsorted(self._has_second, (start, stop)))
            seen = np.concatenate([self._clusters[0][start:stop], self._clusters[1][self._has_second[seconds]]])
            new = np.bincount(seen, minlength=len(passed))
            self._chunk(threshold, start, stop, passed, new, found, keeper)
            passed += new
            start = stop
        equal = keeper[self._first_equal]
        later = np.flatnonzero(equal < np.arange(n))
        found[later] = equal[later]
        return found

    def _end_of_chunk(self, start: int, passed: I64) -> int:
        """Where the chunk from ``start`` ends: its samples make at most `PAIRS` pairs within clusters."""
        some = slice(start, start + CHUNK)
        pairs = self._places[0][some] - passed[self._clusters[0][some]]
        differ = self._clusters[0][some] != self._clusters[1][some]
        pairs += np.where(differ, self._places[1][some] - passed[self._clusters[1][some]], 0)
        return start + max(1, int(np.searchsorted(np.cumsum(pairs), PAIRS, side="right")))

    def _chunk(self, threshold: float, start: int, stop: int, passed: I64, new: I64, found: I64, keeper: I64) -> None:
        """Decide ``found`` for the samples from ``start`` to ``stop``."""
        none, edges = len(found), []
        for cluster in np.flatnonzero(new).tolist():
            begin = self._starts[cluster]
            middle = begin + passed[cluster]
            members = self._entries[middle : middle + new[cluster]]
            before = self._entries[begin:middle]
            first, some = self._compare(threshold, members, before[found[before] == none])
            found[members] = np.minimum(found[members], first)
            edges.append(some)
        source, target, doubtful = (np.concatenate(part) for part in zip(*edges, strict=True))
        self._resolve(threshold, slice(start, stop), (source, target, doubtful), found, keeper)

    def _compare(self, threshold: float, members: I64, kept: I64) -> tuple[I64, tuple[I64, I64, BoolArray]]:
        """What a chunk's members of one cluster are near to.

        Returns:
            (m,) the first of ``kept`` that each is near to, n for none; and (source, target, doubtful) of the pairs of
            the remaining members that are near, the earlier first, or that float32 cannot decide.
        """
        units, low, high = self._units, threshold - self._units.tolerance, threshold + self._units.tolerance
        mine = units[members]
        first = np.full(len(members), len(units), np.int64)
        free = np.arange(len(members))
        for start in range(0, len(kept), KEPT_BLOCK):
            block = kept[start : start + KEPT_BLOCK]
            similar = mine[free] @ units[block].T
            near = similar >= low
            row, column = np.nonzero(near & (similar <= high))
            near[row, column] = units.cosine(members[free[row]], block[column]) > threshold
            place = near.argmax(axis=1)
            has = near[np.arange(len(free)), place]
            first[free[has]] = block[place[has]]
            free = free[~has]
            if not len(free):
                break
        similar = mine[free] @ mine[free].T
        row, column = np.nonzero(np.triu(similar >= low, 1))
        left = members[free]
        return first, (left[row], left[column], similar[row, column] <= high)

    def _resolve(
        self, threshold: float, here: slice, edges: tuple[I64, I64, BoolArray], found: I64, keeper: I64
    ) -> None:
        """Settle a chunk's conflicts among its own samples, from the first sample to the last."""
        none = len(found)
        by_source = np.argsort(edges[0], kind="stable")
        source, target, doubtful = (part[by_source] for part in edges)
        repeated = np.flatnonzero(self._repeated[here]) + here.start
        deciding = np.union1d(source, repeated)
        begins, ends = np.searchsorted(source, deciding), np.searchsorted(source, deciding, side="right")
        for sample, begin, end in zip(deciding.tolist(), begins.tolist(), ends.tolist(), strict=True):
            if found[sample] < none:
                continue
            if self._repeated[sample]:
                group = self._first_equal[sample]
                if keeper[group] < none:
                    found[sample] = keeper[group]
                    continue
                keeper[group] = sample
            free = found[target[begin:end]] == none
            near, unsure = target[begin:end][free], doubtful[begin:end][free]
            if unsure.any():
                others = near[unsure]
                near = np.concatenate(
                    [near[~unsure], others[self._units.cosine(np.full(len(others), sample), others) > threshold]]
                )
            found[near] = sample
