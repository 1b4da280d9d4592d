"""Several selections of one store side by side: what each fraction costs in balance, in the tail, in copies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from sspruning.errors import UsageError
from sspruning.records import F32, I64, BoolArray
from sspruning.stages.advise import order_statistics
from sspruning.stages.select import DUPLICATE_OF
from sspruning.storage.artifacts import SelectionFile

__all__ = ["SweepRow", "balance_score", "compare_selections"]

TAIL = 0.01  # the hardest hundredth of all samples
COLUMNS = ["centroid", "score", "kept", "reason"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRow:
    """One selection beside the others."""

    keep_fraction: float
    n_kept: int
    balance: float
    """Mean over pairs of clusters of the smaller kept count by the larger, in [0, 1]; 1: all keep the same number."""
    empty_clusters: int
    """Clusters with samples of which none is kept."""
    fewest: int
    """Kept samples of the cluster that keeps fewest."""
    mean_score: float
    tail_kept: float
    """Share of the hardest hundredth of all samples that is kept."""
    duplicates: int
    """Samples that went as duplicates of another one."""
    shared: float
    """Share of these samples that the next larger selection keeps too; 1 for the largest, and where sets are nested."""
    by_chance: float
    """What that share would be for two random selections of these sizes."""


def balance_score(counts: I64) -> float:
    """Mean over pairs of clusters of min / max of their counts; 1 for fewer than two clusters with samples.

    Cost:
        O(k log k).

    Source:
        Sorscher et al. 2022, arXiv:2206.14486, appendix H, on clusters instead of classes.
    """
    ordered = np.sort(counts).astype(np.float64)
    k = len(ordered)
    if k < 2 or ordered[-1] == 0:
        return 1.0
    below = np.concatenate([[0.0], np.cumsum(ordered)[:-1]])
    ratios = np.divide(below, ordered, out=np.zeros(k), where=ordered > 0)
    return float(ratios.sum() / (k * (k - 1) / 2))


@dataclass(slots=True)
class _Tally:
    """What is counted of one selection while its rows go by."""

    members: I64
    kept: I64
    score_sum: float = 0.0
    tail: int = 0
    duplicates: int = 0
    shared: int = 0


def _threshold(file: SelectionFile) -> float:
    """Score that the hardest hundredth of all samples reaches."""
    n = file.selection.n_embedded
    place = min(n - 1, round((1 - TAIL) * n))

    def scores() -> Iterator[F32]:
        return (group.column("score").to_numpy() for group in file.groups(["score"]))

    [border] = order_statistics(scores, ((place + 0.5) / n,))
    return border


def _clusters(file: SelectionFile) -> int:
    """Clusters as far as rows name them."""
    numbers = (group.column("centroid").to_numpy() for group in file.groups(["centroid"]))
    return max((int(own.max(initial=-1)) + 1 for own in numbers), default=0)


def compare_selections(paths: Sequence[Path]) -> list[SweepRow]:
    """`SweepRow` of each selection, the largest fraction first.

    Args:
        paths: selections of one store, by the same policy or not.

    Raises:
        UsageError: none are given, or they are of different stores.
        StoreError: a file that is no selection.

    Cost:
        four passes over all files, one shard of each in memory; memory does not grow with the number of samples.
    """
    files = sorted((SelectionFile.open(path) for path in paths), key=lambda file: -file.selection.n_kept)
    if not files:
        raise UsageError("no selection to compare; name fractions such as 0.9,0.7,0.5")
    if len({(file.selection.settings.get("content"), file.selection.n_embedded) for file in files}) > 1:
        raise UsageError("these selections were not made from the same store; select again")
    k = max(1, *map(_clusters, files))
    tallies = [_Tally(np.zeros(k, np.int64), np.zeros(k, np.int64)) for _ in files]
    limits = [_threshold(file) if file.selection.n_embedded else 0.0 for file in files]
    for groups in zip(*(file.groups(COLUMNS) for file in files), strict=True):
        larger: BoolArray | None = None
        for tally, limit, group in zip(tallies, limits, groups, strict=True):
            larger = _count(tally, limit, group, larger)
    return list(_rows(files, tallies))


def _count(tally: _Tally, limit: float, group: pa.Table, larger: BoolArray | None) -> BoolArray:
    """Add the rows of one shard; returns which of them are kept."""
    kept = group.column("kept").to_numpy()
    centroid, score = group.column("centroid").to_numpy(), group.column("score").to_numpy()
    tally.members += np.bincount(centroid, minlength=len(tally.members))
    tally.kept += np.bincount(centroid[kept], minlength=len(tally.kept))
    tally.score_sum += float(score[kept].sum(dtype=np.float64))
    tally.tail += int((kept & (score >= limit)).sum())
    words = group.column("reason").value_counts().to_pylist()
    tally.duplicates += sum(word["counts"] for word in words if word["values"].startswith(DUPLICATE_OF))
    tally.shared += int(kept.sum() if larger is None else (kept & larger).sum())
    return kept


def _rows(files: list[SelectionFile], tallies: list[_Tally]) -> Iterator[SweepRow]:
    larger = 1.0
    for file, tally in zip(files, tallies, strict=True):
        selection, filled = file.selection, tally.members > 0
        fraction = selection.n_kept / max(selection.n_embedded, 1)
        hardest = max(selection.n_embedded - min(selection.n_embedded - 1, round((1 - TAIL) * selection.n_embedded)), 1)
        yield SweepRow(
            keep_fraction=float(str(selection.settings["keep_fraction"])),
            n_kept=selection.n_kept,
            balance=balance_score(tally.kept[filled]),
            empty_clusters=int((filled & (tally.kept == 0)).sum()),
            fewest=int(tally.kept[filled].min(initial=selection.n_kept)),
            mean_score=tally.score_sum / max(selection.n_kept, 1),
            tail_kept=min(1.0, tally.tail / hardest),
            duplicates=tally.duplicates,
            shared=tally.shared / max(selection.n_kept, 1),
            by_chance=larger,
        )
        larger = fraction
