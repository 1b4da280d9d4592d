"""The embeddings of a store in the forms that other tools read: npy, parquet, clip-retrieval, Embedding Atlas."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from sspruning.errors import StoreError, UsageError
from sspruning.progress import Progress, SilentProgress, Ticker
from sspruning.records import F16
from sspruning.registry import Registry
from sspruning.stages.pieces import npy_header, parquet_pieces, refuse_existing, text_lines
from sspruning.stages.write import groups_with_rows
from sspruning.storage.artifacts import SelectionFile
from sspruning.storage.atomic import write_stream
from sspruning.storage.store import CommitRecord, Store

__all__ = [
    "EMBEDDING_FORMS",
    "EmbeddingForm",
    "EmbeddingsReport",
    "Stored",
    "atlas",
    "clip_retrieval",
    "export_embeddings",
    "npy",
    "parquet",
]

BLOCK_BYTES = 1 << 24
"""Embeddings in memory at a time, in bytes of float32; the rows of a parquet row group."""
LIST = pa.list_(pa.float32())
ATLAS_COLUMNS = {
    "centroid": ("cluster", pa.int32()),
    "score": ("score", pa.float32()),
    "kept": ("kept", pa.bool_()),
    "reason": ("reason", pa.string()),
}
"""Columns of a selection and what they are called beside the embeddings."""


class EmbeddingForm(Protocol):
    """A form: writes the whole output, and says how many bytes."""

    def __call__(self, stored: Stored, output: Path) -> int:
        """Bytes written to ``output``, which is a file or a new, empty folder."""
        ...


EMBEDDING_FORMS: Registry[EmbeddingForm] = Registry(
    "embedding form",
    {
        "npy": "sspruning.stages.export_embeddings:npy",
        "parquet": "sspruning.stages.export_embeddings:parquet",
        "clip-retrieval": "sspruning.stages.export_embeddings:clip_retrieval",
        "atlas": "sspruning.stages.export_embeddings:atlas",
    },
)
FOLDERS = frozenset({"npy", "clip-retrieval"})
"""Forms that are a folder; the others are one ``.parquet`` file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingsReport:
    """What was exported, and where it stands now."""

    form: str
    path: str
    n_rows: int
    dim: int
    size: int
    """Bytes."""


