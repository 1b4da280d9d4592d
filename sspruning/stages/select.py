"""Scores to selection: rank all samples by a policy, keep the first ranks, and say of each sample why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from sspruning.config import SelectConfig
from sspruning.errors import StoreError, UsageError
from sspruning.fingerprint import fingerprint
from sspruning.policies import POLICIES, PRUNED_REASON, Candidates
from sspruning.progress import Progress, SilentProgress
from sspruning.records import F32, I32, I64, U64, BoolArray, JSONValue, Scores, Selection
from sspruning.stages.cluster import seeded
from sspruning.storage.artifacts import ASSIGNMENT_DTYPE, load_column, save_selection, score_path
from sspruning.storage.store import Store

__all__ = ["kept_count", "select", "selection_fingerprint"]


def kept_count(n: int, keep_fraction: float) -> int:
    """Samples kept of n: round(keep_fraction * n), the nearest whole number.

    Raises:
        UsageError: that is none at all.
    """
    count = round(keep_fraction * n)
    if count == 0:
        raise UsageError(f"a fraction of {keep_fraction} of {n} samples keeps none; keep more, or embed more samples")
    return count


def selection_fingerprint(scores: Scores, config: SelectConfig) -> str:
    """What a selection depends on."""
    return fingerprint({"scores": scores.fingerprint, "select": config.as_json()})


@dataclass(slots=True)
class _Columns:
    """Columns of all samples in store order: 16 bytes a sample."""

    score: F32
    cluster: I32
    tie: U64


def _columns(store: Store, scores: Scores, assignments: dict[str, Path], seed: int) -> _Columns:
    n = store.n_rows
    columns = _Columns(np.empty(n, np.float32), np.empty(n, np.int32), np.empty(n, np.uint64))
    at = 0
    for record, hashes in store.key_hashes():
        rows = slice(at, at + record.n_rows)
        columns.score[rows] = load_column(
            score_path(Path(scores.folder), record.shard_id), record.n_rows, np.dtype("<f4")
        )
        columns.cluster[rows] = load_column(assignments[record.shard_id], record.n_rows, ASSIGNMENT_DTYPE)["label"]
        columns.tie[rows] = seeded(hashes, seed)
        at += record.n_rows
    return columns


def _checked_ranks(ranks: I64, n: int, keep: str) -> I64:
    """``ranks`` if they are a permutation; a wrong policy must not lose samples."""
    if ranks.shape != (n,) or not (np.bincount(ranks, minlength=n) == 1).all():
        raise StoreError(f"policy {keep!r} did not rank every sample exactly once; this is a bug in the policy")
    return ranks


def select(
    store: Store,
    scores: Scores,
    assignments: dict[str, Path],
    config: SelectConfig,
    output: Path,
    facts: dict[str, JSONValue],
    progress: Progress | None = None,
) -> Selection:
    """`Selection` whose rows now stand in ``output``: one for each embedded sample, exactly round(f * n) of them kept.

    Args:
        store: where keys and rows are.
        scores: what to select by.
        assignments: file with the prototype of each row, by shard.
        config: policy (not auto), fraction, balance, seed.
        output: path of ``selection.parquet``.
        facts: metric, geometry, number of prototypes, and `asked` if the policy was advised; kept with the selection.
        progress: told after each shard.

    Raises:
        UsageError: unknown policy, or the fraction keeps nothing.

    Cost:
        O(n log n); about 60 bytes of memory a sample while ranks are made.
    """
    progress = progress or SilentProgress()
    n = store.n_rows
    count = kept_count(n, config.keep_fraction)
    columns = _columns(store, scores, assignments, config.seed)
    candidates = Candidates(
        score=columns.score,
        cluster=columns.cluster,
        second_cluster=columns.cluster,
        distance=columns.score,
        tie=columns.tie,
        centroids=np.empty((0, 0), np.float32),
        count=count,
        balance=config.balance,
        floor=config.floor,
    )
    ranks = _checked_ranks(POLICIES.resolve(config.keep)(candidates), n, config.keep)
    del candidates
    settings: dict[str, JSONValue] = {**config.as_json(), **facts}
    selection = Selection(
        n_embedded=n, n_kept=count, fingerprint=selection_fingerprint(scores, config), settings=settings
    )
    with progress.stage("select", n, "samples") as ticker:

        def groups() -> Iterator[pa.Table]:
            for table in _tables(store, columns, assignments, ranks, count, PRUNED_REASON.get(config.keep, "pruned")):
                ticker.tick(table.num_rows)
                yield table

        return save_selection(output, groups(), selection)


def _tables(
    store: Store, columns: _Columns, assignments: dict[str, Path], ranks: I64, count: int, pruned: str
) -> Iterator[pa.Table]:
    """One table for each shard, in store order."""
    at = 0
    for record in store.records():
        rows = slice(at, at + record.n_rows)
        at += record.n_rows
        with store.open_part(record) as part:
            keys, row = part.keys(), part.column("row")
        kept: BoolArray = ranks[rows] < count
        assigned = load_column(assignments[record.shard_id], record.n_rows, ASSIGNMENT_DTYPE)
        yield pa.table(
            {
                "key": pa.array(keys, pa.string()),
                "shard": pa.DictionaryArray.from_arrays(
                    np.zeros(record.n_rows, np.int32), pa.array([record.shard_id], pa.string())
                ),
                "row": row,
                "centroid": columns.cluster[rows],
                "cosine_dist_to_cent": np.ascontiguousarray(assigned["cosine_distance"]),
                "score": columns.score[rows],
                "rank": ranks[rows],
                "kept": kept,
                "weight": np.ones(record.n_rows, np.float32),
                "reason": pa.DictionaryArray.from_arrays(
                    np.where(kept, 0, 1).astype(np.int8), pa.array(["kept", pruned], pa.string())
                ),
            }
        )
