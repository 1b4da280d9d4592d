"""Shards to store: one part for each shard, in any number of workers, resumable after any kill."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

from sspruning.config import Config, CorpusConfig, default_workers
from sspruning.errors import MachineError, ShardError, SSPruningError, StoreError, UsageError
from sspruning.execution import Executor, Outcome, StageSpec, Task
from sspruning.progress import Progress, SilentProgress
from sspruning.records import EmbedReport, EncoderSpec, JSONValue, ShardRef
from sspruning.stages.embed_shard import Limits
from sspruning.storage.atomic import file_sha256, read_json, sweep, write_json
from sspruning.storage.corpus import Corpus
from sspruning.storage.store import CommitRecord, Store

__all__ = ["embed", "estimated_seconds", "pending_shards", "usable_folder"]

WORKER = "sspruning.stages.embed_shard:EmbedWorker"
MEASURED_RATE = 1500.0  # samples/s on one core, shipped encoder, CIFAR-10; for estimates before anything ran


def pending_shards(store_path: Path, corpus: Corpus, *, verify_inputs: bool = False) -> list[ShardRef]:
    """Shards without an up-to-date part in the store, in corpus order; all of them if there is no store."""
    if not (store_path / "store.json").exists():
        return list(corpus.shards)
    store = Store(store_path)
    return [shard for shard in corpus.shards if store.committed(shard, verify_content=verify_inputs) is None]


def estimated_seconds(store_path: Path, n_samples: int, config: Config) -> tuple[float, str]:
    """Seconds that embedding ``n_samples`` may take, and where the figure comes from.

    The last embedding into this store gives the rate; without one, a measured rate of the shipped encoder does.
    """
    for log in (store_path / "logs" / "events.jsonl", store_path.parent / "events.jsonl"):
        rate = _recorded_rate(log)
        if rate:
            return n_samples / rate, f"at the {rate:,.0f} samples/s of the last embedding here"
    workers = config.execution.workers or default_workers(config.encoder.device)
    rate = MEASURED_RATE * workers
    return (
        n_samples / rate,
        f"at {rate:,.0f} samples/s, as the shipped encoder does on {workers} cores; others are slower",
    )


def _recorded_rate(log: Path) -> float:
    """Samples a second of the last finished embedding in an events file; 0 if there is none."""
    rate = 0.0
    if log.exists():
        with log.open(encoding="utf-8") as stream:
            for line in stream:
                with suppress(ValueError):
                    event = json.loads(line)
                    if event.get("event") == "end" and event.get("stage") == "embed" and event.get("done"):
                        rate = float(event["per_second"])
    return rate


def _limits(config: CorpusConfig) -> Limits:
    return Limits(
        suffixes=config.suffixes,
        max_pixels=config.max_pixels,
        max_member_bytes=config.max_member_bytes,
        allow_missing_end=config.allow_missing_end,
    )


def _request(spec: EncoderSpec, limits: Limits) -> dict[str, JSONValue]:
    """What was asked for, to recognise the same request without loading the encoder."""
    return {"encoder": asdict(spec), "limits": asdict(limits)}


def _same_request(store: Store, spec: EncoderSpec, limits: Limits) -> bool:
    """True if the store was made by this very request, checkpoint content included."""
    with suppress(StoreError):
        recorded = read_json(store.path / "request.json")
        wanted = _request(spec, replace(limits, suffixes=cast("tuple", list(limits.suffixes))))
        if recorded != wanted:
            return False
        identity = cast("dict[str, JSONValue]", store.settings["encoder"])
        return spec.checkpoint is None or file_sha256(Path(spec.checkpoint)) == identity.get("weights_sha256")
    return False


def _pinned(spec: EncoderSpec, identity: JSONValue) -> EncoderSpec:
    """``spec`` with the number type of ``identity``, so that no worker's own probe can come to another answer."""
    dtype = cast("dict[str, JSONValue]", identity).get("dtype")
    return replace(spec, dtype=str(dtype)) if spec.dtype == "auto" and dtype in {"float32", "bfloat16"} else spec


def _describe(executor: Executor, work: StageSpec) -> dict[str, JSONValue]:
    """Identity, dimensions and notes of the encoder, from the first worker to answer.

    Every worker gets the question, so that all load their libraries at the same time.
    """
    questions = [Task(f"describe-{number}", {"describe": True}) for number in range(executor.workers)]
    outcomes = list(executor.run(work, questions))
    for outcome in outcomes:
        if outcome.kind != "ok":
            raise _explained(outcome, "the encoder")
    return cast("dict[str, JSONValue]", outcomes[0].value)


def _explained(outcome: Outcome, what: str) -> SSPruningError:
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


