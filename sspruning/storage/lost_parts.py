"""Why a shard has no part that counts, in words: which file is to blame, or what became of the shard."""

from __future__ import annotations

from typing import cast

from sspruning.errors import StoreError
from sspruning.records import ShardRef
from sspruning.storage.atomic import read_json
from sspruning.storage.store import CommitRecord, Store

__all__ = ["what_is_wrong", "why_pending"]


def why_pending(store: Store, shard: ShardRef) -> str:
    """Why a shard that has no up-to-date part has none."""
    if not store.record_path(shard.shard_id).exists():
        return "put aside before" if (store.path / "quarantine" / f"{shard.shard_id}.json").exists() else "new"
    record = store.read_record(shard.shard_id)
    if record is None:
        return "its part is missing or damaged"
    return store.doubt(record) or "its content changed"


def what_is_wrong(store: Store, shard_id: str) -> str:
    """What keeps a shard without a part from having one, with the file that is to blame."""
    path = store.record_path(shard_id)
    try:
        record = CommitRecord(**cast("dict", read_json(path)))
    except StoreError as error:
        return str(error)
    except TypeError as error:
        return f"{path}: damaged ({error})"
    if record.shard_id != shard_id or record.fingerprint != store.part_fingerprint(record.shard_sha256):
        return f"{path}: damaged, or of another shard or store"
    part = store.part_path(record)
    if not part.exists():
        return f"{part}: missing"
    return f"{part}: {part.stat().st_size} bytes, expected {record.size} as its record says"
