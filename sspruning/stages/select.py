"""Scores to selection: rank all samples by a chain of steps, keep the first ranks, and say of each sample why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from sspruning.config import SelectConfig
from sspruning.errors import UsageError
from sspruning.fingerprint import fingerprint
from sspruning.progress import Progress, SilentProgress
from sspruning.records import JSONValue, Scores, Selection
from sspruning.stages.candidates import Scored
from sspruning.stages.chain import Chained, is_nested, run_chain
from sspruning.stages.exclude import decisive_steps
from sspruning.storage.artifacts import ASSIGNMENT_DTYPE, load_column, save_selection
from sspruning.storage.store import Store

__all__ = ["DUPLICATE_OF", "kept_count", "select", "selection_fingerprint"]

KEPT = "kept"
DUPLICATE_OF = "duplicate_of:"


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
    section = config.as_json()
    if config.steps:
        section["steps"] = decisive_steps(config.steps)
    return fingerprint({"scores": scores.fingerprint, "select": section})


def select(
    scored: Scored, outputs: dict[float, Path], facts: dict[str, JSONValue], progress: Progress | None = None
) -> list[Selection]:
    """`Selection` of each fraction, whose rows now stand in its file: exactly round(f * n) of n samples are kept.

    Where the sets are nested the samples are ranked once for all fractions, else once for each.

    Args:
        scored: the store, its scores, and the section `select`, whose policy is not auto.
        outputs: path of ``selection.parquet`` by fraction; the fraction of the section plays no part.
        facts: metric, geometry, number of prototypes, and `asked` if the policy was advised; kept with each selection.
        progress: told of each step, and after each shard.

    Raises:
        UsageError: an unknown name or option, or a fraction that keeps nothing or more than the steps leave.

    Cost:
        about 60 bytes of memory a sample while ranks are made; time as the steps and the policy say.
    """
    progress = progress or SilentProgress()
    config, n = scored.config.select, scored.store.n_rows
    counts = {fraction: kept_count(n, fraction) for fraction in sorted(outputs, reverse=True)}
    nested, chained, found = is_nested(config), None, []
    for fraction, count in counts.items():
        if chained is None or not nested:
            chained = run_chain(scored, count, outputs[fraction].parent, progress)
        chosen = config.model_copy(update={"keep_fraction": fraction})
        settings: dict[str, JSONValue] = {**chosen.as_json(), **facts, "nested": nested}
        settings["dropped"] = dict(chained.dropped)
        settings["steps"] = decisive_steps(chosen.steps)
        mark = selection_fingerprint(scored.scores, chosen)
        selection = Selection(n_embedded=n, n_kept=count, fingerprint=mark, settings=settings)
        found.append(_saved(scored, chained, selection, outputs[fraction], progress))
    return found


def _saved(scored: Scored, chained: Chained, selection: Selection, output: Path, progress: Progress) -> Selection:
    """``selection`` after its rows were written."""
    with progress.stage("select", selection.n_embedded, "samples") as ticker:

        def groups() -> Iterator[pa.Table]:
            for table in _tables(scored, chained, selection.n_kept):
                ticker.tick(table.num_rows)
                yield table

        return save_selection(output, groups(), selection)


def _keys_of(store: Store, rows: np.ndarray) -> dict[int, str]:
    """Key of each of the given rows of the whole store."""
    wanted, found, at = np.unique(rows), dict[int, str](), 0
    for record in store.records():
        inside = wanted[np.searchsorted(wanted, at) : np.searchsorted(wanted, at + record.n_rows)]
        if len(inside):
            with store.open_part(record) as part:
                keys = part.keys()
            found.update((row, keys[row - at]) for row in inside.tolist())
        at += record.n_rows
    return found


def _tables(scored: Scored, chained: Chained, count: int) -> Iterator[pa.Table]:
    """One table for each shard, in store order."""
    twin_keys = _keys_of(scored.store, chained.twin[chained.twin >= 0])
    at = 0
    for record in scored.store.records():
        rows = slice(at, at + record.n_rows)
        at += record.n_rows
        with scored.store.open_part(record) as part:
            keys, row = part.keys(), part.column("row")
        kept = chained.rank[rows] < count
        assigned = load_column(scored.assignments[record.shard_id], record.n_rows, ASSIGNMENT_DTYPE)
        yield pa.table(
            {
                "key": pa.array(keys, pa.string()),
                "shard": pa.DictionaryArray.from_arrays(
                    np.zeros(record.n_rows, np.int32), pa.array([record.shard_id], pa.string())
                ),
                "row": row,
                "centroid": np.ascontiguousarray(assigned["label"]),
                "cosine_dist_to_cent": np.ascontiguousarray(assigned["cosine_distance"]),
                "score": chained.score[rows],
                "rank": chained.rank[rows],
                "kept": kept,
                "weight": np.ones(record.n_rows, np.float32),
                "reason": _reasons(chained, rows, kept, twin_keys),
            }
        )


def _reasons(chained: Chained, rows: slice, kept: np.ndarray, twin_keys: dict[int, str]) -> pa.Array:
    """Why each sample of a shard stays or goes, in words."""
    words = np.array([*chained.reasons, KEPT], object)[np.where(kept, len(chained.reasons), chained.reason[rows])]
    twins = chained.twin[rows]
    for place in np.flatnonzero((twins >= 0) & ~kept).tolist():
        words[place] = DUPLICATE_OF + twin_keys[int(twins[place])]
    return pa.array(words, pa.string())
