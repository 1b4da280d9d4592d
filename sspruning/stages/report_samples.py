"""Which samples a report shows: the extremes, both sides of the cut, a walk through the order, clusters, copies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from sspruning.records import F64, I64, U64
from sspruning.reporting.contents import Counts
from sspruning.stages.report_numbers import groups_with_rows, ranks_of, twin_hashes
from sspruning.storage.artifacts import SelectionFile
from sspruning.storage.store import Store

__all__ = ["Shown", "ShownCluster", "ShownCopies", "choose_clusters", "choose_samples"]

GALLERY = 24
ORDER = 144
NEAREST = 5  # of a cluster, and as many farthest
AT_CUT = 2  # of a cluster on either side
ROWS = 24
GROUPS = 12  # of copies; half of them the largest, the others drawn
COPIES = 5  # of a group

SMALLEST_SHOWN = 3  # members of a cluster that is worth a row of its own
COLUMNS = ["centroid", "cosine_dist_to_cent", "score", "rank", "kept", "reason"]


class _Best:
    """Rows with the smallest values of all that went by, ties by rank."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = (np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64))

    def add(self, values: F64, ranks: I64, rows: I64) -> None:
        if len(values) > self._most:
            border = np.partition(values, self._most - 1)[self._most - 1]
            some = np.flatnonzero(values <= border)
            values, ranks, rows = values[some], ranks[some], rows[some]
        joined = [np.concatenate(pair) for pair in zip(self._held, (values, ranks, rows), strict=True)]
        order = np.lexsort((joined[1], joined[0]))[: self._most]
        self._held = (joined[0][order], joined[1][order], joined[2][order])

    @property
    def rows(self) -> list[int]:
        return self._held[2].tolist()


@dataclass(slots=True)
class ShownCluster:
    """Rows of the whole store that stand for one cluster."""

    cluster: int
    why: str
    nearest: _Best = field(default_factory=lambda: _Best(NEAREST))
    farthest: _Best = field(default_factory=lambda: _Best(NEAREST))
    last_kept: _Best = field(default_factory=lambda: _Best(AT_CUT))
    first_dropped: _Best = field(default_factory=lambda: _Best(AT_CUT))

    def add(self, distance: F64, rank: I64, row: I64, n_kept: int) -> None:
        """Look at members of this cluster; n_kept is 0 where ranks do not tell which are nearest to the cut."""
        self.nearest.add(distance, rank, row)
        self.farthest.add(-distance, rank, row)
        if n_kept == 0:
            return
        kept = rank < n_kept
        self.last_kept.add(-rank[kept].astype(np.float64), rank[kept], row[kept])
        self.first_dropped.add(rank[~kept].astype(np.float64), rank[~kept], row[~kept])

    @property
    def at_cut(self) -> list[int]:
        """Its last kept and first dropped rows, in the order of keeping."""
        return [*reversed(self.last_kept.rows), *self.first_dropped.rows]

    @property
    def outermost(self) -> list[int]:
        """Its farthest rows, the farthest last; none that stands among the nearest."""
        near = set(self.nearest.rows)
        return [row for row in reversed(self.farthest.rows) if row not in near]


@dataclass(slots=True)
class ShownCopies:
    """Rows of a group of copies."""

    twin: int
    """Hash of the key of the sample that stands for them."""
    n_copies: int
    stands: int = -1
    """Row of that sample; -1 if it is not there."""
    copies: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Shown:
    """Rows of the whole store that the report shows."""

    order: list[int]
    typical: list[int]
    unusual: list[int]
    last_kept: list[int]
    first_dropped: list[int]
    clusters: dict[int, ShownCluster]
    copies: list[ShownCopies]

    def rows(self, on_map: Iterable[int], in_rows: Iterable[int]) -> Iterator[int]:
        """Every row that is shown, some more than once, if these clusters are on the map and have a row."""
        for listed in (self.order, self.typical, self.unusual, self.last_kept, self.first_dropped):
            yield from listed
        for cluster in on_map:
            yield from self.clusters[cluster].nearest.rows[:1]
        for cluster in in_rows:
            one = self.clusters[cluster]
            yield from (*one.nearest.rows, *one.at_cut, *one.outermost)
        for group in self.copies:
            yield from (row for row in (group.stands, *group.copies) if row >= 0)


