"""Near and exact duplicates: of samples that look alike, one stays."""

from __future__ import annotations

import numpy as np

from sspruning.errors import UsageError
from sspruning.filters import Dropped
from sspruning.filters.dedup_share import found_at_share
from sspruning.filters.greedy import Greedy, equal_content
from sspruning.records import I64, Candidates

__all__ = ["dedup"]

SURVIVORS = ("hard", "easy", "random", "first")


def dedup(
    candidates: Candidates,
    *,
    threshold: float | None = None,
    share: float | None = None,
    survivor: str = "hard",
    exact: bool = True,
) -> Dropped:
    """`Dropped` of the samples for which another stands that stays.

    Samples are gone through in an order of priority. One stays unless a sample that stays before it has an image of
    equal bytes (``exact``), or is near: they share one of their two nearest clusters, and their cosine is above the
    threshold. So no two near samples stay, and in a chain A~B~C whose ends are unlike, A and C stay.

    With ``share``, the threshold is looked for, first on whole clusters with a tenth of the samples when there are
    many, and set so that slightly too many go. Those least like the sample that stands for them are put back, ties by
    ``tie``, images of equal bytes last, until exactly max(round(share * n), count) samples stay. More than that stay
    only where a threshold of 0 leaves more; then fewer are dropped than asked for.

    Args:
        candidates: n samples; with vectors for ``threshold`` and ``share``, with content for ``exact``.
        threshold: cosine in (0, 1) above which two samples are near. With neither this nor ``share``: exact ones only.
        share: share of the samples that stays, in [0, 1); 0: as few as will be kept.
        survivor: who comes first: `hard` (larger score), `easy` (smaller), `random` (smaller tie), `first` (position).
        exact: whether images of equal bytes are duplicates whatever their embeddings and clusters.

    Returns:
        `Dropped` with ``twin``: the sample of equal bytes that stays if it comes before, else the first near one.

    Raises:
        UsageError: an option is outside its range, ``threshold`` and ``share`` are both given, or a column is missing.

    Cost:
        O(n m d) for clusters of m samples, in bounded memory; a share costs a few thresholds.

    Source:
        SemDeDup, Abbas et al. 2023, arXiv:2303.09540; here compared with samples that stay only, and across clusters.
    """
    _check(candidates, threshold, share, survivor, exact=exact)
    order = _order(candidates, survivor)
    ordered = candidates.take(order)
    n = len(order)
    if threshold is not None:
        found = Greedy(ordered, exact=exact).run(threshold)
    elif share is not None:
        found = found_at_share(ordered, max(round(share * n), candidates.count), exact=exact)
    else:
        found = equal_content(ordered, exact=exact)
    twin = np.full(n, -1, np.int64)
    gone = found < n
    twin[order[gone]] = order[found[gone]]
    return Dropped(twin >= 0, "duplicate", twin)


def _check(candidates: Candidates, threshold: float | None, share: float | None, survivor: str, *, exact: bool) -> None:
    if threshold is not None and share is not None:
        raise UsageError("filter 'dedup' takes a threshold or a share, not both")
    if threshold is not None and not (isinstance(threshold, int | float) and 0 < threshold < 1):
        raise UsageError(f"filter 'dedup': threshold must lie between 0 and 1, both excluded; got {threshold!r}")
    if share is not None and not (isinstance(share, int | float) and 0 <= share < 1):
        raise UsageError(f"filter 'dedup': share must be at least 0 and below 1; got {share!r}")
    if survivor not in SURVIVORS:
        raise UsageError(f"filter 'dedup': survivor must be one of {', '.join(SURVIVORS)}; got {survivor!r}")
    if exact and candidates.content is None:
        raise UsageError("filter 'dedup' with exact compares hashes of images, which these candidates lack")


def _order(candidates: Candidates, survivor: str) -> I64:
    """(n,) samples, those that stay for others first."""
    if survivor == "first":
        return np.arange(len(candidates), dtype=np.int64)
    key = {"hard": -candidates.score, "easy": candidates.score, "random": np.zeros_like(candidates.score)}[survivor]
    return np.lexsort((candidates.tie, key)).astype(np.int64)
