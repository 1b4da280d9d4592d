"""The embedding part of one shard: an HDF5 image built in memory, and its checked reading. FORMAT.md has the schema."""

from __future__ import annotations

import io
import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa

from sspruning.errors import StoreError
from sspruning.fingerprint import canonical_json
from sspruning.records import F16, F32, U8, U64, JSONValue
from sspruning.storage.hdf5_safe import checked_dataset, text_array, text_values

__all__ = [
    "FORMAT_VERSION",
    "PART_FORMAT",
    "PartData",
    "PartReader",
    "encode_part",
    "open_part",
    "set_attribute",
    "text_attribute",
]

PART_FORMAT = "sspruning-part"
FORMAT_VERSION = 2
_CHUNK_BYTES = 1 << 18
_LIBVER = ("v110", "v110")  # pinned: equal content gives equal bytes under any HDF5, and a torn file does not open
_ALL = slice(None)
_TEXT_ROWS = 8192  # of a chunk of text
_LARGEST_FINITE = 0x7BFF  # bits of the largest float16
_UNREADABLE = (OSError, KeyError, IndexError, RuntimeError, TypeError, ValueError)  # h5py's answers to a damaged file


@dataclass(frozen=True, slots=True, kw_only=True)
class PartData:
    """All rows of one shard, ready to be stored; n rows, d dimensions, m skipped samples."""

    embedding: F16
    """(n, d): L2-normalised in float32, rounded once to float16."""
    norm: F32
    """(n,): length before normalising."""
    key: list[str]
    key_hash: U64
    """(n,): blake2b-64 of the key; seeds turn it into tie-breaks and samples."""
    row: np.ndarray
    """(n,) uint32: ordinal of the sample in its shard, skipped ones counted."""
    block_start: U64
    block_end: U64
    """(n,): byte range of the sample's raw tar blocks in the shard."""
    digest: U8
    """(n, 16): blake2b-128 of those blocks."""
    image_start: U64
    image_size: np.ndarray
    """(n,) uint32: where the embedded image's payload lies in the shard."""
    content: U8
    """(n, 16): blake2b-128 of that payload."""
    defects: U8
    """(n,): bits of `sspruning.records.DEFECTS`."""
    skipped_row: np.ndarray
    skipped_key: list[str]
    skipped_reason: list[str]
    attributes: dict[str, JSONValue]
    """Root attributes besides the format's own."""


