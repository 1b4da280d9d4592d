"""What embedding and importing share: parts for the shards that have none, a corpus, a ledger that adds up."""

from __future__ import annotations

import glob
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import cast

from sspruning.config import CorpusConfig
from sspruning.errors import MachineError, ShardError, SSPruningError, StoreError, UsageError
from sspruning.execution import Executor, Outcome, StageSpec, Task
from sspruning.progress import Progress
from sspruning.records import EmbedReport, JSONValue, ShardRef
from sspruning.stages.embed_shard import Limits
from sspruning.stages.finish import record_corpus
from sspruning.stages.share import WHOLE, Share
from sspruning.storage.atomic import sweep
from sspruning.storage.corpus import Corpus
from sspruning.storage.lost_parts import why_pending
from sspruning.storage.store import CommitRecord, Store

__all__ = [
    "check_space",
    "explained",
    "fill",
    "limits_of",
    "pending_shards",
    "report_of",
    "store_settings",
    "usable_folder",
]

SHOWN = 5  # shards that a note names


def limits_of(config: CorpusConfig) -> Limits:
    """What a sample may be, by the section `corpus`."""
    return Limits(
        suffixes=config.suffixes,
        max_pixels=config.max_pixels,
        max_member_bytes=config.max_member_bytes,
        allow_missing_end=config.allow_missing_end,
        prefix_keys=config.repeated_keys == "prefix",
        decode_timeout_s=config.decode_timeout_s,
        decode_memory_bytes=config.decode_memory_bytes,
    )


def pending_shards(store_path: Path, corpus: Corpus, *, verify_inputs: bool = False) -> list[ShardRef]:
    """Shards without an up-to-date part in the store, in corpus order; all of them if there is no sound store."""
    store = Store.at(store_path)
    if store is None:
        return list(corpus.shards)
    return [shard for shard in corpus.shards if store.committed(shard, verify_content=verify_inputs) is None]


def fill(
    store: Store,
    corpus: Corpus,
    pending: list[ShardRef],
    work: StageSpec,
    executor: Executor,
    progress: Progress,
    *,
    n_total: int | None,
    stage: str,
    share: Share = WHOLE,
) -> None:
    """Make the parts of the pending shards, and ``corpus`` the store's corpus.

    Args:
        store: where parts go.
        corpus: all shards.
        pending: those of the share that need work.
        work: what a worker does with one of them.
        executor: where it runs.
        progress: told after each shard.
        n_total: samples of the share where known.
        stage: what the work is called.
        share: which shards are this task's; others are left to other tasks, which may be at work.

    Raises:
        SSPruningError: an outcome that says more about the machine or the request than about one shard.
    """
    own = {shard.shard_id: shard for shard in share.of(corpus).shards}
    for folder in ("parts", "quarantine", "."):
        sweep(store.path / folder)
    if 0 < len(pending) < len(own):
        progress.note(_redone(store, len(own), pending))
    record_corpus(store, corpus)
    _touch(store, own)
    shards = {shard.shard_id: shard for shard in pending}
    done = [] if n_total is None else store.records_of(own.keys() - shards.keys())
    left = None if n_total is None else n_total - sum(record.n_samples for record in done)
    with progress.stage(stage, left, "samples") as ticker:
        for outcome in executor.run(work, _tasks(pending)):
            ticker.tick(_settle(store, outcome, shards))
    sweep(store.path / "parts")  # again: a worker of a killed run may have taken a moment to die
    store.drop_stale_parts(store.records_of(own), own)
    if share.task is None:
        store.write_manifest()


def _redone(store: Store, of: int, pending: list[ShardRef]) -> str:
    """Which shards need work, and why, in words."""
    shown = ", ".join(f"{shard.shard_id} ({why_pending(store, shard)})" for shard in pending[:SHOWN])
    more = f" and {len(pending) - SHOWN:,} more" if len(pending) > SHOWN else ""
    return f"{len(pending):,} of {of:,} shards need work: {shown}{more}"


