"""The files between the store and the pruned shards: prototypes.h5, score columns, selection.parquet.

Each carries the fingerprint of all it was made from, and nothing that varies from run to run.
"""

from __future__ import annotations

import io
import json
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tokenize import TokenError
from typing import cast

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sspruning.errors import StoreError
from sspruning.fingerprint import canonical_json
from sspruning.records import JSONValue, Prototypes, Selection
from sspruning.storage.atomic import write_bytes, write_stream
from sspruning.storage.hdf5_safe import checked_dataset
from sspruning.storage.parts import set_attribute, text_attribute

__all__ = [
    "ASSIGNMENT_DTYPE",
    "SELECTION_SCHEMA",
    "ParquetPieces",
    "SelectionFile",
    "load_column",
    "load_prototypes",
    "save_column",
    "save_prototypes",
    "save_selection",
    "score_path",
]

PROTOTYPES_FORMAT = "sspruning-prototypes"
SELECTION_FORMAT = "sspruning-selection"
PROTOTYPES_VERSION = 1
SELECTION_VERSION = 2
UNRANKED_VERSION = 3

_UNREADABLE_COLUMN = (OSError, EOFError, MemoryError, SyntaxError, TokenError, TypeError, ValueError)
"""What numpy raises for damaged ``.npy`` files: their header is Python text."""

ASSIGNMENT_DTYPE = np.dtype(
    [
        ("label", "<i4"),
        ("distance", "<f4"),
        ("second_label", "<i4"),
        ("second_distance", "<f4"),
        ("cosine_distance", "<f4"),
    ]
)
"""One row a sample: nearest and second nearest prototype, the distances to them in the chosen geometry, and 1 - cos."""

