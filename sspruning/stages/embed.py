"""Shards to store: one part for each shard, in any number of workers and tasks, resumable after any kill."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

from sspruning.config import Config, CorpusConfig, default_workers
from sspruning.errors import StoreError
from sspruning.execution import Executor, StageSpec, Task
from sspruning.progress import Progress, SilentProgress
from sspruning.records import EmbedReport, EncoderSpec, JSONValue, ShardRef
from sspruning.stages.embed_shard import Limits
from sspruning.stages.fill import check_space, explained, fill, limits_of, pending_shards, report_of, store_settings
from sspruning.stages.finish import finish
from sspruning.stages.share import WHOLE, Share
from sspruning.storage.atomic import file_sha256, json_bytes, write_json
from sspruning.storage.corpus import Corpus
from sspruning.storage.store import Store

__all__ = ["embed", "estimated_seconds"]

WORKER = "sspruning.stages.embed_shard:EmbedWorker"
SHOWN = 3  # shards that a note names
MEASURED_RATE = 1500.0  # samples/s on one core, shipped encoder, CIFAR-10; for estimates before anything ran


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


def _request(spec: EncoderSpec, limits: Limits) -> dict[str, JSONValue]:
    """What was asked for, to recognise the same request without loading the encoder."""
    return {"encoder": asdict(spec), "limits": asdict(limits)}


def _same_request(store: Store, spec: EncoderSpec, limits: Limits) -> bool:
    """True if the store was made by this very request, checkpoint content included."""
    path = store.path / "request.json"
    if not path.exists() or path.read_bytes() != json_bytes(_request(spec, limits)):
        return False
    identity = cast("dict[str, JSONValue]", store.settings["encoder"])
    return spec.checkpoint is None or file_sha256(Path(spec.checkpoint)) == identity.get("weights_sha256")


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
            raise explained(outcome, "the encoder")
    return cast("dict[str, JSONValue]", outcomes[0].value)


def _created(
    store_path: Path, spec: EncoderSpec, wanted: EncoderSpec, limits: Limits, executor: Executor
) -> tuple[Store, EncoderSpec, list[str]]:
    """The store, the encoder as its workers shall build it, and notes about it."""

    def describe(asked: EncoderSpec) -> tuple[EncoderSpec, dict[str, JSONValue]]:
        facts = _describe(executor, StageSpec(WORKER, {"spec": asked, "limits": limits, "store": str(store_path)}))
        return _pinned(asked, facts["identity"]), facts

    wanted, facts = describe(wanted)
    try:
        store = Store.create(store_path, store_settings(facts, limits))
    except StoreError:
        pinned = _pinned(spec, Store(store_path).settings["encoder"])
        if pinned in {spec, wanted}:
            raise
        # a task that began at the same time was first, and its probe came to another number type
        wanted, facts = describe(pinned)
        store = Store.create(store_path, store_settings(facts, limits))
    write_json(store.path / "request.json", _request(spec, limits))
    return store, wanted, cast("list[str]", facts["notes"])


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
    share: Share = WHOLE,
    look_again: Callable[[], Corpus] | None = None,
) -> EmbedReport:
    """`EmbedReport` of a store that now holds a part for every sound shard of the corpus, or of this task's share.

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
        n_total: samples of the share where known, for the progress bar.
        share: which shards are done here; other tasks do theirs in the same store, at the same time or not.
        look_again: the corpus anew, if ``corpus`` may have old sizes and times of shards of other tasks.

    Raises:
        StoreError: the store was made with other settings.
        UsageError, MachineError: the encoder cannot be built, or the machine gave up.
    """
    progress = progress or SilentProgress()
    limits, own = limits_of(config), share.of(corpus)
    if not own.shards:
        return EmbedReport(n_shards=0, n_samples=0, n_embedded=0, skipped={}, quarantined={}, done_now=0)
    made = Store.at(store_path)
    wanted = spec if made is None else _pinned(spec, made.settings["encoder"])
    pending = pending_shards(store_path, own, verify_inputs=verify_inputs)
    notes: list[str] = []
    if made is None or pending or not _same_request(made, spec, limits):
        check_space(store_path, own)
        _, wanted, notes = _created(store_path, spec, wanted, limits, executor)
        if made is None:  # parts may be there all the same
            pending = pending_shards(store_path, own, verify_inputs=verify_inputs)
    store = Store(store_path)
    work = StageSpec(WORKER, {"spec": wanted, "limits": limits, "store": str(store_path)})
    fill(store, corpus, pending, work, executor, progress, n_total=n_total, stage="embed", share=share)
    left = [] if share.task is None else finish(store, look_again or (lambda: corpus), check_keys=_keys_unknown(config))
    return report_of(store, corpus, len(pending), [*notes, *_left_in_words(left)], share, len(left))


def _keys_unknown(config: CorpusConfig) -> bool:
    """True if keys have to be unique, and tasks could compare those of their own shards only."""
    return config.preflight and config.repeated_keys == "refuse"


def _left_in_words(left: list[ShardRef]) -> list[str]:
    if not left:
        return []
    shown = ", ".join(shard.shard_id for shard in left[:SHOWN]) + (", ..." if len(left) > SHOWN else "")
    return [f"left to other tasks: {len(left):,} shards ({shown})"]
