"""What a selection says of a key: kept or not, and its weight; a few bytes a sample."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from tokenize import TokenError
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from sspruning.errors import StoreError, UsageError
from sspruning.records import F32, U64
from sspruning.storage.artifacts import SelectionFile

__all__ = ["Answer", "Lookup", "read_groups"]

_UNREADABLE = (OSError, EOFError, MemoryError, SyntaxError, TokenError, TypeError, ValueError)
"""What numpy raises for damaged ``.npy`` files: their header is Python text."""


class Answer(NamedTuple):
    """What a selection says of one sample."""

    kept: bool
    weight: float | None


def _hash(key: str) -> int:
    """63 bits of a key's hash, above a bit that is free."""
    data = key.encode("utf-8", "surrogateescape")  # names in tars that are no UTF-8
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") & ~1


class Lookup:
    """What a selection says of a key, exactly: keys of the selection that share a hash are kept apart by name."""

    def __init__(self, marks: U64, weights: F32 | None, apart: dict[str, Answer]) -> None:
        self._marks = marks
        """(n,) hashes, ascending, all different; the lowest bit says that the sample is kept."""
        self._weights = weights
        self._apart = apart

    @property
    def weighted(self) -> bool:
        """Whether it knows weights."""
        return self._weights is not None

    @classmethod
    def of(cls, file: SelectionFile, *, weights: bool | str | Path) -> Lookup:
        """The lookup of all samples of a selection.

        Args:
            file: the selection.
            weights: True takes them from the selection, a path from a ``.npy`` of (N,) numbers in store order.

        Raises:
            UsageError: weights that are not (N,) numbers.
            StoreError: the selection is damaged.
        """
        n = file.selection.n_embedded
        marks = np.empty(n, np.uint64)
        weight = None if weights is False else np.empty(n, np.float32)
        given = None if isinstance(weights, bool) else _given_weights(Path(weights), n)
        at = 0
        for table in read_groups(file, ["key", "kept", "weight"]):
            rows = slice(at, at + table.num_rows)
            kept = table.column("kept").to_numpy()
            hashes = np.array([_hash(key) for key in table.column("key").to_pylist()], np.uint64)
            marks[rows] = hashes | kept.astype(np.uint64)
            if weight is not None:
                weight[rows] = table.column("weight").to_numpy() if given is None else given[rows]
            at += table.num_rows
        if at != n:
            raise StoreError(f"{file.path}: has {at} rows and says {n}; run `sspruning select` again")
        order = np.argsort(marks)
        marks = marks[order]
        weight = None if weight is None else weight[order]
        same = (marks[1:] >> np.uint64(1)) == (marks[:-1] >> np.uint64(1))
        if not same.any():
            return cls(marks, weight, {})
        shared = np.append(same, False) | np.append(False, same)
        apart = _by_name(file, set((marks[shared] & ~np.uint64(1)).tolist()), given, weighted=weight is not None)
        return cls(marks[~shared], None if weight is None else weight[~shared], apart)

    def find(self, key: str) -> Answer | None:
        """What the selection says of a key; None if it does not know it."""
        mark = _hash(key)
        at = int(np.searchsorted(self._marks, np.uint64(mark)))
        if at == len(self._marks) or int(self._marks[at]) & ~1 != mark:
            return self._apart.get(key)
        return Answer(bool(self._marks[at] & 1), None if self._weights is None else float(self._weights[at]))


def read_groups(file: SelectionFile, columns: list[str]) -> Iterator[pa.Table]:
    """Tables of the given columns, one for each row group that has rows.

    Raises:
        StoreError: the selection is damaged.
    """
    try:
        yield from (table for table in file.groups(columns) if table.num_rows)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise StoreError(f"{file.path}: damaged ({error}); delete it and run `sspruning select` again") from error


def _by_name(file: SelectionFile, hashes: set[int], given: F32 | None, *, weighted: bool) -> dict[str, Answer]:
    """What the selection says of the keys that have these hashes; at 10^7 samples there is hardly ever one."""
    found: dict[str, Answer] = {}
    at = 0
    for table in read_groups(file, ["key", "kept", "weight"]):
        kept, own = table.column("kept").to_numpy(), table.column("weight").to_numpy()
        for row, key in enumerate(table.column("key").to_pylist()):
            if _hash(key) in hashes:
                weight = float(own[row] if given is None else given[at + row])
                found[key] = Answer(bool(kept[row]), weight if weighted else None)
        at += table.num_rows
    return found


def _given_weights(path: Path, n: int) -> F32:
    """The weights of a ``.npy``.

    Raises:
        UsageError: missing, damaged, or not (n,) numbers.
    """
    try:
        with path.open("rb") as stream:
            values = np.lib.format.read_array(stream, allow_pickle=False)
    except _UNREADABLE as error:
        raise UsageError(f"{path}: cannot be read as an array of weights ({error})") from error
    if values.shape != (n,) or values.dtype.kind not in "fiu":
        raise UsageError(
            f"{path}: holds {values.shape} {values.dtype}, expected ({n},) numbers: one for each sample of the "
            "selection, in its order"
        )
    return values.astype(np.float32)