SELECTION_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("row", pa.uint32(), nullable=False),
        pa.field("centroid", pa.int32(), nullable=False),
        pa.field("cosine_dist_to_cent", pa.float32(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("rank", pa.int64(), nullable=False),
        pa.field("kept", pa.bool_(), nullable=False),
        pa.field("weight", pa.float32(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
"""Of version 2."""

UNRANKED_SCHEMA = SELECTION_SCHEMA.set(
    SELECTION_SCHEMA.get_field_index("rank"), pa.field("rank", pa.int64(), nullable=True)
)
"""Of version 3, whose ranks are all null."""

PLAIN = ("key", "row", "cosine_dist_to_cent", "score", "rank")  # columns whose values hardly repeat


def save_prototypes(path: Path, prototypes: Prototypes) -> None:
    """Write ``prototypes`` as one HDF5 file; equal prototypes give equal bytes."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver=("v110", "v110")) as file:
        file.create_dataset("centroids", data=prototypes.centroids.astype("<f4"), fletcher32=True, chunks=True)
        file.create_dataset("objective", data=prototypes.objective.astype("<f8"))
        file.create_dataset("parts", data=np.array(prototypes.parts, "S16"), chunks=len(prototypes.parts) > 0 or None)
        set_attribute(file, "fingerprint", prototypes.fingerprint)
        set_attribute(file, "format", PROTOTYPES_FORMAT)
        file.attrs["format_version"] = PROTOTYPES_VERSION
        set_attribute(file, "info", canonical_json(prototypes.info))
        file.attrs["sample_size"] = prototypes.sample_size
        file.attrs["spherical"] = prototypes.spherical
    write_bytes(path, buffer.getvalue())


def load_prototypes(path: Path) -> Prototypes:
    """The prototypes stored at ``path``.

    Raises:
        StoreError: the file is missing, damaged or of another format.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            if (
                text_attribute(file, "format") != PROTOTYPES_FORMAT
                or file.attrs["format_version"] != PROTOTYPES_VERSION
            ):
                raise StoreError(f"{path}: not a prototypes file of version {PROTOTYPES_VERSION}")
            centroids = checked_dataset(path, file, "centroids", "f", (None, None))[()]
            if not len(centroids) or not bool(np.isfinite(centroids).all()):
                raise StoreError(f"{path}: its centroids are not finite numbers; run `sspruning cluster` again")
            parts = checked_dataset(path, file, "parts", "S", (None,))[()].tolist() if "parts" in file else []
            return Prototypes(
                centroids=centroids.astype(np.float32, copy=False),
                spherical=bool(file.attrs["spherical"]),
                objective=checked_dataset(path, file, "objective", "f", (None,))[()],
                sample_size=int(file.attrs["sample_size"]),
                fingerprint=text_attribute(file, "fingerprint"),
                info=json.loads(text_attribute(file, "info")),
                parts=tuple(part.decode() for part in parts),
            )
    except FileNotFoundError as error:
        raise StoreError(f"{path}: no prototypes yet; run `sspruning cluster`") from error
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise StoreError(f"{path}: damaged ({error}); delete it and run `sspruning cluster` again") from error


def save_column(path: Path, values: np.ndarray) -> None:
    """Write one array as ``.npy``, whole or not at all."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(values), version=(1, 0), allow_pickle=False)
    write_bytes(path, buffer.getvalue())


def score_path(folder: Path, shard_id: str) -> Path:
    """File with the scores of one shard, in a folder that belongs to one fingerprint."""
    return folder / f"{shard_id}.npy"


def load_column(path: Path, rows: int, dtype: np.dtype) -> np.ndarray:
    """The (rows,) array stored at ``path``.

    Raises:
        StoreError: missing, damaged, or not of this length and type.
    """
    try:
        with path.open("rb") as stream:  # not np.load, which would open a zip file as well
            values = np.lib.format.read_array(stream, allow_pickle=False)
            if stream.read(1):  # else a flipped bit in the header's length shifts all values unseen
                raise ValueError("it is longer than its header says")
    except FileNotFoundError as error:
        raise StoreError(f"{path}: missing; run `sspruning score` again") from error
    except _UNREADABLE_COLUMN as error:
        raise StoreError(f"{path}: damaged ({error}); delete it and run `sspruning score` again") from error
    if values.shape != (rows,) or values.dtype != dtype:
        raise StoreError(
            f"{path}: holds {values.shape} {values.dtype}, expected ({rows},) {dtype}; delete it, score again"
        )
    return values


class ParquetPieces(io.RawIOBase):
    """A write-only file that hands on what the parquet writer has written so far."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.position = 0

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: object) -> int:
        """Bytes taken."""
        piece = bytes(cast("bytes", data))
        self.pieces.append(piece)
        self.position += len(piece)
        return len(piece)

    def tell(self) -> int:
        """Bytes written so far."""
        return self.position

    def take(self) -> list[bytes]:
        """What was written since the last call."""
        taken, self.pieces = self.pieces, []
        return taken


def _parquet_bytes(groups: Iterable[pa.Table], schema: pa.Schema) -> Iterator[bytes]:
    sink = ParquetPieces()
    coded = [name for name in schema.names if name not in PLAIN]
    with pq.ParquetWriter(
        pa.PythonFile(sink, mode="w"), schema, compression="zstd", write_page_checksum=True, use_dictionary=coded
    ) as writer:
        for group in groups:
            writer.write_table(group.cast(schema), row_group_size=max(1, group.num_rows))
            yield from sink.take()
    yield from sink.take()


def save_selection(path: Path, groups: Iterable[pa.Table], selection: Selection) -> Selection:
    """``selection`` with its path, after its rows were written, one row group for each table of ``groups``.

    Memory: one group at a time.
    """
    metadata: dict[str, JSONValue] = {
        "format": SELECTION_FORMAT,
        "format_version": SELECTION_VERSION if selection.ranked else UNRANKED_VERSION,
        "fingerprint": selection.fingerprint,
        "n_embedded": selection.n_embedded,
        "n_kept": selection.n_kept,
        "settings": selection.settings,
    }
    schema = SELECTION_SCHEMA if selection.ranked else UNRANKED_SCHEMA
    described = schema.with_metadata({b"sspruning": canonical_json(metadata).encode()})
    write_stream(path, _parquet_bytes(groups, described))
    return replace(selection, path=str(path))


@dataclass(frozen=True, slots=True)
class SelectionFile:
    """An existing ``selection.parquet``: its facts, and its rows one group (= one shard) at a time."""

    path: Path
    selection: Selection

    @classmethod
    def open(cls, path: Path) -> SelectionFile:
        """The selection stored at ``path``.

        Raises:
            StoreError: missing, damaged, or not a selection of this format version.
        """
        try:
            schema = pq.read_schema(path)
            facts = json.loads((schema.metadata or {})[b"sspruning"])
            if facts["format"] != SELECTION_FORMAT:
                raise StoreError(f"{path}: not a selection that sspruning wrote")
            version = facts["format_version"]
            known = {SELECTION_VERSION: SELECTION_SCHEMA, UNRANKED_VERSION: UNRANKED_SCHEMA}
            if version not in known or not schema.equals(known[version]):
                raise StoreError(
                    f"{path}: selection format {version!r}, this release reads {SELECTION_VERSION} and "
                    f"{UNRANKED_VERSION}; select again"
                )
            kinds = {"n_embedded": int, "n_kept": int, "fingerprint": str, "settings": dict}
            if any(not isinstance(facts[key], kind) for key, kind in kinds.items()):
                raise StoreError(f"{path}: its metadata are not what a selection says of itself; select again")
            selection = Selection(
                n_embedded=facts["n_embedded"],
                n_kept=facts["n_kept"],
                fingerprint=facts["fingerprint"],
                settings=facts["settings"],
                path=str(path),
                ranked=version == SELECTION_VERSION,
            )
        except FileNotFoundError as error:
            raise StoreError(f"{path}: no selection here; run `sspruning select`") from error
        except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
            raise StoreError(f"{path}: not a selection that sspruning wrote ({error})") from error
        return cls(path, selection)

    def groups(self, columns: list[str]) -> Iterator[pa.Table]:
        """Tables of the given columns, one for each shard of the store, in store order.

        Raises:
            StoreError: damaged.
        """
        with self._explained(), pq.ParquetFile(self.path, page_checksum_verification=True) as file:
            for index in range(file.num_row_groups):
                yield file.read_row_group(index, columns=columns)

    def column(self, name: str) -> np.ndarray:
        """One column of all rows as numpy.

        Raises:
            StoreError: damaged.
        """
        with self._explained(), pq.ParquetFile(self.path, page_checksum_verification=True) as file:
            return file.read(columns=[name]).column(name).to_numpy()

    @contextmanager
    def _explained(self) -> Generator[None]:
        """Turn whatever a damaged file makes pyarrow raise into an error that says what to do."""
        try:
            yield
        except (OSError, ValueError, pa.ArrowException) as error:
            raise StoreError(f"{self.path}: damaged ({error}); delete it and run `sspruning select` again") from error
