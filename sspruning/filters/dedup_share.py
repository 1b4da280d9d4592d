"""A threshold of similarity at which a wanted number of samples stays."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from sspruning.filters.greedy import Greedy, equal_content
from sspruning.filters.unit_vectors import UnitVectors, need_vectors
from sspruning.records import I64, Candidates

__all__ = ["found_at_share"]

SAMPLE_ROWS = 20_000  # at least so many samples stand for all in the first search
SAMPLE_SHARE = 0.1
LEAST, MOST = 1e-7, 1.0  # 1 - threshold: from the resolution of float16 to right angles
SLACK = 0.01  # share of the samples that may go too many, to be put back
NARROW = 1.02  # ratio of two distances between which a search stops
TRIES = 40

Tried = tuple[float, int, I64]
"""1 - threshold, how many stay at it, and what `Greedy.run` found."""


def found_at_share(ordered: Candidates, goal: int, *, exact: bool) -> I64:
    """(n,) int64 as `Greedy.run` has it, with ``goal`` samples that stay, or more where there are no more duplicates.

    Args:
        ordered: n samples in the order of priority.
        goal: samples to stay.
        exact: whether equal content makes duplicates.
    """
    n = len(ordered)
    found = equal_content(ordered, exact=exact)
    if np.count_nonzero(found == n) > goal:
        guess, stride = 0.1, 3.0
        rows = _whole_clusters(ordered)
        if len(rows) < n / 2:
            few = Greedy(ordered.take(rows), exact=exact)
            guess, stride = _search(few.run, len(rows), goal * len(rows) / n, guess, stride)[0], 1.05
        found = _search(Greedy(ordered, exact=exact).run, n, goal, guess, stride)[2]
    _put_back(ordered, found, goal - int(np.count_nonzero(found == n)), exact=exact)
    return found


def _whole_clusters(ordered: Candidates) -> I64:
    """Ascending samples of clusters drawn by their members' smallest ``tie``, about `SAMPLE_SHARE` of all."""
    n = len(ordered)
    smallest = np.full(int(ordered.cluster.max()) + 1, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(smallest, ordered.cluster, ordered.tie)
    drawn = np.argsort(smallest, kind="stable")
    held = np.cumsum(np.bincount(ordered.cluster, minlength=len(drawn))[drawn])
    enough = int(np.searchsorted(held, max(SAMPLE_ROWS, SAMPLE_SHARE * n))) + 1
    return np.flatnonzero(np.isin(ordered.cluster, drawn[:enough]))


def _search(run: Callable[[float], I64], n: int, goal: float, guess: float, stride: float) -> Tried:
    """The try that leaves the most samples among those that leave at most ``goal``; none such: the one at `MOST`.

    The number that stays nearly always falls with the distance, so tries are bracketed; where it does not, the search
    still ends and its answer still leaves at most ``goal``.
    """
    below: Tried | None = None  # leaves too many
    above: Tried | None = None
    best: Tried | None = None
    distance = guess
    for step in range(TRIES):
        found = run(1.0 - distance)
        last = (distance, int(np.count_nonzero(found == n)), found)
        if last[1] > goal:
            below = last
        else:
            above = last
            best = last if best is None or last[1] > best[1] else best
            if last[1] >= goal - SLACK * n:
                break
        if above is None:
            if distance >= MOST:
                return last
            distance, stride = min(MOST, distance * stride), stride**2
        elif below is None:
            if distance <= LEAST:
                break
            distance, stride = max(LEAST, distance / stride), stride**2
        elif above[0] < below[0] * NARROW:
            break
        else:
            distance = _between(below, above, goal - SLACK * n / 2, halve=step % 3 == 2)
    return last if best is None else best


def _between(below: Tried, above: Tried, goal: float, *, halve: bool) -> float:
    """A distance between two: on the line through both on a logarithmic scale, or half way."""
    part = 0.5 if halve else (below[1] - goal) / (below[1] - above[1])
    part = min(0.95, max(0.05, part))
    return math.exp(math.log(below[0]) * (1 - part) + math.log(above[0]) * part)


def _put_back(ordered: Candidates, found: I64, spare: int, *, exact: bool) -> None:
    """Keep ``spare`` more samples in ``found``: those least like the sample that stands for them."""
    if spare <= 0:
        return
    gone = np.flatnonzero(found < len(found))
    similar = np.full(len(gone), np.inf)
    near = np.arange(len(gone))
    if exact and ordered.content is not None:
        near = np.flatnonzero(ordered.content[gone] != ordered.content[found[gone]])
    if len(near):
        units = UnitVectors(need_vectors(ordered, "dedup"))
        similar[near] = units.cosine(gone[near], found[gone[near]])
    found[gone[np.lexsort((ordered.tie[gone], similar))[:spare]]] = len(found)
