"""Embeddings that others made: clip-retrieval folders, npy and npz arrays, parquet; one way to read them all.

Keys come some at a time. Rows come as ``.npy`` files that can be mapped: an npy is used where it lies, embeddings of
other formats are copied to a scratch file once.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tokenize import TokenError

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sspruning.errors import DataError, UsageError
from sspruning.fingerprint import fingerprint
from sspruning.stages.pieces import npy_header
from sspruning.storage.atomic import file_sha256, write_stream

__all__ = ["EmbeddingTable", "mapped_rows", "open_table"]

KEY_COLUMNS = ("key", "id", "image_path")
KEY_ARRAYS = ("key", "keys", "id")
VECTOR_NAMES = ("embedding", "embeddings")
KEY_ROWS = 65536
VECTOR_BYTES = 1 << 22
"""Embeddings in memory at a time while a table is copied, in bytes of float32."""

_UNREADABLE = (
    OSError, EOFError, LookupError, MemoryError, NotImplementedError, RuntimeError, SyntaxError, TokenError, TypeError,
    ValueError, zipfile.BadZipFile, zlib.error, pa.ArrowException,
)  # fmt: skip
"""What numpy, zipfile and pyarrow raise for damaged files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingTable:
    """A table of embeddings, not read yet but for its headers."""

    source: Path
    """What was asked for."""
    kind: str
    """clip-retrieval, npy, npz or parquet."""
    files: tuple[Path, ...]
    """All that is read; their content decides."""
    columns: tuple[str, ...]
    """Names of the columns or arrays that are read, keys first; empty where there are none."""
    n_rows: int
    dim: int
    key_batches: Callable[[], Iterator[list[str]]]
    """Keys of all rows, some at a time."""
    vectors: Callable[[Path], list[Path]]
    """``.npy`` files that hold the rows, (n_i, dim) each; the path is for a new one, if that is needed."""

    def sha256(self) -> str:
        """Hex digest of all that decides an embedding: what is read, and the content of the files. Reads them."""
        return fingerprint({"columns": list(self.columns), "files": [file_sha256(path) for path in self.files]})


def open_table(
    source: Path, *, keys: Path | None = None, key_column: str | None = None, embedding_column: str | None = None
) -> EmbeddingTable:
    """The table at ``source``.

    Args:
        source: a clip-retrieval folder (``img_emb/`` and ``metadata/``), a folder with ``embeddings.npy`` and
            ``keys.txt``, a folder of parquet files, or one ``.npy``, ``.npz`` or parquet file.
        keys: text file with a key a line, for ``.npy`` and ``.npz``; None takes ``keys.txt`` beside a ``.npy``, and the
            array of keys of a ``.npz``.
        key_column: column or array with the keys; None takes `key`, `id` or `image_path`, the first that is there.
        embedding_column: column or array with the embeddings; None takes `embedding` or `embeddings`.

    Raises:
        UsageError: no such file or column, or none of these formats.
        DataError: damaged, empty, or not rows of as many numbers each.
    """
    with _explained(source):
        found = _opened(source, keys, (key_column, embedding_column))
    if found.n_rows == 0 or found.dim == 0:
        raise DataError(f"{source}: holds no embeddings")
    return replace(found, source=source)


_FORMATS = "embeddings are read from clip-retrieval folders, .npy with a list of keys, .npz, and parquet"


def _opened(source: Path, keys: Path | None, names: tuple[str | None, str | None]) -> EmbeddingTable:
    """The table; its format is told by what stands there, not by its name."""
    if source.is_dir():
        if (source / "img_emb").is_dir():
            return _clip_retrieval(source, names[0])
        if (source / "embeddings.npy").is_file():
            return _npy(source / "embeddings.npy", keys)
        parquets = sorted(path for path in source.iterdir() if path.suffix == ".parquet" and path.is_file())
        if not parquets:
            raise UsageError(f"{source}: has neither img_emb/ nor embeddings.npy nor parquet files; {_FORMATS}")
        return _parquet(parquets, names)
    if not source.is_file():
        raise UsageError(f"{source}: no such file or folder")
    with source.open("rb") as stream:
        start = stream.read(6)
    if start == b"\x93NUMPY":
        return _npy(source, keys)
    if start[:4] == b"PAR1":
        return _parquet([source], names)
    if start[:2] == b"PK":
        return _npz(source, keys, names)
    raise UsageError(f"{source}: {_FORMATS}")


@contextmanager
def _explained(path: Path) -> Generator[None]:
    """Turn whatever a damaged file raises into an error that says so."""
    try:
        yield
    except _UNREADABLE as error:
        raise DataError(f"{path}: cannot be read as embeddings ({error}); write it again") from error