class Stored:
    """The rows of a store on their way into another form."""

    def __init__(self, store: Store, selection: SelectionFile | None, ticker: Ticker) -> None:
        """Nothing is read yet."""
        self.store = store
        self.selection = selection
        self._ticker = ticker

    def records(self) -> list[CommitRecord]:
        """Records of the parts that have rows, in store order."""
        return [record for record in self.store.records() if record.n_rows]

    def keys(self, record: CommitRecord) -> list[str]:
        """Keys of a part."""
        with self.store.open_part(record) as part:
            return part.keys()

    def blocks(self, record: CommitRecord) -> Iterator[F16]:
        """Embeddings of a part, some rows at a time, exactly as stored."""
        rows = max(1, BLOCK_BYTES // (4 * self.store.dim))
        with self.store.open_part(record) as part:
            for start in range(0, record.n_rows, rows):
                block = part.embedding(start, min(start + rows, record.n_rows))
                yield block
                self._ticker.tick(len(block))


def export_embeddings(
    store: Store,
    output: Path,
    form: str,
    *,
    selection: Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> EmbeddingsReport:
    """`EmbeddingsReport` of the embeddings that now stand, whole, at ``output``.

    `import_embeddings` reads every form back to the same bits.

    Args:
        store: whose embeddings.
        output: a new folder for `npy` and `clip-retrieval`, else a ``.parquet`` file.
        form: a name of `EMBEDDING_FORMS`.
        selection: the ``selection.parquet`` of this store, for `atlas`.
        overwrite: replace a file that stands there; a folder that holds something is never replaced.
        progress: told after each block of rows.

    Raises:
        UsageError: unknown form, an output that cannot be used, no selection where one is needed, or a key that a
            list of lines cannot hold.
        StoreError: the selection is damaged or was not made from this store.
        MachineError: no space.

    Cost:
        one read of the store. Memory: 16 MB of embeddings, and the keys of one shard.
    """
    EMBEDDING_FORMS.check(form)
    if (form == "atlas") != (selection is not None):
        raise UsageError(f"the form {form} takes {'a' if form == 'atlas' else 'no'} selection; only atlas shows one")
    opened = None if selection is None else _own_selection(store, selection)
    if store.n_rows == 0:
        raise UsageError(f"{store.path}: holds no embeddings")
    write = EMBEDDING_FORMS.resolve(form)
    with (progress or SilentProgress()).stage("export", store.n_rows, "samples") as ticker:
        stored = Stored(store, opened, ticker)
        if form in FOLDERS:
            size = _whole_folder(output, write, stored)
        else:
            refuse_existing(output, overwrite=overwrite)
            if output.suffix != ".parquet":
                raise UsageError(f"{output}: the name of this file must end in .parquet")
            size = write(stored, output)
    return EmbeddingsReport(form=form, path=str(output), n_rows=store.n_rows, dim=store.dim, size=size)


def _own_selection(store: Store, path: Path) -> SelectionFile:
    """The selection at ``path``.

    Raises:
        StoreError: it was not made from the store as it is now.
    """
    found = SelectionFile.open(path)
    if found.selection.settings.get("content") != store.content_fingerprint():
        raise StoreError(
            f"{path}: was not made from the store {store.path} as it is now; run `sspruning select` on it again"
        )
    return found


def _whole_folder(output: Path, write: EmbeddingForm, stored: Stored) -> int:
    """Bytes of a folder that appears under its name when all of its files are whole.

    Until then it is called ``.NAME.unfinished``; one that a killed export left is removed.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{output}: stands there already; name a new folder")
    unfinished = output.absolute().with_name(f".{output.absolute().name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        size = write(stored, unfinished)
        os.replace(unfinished, output)  # noqa: PTH105 - an empty folder may stand there
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return size


def npy(stored: Stored, output: Path) -> int:
    """``embeddings.npy``, (N, d) float16 as stored, and ``keys.txt``, a key a line."""
    _, listed = write_stream(output / "keys.txt", (text_lines(stored.keys(record)) for record in stored.records()))

    def pieces() -> Iterator[bytes]:
        yield npy_header((stored.store.n_rows, stored.store.dim), np.dtype("<f2"))
        for record in stored.records():
            for block in stored.blocks(record):
                yield block.tobytes()

    return listed + write_stream(output / "embeddings.npy", pieces())[1]


def clip_retrieval(stored: Stored, output: Path) -> int:
    """The folder that ``clip-retrieval inference`` writes, a part for each shard that has rows.

    ``img_emb/img_emb_0.npy`` is (n, d) float16; ``metadata/metadata_0.parquet`` has the key as `image_path`, as it
    stands there, and the shard as `shard`. Numbers have as many digits as it takes, so that names sort.
    """
    records = stored.records()
    digits = len(str(len(records) - 1))
    size = 0
    for number, record in enumerate(records):
        keys, name = stored.keys(record), f"{number:0{digits}d}"
        table = pa.table({"image_path": pa.array(keys, pa.string()), "shard": [record.shard_id] * len(keys)})
        size += write_stream(output / "metadata" / f"metadata_{name}.parquet", parquet_pieces([table], table.schema))[1]
        header = npy_header((record.n_rows, stored.store.dim), np.dtype("<f2"))
        blocks = (block.tobytes() for block in stored.blocks(record))
        size += write_stream(output / "img_emb" / f"img_emb_{name}.npy", _after(header, blocks))[1]
    return size


def _after(header: bytes, blocks: Iterator[bytes]) -> Iterator[bytes]:
    yield header
    yield from blocks


def parquet(stored: Stored, output: Path) -> int:
    """Columns `id` (the key) and `embedding` (a list of float32), as NeMo Curator's semantic deduplication reads them.

    The numbers are the stored ones, exactly.
    """
    schema = pa.schema([("id", pa.string()), ("embedding", LIST)])
    tables = (table for record in stored.records() for table in _tables(stored, record, None))
    return write_stream(output, parquet_pieces(tables, schema, plain=["embedding"]))[1]


def atlas(stored: Stored, output: Path) -> int:
    """A table for Embedding Atlas: ``embedding-atlas FILE --vector embedding``.

    Columns: `id`, `shard`, `cluster`, `score`, `kept`, `reason` and `embedding` (a list of float32). Atlas holds all of
    it in memory and projects it by UMAP: some million rows at most; its own ``--sample N`` draws fewer.
    """
    schema = pa.schema([("id", pa.string()), ("shard", pa.string()), *ATLAS_COLUMNS.values(), ("embedding", LIST)])
    selection = stored.selection
    if selection is None:
        raise UsageError("the form atlas needs a selection")

    def tables() -> Iterator[pa.Table]:
        groups = groups_with_rows(selection, ["key", *ATLAS_COLUMNS])
        for record, group in zip_longest(stored.records(), groups):
            if record is None or group is None or group.column("key").to_pylist() != stored.keys(record):
                raise StoreError(
                    f"{selection.path}: has other samples than the store {stored.store.path}; select again"
                )
            yield from _tables(stored, record, group)

    return write_stream(output, parquet_pieces(tables(), schema, plain=["embedding"]))[1]


def _tables(stored: Stored, record: CommitRecord, group: pa.Table | None) -> Iterator[pa.Table]:
    """Rows of a part as tables, some at a time; with the columns of the selection where its rows are given."""
    keys, at = stored.keys(record), 0
    for block in stored.blocks(record):
        rows = slice(at, at + len(block))
        columns: dict[str, object] = {"id": pa.array(keys[rows], pa.string())}
        if group is not None:
            columns["shard"] = pa.array([record.shard_id] * len(block), pa.string())
            for name, (called, _) in ATLAS_COLUMNS.items():
                columns[called] = group.column(name).slice(at, len(block))
        ends = np.arange(0, block.size + 1, stored.store.dim, dtype=np.int32)
        columns["embedding"] = pa.ListArray.from_arrays(ends, block.astype(np.float32).ravel())
        yield pa.table(columns)
        at += len(block)
