"""A table of outside scores to score columns: key -> score from parquet or npz, found again by the hash of the key."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sspruning.config import ScoreConfig
from sspruning.errors import DataError, UsageError
from sspruning.progress import Progress
from sspruning.records import F32, I64, U64, BoolArray, JSONValue
from sspruning.stages.inspect import key_hash
from sspruning.storage.artifacts import save_column, score_path
from sspruning.storage.atomic import file_sha256
from sspruning.storage.store import CommitRecord, Store

__all__ = ["IMPORTED", "import_scores", "table_column", "table_identity"]

IMPORTED = "imported"  # the metric whose scores come from the table `score.table`
KEY, SCORE = "key", "score"
READ_ROWS = 65536
SHOWN = 3  # keys named in a message

_UNREADABLE = (
    OSError, EOFError, LookupError, MemoryError, NotImplementedError, RuntimeError, TypeError, ValueError,
    zipfile.BadZipFile, zlib.error, pa.ArrowException,
)  # fmt: skip
"""What numpy and pyarrow raise for damaged files, encrypted zip files among them."""

Batches = Iterator[tuple[list[str], np.ndarray]]


@dataclass(frozen=True, slots=True)
class _Table:
    """An open table."""

    path: Path
    columns: dict[str, bool]
    """All columns, and of each whether it may be taken for the scores without being named."""
    n_rows: Callable[[str], int]
    """Rows of the table, for a column of scores."""
    batches: Callable[[str], Batches]
    """Keys and scores, some rows at a time, for a column of scores."""


@dataclass(frozen=True, slots=True)
class _Known:
    """A table reduced to what is needed to find the scores of keys again."""

    hashes: U64
    """(n,) hashes of the keys, ascending, all different."""
    scores: F32
    """(n,) score of each, finite."""
    example: str
    """The first key of the file, for messages."""

    def find(self, wanted: U64) -> tuple[I64, BoolArray]:
        """Where each wanted hash stands, and whether it is there at all (if not, the place means nothing)."""
        at = np.minimum(np.searchsorted(self.hashes, wanted), len(self.hashes) - 1)
        return at, self.hashes[at] == wanted


def _table_path(config: ScoreConfig) -> Path:
    """The file that section `score` names as its table.

    Raises:
        UsageError: it names none, or there is no such file.
    """
    if config.table is None:
        raise UsageError(
            f"score.metric is {IMPORTED!r} but score.table names no file; "
            "give one with `sspruning score STORE --import FILE`, or choose another --metric"
        )
    path = Path(config.table)
    if not path.is_file():
        raise UsageError(
            f"{path}: no such file, but the scores are imported from it; put it back, name where it is now with "
            "`sspruning score STORE --import FILE`, or choose another --metric"
        )
    return path


def table_column(config: ScoreConfig) -> str:
    """The column that imported scores come from; reads the names of the columns only.

    Raises:
        UsageError: no such file, no such column, or neither parquet nor npz.
        DataError: damaged.
    """
    with _opened(_table_path(config)) as table:
        return _chosen_column(table, config.column)


def table_identity(config: ScoreConfig) -> dict[str, JSONValue]:
    """What imported scores depend on: ``table``, the sha256 of the file's content, and ``column``, that is read.

    The path and the time of the file are no part of it.

    Raises:
        UsageError: no such file, no such column, or neither parquet nor npz.
        DataError: damaged.

    Cost:
        one read of the file, about 1 GB/s.
    """
    return {"column": table_column(config), "table": file_sha256(_table_path(config))}


def import_scores(store: Store, config: ScoreConfig, folder: Path, progress: Progress) -> None:
    """Write the score column of every part that has none in ``folder``; the table is not read if none is missing.

    Every embedded sample must have exactly one score; larger = harder. Keys of other samples are counted and left out.
    Scores are rounded once to float32. The order of the table's rows changes no byte.

    Args:
        store: whose samples are scored.
        config: file and column.
        folder: where the columns go; it belongs to one fingerprint.
        progress: told after each batch of rows.

    Raises:
        UsageError: no such file or column, or neither parquet nor npz.
        DataError: damaged; a score that is no finite float32; a key that occurs twice; a sample without a score.

    Cost:
        1.2 microseconds a row; 12 bytes of memory a row, 28 while they are sorted. A parquet file is read some rows
        at a time, an npz whole (4 bytes a character of the longest key for each row).
    """
    missing = [r for r in store.records() if not score_path(folder, r.shard_id).exists()]
    if not missing:
        return
    path = _table_path(config)
    with _opened(path) as table:
        known = _reduced(table, _chosen_column(table, config.column), progress)
    extra = _check_complete(store, path, known)
    if extra:
        progress.note(
            f"{path}: {extra:,} of {len(known.hashes):,} keys are not in the store; their scores are left out"
        )
    for record in missing:
        at, _ = known.find(_hashes_of(store, record))
        save_column(score_path(folder, record.shard_id), known.scores[at].astype("<f4", copy=False))


def _hashes_of(store: Store, record: CommitRecord) -> U64:
    with store.open_part(record) as part:
        return part.column("key_hash")


def _check_complete(store: Store, path: Path, known: _Known) -> int:
    """Number of the table's keys that the store does not have.

    Raises:
        DataError: embedded samples without a score; says how many, and names the first.
    """
    used = np.zeros(len(known.hashes), np.bool_)
    lost, names = 0, list[str]()
    for record in store.records():
        at, found = known.find(_hashes_of(store, record))
        used[at[found]] = True
        lost += int((~found).sum())
        if len(names) < SHOWN and not found.all():
            with store.open_part(record) as part:
                keys = part.keys()
            names += [keys[row] for row in np.flatnonzero(~found)[: SHOWN - len(names)].tolist()]
    if lost:
        more = ", ..." if lost > len(names) else ""
        raise DataError(
            f"{path}: {lost:,} of {store.n_rows:,} embedded samples have no score in this table: "
            f"{', '.join(map(repr, names))}{more} (the table's first key is {known.example!r}). Its column {KEY!r} "
            "must hold the webdataset key of every embedded sample: the path in the shard up to the first dot of the "
            "file name. Add the missing rows"
        )
    return int((~used).sum())


def _reduced(table: _Table, column: str, progress: Progress) -> _Known:
    """`_Known` of a whole table, read once.

    Raises:
        DataError: see `import_scores`.
    """
    n = table.n_rows(column)
    hashes, scores = np.empty(n, np.uint64), np.empty(n, np.float32)
    at, example = 0, ""
    with progress.stage("import", n, "scores") as ticker:
        for keys, values in table.batches(column):
            rows = slice(at, at + len(keys))
            with np.errstate(over="ignore"):
                scores[rows] = values
            odd = np.flatnonzero(~np.isfinite(scores[rows]))
            if len(odd):
                raise _not_finite(table.path, column, keys[odd[0]], values[odd[0]])
            hashes[rows] = np.array([key_hash(key) for key in keys], np.uint64)
            at, example = at + len(keys), example or keys[0]
            ticker.tick(len(keys))
    if at != n or n == 0:
        raise DataError(f"{table.path}: holds {at:,} rows and says {n:,}; expected one for every embedded sample")
    order = np.argsort(hashes)
    hashes, scores = hashes[order], scores[order]
    twice = hashes[1:][hashes[1:] == hashes[:-1]]
    if len(twice):
        raise _repeated(table, column, twice)
    return _Known(hashes, scores, example)


def _not_finite(path: Path, column: str, key: str, value: object) -> DataError:
    return DataError(
        f"{path}: column {column!r}: the score of {key!r} is {value}; expected a number that is finite as float32. "
        "Give every sample a score; where infinity means something (forgetting: never learned), write a large finite "
        "number instead, above all others"
    )


def _repeated(table: _Table, column: str, twice: U64) -> DataError:
    """The error for hashes that occur more than once, with the keys that have the first of them."""
    keys = [key for batch, _ in table.batches(column) for key in batch if key_hash(key) == int(twice[0])]
    if len(set(keys)) > 1:
        return DataError(f"{table.path}: {' and '.join(map(repr, keys))} have the same 64-bit hash; rename one sample")
    others = f" ({len(twice) - 1:,} more rows repeat a key)" if len(twice) > 1 else ""
    return DataError(
        f"{table.path}: the key {keys[0]!r} occurs {len(keys)} times{others}; expected one score for each sample, so "
        "keep one row for each key"
    )


def _chosen_column(table: _Table, wanted: str | None) -> str:
    """Name of the column of scores: the wanted one, else `score`, else the only one that holds numbers.

    Raises:
        UsageError: no keys, no such column, or none that is the only one; lists those there are.
    """
    listed = ", ".join(table.columns) or "none"
    if KEY not in table.columns:
        raise UsageError(f"{table.path}: no column {KEY!r} with the keys of the samples; it has: {listed}")
    if wanted is None and SCORE not in table.columns:
        numbers = [name for name, takes in table.columns.items() if takes]
        if len(numbers) == 1:
            return numbers[0]
        raise UsageError(f"{table.path}: no column {SCORE!r}; say which one with --column; it has: {listed}")
    name = wanted or SCORE
    if name not in table.columns or name == KEY:
        raise UsageError(f"{table.path}: no column {name!r} with scores; it has: {listed}; name one with --column")
    return name


@contextmanager
def _opened(path: Path) -> Generator[_Table]:
    """An open table; what its first bytes say decides the format, not its name.

    Raises:
        UsageError: neither parquet nor npz.
        DataError: damaged, while it is open.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(4)
        if start != b"PAR1" and start[:2] != b"PK":
            raise UsageError(
                f"{path}: neither parquet nor npz; write one with pandas' DataFrame.to_parquet (columns {KEY!r} and "
                f"{SCORE!r}) or numpy.savez(FILE, {KEY}=..., {SCORE}=...)"
            )
        with _parquet(path) if start == b"PAR1" else _npz(path) as table:
            yield table
    except _UNREADABLE as error:
        raise DataError(f"{path}: cannot be read as a table of scores ({error}); write it again") from error


