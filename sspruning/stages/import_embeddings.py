"""Shards and a table of embeddings to a store: what `embed` makes, without an encoder. Nothing is decoded."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

import numpy as np

from sspruning.config import CorpusConfig
from sspruning.errors import DataError, ShardError, UsageError
from sspruning.execution import Executor, StageSpec
from sspruning.progress import Progress, SilentProgress
from sspruning.records import EmbedReport, JSONValue, ShardRef
from sspruning.stages.embed_shard import Limits, with_store_keys
from sspruning.stages.embedding_table import EmbeddingTable
from sspruning.stages.fill import check_space, fill, limits_of, pending_shards, report_of, store_settings
from sspruning.stages.import_shard import key_hashes
from sspruning.stages.inspect import key_hash
from sspruning.stages.key_index import KeyIndex, Lookup, make_index
from sspruning.storage.corpus import Corpus
from sspruning.storage.samples import ShardReader
from sspruning.storage.store import Store

__all__ = ["import_embeddings"]

WORKER = "sspruning.stages.import_shard:ImportWorker"
NO_SHARDS = (
    "embeddings are imported for shards: name those that they were made from. A store says of each sample where its "
    "bytes lie and what they are; without that nothing could be written or verified"
)


def import_embeddings(
    table: EmbeddingTable,
    corpus: Corpus | None,
    store_path: Path,
    config: CorpusConfig,
    executor: Executor,
    progress: Progress | None = None,
    *,
    model: str | None = None,
    verify_inputs: bool = False,
    n_total: int | None = None,
) -> EmbedReport:
    """`EmbedReport` of a store that now holds a part for every sound shard, with the embeddings of a table.

    Parts have all that `embed` gives them: byte ranges, digests and content hashes of a scan of the shards. A sample
    whose key the table does not have is skipped as `no_embedding`; keys of no sample are counted in a note. Shards that
    have a part of this table already are left alone.

    Args:
        table: what `open_table` found.
        corpus: the shards, which from now on are the store's corpus.
        store_path: folder of the store; made if missing.
        config: image suffixes and limits.
        executor: where the shards are read.
        progress: told after each shard.
        model: what made the embeddings, in words; kept with the store.
        verify_inputs: hash every shard again instead of trusting size and modification time.
        n_total: samples of the whole corpus where known, for the progress bar.

    Raises:
        UsageError: no shards.
        DataError: the table is damaged, has a key twice, rows of different length, or no key of these shards.
        StoreError: the store was made with other settings or another table.
        MachineError: no space.

    Cost:
        one read of table and shards: 35 microseconds for a sample of 2 kB, 48 from parquet. 24 bytes of memory for each
        key of the table, and the rows of one shard for each worker. An npz or parquet is copied, as float32 unless the
        npz holds others, to a scratch file in the store's folder for the time of the import.
    """
    if corpus is None or not corpus.shards:
        raise UsageError(NO_SHARDS)
    progress = progress or SilentProgress()
    limits = limits_of(config)
    identity = _identity(table, model)
    settings = store_settings({"dim": table.dim, "identity": identity}, limits)
    pending = pending_shards(store_path, corpus, verify_inputs=verify_inputs)
    if (store_path / "store.json").exists():
        Store.create(store_path, settings)  # refuses another table before any work
    else:
        check_space(store_path, corpus)
    with _scratch(store_path) as scratch:
        index = make_index(table, scratch, progress) if pending else None
        if index is not None:
            _refuse_strangers(table, store_path, pending, index, limits)
        store = Store.create(store_path, settings)
        work = StageSpec(WORKER, {"index": index, "limits": limits, "identity": identity, "store": str(store_path)})
        fill(store, corpus, pending, work, executor, progress, n_total=n_total, stage="import")
        notes = [] if index is None else _extra_keys(store, table, index, progress)
    return report_of(store, corpus, len(pending), notes)


def _identity(table: EmbeddingTable, model: str | None) -> dict[str, JSONValue]:
    """What stands where an encoder's identity stands."""
    found: dict[str, JSONValue] = {"encoder": "imported", "source_sha256": table.sha256()}
    if model is not None:
        found["model"] = model
    return found


@contextmanager
def _scratch(folder: Path) -> Generator[Callable[[str], Path]]:
    """A function that gives paths of files in ``folder`` which are gone when the block ends.

    They are named as temporary files are, so `sweep` removes those of a killed import.
    """
    made: list[Path] = []
    host = socket.gethostname().replace(".", "-")

    def path(name: str) -> Path:
        made.append(folder / f".{name}.npy.tmp.{host}.{os.getpid()}.{secrets.token_hex(4)}")
        return made[-1]

    try:
        yield path
    finally:
        for file in made:
            file.unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()  # if nothing came of it


def _refuse_strangers(
    table: EmbeddingTable, store_path: Path, pending: list[ShardRef], index: KeyIndex, limits: Limits
) -> None:
    """Raise if the table has no key of these shards; as a rule this reads the first headers of one shard.

    Raises:
        DataError: shows a key of each side.
    """
    known = all((store_path / name).exists() for name in ("store.json", "corpus.json"))
    if known and any(record.n_rows for record in Store(store_path).records()):
        return
    lookup, example = Lookup(index), ""
    for shard in pending:
        with suppress(ShardError), ShardReader(shard.path, allow_missing_end=limits.allow_missing_end) as reader:
            samples = with_store_keys(reader.samples(), shard.shard_id, limits)
            while batch := list(islice(samples, 64)):
                example = example or batch[0].key
                if lookup.places(key_hashes(batch))[1].any():
                    return
    if example:
        raise DataError(
            f"{table.source}: has no key of these shards: its first is {index.example!r}, theirs is {example!r}. A key "
            "is the path in the shard up to the first dot of the file name; name the right column, or write the keys so"
        )


def _extra_keys(store: Store, table: EmbeddingTable, index: KeyIndex, progress: Progress) -> list[str]:
    """A note, told as well, of how many keys of the table are of no sample that was read; none if there is none."""
    lookup, used = Lookup(index), np.zeros(index.n_rows, np.bool_)
    for record in store.records(refresh=True):
        with store.open_part(record) as part:
            skipped = np.array([key_hash(key) for _, key, _ in part.skipped()], np.uint64)
            places, found = lookup.places(np.concatenate([part.column("key_hash").astype(np.uint64), skipped]))
        used[places[found]] = True
    extra = index.n_rows - int(np.count_nonzero(used))
    if not extra:
        return []
    note = f"{table.source}: {extra:,} of {index.n_rows:,} keys are in none of the shards; left out"
    progress.note(note)
    return [note]
