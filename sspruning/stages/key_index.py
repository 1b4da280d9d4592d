"""Rows of a table of embeddings, found by the hash of their key: built once, mapped by every worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sspruning.errors import DataError
from sspruning.progress import Progress
from sspruning.records import F32, I64, U64, BoolArray
from sspruning.stages.embedding_table import EmbeddingTable, mapped_rows
from sspruning.stages.inspect import key_hash
from sspruning.stages.pieces import npy_header
from sspruning.storage.atomic import write_stream

__all__ = ["KeyIndex", "Lookup", "make_index"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyIndex:
    """Files that a `Lookup` maps. Small and picklable."""

    hashes: str
    """(n,) uint64: hashes of the keys, ascending, all different."""
    rows: str
    """(n,) int64: row of each in the table."""
    vectors: tuple[str, ...]
    """(n_i, dim) each: the rows of the table, one file after the other."""
    n_rows: int
    dim: int
    example: str
    """The first key of the table, for messages."""


def make_index(table: EmbeddingTable, scratch: Callable[[str], Path], progress: Progress) -> KeyIndex:
    """The index of a table whose keys are all different.

    Args:
        table: what to find.
        scratch: gives the path of a new file; it shall be on a disk with room for the embeddings of an npz or parquet.
        progress: told after each batch of keys.

    Raises:
        DataError: the table is damaged, has not as many keys as rows, or a key twice.
        MachineError: no space.

    Cost:
        1 microsecond a row, and a copy of the embeddings of an npz or parquet; 24 bytes of memory a row.
    """
    n, at, example = table.n_rows, 0, ""
    hashes = np.empty(n, np.uint64)
    with progress.stage("index", n, "keys") as ticker:
        for keys in table.key_batches():
            own = np.array([key_hash(key) for key in keys], np.uint64)
            hashes[at : at + len(own)] = own[: max(0, n - at)]
            at, example = at + len(keys), example or keys[0]
            ticker.tick(len(keys))
    if at != n:
        raise DataError(f"{table.files[-1]}: {at:,} keys for {n:,} embeddings; expected as many")
    order = np.argsort(hashes)
    hashes = hashes[order]
    twice = hashes[1:][hashes[1:] == hashes[:-1]]
    if len(twice):
        raise _repeated(table, twice)
    return KeyIndex(
        hashes=_saved(scratch("hashes"), hashes),
        rows=_saved(scratch("rows"), order),
        vectors=tuple(str(path) for path in table.vectors(scratch("vectors"))),
        n_rows=n,
        dim=table.dim,
        example=example,
    )


def _saved(path: Path, values: np.ndarray) -> str:
    write_stream(path, [npy_header(values.shape, values.dtype), values.data.cast("B")])
    return str(path)


def _repeated(table: EmbeddingTable, twice: U64) -> DataError:
    """The error for hashes that occur more than once, with the keys that have the first of them."""
    keys = [key for batch in table.key_batches() for key in batch if key_hash(key) == int(twice[0])]
    if len(set(keys)) > 1:
        return DataError(
            f"{table.files[-1]}: {' and '.join(map(repr, keys))} have the same 64-bit hash; rename one sample"
        )
    others = f" ({len(twice) - 1:,} more rows repeat a key)" if len(twice) > 1 else ""
    return DataError(
        f"{table.files[-1]}: the key {keys[0]!r} occurs {len(keys)} times{others}; expected one embedding for each "
        "sample"
    )


class Lookup:
    """An index in use. Maps its files: memory is what the system caches of them."""

    def __init__(self, index: KeyIndex) -> None:
        """Map the hashes; the embeddings are mapped when they are asked for."""
        self._hashes = np.load(index.hashes, mmap_mode="r", allow_pickle=False)
        self._rows = np.load(index.rows, mmap_mode="r", allow_pickle=False)
        self._paths = [Path(path) for path in index.vectors]
        self._dim = index.dim
        self._ends = np.cumsum([len(mapped_rows(path)) for path in self._paths])

    def __len__(self) -> int:
        return len(self._hashes)

    def places(self, hashes: U64) -> tuple[I64, BoolArray]:
        """Where each hash stands in the index, and whether it is there at all (if not, the place means nothing)."""
        at = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        return at, self._hashes[at] == hashes

    def take(self, places: I64) -> F32:
        """(m, dim) float32 embeddings at these places; float64 is rounded."""
        rows = self._rows[places]
        file = np.searchsorted(self._ends, rows, side="right")
        found = np.empty((len(rows), self._dim), np.float32)
        for number in np.unique(file).tolist():
            own = np.flatnonzero(file == number)
            own = own[np.argsort(rows[own])]  # the disk likes it
            values = mapped_rows(self._paths[number])
            with np.errstate(over="ignore"):
                found[own] = values[rows[own] - (self._ends[number] - len(values))]
        return found
