"""K-means over every embedding of a store: Lloyd rounds that start where the clustering of the sample ended.

Workers add up the rows of each prototype, a group of parts at a time; the driver makes new prototypes of the sums.
Embeddings are float16, whole multiples of 2^-24, so their sums in float64 are exact: no grouping, order or number of
workers can change a bit of them. Near-ties between prototypes are settled in float64, row by row. What a round came to
is kept in a work folder, so that a run that was killed goes on in the middle of a round.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from sspruning.config import ClusterConfig
from sspruning.errors import DataError, MachineError, SSPruningError, StoreError
from sspruning.execution import Executor, StageSpec, Task
from sspruning.fingerprint import short
from sspruning.metrics.distances import unit_rows
from sspruning.progress import Progress
from sspruning.records import F32, F64, JSONValue, Prototypes
from sspruning.stages.round_worker import EXACT_ROWS, HALF, WORKER, far_dtype, far_path, farthest, state_path, sums_path
from sspruning.storage.artifacts import load_column, load_prototypes, save_prototypes
from sspruning.storage.atomic import sweep
from sspruning.storage.store import CommitRecord, Store

__all__ = ["clear_rounds", "full_rounds", "last_state"]

GROUP_ROWS = 65_536
ROWS_PER_PROTOTYPE = 64  # of a group, at least: its sums are then a sixteenth of what it reads


def last_state(folder: Path, mark: str) -> Prototypes | None:
    """Prototypes after the last round that a killed run finished, or of the sample; None if it got not so far.

    Args:
        folder: work folder of the rounds.
        mark: fingerprint of the wanted prototypes.
    """
    for path in sorted(folder.glob(f"{short(mark)}.????.h5"), reverse=True):
        with suppress(StoreError):
            found = load_prototypes(path)
            if found.fingerprint == mark:
                return found
    return None


def clear_rounds(folder: Path, *, but: str = "") -> None:
    """Remove the work folder of the rounds, or the files in it that do not begin with ``but``, if there are any."""
    sweep(folder)
    for path in folder.glob(f"{'?' * 16}.????.*"):
        if not but or not path.name.startswith(but):
            path.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()  # where it is empty


def full_rounds(
    store: Store, start: Prototypes, config: ClusterConfig, folder: Path, executor: Executor, progress: Progress
) -> Prototypes:
    """`Prototypes` after at most ``full_rounds`` Lloyd rounds over every embedding, fewer if nothing moves any more.

    A round assigns each row to its nearest prototype and puts each prototype into the mean of its rows, of length 1 for
    spherical ones; means that cancel out leave their prototype where it is. A prototype without rows gets the row that
    lies farthest from its own prototype, the first of several the farthest, and so on; ties go by the hash of the key,
    of equal embeddings only one counts. The result depends on the rows alone: not on how they are cut into parts, not
    on the order of parts, not on executor, workers or threads, to the last bit on one kind of processor.

    ``info["full_rounds"]`` says what happened: ``rounds`` done of those ``asked`` for; ``objective``, the sum over all
    rows of products with the own prototype (of squared distances for Euclidean ones), once for the start and then after
    each round, every row staying with the prototype that the round gave it to; ``moved``, prototypes that changed in
    each round; ``refilled``, those that had no rows.

    Args:
        store: where the embeddings are.
        start: prototypes of the sample, or the `last_state` of a run that was killed.
        config: rounds and device.
        folder: work folder: prototypes and sums of the round at work; `clear_rounds` removes it once the result stands.
        executor: where parts are read.
        progress: told after each group of parts.

    Raises:
        StoreError: an embedding is not of unit length, or a work file is damaged.
        DataError: a prototype has more rows than can be summed up exactly, 2^28.

    Cost:
        a round reads all embeddings once, and takes 1.1 to 1.2 times the processor time of one FAISS search of all rows
        for k = 1000 (1.3 times for k = 300; measured with d = 384), and a second pass if a prototype is left without
        rows. Parts are handed out in groups of at least 65,536 rows and 64 k, so fewer workers than groups have
        something to do; a group takes 8 (d + 1) k bytes on disk, a worker about five times that in memory.
    """
    rounds = _Rounds(store, folder, start.fingerprint, config, executor, progress)
    now = start
    if "full_rounds" in start.info:
        clear_rounds(folder, but=f"{short(start.fingerprint)}.")
    else:
        clear_rounds(folder)
        now = rounds.begun(start)
    while _done(now) < config.full_rounds and 0 not in _told(now)["moved"]:
        now = rounds.next(now)
    return now


def _told(prototypes: Prototypes) -> dict[str, Any]:
    """What the rounds so far came to."""
    return cast("dict[str, Any]", prototypes.info["full_rounds"])


def _done(prototypes: Prototypes) -> int:
    return int(_told(prototypes)["rounds"])


@dataclass(frozen=True, slots=True)
class _Group:
    """Consecutive parts that one task reads."""

    number: int
    first: int
    end: int
    n_rows: int


def _groups(records: Sequence[CommitRecord], k: int) -> list[_Group]:
    """Parts in groups of enough rows, whatever the workers; the last one may have fewer."""
    enough = max(GROUP_ROWS, ROWS_PER_PROTOTYPE * k)
    found: list[_Group] = []
    first, n_rows = 0, 0
    for end, record in enumerate(records, 1):
        n_rows += record.n_rows
        if n_rows >= enough or (end == len(records) and n_rows > 0):
            found.append(_Group(len(found), first, end, n_rows))
            first, n_rows = end, 0
    return found


@dataclass(frozen=True, slots=True)
class _Rounds:
    """Rounds over one store in one work folder."""

    store: Store
    folder: Path
    mark: str
    config: ClusterConfig
    executor: Executor
    progress: Progress

    def begun(self, start: Prototypes) -> Prototypes:
        """Prototypes before the first round, which stand in the work folder."""
        facts: dict[str, JSONValue] = {"asked": self.config.full_rounds, "rounds": 0}
        facts |= {"objective": [], "moved": [], "refilled": []}
        now = replace(start, info={**start.info, "full_rounds": facts})
        save_prototypes(state_path(self.folder, self.mark, 0), now)
        return now

    def next(self, now: Prototypes) -> Prototypes:
        """Prototypes after one more round, which stand in the work folder."""
        groups = _groups(self.store.records(), now.k)
        done = _done(now)
        self._work(groups, done, f"round {done + 1} of {self.config.full_rounds}")
        sums = self._added(groups, done, now)
        counts = sums[:, self.store.dim]
        if int(counts.sum()) != self.store.n_rows:
            raise StoreError(
                f"{self.folder}: {int(counts.sum()):,} rows were summed up, the store has {self.store.n_rows:,}; "
                "remove the folder and run the same command again"
            )
        if counts.max() > EXACT_ROWS:
            raise DataError(
                f"{self.store.path}: a prototype has {int(counts.max()):,} samples, and sums are exact up to "
                f"{EXACT_ROWS:,} only; ask for more prototypes, or for no full rounds"
            )
        centroids = _means(sums, now)
        empty = np.flatnonzero(counts == 0)
        if len(empty):
            self._work(groups, done, "farthest", len(empty))
            rows = self._far(groups, done, len(empty))["embedding"]
            centroids[empty[: len(rows)]] = unit_rows(rows) if now.spherical else rows
        then = _after(now, centroids, sums, len(empty))
        save_prototypes(state_path(self.folder, self.mark, done + 1), then)
        clear_rounds(self.folder, but=f"{short(self.mark)}.{done + 1:04d}.")
        return then

    def _work(self, groups: list[_Group], done: int, name: str, far: int = 0) -> None:
        """Have the files made that are missing: sums of each group, or its ``far`` farthest rows."""
        path_of = far_path if far else sums_path
        missing = [one for one in groups if not path_of(self.folder, self.mark, done, one.number).exists()]
        kwargs: dict[str, object] = {
            "store": str(self.store.path),
            "folder": str(self.folder),
            "mark": self.mark,
            "device": self.config.device,
        }
        tasks = (
            Task(
                f"group {one.number}",
                {"done": done, "group": one.number, "first": one.first, "end": one.end, "farthest": far},
            )
            for one in missing
        )
        with self.progress.stage(name, sum(one.n_rows for one in missing), "samples") as ticker:
            for outcome in self.executor.run(StageSpec(WORKER, kwargs), tasks):
                if outcome.kind != "ok":
                    if isinstance(outcome.error, SSPruningError):
                        raise outcome.error
                    raise MachineError(f"{name}, {outcome.task_id}: {outcome.kind}: {outcome.error!r}")
                ticker.tick(int(cast("int", outcome.value)))

    def _added(self, groups: list[_Group], done: int, now: Prototypes) -> F64:
        """Sums of all rows, as `RoundWorker` has them of a group; two of them in memory at once."""
        width = self.store.dim + (1 if now.spherical else 3)
        total = np.zeros((now.k, width))
        for one in groups:
            path = sums_path(self.folder, self.mark, done, one.number)
            total += _loaded(path, total.size, np.dtype("<f8")).reshape(total.shape)
        return total

    def _far(self, groups: list[_Group], done: int, count: int) -> np.ndarray:
        """At most ``count`` records of `far_dtype`: the farthest of all rows."""
        dtype = far_dtype(self.store.dim)
        best = np.empty(0, dtype)
        for one in groups:
            more = _loaded(far_path(self.folder, self.mark, done, one.number), count, dtype)
            best = farthest(np.concatenate([best, more]), count)
        return best


def _loaded(path: Path, rows: int, dtype: np.dtype) -> np.ndarray:
    """A work file; one that is damaged is removed."""
    try:
        return load_column(path, rows, dtype)
    except StoreError as error:
        path.unlink(missing_ok=True)
        raise StoreError(f"{path}: missing or damaged; run the same command again, it goes on from here") from error


def _means(sums: F64, now: Prototypes) -> F32:
    """(k, d) new prototypes; one without rows, or whose rows cancel out, stays."""
    d = now.centroids.shape[1]
    rows = sums[:, :d]
    scale = np.sqrt(np.einsum("ij,ij->i", rows, rows)) if now.spherical else sums[:, d]
    moved, full = now.centroids.copy(), scale > 0
    moved[full] = rows[full] / scale[full, None]
    return moved


def _objectives(sums: F64, now: Prototypes) -> tuple[float, float]:
    """What the rows come to with the prototypes that they were assigned to, and with the new ones in their place.

    Both follow from the exact sums alone: with S the sum and n the number of rows of a prototype c, and Q the sum of
    all squared lengths, they are the sums over the prototypes of S c and |S| when spherical; otherwise Q plus the sums
    of n c c - 2 S c and of -|S|^2 / n.
    """
    d = now.centroids.shape[1]
    rows, counts, centroids = sums[:, :d], sums[:, d], now.centroids.astype(np.float64)
    own, square = np.einsum("ij,ij->i", rows, centroids), np.einsum("ij,ij->i", rows, rows)
    if now.spherical:
        return float(own.sum()), float(np.sqrt(square).sum())
    total = float(sums[:, d + 1].sum() / HALF + sums[:, d + 2].sum() / HALF**2)
    before = total + float((counts * np.einsum("ij,ij->i", centroids, centroids) - 2 * own).sum())
    after = total - float((square / np.maximum(counts, 1)).sum())
    return max(0.0, before), max(0.0, after)


def _after(now: Prototypes, centroids: F32, sums: F64, refilled: int) -> Prototypes:
    """`Prototypes` with the new centroids, and with what the round came to in their facts."""
    before, after = _objectives(sums, now)
    told = _told(now)
    moved = int((centroids.view(np.uint32) != now.centroids.view(np.uint32)).any(axis=1).sum())
    facts: dict[str, JSONValue] = {
        "asked": told["asked"],
        "rounds": told["rounds"] + 1,
        "objective": [*(told["objective"] or [before]), after],
        "moved": [*told["moved"], moved],
        "refilled": [*told["refilled"], refilled],
    }
    return replace(now, centroids=centroids, info={**now.info, "full_rounds": facts})
