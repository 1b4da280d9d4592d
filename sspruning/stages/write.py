"""Selection to pruned shards: raw tar blocks copied by byte range, every sample's digest checked on the way."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np

from sspruning.config import WriteConfig
from sspruning.errors import MachineError, SSPruningError, StoreError
from sspruning.execution import Executor, StageSpec, Task
from sspruning.fingerprint import fingerprint
from sspruning.progress import Progress, SilentProgress
from sspruning.records import JSONValue, Manifest
from sspruning.stages.inspect import refuse_repeated_rows
from sspruning.stages.output_folder import (
    leftovers,
    refuse_bad_output,
    remove_files,
    remove_strange_shards,
)
from sspruning.stages.output_notes import notes_on
from sspruning.stages.output_plan import (
    fewest_shards,
    groups_with_rows,
    plan,
    records_with_rows,
    shard_borders,
    shard_count,
)
from sspruning.stages.rewrite import Rewriting
from sspruning.stages.sidecars import (
    META,
    SOURCES,
    WORKING,
    digests_here,
    inside,
    manifest_path,
    output_from,
    read_manifest,
    record_path,
    up_to_date,
    write_manifest,
    write_sidecars,
)
from sspruning.storage.artifacts import SelectionFile
from sspruning.storage.atomic import read_json, sweep
from sspruning.storage.digests import damaged
from sspruning.storage.lock import alone_in
from sspruning.storage.output_place import OutputPlace, place_of
from sspruning.storage.store import Store

__all__ = ["groups_with_rows", "shards_fingerprint", "write", "write_fingerprint"]

WORKER = "sspruning.stages.write_shard:ShardWriter"
SHARD_NAME = "shard-{:06d}.tar"
OF_A_SHARD = ("name", "n_samples", "sha256", "size", "samples_digest", "suffixes")
"""What the manifest says of each shard; its commit record says more."""


def shards_fingerprint(selection_mark: str, config: WriteConfig) -> str:
    """What the output shards depend on: the selection, and all settings but the index files."""
    section = {key: value for key, value in config.as_json().items() if key != "index"}
    return fingerprint({"selection": selection_mark, "write": section})


def write_fingerprint(selection_mark: str, config: WriteConfig) -> str:
    """What the whole output depends on."""
    return fingerprint({"shards": shards_fingerprint(selection_mark, config), "index": cast("JSONValue", config.index)})


def write(
    store: Store,
    selection: SelectionFile,
    output: str | Path,
    config: WriteConfig,
    executor: Executor,
    progress: Progress | None = None,
    *,
    recipe: str = "",
    overwrite: bool = False,
) -> Manifest:
    """`Manifest` of the pruned shards that now stand in ``output``, with the trainers' index files.

    Output shards are planned from the selection alone and are committed one by one, so a killed run goes on where it
    stopped and ends with the same bytes. Each is read back before it counts. Where only other index files are asked
    for, or some are missing or changed, the shards are read and not written again.

    Args:
        store: the store the selection was made from; its corpus is read.
        selection: which samples stay.
        output: folder, made if missing, or URL; then what is not a shard also lies beside the selection, in
            ``outputs/``, and each worker holds one shard there until it is uploaded.
        config: number of shards, order, members, index files.
        executor: where the copying runs.
        progress: told after each shard, and what trainers would stumble over.
        recipe: YAML text of what decided the result, kept beside the shards.
        overwrite: replace the shards of another selection.

    Raises:
        UsageError: the output folder cannot be used, more shards than samples, or members that cannot be renamed.
        ShardError: a source changed since it was embedded.
        DataError: a shard does not read back as it was planned.
        MachineError: no space, or no answer from where a URL leads.
    """
    wanted = selection.selection.fingerprint
    mark = write_fingerprint(wanted, config)
    progress = progress or SilentProgress()
    place = place_of(output, selection.path.parent)
    with place.opened() as note:
        refuse_bad_output(store, place, wanted, shards_fingerprint(wanted, config), overwrite=overwrite)
        done = up_to_date(place, mark)
        if done is not None and not place.is_untidy():
            return done
        with alone_in(place.folder / META):
            if done is None:
                if note:
                    progress.note(note)
                _write(store, selection, place, config, executor, progress, recipe)
            place.tidy()
            sweep(place.folder / META)
        done = up_to_date(place, mark)
    if done is None:
        raise StoreError(f"{place}: files changed while others were written; run the same command again")
    return done


def _write(
    store: Store,
    selection: SelectionFile,
    place: OutputPlace,
    config: WriteConfig,
    executor: Executor,
    progress: Progress,
    recipe: str,
) -> None:
    """Write what is missing; see `write`."""
    output = place.folder
    shards_mark = shards_fingerprint(selection.selection.fingerprint, config)
    old = leftovers(output)
    for folder in (output, output / META, output / META / "shards", output / META / "work"):
        sweep(folder)
    planned = plan(store, selection, config)
    refuse_repeated_rows(store)
    rule = _rule(store, config)
    shards, files = _write_shards(store, planned, place, config, rule, shards_mark, executor, progress)
    remove_strange_shards(place, {str(shard["name"]) for shard in shards})
    written = output_from(output, shards, rule.image_key)
    sidecars = write_sidecars(selection, _sources(store, planned), written, config.index, recipe)
    place.publish([*sidecars, SOURCES])
    files |= sidecars
    files = {name: sha256 for name, sha256 in files.items() if not name.startswith(WORKING)}
    for folder in {inside(output, name).parent for name in files}:
        sweep(folder)  # of what a killed run left among index files
    remove_files(place, old - set(files))
    facts: dict[str, JSONValue] = {
        "fingerprint": write_fingerprint(selection.selection.fingerprint, config),
        "shards_fingerprint": shards_mark,
        "selection": selection.selection.fingerprint,
        "settings": selection.selection.settings,
        "n_kept": len(planned),
        "n_embedded": selection.selection.n_embedded,
        "write": config.as_json(),
        "image_key": list(rule.image_key),
        "shards": cast("JSONValue", shards),
        "files": cast("JSONValue", files),
    }
    write_manifest(output, facts)
    place.finish()
    for note in notes_on(written, config.index):
        progress.note(note)


def _rule(store: Store, config: WriteConfig) -> Rewriting:
    image_key = str(store.settings["image_key"]).split(";")
    return Rewriting.of(config, image_key, prefixed="key_prefix" in store.settings)


def _sources(store: Store, planned: np.ndarray) -> list[JSONValue]:
    """Name, path and content of each source shard that gives a sample."""
    records, where = records_with_rows(store), store.shards()
    used = [records[number] for number in np.unique(planned["part"]).tolist()]
    return [
        {"shard_id": record.shard_id, "path": where[record.shard_id].path, "sha256": record.shard_sha256}
        for record in used
    ]


def _write_shards(
    store: Store,
    planned: np.ndarray,
    place: OutputPlace,
    config: WriteConfig,
    rule: Rewriting,
    mark: str,
    executor: Executor,
    progress: Progress,
) -> tuple[list[dict[str, JSONValue]], dict[str, str]]:
    """Facts of every output shard, in order, after those that were missing are written; sha256 of their index files."""
    tasks, facts = _tasks(place, len(planned), config, mark, progress)
    place.begin()
    work = place.folder / META / "work"
    work.mkdir(parents=True, exist_ok=True)
    # the name is new each time: a worker object that lives on in this process must not be taken for another plan's
    plan_path = work / f"plan.{os.getpid()}.{secrets.token_hex(4)}.npy"
    np.save(plan_path, planned, allow_pickle=False)
    kwargs: dict[str, object] = {"store": str(store.path), "plan": str(plan_path), "mark": mark}
    kwargs |= {"output": str(place), "folder": str(place.folder), "rule": rule, "index": config.index}
    spec = StageSpec(WORKER, kwargs)
    left = sum(cast("int", task.payload["stop"]) - cast("int", task.payload["start"]) for task in tasks)
    try:
        with progress.stage("write", left, "samples") as ticker:
            for outcome in executor.run(spec, tasks):
                if outcome.kind != "ok":
                    if isinstance(outcome.error, SSPruningError):
                        raise outcome.error
                    raise MachineError(f"writing {outcome.task_id}: {outcome.kind}: {outcome.error!r}")
                facts[outcome.task_id] = cast("dict[str, Any]", outcome.value)
                ticker.tick(facts[outcome.task_id]["n_samples"])
    finally:
        plan_path.unlink(missing_ok=True)
    found = [facts[SHARD_NAME.format(number)] for number in range(len(facts))]
    if sum(shard["n_samples"] for shard in found) != len(planned):
        raise StoreError(
            f"{place}: the shards do not hold the {len(planned)} planned samples; remove it and write again"
        )
    files = {name: sha256 for shard in found for name, sha256 in shard["files"].items()}
    return [{key: shard[key] for key in OF_A_SHARD} for shard in found], files


def _tasks(
    place: OutputPlace, n: int, config: WriteConfig, mark: str, progress: Progress
) -> tuple[list[Task], dict[str, dict[str, Any]]]:
    """Work that is left, and facts of the shards that are finished."""
    count = shard_count(n, config)
    fewest = fewest_shards(n, config)
    if count > fewest:
        progress.note(
            f"{count:,} shards of about {n // count:,} samples instead of {fewest:,}, as write.min_shards asks"
        )
    borders = shard_borders(n, count).tolist()
    known = _recorded(place.folder, mark)
    tasks: list[Task] = []
    facts: dict[str, dict[str, Any]] = {}
    for number, (start, stop) in enumerate(pairwise(borders)):
        name = SHARD_NAME.format(number)
        record = _finished(place, name, mark, known.get(name))
        if record is not None and record.get("index") == config.index and _as_recorded(place, name, record):
            facts[name] = record
        else:
            tasks.append(Task(name, {"name": name, "start": start, "stop": stop, "known": cast("JSONValue", record)}))
    return tasks, facts


def _recorded(output: Path, mark: str) -> dict[str, dict[str, Any]]:
    """What the manifest says of shards of this very selection and these settings; nothing if it speaks of others."""
    if not manifest_path(output).exists():
        return {}
    content = read_manifest(output)
    return {shard["name"]: shard for shard in content["shards"]} if content["shards_fingerprint"] == mark else {}


def _finished(place: OutputPlace, name: str, mark: str, known: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Facts of an output shard that stands for this very selection: by its commit record, else as the manifest says."""
    found = None if known is None else dict(known)
    with suppress(StoreError, KeyError, TypeError):
        record = cast("dict[str, Any]", read_json(record_path(place.folder, name)))
        if record["mark"] == mark:
            found = record
    with suppress(KeyError):
        if found is not None and place.size(name) == found["size"]:
            return found
    return None


def _as_recorded(place: OutputPlace, name: str, record: Mapping[str, Any]) -> bool:
    """False if a shard or its index files are missing, or known not to be what the commit record says."""
    digests = digests_here(place, {name: record["sha256"], **record["files"]})
    return not damaged(digests, record_path(place.folder, name))
