"""What is left when a task has done its share: the manifest, once no shard of any task is missing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import cast

from sspruning.errors import StoreError
from sspruning.records import ShardRef
from sspruning.stages.inspect import refuse_repeated_rows
from sspruning.storage.atomic import read_json
from sspruning.storage.corpus import Corpus
from sspruning.storage.store import CommitRecord, Store

__all__ = ["catch_up", "finish", "record_corpus", "record_manifest"]


def finish(store: Store, look: Callable[[], Corpus], *, check_keys: bool) -> list[ShardRef]:
    """Shards that other tasks have left undone; if there are none, the small files of the store are up to date now.

    Args:
        store: what the tasks fill; its list of shards has the right names.
        look: all shards as they are now; asked for only if none of the names is missing.
        check_keys: no task has compared the keys of all shards, so whoever comes last does.

    Raises:
        UsageError: a key occurs in more than one shard.

    Cost:
        two looks at folders; for the last task also a look at all shards, three reads of all commit records and, with
        ``check_keys`` and unless the manifest is there already, one of all key hashes: 8 bytes of memory a sample.
    """
    left = _without_anything(store)
    if left:
        return left
    corpus = look()
    record_corpus(store, corpus)
    left = _unsettled(store, corpus)
    if left or _is_recorded(store):
        return left
    if check_keys:
        refuse_repeated_rows(store)
    record_manifest(store)
    return []


def record_corpus(store: Store, corpus: Corpus) -> None:
    """Make ``corpus`` the store's corpus; a file that says so already is left alone."""
    if not store.has_shards(corpus.shards):
        store.set_shards(corpus.shards)


def record_manifest(store: Store) -> None:
    """Bring ``manifest.json`` up to date, even if others do so at the same time.

    Tasks that finish together may have read different records, and the one that read first may write last. So whoever
    has written looks again.
    """
    store.write_manifest()
    store.records(refresh=True)
    while not _is_recorded(store):
        store.write_manifest()
        store.records(refresh=True)


def catch_up(store: Store) -> None:
    """Write a manifest if there is none, or one about other parts.

    Where a shared file system is slow to show what others have written, every task may have taken another for the last.
    A damaged file is left for `embed` to see to.
    """
    path = store.path / "manifest.json"
    if path.exists():
        with suppress(StoreError, TypeError, KeyError):
            noted = {(entry["shard_id"], entry["fingerprint"]) for entry in cast("dict", read_json(path))["parts"]}
            if noted != {(record.shard_id, record.fingerprint) for record in store.records()}:
                store.write_manifest()
        return
    store.write_manifest()


def _is_recorded(store: Store) -> bool:
    """True if the manifest says what the records said when they were last read."""
    return store.has_manifest(store.manifest())


def _without_anything(store: Store) -> list[ShardRef]:
    """Shards that have neither a record nor a reason to have none, whatever these say; no record is read."""
    named = {path.stem for folder in ("parts", "quarantine") for path in (store.path / folder).glob("*.json")}
    return [shard for shard_id, shard in sorted(store.shards().items()) if shard_id not in named]


def _unsettled(store: Store, corpus: Corpus) -> list[ShardRef]:
    """Shards that have neither an up-to-date part nor a reason to have none."""
    aside = {path.stem for path in (store.path / "quarantine").glob("*.json")}
    records = {record.shard_id: record for record in store.records(refresh=True)}
    return [shard for shard in corpus.shards if shard.shard_id not in aside and not _is_current(store, records, shard)]


def _is_current(store: Store, records: dict[str, CommitRecord], shard: ShardRef) -> bool:
    record = records.get(shard.shard_id)
    if record is not None and (record.shard_size, record.shard_mtime_ns) == (shard.size, shard.mtime_ns):
        return True
    return store.committed(shard) is not None
