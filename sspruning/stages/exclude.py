"""A table of keys to the samples that it excludes: a step of a selection's chain. Parquet, npz, or one key a line."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sspruning.errors import DataError, UsageError
from sspruning.filters import Dropped
from sspruning.progress import Progress, SilentProgress
from sspruning.records import I64, U64, BoolArray, JSONValue
from sspruning.stages.inspect import key_hash
from sspruning.storage.atomic import file_sha256
from sspruning.storage.store import Store

__all__ = ["EXCLUDE", "Excluded", "check_exclude", "decisive_steps", "exclude", "excluded", "read_keys"]

EXCLUDE = "exclude"  # the step's name
REASON = "excluded"  # what is said of its samples unless the step has a reason of its own
KEY = "key"
READ_ROWS = 65_536
LINE_CHARS = 8_192  # more are no key: those have at most 4,096 bytes

_UNREADABLE = (
    OSError, EOFError, LookupError, MemoryError, NotImplementedError, RuntimeError, TypeError, ValueError,
    zipfile.BadZipFile, zlib.error, pa.ArrowException,
)  # fmt: skip
"""What numpy, pyarrow and text files raise when they are damaged."""


@dataclass(frozen=True, slots=True)
class Excluded:
    """What a table of keys excludes from a store."""

    drop: BoolArray
    """(n,) in store order; True: its key is in the table."""
    n_keys: int
    """Different keys of the table."""
    n_absent: int
    """Those that no embedded sample has."""


@dataclass(frozen=True, slots=True)
class _Keys:
    """A table reduced to 24 bytes a key, in the order of hashes; all keys differ."""

    hashes: U64
    """(m,) the hashes that a store knows its keys by, ascending."""
    digests: U64
    """(m, 2) blake2b-128 of the keys: different keys that share a hash have different ones."""


def check_exclude(options: Mapping[str, object]) -> None:
    """Refuse what the step cannot do before hours of work are spent; of the table the first rows are read.

    Raises:
        UsageError: no table, no such file, another option, or a reason that is no word for those that go.
        DataError: a file that holds no keys.
    """
    table, reason = options.get("table"), options.get("reason", REASON)
    if set(options) - {"table", "reason"} or not isinstance(table, str):
        raise UsageError(
            f"step {EXCLUDE!r} has the options table, a file of keys, and reason, a word; got {dict(options)}"
        )
    if not isinstance(reason, str) or not reason.strip() or reason == "kept":
        raise UsageError(f"step {EXCLUDE!r}: reason is what is said of the samples that go, in a word; got {reason!r}")
    for _ in read_keys(_file(table)):
        break


def _file(table: str | Path) -> Path:
    path = Path(table)
    if not path.is_file():
        raise UsageError(
            f"{path}: no such file, but step {EXCLUDE!r} reads its keys; put it back, or leave out the step"
        )
    return path


def decisive_steps(steps: Sequence[Mapping[str, Mapping[str, Any]]]) -> list[JSONValue]:
    """The steps of a selection, with the sha256 of each table instead of its path: what a fingerprint is made of.

    Raises:
        UsageError: a table is not there.
    """
    found: list[JSONValue] = []
    for step in steps:
        decisive: dict[str, Any] = {name: dict(options) for name, options in step.items()}
        if EXCLUDE in step:
            options = step[EXCLUDE]
            content = file_sha256(_file(str(options.get("table"))))
            decisive[EXCLUDE] = {"reason": REASON, **options, "table": content}
        found.append(decisive)
    return found


def exclude(store: Store, rows: I64, progress: Progress | None = None, *, table: str, reason: str = REASON) -> Dropped:
    """`Dropped` of the samples whose keys are in a table: the step of the chain.

    Args:
        store: the whole store.
        rows: those of its samples that are still there, in store order.
        progress: told of keys that no embedded sample has.
        table: file of keys; see `excluded`.
        reason: what ``selection.parquet`` says of them.

    Raises:
        UsageError: no such file, or a table that excludes every sample.
        DataError: damaged, or without keys.
    """
    found = excluded(store, Path(table), progress)
    drop = found.drop[rows]
    if len(rows) and drop.all():
        raise UsageError(f"{table}: excludes all {len(rows):,} samples that are left; is it a table of what to keep?")
    return Dropped(drop, reason)


def excluded(store: Store, table: Path, progress: Progress | None = None) -> Excluded:
    """`Excluded`: the samples of a store whose keys are in a table.

    Keys are found by the 64-bit hash that a store keeps of them, and then compared by a digest of 128 bits, so that a
    sample never goes because its key has the hash of another.

    Args:
        store: whose samples are looked up.
        table: parquet with a column ``key``, npz with an array ``key``, or UTF-8 text with one key a line. Keys may
            repeat, and may be strange to the store.
        progress: told of keys that no embedded sample has.

    Raises:
        UsageError: no such file, or no column ``key``.
        DataError: damaged, or with keys that are no strings.

    Cost:
        3.5 microseconds a key, and a look at the key hashes of the store; 24 bytes of memory a key, 80 while they are
        sorted. An npz is read whole.
    """
    progress = progress or SilentProgress()
    known = _reduced(_file(table))
    drop, used = np.zeros(store.n_rows, np.bool_), np.zeros(len(known.hashes), np.bool_)
    at = 0
    for record, hashes in store.key_hashes():
        first = np.searchsorted(known.hashes, hashes)
        behind = np.searchsorted(known.hashes, hashes, side="right")
        rows = np.flatnonzero(behind > first)
        if len(rows):
            with store.open_part(record) as part:
                keys = part.keys()
            wanted = _digests([keys[row] for row in rows.tolist()])
            for place in range(int((behind - first).max())):  # more than one only where different keys share a hash
                entry = np.minimum(first[rows] + place, behind[rows] - 1)
                same = (known.digests[entry] == wanted).all(axis=1)
                drop[at + rows[same]] = True
                used[entry[same]] = True
        at += record.n_rows
    found = Excluded(drop, len(used), int((~used).sum()))
    if found.n_absent or found.n_keys == 0:
        progress.note(_in_words(table, found))
    return found


def _in_words(table: Path, found: Excluded) -> str:
    if found.n_keys == 0:
        return f"{table}: holds no keys, so it excludes nothing"
    if found.n_absent == found.n_keys:
        return (
            f"warning: {table}: excludes nothing: none of its {found.n_keys:,} keys, such as "
            f"{next(read_keys(table))[0]!r}, is the key of an embedded sample"
        )
    return f"{table}: {found.n_absent:,} of {found.n_keys:,} keys are of no embedded sample; they exclude nothing"


def _digests(keys: list[str]) -> U64:
    """(m, 2) uint64 of m keys."""
    joined = b"".join(hashlib.blake2b(key.encode(), digest_size=16).digest() for key in keys)
    return np.frombuffer(joined, "<u8").reshape(-1, 2).astype(np.uint64)


def _reduced(table: Path) -> _Keys:
    """`_Keys` of a whole table, read once.

    Raises:
        DataError: a key that is no text.
    """
    hashes, digests = [np.empty(0, np.uint64)], [np.empty((0, 2), np.uint64)]
    for keys in read_keys(table):
        hashes.append(np.array([key_hash(key) for key in keys], np.uint64))
        digests.append(_digests(keys))
    everything, both = np.concatenate(hashes), np.concatenate(digests)
    order = np.lexsort((both[:, 1], both[:, 0], everything))
    everything, both = everything[order], both[order]
    new = np.ones(len(order), np.bool_)
    new[1:] = (everything[1:] != everything[:-1]) | (both[1:] != both[:-1]).any(axis=1)
    return _Keys(everything[new], both[new])


def read_keys(table: Path) -> Iterator[list[str]]:
    """Keys of a table, some at a time, never none; what its first bytes say decides the format, not its name.

    Raises:
        UsageError: no column ``key``.
        DataError: damaged, or with keys that are no strings.
    """
    try:
        with table.open("rb") as stream:
            start = stream.read(4)
        read = _parquet if start == b"PAR1" else _npz if start[:2] == b"PK" else _text
        for keys in read(table):
            "".join(keys).encode()  # half of a surrogate pair is no text
            if keys:
                yield keys
    except _UNREADABLE as error:
        raise DataError(
            f"{table}: cannot be read as a table of keys ({error}); expected parquet with a column {KEY!r}, npz with "
            f"an array {KEY!r}, or UTF-8 text with one key a line"
        ) from error


def _parquet(table: Path) -> Iterator[list[str]]:
    with pq.ParquetFile(table, page_checksum_verification=True) as file:
        kinds = {field.name: field.type for field in file.schema_arrow}
        if KEY not in kinds:
            raise UsageError(f"{table}: no column {KEY!r} with the keys of samples; it has: {', '.join(kinds)}")
        kind = kinds[KEY].value_type if pa.types.is_dictionary(kinds[KEY]) else kinds[KEY]
        if str(kind) not in {"string", "large_string", "string_view"}:
            raise DataError(f"{table}: column {KEY!r} holds {kind}, expected strings")
        for batch in file.iter_batches(READ_ROWS, columns=[KEY]):
            if batch.column(KEY).null_count:
                raise DataError(f"{table}: column {KEY!r} has nulls; expected a key in every row")
            yield batch.column(KEY).to_pylist()


def _npz(table: Path) -> Iterator[list[str]]:
    with table.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        if KEY not in file.files:
            raise UsageError(f"{table}: no array {KEY!r} with the keys of samples; it has: {', '.join(file.files)}")
        keys = np.asarray(file[KEY])
    if keys.ndim != 1 or keys.dtype.kind != "U":
        raise DataError(f"{table}: array {KEY!r} is {keys.dtype} {keys.shape}, expected (n,) unicode strings")
    for start in range(0, len(keys), READ_ROWS):
        yield keys[start : start + READ_ROWS].tolist()


def _text(table: Path) -> Iterator[list[str]]:
    """Lines without their ends; empty ones are passed over."""
    with table.open(encoding="utf-8-sig", newline="\n") as stream:
        keys = list[str]()
        for line in iter(lambda: stream.readline(LINE_CHARS), ""):
            key = line.removesuffix("\n").removesuffix("\r")
            if len(line) == LINE_CHARS or "\0" in key:
                raise DataError(f"{table}: no text with one key a line: {line[:40]!r}... is no key")
            if key:
                keys.append(key)
            if len(keys) == READ_ROWS:
                yield keys
                keys = []
        yield keys