def explained(outcome: Outcome, what: str) -> SSPruningError:
    """The error to raise for an outcome that says more about the machine or the request than about one shard."""
    if isinstance(outcome.error, SSPruningError):
        return outcome.error
    if outcome.kind == "crash":
        return MachineError(
            f"{what}: the worker process died {outcome.attempts} times (out of memory? see the kernel log)"
        )
    error = outcome.error
    failure = MachineError(f"{what}: {type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure


def store_settings(facts: dict[str, JSONValue], limits: Limits) -> dict[str, JSONValue]:
    """What decides the bits of every part, as `store.json` keeps it."""
    keys: dict[str, JSONValue] = {"key_prefix": "shard_id"} if limits.prefix_keys else {}
    return {
        **keys,
        "dim": facts["dim"],
        "encoder": facts["identity"],
        "image_key": ";".join(limits.suffixes),
        "max_pixels": limits.max_pixels,
        "max_member_bytes": limits.max_member_bytes,
        "allow_missing_end": limits.allow_missing_end,
    }


def _tasks(pending: list[ShardRef]) -> Iterator[Task]:
    for shard in pending:
        yield Task(shard.shard_id, {"shard": cast("JSONValue", asdict(shard))})


def _settle(store: Store, outcome: Outcome, shards: dict[str, ShardRef]) -> int:
    """Samples that an outcome adds; a shard that failed is quarantined."""
    if outcome.kind == "ok":
        return int(cast("dict[str, int]", outcome.value)["n_samples"])
    shard = shards[outcome.task_id]
    if isinstance(outcome.error, ShardError):
        problem = f"at byte {outcome.error.offset}: {outcome.error.problem}"
    elif outcome.kind == "crash":
        problem = f"its worker process died {outcome.attempts} times"
    elif outcome.kind == "timeout":
        problem = "it exceeded the time limit (execution.timeout_s)"
    else:
        raise explained(outcome, shard.path)
    store.quarantine(shard, problem)
    for left in (store.path / "parts").glob(f".{glob.escape(shard.shard_id)}.decoding.tmp.*"):
        left.unlink(missing_ok=True)
    # a part of what the shard was before must not count any more
    (store.path / "parts" / f"{shard.shard_id}.json").unlink(missing_ok=True)
    return 0


def _touch(store: Store, own: dict[str, ShardRef]) -> None:
    """Forget quarantine entries of shards that are whole now."""
    for path in (store.path / "quarantine").glob("*.json"):
        if path.stem in own and store.committed(own[path.stem]) is not None:
            path.unlink(missing_ok=True)


def usable_folder(folder: Path) -> Path:
    """The nearest folder that exists already, ``folder`` itself or one above it.

    Raises:
        UsageError: a file, or a link to nowhere, stands where a folder has to be, or it is not writable.
    """
    if folder.is_symlink() and not folder.exists():
        raise UsageError(f"{folder}: a link that leads nowhere; name a folder")
    existing = next(place for place in [folder, *folder.absolute().parents] if place.exists())
    if not existing.is_dir():
        raise UsageError(f"{existing}: a file stands there; name a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError(f"{existing}: not writable by this user; name another folder")
    return existing


def check_space(store_path: Path, corpus: Corpus) -> None:
    """Refuse to start when the disk cannot hold even a tenth of the corpus' size: embeddings would not fit."""
    existing = usable_folder(store_path)
    free = shutil.disk_usage(existing).free
    if free < min(corpus.size_bytes // 10, 1 << 30):
        raise MachineError(
            f"{store_path}: only {free >> 20} MiB free on this disk; free some space or choose another folder"
        )


def report_of(
    store: Store, corpus: Corpus, attempted: int, notes: list[str], share: Share = WHOLE, n_left: int = 0
) -> EmbedReport:
    """`EmbedReport`: counts of the share, as a rule the whole store, checked against each other."""
    own = {shard.shard_id for shard in share.of(corpus).shards}
    records: list[CommitRecord] = store.records() if share.task is None else store.records_of(own)
    skipped: Counter[str] = Counter()
    for record in records:
        if record.n_samples != record.n_rows + sum(record.skipped.values()):
            raise StoreError(
                f"{store.part_path(record)}: samples are not embedded + skipped; delete it and embed again"
            )
        skipped.update(record.skipped)
    quarantined = {shard_id: problem for shard_id, problem in store.quarantined().items() if shard_id in own}
    if len(records) + len(quarantined) != len(own):
        missing = own - {record.shard_id for record in records} - quarantined.keys()
        raise StoreError(
            f"{store.path}: no part and no reason for shards {sorted(missing)[:5]}; run the same command again"
        )
    return EmbedReport(
        n_shards=len(own),
        n_samples=sum(record.n_samples for record in records),
        n_embedded=sum(record.n_rows for record in records),
        skipped=dict(sorted(skipped.items())),
        quarantined=quarantined,
        done_now=attempted - len(quarantined),
        notes=notes,
        n_left=n_left,
    )