def choose_clusters(counts: Counts) -> dict[int, str]:
    """Clusters that get a row, with the reason, largest first: all if they are few, else the extremes.

    A quarter each: the largest, the smallest with at least three images, those that keep the largest share and those
    that keep the smallest.
    """
    members, kept = counts.members(), counts.kept()
    alive = np.flatnonzero(members > 0)
    by_size = alive[np.argsort(-members[alive], kind="stable")]
    if len(alive) <= ROWS:
        return dict.fromkeys(by_size.tolist(), "")
    worth = alive[members[alive] >= SMALLEST_SHOWN]
    share = kept[worth] / members[worth]
    lists = (
        ("The largest", by_size),
        ("Most is kept", worth[np.lexsort((-members[worth], -share))]),
        ("Least is kept", worth[np.lexsort((-members[worth], share))]),
        ("The smallest", worth[np.argsort(members[worth], kind="stable")]),
    )
    found: dict[int, str] = {}
    for why, ordered in lists:
        fresh = [cluster for cluster in ordered.tolist() if cluster not in found][: ROWS // len(lists)]
        found.update(dict.fromkeys(fresh, why))
    return found


def _copy_groups(twins: U64) -> tuple[list[ShownCopies], int]:
    """Groups of copies to show, and how many there are: the largest, and some with the smallest hashes."""
    hashes, counts = np.unique(twins, return_counts=True)
    largest = np.lexsort((hashes, -counts))[: GROUPS // 2]
    others = np.setdiff1d(np.arange(len(hashes)), largest)[: GROUPS - len(largest)]
    chosen = [*largest.tolist(), *others.tolist()]
    return [ShownCopies(int(hashes[i]), int(counts[i])) for i in chosen], len(hashes)


def choose_samples(store: Store, file: SelectionFile, clusters: dict[int, str], twins: U64) -> tuple[Shown, int]:
    """`Shown` rows of a selection, and the number of groups of copies.

    Args:
        store: what the selection was made of.
        file: the selection.
        clusters: that are shown, with the reason.
        twins: hash of the key that each duplicate names.

    Cost:
        one pass over the selection, one shard in memory; a pass over the keys' hashes if there are duplicates.
    """
    n, ranked = file.selection.n_embedded, file.selection.ranked
    n_kept = file.selection.n_kept if ranked else 0
    wanted = np.unique(np.linspace(0, n - 1, min(n, ORDER) if ranked else 0).round().astype(np.int64))
    places = np.full(len(wanted), -1, np.int64)
    typical, unusual = _Best(GALLERY), _Best(GALLERY)
    last_kept, first_dropped = _Best(GALLERY), _Best(GALLERY)
    shown = {cluster: ShownCluster(cluster, why) for cluster, why in clusters.items()}
    copies, n_groups = _copy_groups(twins)
    known = np.array(sorted(shown), np.int64)
    at = 0
    for group in groups_with_rows(file, COLUMNS):
        row = np.arange(at, at + group.num_rows)
        at += group.num_rows
        rank, score = ranks_of(file.selection, group), group.column("score").to_numpy().astype(np.float64)
        typical.add(score, rank, row)
        unusual.add(-score, rank, row)
        if ranked:
            kept = rank < n_kept
            last_kept.add(-rank[kept].astype(np.float64), rank[kept], row[kept])
            first_dropped.add(rank[~kept].astype(np.float64), rank[~kept], row[~kept])
            place = np.minimum(np.searchsorted(wanted, rank), len(wanted) - 1)
            hit = wanted[place] == rank
            places[place[hit]] = row[hit]
        _add_members(group, row, rank, known, shown, n_kept)
        if copies:
            _add_copies(group, row, copies)
    if copies:
        _find_twins(store, copies)
    found = Shown(places.tolist(), typical.rows, unusual.rows, last_kept.rows, first_dropped.rows, shown, copies)
    return found, n_groups


def _add_members(group: pa.Table, row: I64, rank: I64, known: I64, shown: dict[int, ShownCluster], n_kept: int) -> None:
    """Show members of the chosen clusters what they have in one shard."""
    cluster = group.column("centroid").to_numpy()
    some = np.flatnonzero(np.isin(cluster, known))
    some = some[np.argsort(cluster[some], kind="stable")]
    distance = group.column("cosine_dist_to_cent").to_numpy().astype(np.float64)
    starts = np.flatnonzero(np.diff(cluster[some], prepend=-1))
    for members in np.split(some, starts[1:]) if len(some) else []:
        shown[int(cluster[members[0]])].add(distance[members], rank[members], row[members], n_kept)


def _add_copies(group: pa.Table, row: I64, copies: Sequence[ShownCopies]) -> None:
    hashes, places = twin_hashes(group)
    for one in copies:
        if len(one.copies) < COPIES:
            more: Any = row[places[hashes == np.uint64(one.twin)]]
            one.copies += more[: COPIES - len(one.copies)].tolist()


def _find_twins(store: Store, copies: Sequence[ShownCopies]) -> None:
    """Note the rows of the samples that stand for copies."""
    by_hash = {one.twin: one for one in copies}
    wanted, at = np.array(sorted(by_hash), np.uint64), 0
    for record, hashes in store.key_hashes():
        for place in np.flatnonzero(np.isin(hashes, wanted)).tolist():
            by_hash[int(hashes[place])].stands = at + place
        at += record.n_rows
