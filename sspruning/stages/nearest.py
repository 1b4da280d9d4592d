"""Rows of one store to the rows of another that they are most like: exact, in blocks, one column file a part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sspruning.errors import StoreError
from sspruning.fingerprint import fingerprint, short
from sspruning.metrics.distances import unit_rows
from sspruning.progress import Progress
from sspruning.records import F16, F32, F64, I64
from sspruning.storage.artifacts import load_column, save_column
from sspruning.storage.atomic import sweep
from sspruning.storage.digests import drop_damaged, list_files
from sspruning.storage.store import CommitRecord, Store

__all__ = ["NEAREST_DTYPE", "NearestRows", "nearest_rows"]

READ_ROWS = 16_384  # rows in memory at once, on either side
TILE_ROWS, TILE_COLUMNS = 2_048, 4_096  # of one product of many pairs: 34 MB
PAIRS = 8_192  # pairs in float64 at once: 50 MB at d = 384
HELD_BYTES = 1 << 30  # evaluation rows that stay in memory: 460,000 at d = 384; beyond, they are read again and again

NEAREST_DTYPE = np.dtype([("row", "<i8"), ("cosine", "<f8")])
"""Of one sample: the evaluation row that it is most like, and the cosine to it."""


@dataclass(frozen=True, slots=True)
class _Block:
    """Rows of an evaluation store."""

    start: int
    """Place of the first in the whole store."""
    rows: F16
    units: F32
    """The same at length 1."""


def _units(rows: F16) -> F32:
    return unit_rows(rows).astype(np.float32)


def _blocks(store: Store) -> Iterator[_Block]:
    at = 0
    for record in store.records():
        with store.open_part(record) as part:
            for start in range(0, record.n_rows, READ_ROWS):
                rows = part.embedding(start, start + READ_ROWS)
                yield _Block(at + start, rows, _units(rows))
        at += record.n_rows


class NearestRows:
    """Finds the row of a store that each given row is most like, exactly, whatever the blocks and threads.

    Products of many rows are float32. All pairs whose product lies within its rounding error of the best are compared
    again in float64, each for itself; ties go to the earlier row of the store.
    """

    def __init__(self, store: Store) -> None:
        """Read the rows once if they fit into memory, else anew for every search."""
        self._store = store
        self._held = list(_blocks(store)) if store.n_rows * store.dim * 6 <= HELD_BYTES else None
        self._tolerance = max(1e-5, (store.dim + 8) * 2.0**-24)

    def search(self, rows: F16) -> tuple[I64, F64]:
        """(m,) row that each of (m, d) rows is most like, and (m,) cosine to it.

        Cost:
            2 d operations for each pair of rows; about 50 MB besides what is held.
        """
        found, best = np.zeros(len(rows), np.int64), np.full(len(rows), -np.inf)
        units = _units(rows)
        for block in self._held or _blocks(self._store):
            for top in range(0, len(rows), TILE_ROWS):
                some = slice(top, top + TILE_ROWS)
                for left in range(0, len(block.rows), TILE_COLUMNS):
                    columns = slice(left, left + TILE_COLUMNS)
                    row, column = self._near(units[some], block.units[columns], best[some])
                    cosine = _cosine(rows[some], block.rows[columns], row, column)
                    _improve(found[some], best[some], (row, block.start + left + column, cosine))
        return found, best

    def _near(self, units: F32, others: F32, best: F64) -> tuple[I64, I64]:
        """Pairs (row, column) of which one may be the nearest of its row, and nearer than the best so far."""
        similar = units @ others.T
        bar = np.maximum(similar.max(axis=1) - 2 * self._tolerance, best - self._tolerance)
        row, column = np.nonzero(similar >= bar.astype(np.float32)[:, None])
        return row, column


def _cosine(rows: F16, others: F16, row: I64, column: I64) -> F64:
    """(p,) float64 cosines of p pairs; each depends on its own two rows alone."""
    found = np.empty(len(row), np.float64)
    for start in range(0, len(row), PAIRS):
        some = slice(start, start + PAIRS)
        found[some] = np.einsum("ij,ij->i", unit_rows(rows[row[some]]), unit_rows(others[column[some]]))
    return found


def _improve(found: I64, best: F64, pairs: tuple[I64, I64, F64]) -> None:
    """Put the best of the pairs (row, other, cosine) into ``found`` and ``best`` where it beats what stands there."""
    row, other, cosine = pairs
    order = np.lexsort((other, -cosine, row))
    first = order[np.flatnonzero(np.diff(row[order], prepend=-1))]
    better = first[cosine[first] > best[row[first]]]
    found[row[better]], best[row[better]] = other[better], cosine[better]


def nearest_rows(store: Store, others: Store, folder: Path, progress: Progress) -> Iterator[np.ndarray]:
    """`NEAREST_DTYPE` of the rows of each part, from its file in ``folder``, which is made if it is not there."""
    sweep(folder)
    drop_damaged(folder)
    paths: list[Path] = []
    content, search = others.content_fingerprint(), None
    with progress.stage("compare", store.n_rows, "samples") as ticker:
        for record in store.records():
            mark = short(fingerprint({"part": record.fingerprint, "against": content}))
            path = folder / f"{record.shard_id}.{mark}.npy"
            try:
                found = load_column(path, record.n_rows, NEAREST_DTYPE)
            except StoreError:
                search = search or NearestRows(others)
                found = _compared(store, record, search)
                save_column(path, found)
            paths.append(path)
            ticker.tick(record.n_rows)
            yield found
    list_files(folder, paths)


def _compared(store: Store, record: CommitRecord, search: NearestRows) -> np.ndarray:
    found: Any = np.empty(record.n_rows, NEAREST_DTYPE)
    with store.open_part(record) as part:
        for start in range(0, record.n_rows, READ_ROWS):
            out = found[start : start + READ_ROWS]
            out["row"], out["cosine"] = search.search(part.embedding(start, start + READ_ROWS))
    return found