def _chosen(path: Path, there: Sequence[str], wanted: str | None, usual: Sequence[str], what: str) -> str:
    """The wanted name, or the first usual one that is there.

    Raises:
        UsageError: it is not there; lists what is.
    """
    found = next((name for name in ([wanted] if wanted else usual) if name in there), None)
    if found is None:
        asked = repr(wanted) if wanted else " or ".join(map(repr, usual))
        raise UsageError(f"{path}: no {asked} with the {what}; it has: {', '.join(there) or 'nothing'}")
    return found


def mapped_rows(path: Path) -> np.ndarray:
    """The rows of a ``.npy``, mapped.

    Raises:
        DataError: damaged, or not (n, d) floats.
    """
    with _explained(path):
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
        if rows.ndim != 2 or rows.dtype.kind != "f" or rows.shape[1] == 0:
            raise DataError(f"{path}: holds {rows.shape} {rows.dtype}, expected (n, d) floats")
    return rows


def _npy(path: Path, keys: Path | None) -> EmbeddingTable:
    listed = keys or path.with_name("keys.txt")
    if not listed.is_file():
        raise UsageError(
            f"{listed}: no such file; {path.name} has no keys of its own, so name a text file with a key a line"
        )
    n, dim = mapped_rows(path).shape
    return EmbeddingTable(
        source=path,
        kind="npy",
        files=(path, listed),
        columns=(),
        n_rows=n,
        dim=dim,
        key_batches=lambda: _lines(listed),
        vectors=lambda _: [path],
    )


def _lines(path: Path) -> Iterator[list[str]]:
    """Lines of a text file, some at a time."""
    batch: list[str] = []
    with _explained(path), path.open(encoding="utf-8", newline="\n") as stream:
        for line in stream:
            batch.append(line.rstrip("\n").rstrip("\r"))
            if len(batch) == KEY_ROWS:
                yield batch
                batch = []
    if batch:
        yield batch


def _clip_retrieval(folder: Path, key_column: str | None) -> EmbeddingTable:
    """Parts ``img_emb/img_emb_X.npy``, whose keys are in ``metadata/metadata_X.parquet``.

    clip-retrieval writes the webdataset key to the column `image_path`.
    """
    arrays = sorted((folder / "img_emb").glob("img_emb_*.npy"))
    tables = [folder / "metadata" / f"metadata_{path.stem.removeprefix('img_emb_')}.parquet" for path in arrays]
    if not arrays:
        raise UsageError(f"{folder}: img_emb/ has no files img_emb_*.npy")
    missing = [path for path in tables if not path.is_file()]
    if missing:
        raise DataError(f"{missing[0]}: missing, so the keys of its embeddings are unknown")
    column = _chosen(tables[0], pq.read_schema(tables[0]).names, key_column, ("image_path", "key"), "keys")
    rows = 0
    dim = mapped_rows(arrays[0]).shape[1]
    for array, table in zip(arrays, tables, strict=True):
        shape, n = mapped_rows(array).shape, pq.read_metadata(table).num_rows
        if shape != (n, dim):
            raise DataError(f"{array}: holds {shape} numbers, expected ({n}, {dim}): {table.name} has {n} rows")
        rows += n
    return EmbeddingTable(
        source=folder,
        kind="clip-retrieval",
        files=(*arrays, *tables),
        columns=(column,),
        n_rows=rows,
        dim=dim,
        key_batches=lambda: _key_column(tables, column),
        vectors=lambda _: arrays,
    )


def _parquet_file(path: Path) -> pq.ParquetFile:
    """An open file whose columns are read through a small buffer; else a whole row group is in memory at once."""
    return pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False, buffer_size=1 << 20)


def _key_column(paths: Sequence[Path], column: str) -> Iterator[list[str]]:
    """Keys of parquet files, some rows at a time."""
    for path in paths:
        with _explained(path), _parquet_file(path) as file:
            kind = file.schema_arrow.field(column).type
            if str(kind.value_type if pa.types.is_dictionary(kind) else kind) not in _TEXT:
                raise DataError(f"{path}: column {column!r} holds {kind}, expected strings")
            for batch in file.iter_batches(KEY_ROWS, columns=[column]):
                if batch.column(0).null_count:
                    raise DataError(f"{path}: column {column!r} has nulls; expected a key in every row")
                yield batch.column(0).to_pylist()


_TEXT = {"string", "large_string", "string_view"}


