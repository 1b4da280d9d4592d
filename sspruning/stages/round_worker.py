"""What a worker does in a round of k-means over everything: exact sums of the rows of some parts, or their farthest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np

from sspruning.clusterers.faiss_kmeans import NearestPrototypes
from sspruning.clusterers.lloyd import add_by_label
from sspruning.errors import StoreError
from sspruning.fingerprint import short
from sspruning.metrics.distances import pair_distance
from sspruning.records import F16, F32, F64, U64, JSONValue
from sspruning.storage.artifacts import load_prototypes, save_column
from sspruning.storage.store import Store

__all__ = ["EXACT_ROWS", "WORKER", "RoundWorker", "far_dtype", "far_path", "farthest", "state_path", "sums_path"]

WORKER = "sspruning.stages.round_worker:RoundWorker"
BLOCK_ROWS = 16384  # 25 MB of float32 at d = 384
EXACT_ROWS = 1 << 28  # of one prototype: so many multiples of 2^-24 below 2 have a sum of at most 53 bits
HALF = 2.0**24  # a squared length is a whole number of 2^-48: its upper and its lower half are added apart


def state_path(folder: Path, mark: str, done: int) -> Path:
    """Prototypes as they are after ``done`` rounds."""
    return folder / f"{short(mark)}.{done:04d}.h5"


def sums_path(folder: Path, mark: str, done: int, group: int) -> Path:
    """Sums of the rows of one group, each row with the nearest of the prototypes after ``done`` rounds."""
    return folder / f"{short(mark)}.{done:04d}.sums-{group:06d}.npy"


def far_path(folder: Path, mark: str, done: int, group: int) -> Path:
    """Rows of one group that lie farthest from the prototypes after ``done`` rounds."""
    return folder / f"{short(mark)}.{done:04d}.far-{group:06d}.npy"


def far_dtype(d: int) -> np.dtype:
    """A row that may become a prototype: how far it lies from its own, the hash of its key, the embedding."""
    return np.dtype([("distance", "<f4"), ("key_hash", "<u8"), ("embedding", "<f2", (d,))])


def farthest(rows: np.ndarray, count: int) -> np.ndarray:
    """At most ``count`` of the rows, the farthest first, ties by the hash of the key; of equal embeddings one.

    Rows that lie on their prototype are left out. The farthest of several groups' farthest are the farthest of all.

    Args:
        rows: (m,) records of `far_dtype`.
        count: at least 1.
    """
    found: list[int] = []
    seen: set[bytes] = set()
    for at in np.lexsort((rows["key_hash"], -rows["distance"])).tolist():
        if len(found) == count or rows["distance"][at] <= 0:
            break
        embedding = rows["embedding"][at].tobytes()
        if embedding not in seen:
            seen.add(embedding)
            found.append(at)
    return rows[found]


class RoundWorker:
    """Built once in each worker, for all rounds: keeps the search for the prototypes of the last round it saw."""

    def __init__(self, *, store: str, folder: str, mark: str, device: str) -> None:
        """Open the store.

        Args:
            store: where the embeddings are.
            folder: where prototypes of each round are, and sums go.
            mark: fingerprint of the clustering; part of all file names.
            device: where FAISS searches: auto, cpu or gpu.
        """
        self._store = Store(store)
        self._records = self._store.records()
        self._folder, self._mark, self._device = Path(folder), mark, device
        self._centroids: F32 = np.empty((0, 0), np.float32)

    def __call__(self, payload: dict[str, JSONValue]) -> JSONValue:
        """Rows of the group that the payload names, which were summed up.

        ``done`` says how many rounds there were, ``group`` which group, ``first`` and ``end`` which parts it has; with
        ``farthest`` above 0 that many rows are looked for instead.
        """
        done, group, first, end, count = (
            int(cast("int", payload[name])) for name in ("done", "group", "first", "end", "farthest")
        )
        self._prepare(done)
        if count > 0:
            save_column(far_path(self._folder, self._mark, done, group), self._farthest(first, end, count))
        else:
            save_column(sums_path(self._folder, self._mark, done, group), self._sums(first, end).ravel())
        return sum(record.n_rows for record in self._records[first:end])

    def _prepare(self, done: int) -> None:
        """Load the prototypes of the round; the search of the task before serves again if they are the same."""
        found = load_prototypes(state_path(self._folder, self._mark, done))
        if not np.array_equal(found.centroids, self._centroids):
            self._search = NearestPrototypes(found.centroids, cosine=found.spherical, device=self._device)
        self._centroids, self._spherical = found.centroids, found.spherical

    def _blocks(self, first: int, end: int) -> Iterator[tuple[F16, U64]]:
        """Rows of the group's parts and the hashes of their keys."""
        for record in self._records[first:end]:
            with self._store.open_part(record) as part:
                hashes = part.column("key_hash")
                for start in range(0, record.n_rows, BLOCK_ROWS):
                    stop = min(start + BLOCK_ROWS, record.n_rows)
                    yield part.embedding(start, stop), hashes[start:stop]

    def _sums(self, first: int, end: int) -> F64:
        """(k, d + 1) sums of the rows of each prototype, then their number; all exact, so in whatever order.

        For Euclidean prototypes (k, d + 3): also the sums of the upper and of the lower 24 bits of squared lengths.
        """
        k, d = self._centroids.shape
        sums = np.zeros((k, d + 1 if self._spherical else d + 3))
        for embeddings, _ in self._blocks(first, end):
            rows = embeddings.astype(np.float32)
            self._refuse_long(rows)
            labels = self._search.nearest(rows)
            add_by_label(sums[:, :d], rows, labels)
            sums[:, d] += np.bincount(labels, minlength=k)
            if not self._spherical:
                for column, half in enumerate(squared_halves(rows), d + 1):
                    sums[:, column] += np.bincount(labels, half, minlength=k)
        return sums

    def _refuse_long(self, rows: F32) -> None:
        """Refuse rows whose sums might be rounded.

        Raises:
            StoreError: an embedding is longer than unit length can be after rounding to float16.
        """
        longest = float(np.einsum("ij,ij->i", rows, rows).max(initial=0.0))
        if longest > 1.5:
            raise StoreError(
                f"{self._store.path}: holds an embedding of length {longest**0.5:.3g}, expected 1; "
                "run `sspruning verify` on it, then `sspruning embed` again"
            )

    def _farthest(self, first: int, end: int, count: int) -> np.ndarray:
        """``count`` records of `far_dtype`; zeros where there are not so many."""
        best = np.empty(0, far_dtype(self._centroids.shape[1]))
        for embeddings, hashes in self._blocks(first, end):
            rows = np.empty(len(embeddings), best.dtype)
            labels = self._search.nearest(embeddings)
            rows["distance"] = pair_distance(embeddings, self._centroids, labels, cosine=self._spherical)
            rows["key_hash"], rows["embedding"] = hashes, embeddings
            best = farthest(np.concatenate([best, rows]), count)
        padded = np.zeros(count, best.dtype)  # a distance of 0 is no row
        padded[: len(best)] = best
        return padded


def squared_halves(rows: F32) -> tuple[F64, F64]:
    """(m,) upper and lower halves, as whole numbers, of the squared lengths of rows of float16 values, in 2^-48."""
    wide = rows.astype(np.float64)
    square = np.einsum("ij,ij->i", wide, wide) * HALF
    upper = np.floor(square)
    return upper, (square - upper) * HALF
