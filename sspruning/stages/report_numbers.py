"""A selection to the numbers of its report: counts by score and by cluster at every fraction, in a few passes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa

from sspruning.policies import PRUNED_REASON
from sspruning.progress import Ticker
from sspruning.records import F32, F64, I64, U64, Selection
from sspruning.reporting.contents import Choice, Counts, Curves, Stops
from sspruning.stages.advise import order_statistics
from sspruning.stages.inspect import key_hash
from sspruning.stages.select import DUPLICATE_OF
from sspruning.stages.sweep import TAIL, balance_score
from sspruning.storage.artifacts import SelectionFile

__all__ = [
    "Numbers",
    "choice_of",
    "count_clusters",
    "count_selection",
    "groups_with_rows",
    "make_stops",
    "ranks_of",
    "twin_hashes",
]

FEWEST_BINS, MOST_BINS = 8, 60
FINER = 20  # narrow bins to a bin: to say where kept and dropped samples part
ALL_IN = 2.0  # the whole range of scores is shown if it is at most this many times that of all but a thousandth
MOST_HELD = 0.0005  # share of the samples on either side that the outermost bins may take in
PER_CENT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """What was counted of a selection."""

    counts: Counts
    curves: Curves
    reasons: dict[str, int]
    """Embedded samples that are not kept, by reason; all duplicates as one, what the policy dropped last."""
    twins: U64
    """Hash of the key that each duplicate names."""


def choice_of(selection: Selection) -> Choice:
    """`Choice` that a selection records of itself."""
    settings = selection.settings
    taken = cast("dict[str, int]", settings.get("dropped") or {})
    return Choice(
        keep=str(settings.get("keep")),
        metric=str(settings.get("metric")),
        fraction=float(cast("float", settings.get("keep_fraction", 1.0))),
        balance=float(cast("float", settings.get("balance", 0.0))),
        floor=str(settings.get("floor")),
        nested=bool(settings.get("nested")),
        ranked=selection.ranked,
        n_survivors=selection.n_embedded - sum(taken.values()),
        settings=settings,
    )


def make_stops(choice: Choice, n: int, n_kept: int) -> Stops:
    """`Stops` at every per cent that `select` would serve, and at the fraction of the selection itself.

    A fraction is served if it keeps at least one sample and no more than the steps leave. Where the sets are not
    nested only the selection's own fraction is known.
    """
    found = {choice.fraction: n_kept}
    if choice.nested:
        for number in range(1, PER_CENT + 1):
            fraction = number / PER_CENT
            count = round(fraction * n)
            if 1 <= count <= choice.n_survivors:
                found.setdefault(fraction, count)
    fractions = sorted(found)
    return Stops(
        fractions=np.array(fractions),
        counts=np.array([found[fraction] for fraction in fractions], np.int64),
        own=fractions.index(choice.fraction),
    )


def count_clusters(file: SelectionFile) -> int:
    """Prototypes that a selection was made by: as many as it says, or as its rows name."""
    named = (int(group.column("centroid").to_numpy().max()) + 1 for group in groups_with_rows(file, ["centroid"]))
    return max(int(cast("int", file.selection.settings.get("n_clusters", 0))), max(named, default=0))


def groups_with_rows(file: SelectionFile, columns: list[str]) -> Iterator[pa.Table]:
    """Tables of the shards that have embedded samples, in store order."""
    return (group for group in file.groups(columns) if group.num_rows)


def ranks_of(selection: Selection, group: pa.Table) -> I64:
    """Column ``rank`` of a table that has ``kept`` too.

    Where a selection has no ranks: 0 for what it keeps, n_kept for what it drops, which tells them apart and no more.
    """
    if selection.ranked:
        return group.column("rank").to_numpy()
    return np.where(group.column("kept").to_numpy(), 0, selection.n_kept)


def _range(file: SelectionFile) -> tuple[F64, float, bool]:
    """Borders of the score bins, the score that the hardest hundredth reaches, and if scores lie beyond the borders."""
    n = file.selection.n_embedded
    place = min(n - 1, round((1 - TAIL) * n))
    shares = (0.0, MOST_HELD, (place + 0.5) / n, 1 - MOST_HELD, 1.0)

    def columns() -> Iterator[F32]:
        return (group.column("score").to_numpy() for group in groups_with_rows(file, ["score"]))

    least, low, tail, high, most = order_statistics(columns, shares)
    clipped = most - least > ALL_IN * (high - low) > 0
    low, high = (low, high) if clipped else (least, most)
    if high - low <= 1e-9 * max(abs(low), 1.0):  # all equal: bins of some width around them
        low, high = low - 0.5, high + 0.5
    bins = min(MOST_BINS, max(FEWEST_BINS, round(2 * n ** (1 / 3))))  # Rice's rule
    return np.linspace(low, high, bins + 1), tail, clipped


@dataclass(slots=True)
class _Tally:
    """Tables that grow while rows go by."""

    stops: Stops
    edges: Any
    tail: float
    finely: I64
    by_cluster: I64
    sums: Any
    """(s + 1,) float64 sum of the scores, by the first stop that keeps them."""
    in_tail: I64

    def add(self, group: pa.Table, ranks: I64) -> None:
        """Count the rows of one shard."""
        score = group.column("score").to_numpy()
        columns = len(self.stops.counts) + 1
        first = np.searchsorted(self.stops.counts, ranks, side="right")
        n_bins = len(self.finely)
        bins = np.clip(np.searchsorted(self.edges, score, side="right") - 1, 0, n_bins - 1)
        self.finely += np.bincount(bins * columns + first, minlength=n_bins * columns).reshape(n_bins, columns)
        cluster = group.column("centroid").to_numpy().astype(np.int64)
        np.add.at(self.by_cluster, (cluster, first), 1)
        self.sums += np.bincount(first, score.astype(np.float64), columns)
        self.in_tail += np.bincount(first[score >= self.tail], minlength=columns)


def twin_hashes(group: pa.Table) -> tuple[U64, I64]:
    """Hash of the key that each duplicate of a shard names, and the rows of these duplicates."""
    words, codes = _coded(group)
    copies = np.array([word.startswith(DUPLICATE_OF) for word in words], bool)
    hashes = [
        key_hash(word.removeprefix(DUPLICATE_OF)) if copy else 0 for word, copy in zip(words, copies, strict=True)
    ]
    rows = np.flatnonzero(copies[codes]) if words else np.empty(0, np.int64)
    return np.array(hashes, np.uint64)[codes[rows]], rows


def _coded(group: pa.Table) -> tuple[list[str], I64]:
    """The different reasons of a shard, and which of them each row has."""
    coded = group.column("reason").combine_chunks().dictionary_encode()
    return coded.dictionary.to_pylist(), coded.indices.to_numpy().astype(np.int64)


def count_selection(file: SelectionFile, choice: Choice, k: int, ticker: Ticker) -> Numbers:
    """`Numbers` of a selection with at least one row.

    Args:
        file: the selection.
        choice: what it says of itself.
        k: prototypes.
        ticker: told after each shard.

    Cost:
        three passes over the scores and one over all columns, one shard in memory; 800 bytes a prototype, and 8 bytes
        for each duplicate.
    """
    selection = file.selection
    stops = make_stops(choice, selection.n_embedded, selection.n_kept)
    edges, tail, clipped = _range(file)
    columns = len(stops.counts) + 1
    tally = _Tally(
        stops,
        np.linspace(edges[0], edges[-1], FINER * (len(edges) - 1) + 1),
        tail,
        np.zeros((FINER * (len(edges) - 1), columns), np.int64),
        np.zeros((k, columns), np.int64),
        np.zeros(columns),
        np.zeros(columns, np.int64),
    )
    reasons: Counter[str] = Counter()
    twins = []
    for group in groups_with_rows(file, ["score", "centroid", "rank", "kept", "reason"]):
        tally.add(group, ranks_of(selection, group))
        twins.append(twin_hashes(group)[0])
        words, codes = _coded(group)
        dropped = np.bincount(codes[~group.column("kept").to_numpy()], minlength=len(words)).tolist()
        for word, count in zip(words, dropped, strict=True):
            reasons[DUPLICATE_OF.rstrip(":") if word.startswith(DUPLICATE_OF) else word] += count
        ticker.tick(group.num_rows)
    hashes = np.concatenate(twins) if twins else np.empty(0, np.uint64)
    counts = Counts(
        stops=stops,
        edges=edges,
        clipped=clipped,
        by_score=tally.finely.reshape(-1, FINER, columns).sum(axis=1),
        finely=tally.finely,
        by_cluster=tally.by_cluster,
    )
    return Numbers(
        counts=counts,
        curves=_curves(tally),
        reasons=_in_order(reasons, PRUNED_REASON.get(choice.keep, "pruned")),
        twins=hashes,
    )


def _in_order(reasons: Counter[str], own: str) -> dict[str, int]:
    """Reasons of the steps by name; then the policy's, which is the one whose count a fraction changes."""
    steps = sorted(reason for reason, count in reasons.items() if count and reason != own)
    return {reason: reasons[reason] for reason in [*steps, own]}


def _curves(tally: _Tally) -> Curves:
    members = tally.by_cluster.sum(axis=1)
    filled = members > 0
    counts, kept = tally.stops.counts, np.zeros(len(members), np.int64)
    balance, empty, fewest = [], [], []
    for stop in range(len(counts)):
        kept += tally.by_cluster[:, stop]
        own = kept[filled]
        balance.append(balance_score(own))
        empty.append(int((own == 0).sum()))
        fewest.append(int(own.min(initial=int(counts[-1]))))
    return Curves(
        balance=np.array(balance),
        balance_before=balance_score(members[filled]),
        empty=np.array(empty, np.int64),
        fewest=np.array(fewest, np.int64),
        mean_score=np.cumsum(tally.sums)[:-1] / counts,
        tail_kept=np.cumsum(tally.in_tail)[:-1] / max(int(tally.in_tail.sum()), 1),
    )