def encode_part(part: PartData) -> bytes:
    """The HDF5 file image of ``part``; equal content gives equal bytes."""
    buffer = io.BytesIO()
    n, d = part.embedding.shape
    with h5py.File(buffer, "w", libver=_LIBVER, track_order=False) as file:
        _column(file, "embedding", part.embedding.astype("<f2", copy=False), max(1, _CHUNK_BYTES // (2 * d)))
        _column(file, "norm", part.norm.astype("<f4"), 65536)
        _text_column(file, "key", part.key)
        _column(file, "key_hash", part.key_hash.astype("<u8"), 32768)
        _column(file, "row", part.row.astype("<u4"), 65536)
        for name in ("block_start", "block_end", "image_start"):
            _column(file, name, getattr(part, name).astype("<u8"), 32768)
        _column(file, "image_size", part.image_size.astype("<u4"), 65536)
        _column(file, "digest", part.digest, 16384)
        _column(file, "content", part.content, 16384)
        _column(file, "defects", part.defects.astype("u1"), 65536)
        skipped = file.create_group("skipped")
        reasons = sorted(set(part.skipped_reason))
        _column(skipped, "row", part.skipped_row.astype("<u4"), 65536)
        _text_column(skipped, "key", part.skipped_key)
        _column(skipped, "reason", np.array([reasons.index(r) for r in part.skipped_reason], "u1"), 65536)
        set_attribute(skipped, "reasons", canonical_json(list(reasons)))
        fixed: dict[str, JSONValue] = {
            "format": PART_FORMAT,
            "format_version": FORMAT_VERSION,
            "dim": d,
            "n_rows": n,
            "n_skipped": len(part.skipped_key),
            "n_samples": n + len(part.skipped_key),
        }
        for name, value in sorted({**part.attributes, **fixed}.items()):
            set_attribute(file, name, value if isinstance(value, int | float | str) else canonical_json(value))
    return buffer.getvalue()


def _column(group: h5py.Group, name: str, values: np.ndarray, chunk_rows: int) -> None:
    """Store one checksummed column; an empty one is stored contiguous, which HDF5 asks for."""
    if len(values) == 0:
        group.create_dataset(name, data=values)
        return
    chunk = (min(chunk_rows, len(values)), *values.shape[1:])
    group.create_dataset(name, data=values, chunks=chunk, fletcher32=True)


def set_attribute(group: h5py.Group, name: str, value: float | str) -> None:
    """Store an attribute, text at fixed width: a flipped bit in variable-length text goes unseen or hangs HDF5."""
    if isinstance(value, str):
        encoded = value.encode()
        group.attrs.create(name, encoded, dtype=h5py.string_dtype("utf-8", len(encoded) or 1))
    else:
        group.attrs[name] = value


def text_attribute(group: h5py.Group, name: str) -> str:
    """An attribute that `set_attribute` stored as text."""
    value = group.attrs[name]
    return value.decode() if isinstance(value, bytes) else str(value)


def _text_column(group: h5py.Group, name: str, values: list[str]) -> None:
    """Store strings at fixed width: variable-length strings lie outside HDF5's checksums."""
    encoded = [value.encode() for value in values]
    width = max((len(value) for value in encoded), default=1) or 1
    kind = h5py.string_dtype("utf-8", width)
    if not encoded:
        group.create_dataset(name, data=np.array(encoded, dtype=kind))
        return
    rows = min(_TEXT_ROWS, len(encoded))
    dataset = group.create_dataset(
        name, (len(encoded),), kind, chunks=(rows,), shuffle=True, compression="gzip", compression_opts=1,
        fletcher32=True,
    )  # fmt: skip
    for start in range(0, len(encoded), rows):  # else one very long key would make all others as wide in memory
        dataset[start : start + rows] = np.array(encoded[start : start + rows], dtype=kind)


@contextmanager
def _explained(path: Path, what: str) -> Generator[None]:
    """Turn whatever a damaged file makes h5py raise into an error that says what to do."""
    try:
        yield
    except _UNREADABLE as error:
        raise StoreError(
            f"{path}: {what} is damaged ({error}); delete the file and run `sspruning embed` again"
        ) from error


class PartReader:
    """An open part. Columns are read on demand; every column that is read is checked for type and length."""

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path = path
        self._file = file
        if text_attribute(file, "format") != PART_FORMAT or file.attrs.get("format_version") != FORMAT_VERSION:
            raise StoreError(
                f"{path}: not a part of format version {FORMAT_VERSION}; delete it and run `sspruning embed` again"
            )
        self.n_rows = int(file.attrs["n_rows"])
        self.n_skipped = int(file.attrs["n_skipped"])
        self.dim = int(file.attrs["dim"])
        self.shard_sha256 = text_attribute(file, "shard_sha256") if "shard_sha256" in file.attrs else None
        """Content of the shard that it was made from."""
        if int(file.attrs["n_samples"]) != self.n_rows + self.n_skipped:
            raise StoreError(f"{path}: n_samples is not n_rows + n_skipped")

    def _read(self, name: str, kind: str, shape: tuple[int, ...], rows: slice = _ALL) -> np.ndarray:
        with _explained(self.path, name):
            return checked_dataset(self.path, self._file, name, kind, shape)[rows]

    def _texts(self, name: str, rows: int) -> list[str]:
        with _explained(self.path, name):
            return text_values(checked_dataset(self.path, self._file, name, "S", (rows,)))

    def _refuse(self, name: str, problem: str) -> StoreError:
        return StoreError(f"{self.path}: {name} {problem}; delete the file and run `sspruning embed` again")

    def embedding(self, start: int = 0, stop: int | None = None) -> F16:
        """(m, d) float16 rows ``start`` to ``stop``, exactly as stored."""
        values = self._read("embedding", "f", (self.n_rows, self.dim), slice(start, stop))
        if values.dtype != np.float16:
            raise StoreError(f"{self.path}: embeddings are {values.dtype}, expected float16")
        bits = values.view(np.uint16)  # two passes over them take a tenth of the time of np.isfinite, and no memory
        if values.size and (bits.view(np.int16).max() > _LARGEST_FINITE or bits.max() > _LARGEST_FINITE + 0x8000):
            raise self._refuse("embedding", "holds numbers that are not finite")
        return values

    def keys(self) -> list[str]:
        """Keys of all rows; no two are equal."""
        found = self._texts("key", self.n_rows)
        if len(set(found)) != len(found):
            raise self._refuse("key", "holds a key twice")
        return found

    def key_array(self) -> pa.StringArray:
        """(n,) `keys` as one arrow array: for many rows, without a Python object for each."""
        with _explained(self.path, "key"):
            found, hashes = text_array(checked_dataset(self.path, self._file, "key", "S", (self.n_rows,)))
        hashes.sort()
        if (hashes[1:] == hashes[:-1]).any() and len(set(found.to_pylist())) != len(found):
            raise self._refuse("key", "holds a key twice")
        return found

    def column(self, name: str) -> np.ndarray:
        """(n,) column ``name``: norm, key_hash, row, block_start, block_end, image_start, image_size or defects."""
        values = self._read(name, "f" if name == "norm" else "u", (self.n_rows,))
        if name == "row" and bool((values[1:] <= values[:-1]).any()):
            raise self._refuse(name, "does not increase")
        if name == "norm" and not bool(((values > 0) & (values < np.inf)).all()):
            raise self._refuse(name, "holds numbers that are no lengths")
        return values

    def _hashes(self, name: str) -> U8:
        values = self._read(name, "u", (self.n_rows, 16))
        if values.dtype != np.uint8:
            raise StoreError(f"{self.path}: {name} is {values.dtype}, expected uint8")
        return values

    def digest(self) -> U8:
        """(n, 16) blake2b-128 digests of the samples' raw blocks: equal only where keys and headers are too."""
        return self._hashes("digest")

    def content(self) -> U8:
        """(n, 16) blake2b-128 digests of the image files: equal for equal files, whatever their keys."""
        return self._hashes("content")

    def content_hash(self) -> U64:
        """(n,) first 8 bytes of `content` as a number: quick to compare.

        Different images share a number by chance: at 10^9 samples some pair does with a probability of 2.7 %.
        """
        return np.ascontiguousarray(self.content()[:, :8]).view("<u8")[:, 0].astype(np.uint64)

    def skipped(self) -> Iterator[tuple[int, str, str]]:
        """(row, key, reason) of every sample that was not embedded."""
        shape = (self.n_skipped,)
        rows = self._read("skipped/row", "u", shape).tolist()
        keys = self._texts("skipped/key", self.n_skipped)
        reasons = self._read("skipped/reason", "u", shape).tolist()
        with _explained(self.path, "skipped"):
            names = json.loads(text_attribute(self._file["skipped"], "reasons"))
            found = [(row, key, names[reason]) for row, key, reason in zip(rows, keys, reasons, strict=True)]
        yield from found


@contextmanager
def open_part(path: Path) -> Generator[PartReader]:
    """An open `PartReader`; parts never change after their commit, so no lock is taken.

    Raises:
        StoreError: the file is missing, damaged or not a part.
    """
    try:
        file = h5py.File(path, "r", locking=False)
    except _UNREADABLE as error:
        raise StoreError(f"{path}: cannot be opened ({error}); delete it and run `sspruning embed` again") from error
    with file:
        with _explained(path, "its root"):
            reader = PartReader(path, file)
        yield reader
