"""What is done in a store or a run, and what is not."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from sspruning.errors import StoreError
from sspruning.reporting.contents import Counts, Stops
from sspruning.reporting.text_bars import text_bars
from sspruning.stages.current_prototypes import are_current
from sspruning.stages.report_numbers import groups_with_rows
from sspruning.stages.workspace import Workspace
from sspruning.storage.artifacts import SelectionFile, load_prototypes
from sspruning.storage.lock import Holder, holders
from sspruning.storage.store import Store

__all__ = ["ScoreRange", "Status", "status"]

RANGES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRange:
    """Samples of a selection whose scores lie between two numbers."""

    low: float
    high: float
    embedded: int
    kept: int


@dataclass(slots=True)
class Status:
    """State of a workspace."""

    store: Path
    encoder: str
    n_shards: int
    n_committed: int
    pending: list[str]
    """Shards without a part and without a reason."""
    quarantined: dict[str, str]
    n_samples: int
    n_embedded: int
    skipped: dict[str, int]
    prototypes: str
    """In words: missing, stale, or what they are."""
    selection: str
    """In words: missing, or what it keeps."""
    histogram: list[ScoreRange] = field(default_factory=list)
    """Of the selection, smallest scores first; empty without one."""
    at_work: list[str] = field(default_factory=list)
    """Runs and tasks that hold a lock here, in words."""
    facts: dict[str, object] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """True if every shard has its part."""
        return not self.pending and not self.quarantined

    @property
    def bars(self) -> list[str]:
        """`histogram` as lines of text."""
        if not self.histogram:
            return []
        table = np.array([[entry.kept, entry.embedded - entry.kept] for entry in self.histogram], np.int64)
        n_kept, n = int(table[:, 0].sum()), int(table.sum())
        counts = Counts(
            stops=Stops(fractions=np.array([n_kept / n]), counts=np.array([n_kept], np.int64), own=0),
            edges=np.array([self.histogram[0].low, *(entry.high for entry in self.histogram)]),
            clipped=False,
            by_score=table,
            finely=table,
            by_cluster=np.zeros((0, 2), np.int64),
        )
        return text_bars(counts, rows=RANGES, width=24)


def status(folder: Path) -> Status:
    """`Status` of a store or a run folder.

    Raises:
        StoreError: no store there.

    Cost:
        the records, and one pass over the scores of the selection, a shard at a time; no embedding is read.
    """
    workspace = Workspace.of(folder)
    store = Store(workspace.store)
    records, shards = store.records(), store.shards()
    quarantined = store.quarantined()
    skipped: Counter[str] = Counter()
    for record in records:
        skipped.update(record.skipped)
    done = {record.shard_id for record in records}
    encoder = store.settings["encoder"]
    name = encoder.get("model") or encoder.get("encoder") or encoder.get("name") if isinstance(encoder, dict) else None
    selection, histogram = _selection_in_words(workspace)
    return Status(
        store=workspace.store,
        encoder=f"{name or 'unknown'}, {store.dim} dimensions",
        n_shards=len(shards),
        n_committed=len(records),
        pending=[shard_id for shard_id in shards if shard_id not in done and shard_id not in quarantined],
        quarantined={key: value for key, value in quarantined.items() if key not in done},
        n_samples=sum(record.n_samples for record in records),
        n_embedded=sum(record.n_rows for record in records),
        skipped=dict(sorted(skipped.items())),
        prototypes=_prototypes_in_words(workspace, store),
        selection=selection,
        histogram=histogram,
        at_work=[_holder_in_words(holder) for holder in holders(workspace.root)],
    )


def _holder_in_words(holder: Holder) -> str:
    run = "a run" if holder.task is None else "task {} of {}".format(*holder.task)
    state = {True: "at work", False: "dead, its lock counts no more", None: "at work, unless it was killed"}
    return f"{run}: {state[holder.alive]} ({holder.who})"


def _prototypes_in_words(workspace: Workspace, store: Store) -> str:
    if not workspace.prototypes.exists():
        return "none yet; `sspruning cluster` or `select` makes them"
    try:
        found = load_prototypes(workspace.prototypes)
    except StoreError as error:
        return str(error)
    words = f"{found.k} prototypes from {found.sample_size:,} samples"
    current = are_current(found, store, workspace.load_config().cluster)
    return words if current else f"{words}, stale: made from other parts or settings"


def _selection_in_words(workspace: Workspace) -> tuple[str, list[ScoreRange]]:
    if not workspace.selection.exists():
        return "none yet; `sspruning select` makes it", []
    try:
        file = SelectionFile.open(workspace.selection)
        histogram = _histogram(file)
    except StoreError as error:
        return str(error), []
    found = file.selection
    share = found.n_kept / max(found.n_embedded, 1)
    how = f"{found.settings['keep']} by {found.settings['metric']}"
    return f"keeps {found.n_kept:,} of {found.n_embedded:,} ({share:.1%}), {how}", histogram


def _histogram(file: SelectionFile) -> list[ScoreRange]:
    """Counts of `RANGES` equal ranges between the smallest and the largest score, in one pass."""
    low, high = _extremes(file)
    if not (np.isfinite([low, high]).all() and low <= high):
        return []
    if high - low <= 1e-9 * max(abs(low), 1.0):  # all equal: ranges of some width around them
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, RANGES + 1)
    embedded, kept = np.zeros(RANGES, np.int64), np.zeros(RANGES, np.int64)
    for group in groups_with_rows(file, ["score", "kept"]):
        places = np.searchsorted(edges[1:-1], group.column("score").to_numpy(), side="right")
        embedded += np.bincount(places, minlength=RANGES)
        kept += np.bincount(places[group.column("kept").to_numpy()], minlength=RANGES)
    return [
        ScoreRange(low=float(edges[i]), high=float(edges[i + 1]), embedded=int(embedded[i]), kept=int(kept[i]))
        for i in range(RANGES)
    ]


def _extremes(file: SelectionFile) -> tuple[float, float]:
    """Smallest and largest score as the file's own statistics tell them; infinite if they do not."""
    facts = pq.read_metadata(file.path)
    column = facts.schema.names.index("score")
    groups = [facts.row_group(i).column(column).statistics for i in range(facts.num_row_groups)]
    told = [group for group in groups if group is not None and group.has_min_max]
    return min((group.min for group in told), default=np.inf), max((group.max for group in told), default=-np.inf)