def _parquet(paths: list[Path], names: tuple[str | None, str | None]) -> EmbeddingTable:
    schema = pq.read_schema(paths[0])
    column = _chosen(paths[0], schema.names, names[0], KEY_COLUMNS, "keys")
    vector = _chosen(paths[0], schema.names, names[1], VECTOR_NAMES, "embeddings")
    rows = sum(pq.read_metadata(path).num_rows for path in paths)
    dim = next((values.shape[1] for values in _vector_column(paths, vector, None, 1)), 0)
    return EmbeddingTable(
        source=paths[0],
        kind="parquet",
        files=tuple(paths),
        columns=(column, vector),
        n_rows=rows,
        dim=dim,
        key_batches=lambda: _key_column(paths, column),
        vectors=lambda scratch: _copied(paths, vector, (rows, dim), scratch),
    )


def _vector_column(paths: Sequence[Path], column: str, dim: int | None, batch_rows: int) -> Iterator[np.ndarray]:
    """(m, d) float32 rows of parquet files, some at a time; float64 is rounded.

    Raises:
        DataError: no lists of floats, a null, or a row of another length; names the first.
    """
    for path in paths:
        with _explained(path), _parquet_file(path) as file:
            at = 0
            for batch in file.iter_batches(batch_rows, columns=[column]):
                lists = batch.column(0)
                if not _is_list(lists.type) or not pa.types.is_floating(lists.type.value_type):
                    raise DataError(f"{path}: column {column!r} holds {lists.type}, expected lists of floats")
                lengths = pc.call_function("list_value_length", [lists]).fill_null(0).to_numpy()
                dim = dim or int(lengths[0])
                numbers = lists.flatten()
                odd = np.flatnonzero((lengths != dim) | (lengths == 0))
                if len(odd) or numbers.null_count:
                    where = f"row {at + odd[0]:,} has {lengths[odd[0]]} numbers" if len(odd) else "a number is null"
                    raise DataError(
                        f"{path}: column {column!r}: {where}, expected {dim} in every row; leave samples without an "
                        "embedding out of the table"
                    )
                at += len(lists)
                with np.errstate(over="ignore"):
                    values = numbers.to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
                yield values.reshape(len(lists), -1)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _copied(paths: Sequence[Path], column: str, shape: tuple[int, int], scratch: Path) -> list[Path]:
    """``scratch``, to which the embeddings of parquet files were copied, as float32."""

    def pieces() -> Iterator[bytes]:
        yield npy_header(shape, np.dtype("<f4"))
        for values in _vector_column(paths, column, shape[1], max(1, VECTOR_BYTES // (4 * shape[1]))):
            yield values.astype("<f4", copy=False).tobytes()

    write_stream(scratch, pieces())
    return [scratch]


def _npz(path: Path, keys: Path | None, names: tuple[str | None, str | None]) -> EmbeddingTable:
    with zipfile.ZipFile(path) as archive:
        there = [name.removesuffix(".npy") for name in archive.namelist()]
    vector = _chosen(path, there, names[1], VECTOR_NAMES, "embeddings")
    column = None if keys else _chosen(path, there, names[0], KEY_ARRAYS, "keys")
    with zipfile.ZipFile(path) as archive, archive.open(f"{vector}.npy") as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, kind = read(stream)
    if len(shape) != 2 or kind.kind != "f" or shape[1] == 0:
        raise DataError(f"{path}: array {vector!r} is {kind} {shape}, expected (n, d) floats")
    return EmbeddingTable(
        source=path,
        kind="npz",
        files=(path,) if keys is None else (path, keys),
        columns=(vector,) if column is None else (column, vector),
        n_rows=shape[0],
        dim=shape[1],
        key_batches=lambda: _lines(keys) if keys else _key_array(path, str(column)),
        vectors=lambda scratch: _unpacked(path, f"{vector}.npy", scratch),
    )


def _key_array(path: Path, name: str) -> Iterator[list[str]]:
    with _explained(path), path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        found = np.asarray(file[name])
        if found.ndim != 1 or found.dtype.kind != "U":
            raise DataError(f"{path}: array {name!r} is {found.dtype} {found.shape}, expected (n,) unicode strings")
        for start in range(0, len(found), KEY_ROWS):
            yield found[start : start + KEY_ROWS].tolist()


def _unpacked(path: Path, member: str, scratch: Path) -> list[Path]:
    """``scratch``, to which a member of a zip file was copied."""

    def pieces() -> Iterator[bytes]:
        with _explained(path), zipfile.ZipFile(path) as archive, archive.open(member) as stream:
            while piece := stream.read(VECTOR_BYTES):
                yield piece

    write_stream(scratch, pieces())
    return [scratch]
