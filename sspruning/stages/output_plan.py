"""Which sample goes into which output shard, and where in it: decided by the selection and the settings alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from sspruning.config import WriteConfig
from sspruning.errors import StoreError, UsageError
from sspruning.records import I64
from sspruning.stages.cluster import seeded
from sspruning.storage.artifacts import SelectionFile
from sspruning.storage.store import CommitRecord, Store

__all__ = ["fewest_shards", "groups_with_rows", "plan", "records_with_rows", "shard_borders", "shard_count"]

PLAN_DTYPE = np.dtype([("part", "<u4"), ("row", "<u4")])
CLASS_DTYPE = np.dtype([("part", "<u4"), ("row", "<u4"), ("centroid", "<i4")])


def records_with_rows(store: Store) -> list[CommitRecord]:
    """Records with rows: a shard without any has no row group in the selection."""
    return [record for record in store.records() if record.n_rows]


def groups_with_rows(selection: SelectionFile, columns: list[str]) -> Iterator[pa.Table]:
    """Tables of the given columns, one for each shard that has rows; pyarrow keeps an empty one for the others.

    Raises:
        StoreError: the file is damaged.
    """
    try:
        yield from (table for table in selection.groups(columns) if table.num_rows)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise StoreError(f"{selection.path}: damaged ({error}); delete it and run `sspruning select` again") from error


def _another_corpus(selection: SelectionFile) -> StoreError:
    return StoreError(
        f"{selection.path}: was made before shards were added, changed or removed; run `sspruning select` again"
    )


def plan(store: Store, selection: SelectionFile, config: WriteConfig) -> np.ndarray:
    """(K,) records (part, row in part) of the kept samples, in output order; with the class `cluster` also `centroid`.

    Cost:
        8 bytes a kept sample, 12 with the class `cluster`; twice that for orders other than the corpus's.
    """
    dtype = CLASS_DTYPE if config.cls == "cluster" else PLAN_DTYPE
    found, scores, ties = [], [], []
    records = records_with_rows(store)
    columns = ["shard", "kept", "score", *(["centroid"] if config.cls == "cluster" else [])]
    for number, table in enumerate(groups_with_rows(selection, columns)):
        record = records[number] if number < len(records) else None
        if record is None or table.num_rows != record.n_rows or table.column("shard")[0].as_py() != record.shard_id:
            raise _another_corpus(selection)
        kept = np.flatnonzero(table.column("kept").to_numpy())
        own: Any = np.empty(len(kept), dtype)
        own["part"], own["row"] = number, kept
        if config.cls == "cluster":
            own["centroid"] = table.column("centroid").to_numpy()[kept]
        found.append(own)
        if config.order != "corpus":
            scores.append(table.column("score").to_numpy()[kept])
            with store.open_part(record) as part:
                ties.append(seeded(part.column("key_hash")[kept], config.seed))
    if len(found) != len(records):
        raise _another_corpus(selection)
    planned = np.concatenate([np.empty(0, dtype), *found])
    if config.order == "corpus":
        return planned
    tie, score = np.concatenate(ties), np.concatenate(scores)
    key = {"shuffled": np.zeros_like(score), "easy-to-hard": score, "hard-to-easy": -score}[config.order]
    return planned[np.lexsort((tie, key))]


def fewest_shards(n: int, config: WriteConfig) -> int:
    """Output shards of n samples, were it not for `min_shards`."""
    return config.num_shards or max(1, -(-n // config.samples_per_shard))


def shard_count(n: int, config: WriteConfig) -> int:
    """Output shards of n samples.

    Raises:
        UsageError: more than there are samples.
    """
    count = max(fewest_shards(n, config), config.min_shards)
    if count > n:
        raise UsageError(
            f"{count:,} shards are asked for but {n:,} samples are kept, and no shard may be empty; "
            f"set write.num_shards and write.min_shards to {n:,} at most, or keep more samples"
        )
    return count


def shard_borders(n: int, shards: int) -> I64:
    """(shards + 1,) first sample of each output shard; their sizes are at most one apart."""
    return (np.arange(shards + 1, dtype=np.int64) * n) // shards