@contextmanager
def _parquet(path: Path) -> Generator[_Table]:
    """A parquet file, read some rows at a time."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        kinds = {field.name: field.type for field in file.schema_arrow}

        def batches(column: str) -> Batches:
            kind = kinds[KEY].value_type if pa.types.is_dictionary(kinds[KEY]) else kinds[KEY]
            if str(kind) not in {"string", "large_string", "string_view"}:
                raise DataError(f"{path}: column {KEY!r} holds {kind}, expected strings")
            if not _is_number(kinds[column]):
                raise DataError(f"{path}: column {column!r} holds {kinds[column]}, expected numbers")
            for batch in file.iter_batches(READ_ROWS, columns=[KEY, column]):
                if batch.column(KEY).null_count:
                    raise DataError(f"{path}: column {KEY!r} has nulls; expected a key in every row")
                yield batch.column(KEY).to_pylist(), batch.column(column).to_numpy(zero_copy_only=False)

        takes = {name: _is_number(kind) for name, kind in kinds.items()}
        yield _Table(path, takes, lambda _: file.metadata.num_rows, batches)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


@contextmanager
def _npz(path: Path) -> Generator[_Table]:
    """The arrays of an npz; each is read whole. None is taken for the scores without being named or called `score`."""
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:  # np.load(path) leaks on damage

        def array(name: str, kinds: str, expected: str) -> np.ndarray:
            found = np.asarray(file[name])  # a member that is no .npy comes as bytes
            if found.ndim != 1 or found.dtype.kind not in kinds:
                raise DataError(f"{path}: array {name!r} is {found.dtype} {found.shape}, expected {expected}")
            return found

        def n_rows(column: str) -> int:
            return len(array(column, "iuf", "(n,) numbers"))

        def batches(column: str) -> Batches:
            keys, scores = array(KEY, "U", "(n,) unicode strings"), array(column, "iuf", "(n,) numbers")
            if len(keys) != len(scores):
                raise DataError(f"{path}: {len(keys):,} in {KEY!r} but {len(scores):,} in {column!r}; expected as many")
            for start in range(0, len(keys), READ_ROWS):
                rows = slice(start, start + READ_ROWS)
                yield keys[rows].tolist(), scores[rows]

        yield _Table(path, dict.fromkeys(file.files, False), n_rows, batches)
