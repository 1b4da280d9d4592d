"""Keep many samples of wide, isolated clusters and few of dense, crowded ones."""

from __future__ import annotations

import numpy as np

from sspruning.errors import UsageError
from sspruning.metrics.distances import unit_rows
from sspruning.policies.balance import order_by, place_in_group
from sspruning.records import F32, F64, I64, Candidates

__all__ = ["closest_budgets", "density"]

NEIGHBOURS = 20  # nearest other prototypes that say how isolated one is; the paper's number
BLOCK_ROWS = 256  # prototypes compared at once with all others: 50 MB for 50,000
NEAR_TIE = 1e-5  # a cosine in float32 is exact to about 1e-6


def _spread(candidates: Candidates, sizes: I64) -> F64:
    """(k,) mean cosine distance of each cluster's samples to its prototype; sums run from near to far, in any order."""
    order = np.lexsort((candidates.distance, candidates.cluster))
    total = np.bincount(candidates.cluster[order], candidates.distance[order].astype(np.float64), len(sizes))
    return total / np.maximum(sizes, 1)


def _isolation(centroids: F32) -> F64:
    """(k,) mean cosine distance of each prototype to its nearest others, at most `NEIGHBOURS`; 0 for a lone one.

    The product in float32 only finds who may be near; the distances are made pair by pair in float64.
    """
    k = len(centroids)
    count = min(NEIGHBOURS, k - 1)
    found = np.zeros(k)
    if count == 0:
        return found
    unit = unit_rows(centroids)
    narrow = unit.astype(np.float32)
    for start in range(0, k, BLOCK_ROWS):
        distance = 1 - narrow[start : start + BLOCK_ROWS] @ narrow.T
        own = np.arange(len(distance))
        distance[own, start + own] = np.inf
        limit = np.partition(distance, count - 1, axis=1)[:, count - 1] + NEAR_TIE
        for row, near in enumerate(distance <= limit[:, None]):
            difference = unit[near] - unit[start + row]
            exact = np.sort(0.5 * np.einsum("ij,ij->i", difference, difference))
            found[start + row] = exact[:count].mean()
    return found


def _least(candidates: Candidates, sizes: I64, count: int) -> I64:
    """(k,) lower bound of each cluster: one sample or its granted floor, but not all that it has."""
    equal = count * sizes / sizes.sum() if candidates.floor == "proportional" else count / len(sizes)
    granted = np.floor(candidates.balance * equal + 1e-9).astype(np.int64)
    least = np.minimum(np.maximum(granted, 1), sizes - 1)
    return least if least.sum() <= count else np.minimum(granted, sizes - 1)


def closest_budgets(target: F64, low: I64, high: I64, total: int) -> I64:
    """Whole numbers nearest to ``target`` (least squares) among those within bounds that sum to ``total``.

    The solution in real numbers is clip(target - shift, low, high) with the one shift that gives the sum; it is found
    on the broken line of sum against shift. Then the largest remainders are rounded up, which is the best rounding:
    adding one to x costs 2 (x - target) + 1, least for the largest remainder.

    Args:
        target: (k,) what is wanted.
        low: (k,) least for each.
        high: (k,) most for each, >= ``low``.
        total: sum; between sum(low) and sum(high).

    Returns:
        (k,) int64 within the bounds; sum is ``total``.

    Cost:
        O(k log k).
    """

    def filled(shift: float) -> float:
        return float(np.clip(target - shift, low, high).sum())

    breaks = np.sort(np.concatenate([target - high, target - low]))
    first, last = 0, len(breaks) - 1
    while first < last:
        middle = (first + last + 1) // 2
        if filled(breaks[middle]) >= total:
            first = middle
        else:
            last = middle - 1
    shift = breaks[first]
    moving = np.count_nonzero((target - high <= shift) & (target - low > shift))
    shift += (filled(shift) - total) / max(moving, 1)
    real = np.clip(target - shift, low, high)
    whole = np.floor(real).astype(np.int64)
    whole[np.argsort(whole - real, kind="stable")[: total - int(whole.sum())]] += 1
    return whole


def density(candidates: Candidates, *, temperature: float = 0.1) -> I64:
    """Ranks that keep of each cluster the hardest samples, as many as its size in embedding space deserves.

    For large web corpora, after duplicates are gone: otherwise clusters are dense because of copies. A cluster's
    complexity is the mean cosine distance of its samples to its prototype times the mean cosine distance of the
    prototype to its 20 nearest others. Its share p of the number K that is kept is the softmax of complexity /
    ``temperature``; its budget is the whole number closest to K p (least squares over all clusters) that respects its
    size and a lower bound, with sum K exactly. The K samples within budget rank first, the hardest first, then the
    others, the hardest first: the ranks hold for this K only, and sets of different K need not contain one another.

    The lower bound is one sample, or floor(balance * K * its size / n) if larger (floor(balance * K / clusters) for
    `uniform`, as the paper has it), and never all of a cluster. Where these exceed K, the "one sample" is given up and
    the bounds of the balance stay. Clusters without samples do not count. The paper does best without balance.

    Args:
        candidates: scores, clusters, distances, ties, prototypes and ``count`` of n samples.
        temperature: of the softmax. Complexities are products of cosine distances, such as 0.3 * 0.4 = 0.12, so at
            0.1 shares differ by small factors and small clusters are kept nearly whole; smaller values sharpen. The
            paper tunes it.

    Returns:
        (n,) int64 permutation.

    Raises:
        UsageError: ``temperature`` is not above 0.

    Cost:
        O(n log n + k^2 d) on one core: 1 s for a million samples, and 7 s for 20,000 prototypes of 384 dimensions.

    Source:
        Density-Based Pruning: Abbas et al. 2024, arXiv:2401.04578.
    """
    if not temperature > 0:
        raise UsageError(f"policy 'density': temperature must be above 0; got {temperature}")
    n = len(candidates)
    ranks = np.empty(n, np.int64)
    if n == 0:
        return ranks
    everywhere = np.bincount(candidates.cluster, minlength=len(candidates.centroids))
    present = np.flatnonzero(everywhere)
    sizes = everywhere[present]
    complexity = _spread(candidates, everywhere)[present] * _isolation(candidates.centroids[present])
    share = np.exp((complexity - complexity.max()) / temperature)
    share /= share.sum()
    count = min(candidates.count, n)
    budget = np.zeros(len(everywhere), np.int64)
    budget[present] = closest_budgets(count * share, _least(candidates, sizes, count), sizes, count)

    hardest_first = order_by(-candidates.score, candidates.tie)
    cluster = candidates.cluster[hardest_first]
    over = place_in_group(cluster) >= budget[cluster]
    ranks[hardest_first[np.argsort(over, kind="stable")]] = np.arange(n)
    return ranks
