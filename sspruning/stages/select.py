"""Scores to selection: rank all samples by a chain of steps, keep the first ranks, and say of each sample why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from sspruning.config import SelectConfig
from sspruning.errors import StoreError, UsageError
from sspruning.fingerprint import fingerprint
from sspruning.policies import PRUNED_REASON
from sspruning.progress import Progress, SilentProgress
from sspruning.records import F32, I64, BoolArray, JSONValue, Scores, Selection
from sspruning.stages.ahead import ahead
from sspruning.stages.candidates import Scored
from sspruning.stages.chain import Chained, is_nested, run_chain
from sspruning.stages.exclude import decisive_steps
from sspruning.stages.streamed import is_streamed, make_rule, stream_of
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

    Where the sets are nested the samples are ranked once for all fractions, else once for each. Of more than
    `STREAM_ABOVE` samples no ranks are made, where the policy can do without and there are no steps: passes over the
    scores find the same samples, for each fraction on its own.

    Args:
        scored: the store, its scores, and the section `select`, whose policy is not auto.
        outputs: path of ``selection.parquet`` by fraction; the fraction of the section plays no part.
        facts: metric, geometry, number of prototypes, and `asked` if the policy was advised; kept with each selection.
        progress: told of each step, and after each shard.

    Raises:
        UsageError: an unknown name or option, or a fraction that keeps nothing or more than the steps leave.

    Cost:
        about 80 bytes of memory a sample while ranks are made; time as the steps and the policy say. Without ranks,
        some 200 MB whatever the number of samples, and passes over the scores for each fraction.
    """
    progress = progress or SilentProgress()
    config, n = scored.config.select, scored.store.n_rows
    counts = {fraction: kept_count(n, fraction) for fraction in sorted(outputs, reverse=True)}
    streamed, nested, chained, found = is_streamed(config, n), is_nested(config), None, []
    for fraction, count in counts.items():
        chosen = config.model_copy(update={"keep_fraction": fraction})
        settings: dict[str, JSONValue] = {**chosen.as_json(), **facts, "nested": nested and not streamed}
        if streamed:
            dropped, decided = dict[str, int](), _counted(scored, count, progress)
        else:
            if chained is None or not nested:
                chained = run_chain(scored, count, outputs[fraction].parent, progress)
            dropped, decided = chained.dropped, _ranked(scored, chained, count)
        settings["dropped"] = dict(dropped)
        settings["steps"] = decisive_steps(chosen.steps)
        mark = selection_fingerprint(scored.scores, chosen)
        selection = Selection(n_embedded=n, n_kept=count, fingerprint=mark, settings=settings, ranked=not streamed)
        found.append(_saved(scored, decided, selection, outputs[fraction], progress))
    return found


@dataclass(frozen=True, slots=True)
class _Decided:
    """What was decided of the rows of one shard."""

    score: F32
    rank: I64 | pa.Array
    kept: BoolArray
    reason: pa.Array


def _saved(
    scored: Scored, decided: Iterator[_Decided], selection: Selection, output: Path, progress: Progress
) -> Selection:
    """``selection`` after its rows were written."""
    with progress.stage("select", selection.n_embedded, "samples") as ticker:

        def groups() -> Iterator[pa.Table]:
            for table in ahead(_tables(scored, decided)):
                ticker.tick(table.num_rows)
                yield table

        return save_selection(output, groups(), selection)


def _tables(scored: Scored, decided: Iterator[_Decided]) -> Iterator[pa.Table]:
    """One table for each shard, in store order."""
    for record, own in zip(scored.store.records(), decided, strict=True):
        with scored.store.open_part(record) as part:
            keys, row = part.key_array(), part.column("row")
        assigned = load_column(scored.assignments[record.shard_id], record.n_rows, ASSIGNMENT_DTYPE)
        yield pa.table(
            {
                "key": keys,
                "shard": pa.DictionaryArray.from_arrays(
                    np.zeros(record.n_rows, np.int32), pa.array([record.shard_id], pa.string())
                ),
                "row": row,
                "centroid": np.ascontiguousarray(assigned["label"]),
                "cosine_dist_to_cent": np.ascontiguousarray(assigned["cosine_distance"]),
                "score": own.score,
                "rank": own.rank,
                "kept": own.kept,
                "weight": np.ones(record.n_rows, np.float32),
                "reason": own.reason,
            }
        )


def _counted(scored: Scored, count: int, progress: Progress) -> Iterator[_Decided]:
    """What a rule decides of each shard; it is found before this returns."""
    config, stream = scored.config.select, stream_of(scored, count)
    with progress.stage("choose", stream.n, "samples") as ticker:
        rule = make_rule(stream, config)
        ticker.tick(stream.n)
    words = pa.array([PRUNED_REASON[config.keep], KEPT], pa.string())

    def pieces() -> Iterator[_Decided]:
        total = 0
        for piece in stream.read(rule.needs | {"score"}):
            kept = rule(piece)
            total += int(kept.sum())
            reason = pa.DictionaryArray.from_arrays(kept.astype(np.int8), words)
            yield _Decided(piece.score, pa.nulls(piece.size, pa.int64()), kept, reason)
        if total != count:
            raise StoreError(
                f"policy {config.keep!r} keeps {total:,} samples instead of {count:,}; this is a bug in the policy, or "
                "scores changed meanwhile: select again"
            )

    return pieces()


def _ranked(scored: Scored, chained: Chained, count: int) -> Iterator[_Decided]:
    """What a chain decides of each shard."""
    twin_keys, at = _keys_of(scored.store, chained.twin[chained.twin >= 0]), 0
    for record in scored.store.records():
        rows = slice(at, at + record.n_rows)
        at += record.n_rows
        kept = chained.rank[rows] < count
        yield _Decided(chained.score[rows], chained.rank[rows], kept, _reasons(chained, rows, kept, twin_keys))


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


def _reasons(chained: Chained, rows: slice, kept: np.ndarray, twin_keys: dict[int, str]) -> pa.Array:
    """Why each sample of a shard stays or goes, in words."""
    words = np.array([*chained.reasons, KEPT], object)[np.where(kept, len(chained.reasons), chained.reason[rows])]
    twins = chained.twin[rows]
    for place in np.flatnonzero((twins >= 0) & ~kept).tolist():
        words[place] = DUPLICATE_OF + twin_keys[int(twins[place])]
    return pa.array(words, pa.string())