def embed(
    corpus: Corpus,
    store_path: Path,
    spec: EncoderSpec,
    config: CorpusConfig,
    executor: Executor,
    progress: Progress | None = None,
    *,
    verify_inputs: bool = False,
    n_total: int | None = None,
) -> EmbedReport:
    """`EmbedReport` of a store that now holds a part for every sound shard of the corpus.

    Shards whose content and settings have a committed part are left alone. A damaged shard, or one whose worker dies
    three times or exceeds the time limit, is quarantined and the others are done.

    Args:
        corpus: the shards, which from now on are the store's corpus.
        store_path: folder of the store; made if missing.
        spec: the encoder.
        config: image suffixes and limits.
        executor: where the work runs.
        progress: told after each shard.
        verify_inputs: hash every input again instead of trusting size and modification time.
        n_total: samples of the whole corpus where known, for the progress bar.

    Raises:
        StoreError: the store was made with other settings.
        UsageError, MachineError: the encoder cannot be built, or the machine gave up.
    """
    progress = progress or SilentProgress()
    limits = _limits(config)
    exists = (store_path / "store.json").exists()
    wanted = _pinned(spec, Store(store_path).settings["encoder"]) if exists else spec
    pending = pending_shards(store_path, corpus, verify_inputs=verify_inputs)
    notes: list[str] = []
    if pending or not _same_request(Store(store_path), spec, limits):
        _check_space(store_path, corpus)
        facts = _describe(executor, StageSpec(WORKER, {"spec": wanted, "limits": limits, "store": str(store_path)}))
        wanted = _pinned(wanted, facts["identity"])
        notes = cast("list[str]", facts["notes"])
        store = Store.create(store_path, _settings(facts, limits))
        write_json(store.path / "request.json", _request(spec, limits))
        pending = pending_shards(store_path, corpus, verify_inputs=verify_inputs)
    store = Store(store_path)
    for folder in ("parts", "quarantine", "."):
        sweep(store.path / folder)
    _record_corpus(store, corpus)
    _touch(store, corpus)
    work = StageSpec(WORKER, {"spec": wanted, "limits": limits, "store": str(store_path)})
    left = None if n_total is None else n_total - sum(record.n_samples for record in store.records(refresh=True))
    with progress.stage("embed", left, "samples") as ticker:
        for outcome in executor.run(work, _tasks(pending)):
            done = _settle(store, outcome, {shard.shard_id: shard for shard in pending})
            ticker.tick(done)
    sweep(store.path / "parts")  # again: a worker of a killed run may have taken a moment to die
    _record_manifest(store)
    return _report(store, corpus, len(pending), notes)


def _settings(facts: dict[str, JSONValue], limits: Limits) -> dict[str, JSONValue]:
    """What decides the bits of every part, as `store.json` keeps it."""
    return {
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
        raise _explained(outcome, shard.path)
    store.quarantine(shard, problem)
    # a part of what the shard was before must not count any more
    (store.path / "parts" / f"{shard.shard_id}.json").unlink(missing_ok=True)
    return 0


def _record_corpus(store: Store, corpus: Corpus) -> None:
    """Make ``corpus`` the store's corpus; a file that says so already is left alone."""
    with suppress(StoreError, TypeError, KeyError):
        if tuple(store.shards().values()) == corpus.shards:
            return
    store.set_shards(corpus.shards)


def _record_manifest(store: Store) -> None:
    """Bring ``manifest.json`` up to date; a file that holds these records already is left alone."""
    records = [asdict(record) for record in store.records(refresh=True)]
    with suppress(StoreError):
        if read_json(store.path / "manifest.json") == {"store": store.fingerprint, "parts": records}:
            return
    store.write_manifest()


def _touch(store: Store, corpus: Corpus) -> None:
    """Forget quarantine entries of shards that are whole now."""
    for shard in corpus.shards:
        if store.committed(shard) is not None:
            with suppress(FileNotFoundError):
                (store.path / "quarantine" / f"{shard.shard_id}.json").unlink()


def usable_folder(folder: Path) -> Path:
    """The nearest folder that exists already, ``folder`` itself or one above it.

    Raises:
        UsageError: a file stands where a folder has to be.
    """
    existing = next(place for place in [folder, *folder.absolute().parents] if place.exists())
    if not existing.is_dir():
        raise UsageError(f"{existing}: a file stands there; name a folder")
    return existing


def _check_space(store_path: Path, corpus: Corpus) -> None:
    """Refuse to start when the disk cannot hold even a tenth of the corpus' size: embeddings would not fit."""
    existing = usable_folder(store_path)
    free = shutil.disk_usage(existing).free
    if free < min(corpus.size_bytes // 10, 1 << 30):
        raise MachineError(
            f"{store_path}: only {free >> 20} MiB free on this disk; free some space or choose another folder"
        )


def _report(store: Store, corpus: Corpus, attempted: int, notes: list[str]) -> EmbedReport:
    """Counts of the whole store, checked against each other."""
    records: list[CommitRecord] = store.records(refresh=True)
    skipped: Counter[str] = Counter()
    for record in records:
        if record.n_samples != record.n_rows + sum(record.skipped.values()):
            raise StoreError(
                f"{store.part_path(record)}: samples are not embedded + skipped; delete it and embed again"
            )
        skipped.update(record.skipped)
    quarantined = store.quarantined()
    if len(records) + len(quarantined) != len(corpus.shards):
        missing = {shard.shard_id for shard in corpus.shards} - {r.shard_id for r in records} - set(quarantined)
        raise StoreError(
            f"{store.path}: no part and no reason for shards {sorted(missing)[:5]}; run the same command again"
        )
    return EmbedReport(
        n_shards=len(corpus.shards),
        n_samples=sum(record.n_samples for record in records),
        n_embedded=sum(record.n_rows for record in records),
        skipped=dict(sorted(skipped.items())),
        quarantined=quarantined,
        done_now=attempted - sum(shard_id in quarantined for shard_id in quarantined),
        notes=notes,
    )
