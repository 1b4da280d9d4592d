"""Selection to pruned shards: raw tar blocks copied by byte range, every sample's digest checked on the way."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa

from sspruning.config import WriteConfig
from sspruning.errors import MachineError, SSPruningError, StoreError, UsageError
from sspruning.execution import Executor, StageSpec, Task
from sspruning.fingerprint import fingerprint
from sspruning.progress import Progress, SilentProgress
from sspruning.records import I64, JSONValue, Manifest, ShardRef
from sspruning.stages.cluster import seeded
from sspruning.stages.sidecars import META, write_sidecars
from sspruning.stages.write_shard import record_path, records_with_rows
from sspruning.storage.artifacts import SelectionFile
from sspruning.storage.atomic import read_json, sweep
from sspruning.storage.store import Store

__all__ = ["groups_with_rows", "plan", "shard_borders", "up_to_date", "write", "write_fingerprint"]


WORKER = "sspruning.stages.write_shard:ShardWriter"
PLAN_DTYPE = np.dtype([("part", "<u4"), ("row", "<u4")])


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
    """(K,) records (part, row in part) of the kept samples, in output order.

    Cost:
        8 bytes a kept sample, 16 for orders other than the corpus's.
    """
    parts, rows, scores, ties = [], [], [], []
    records = records_with_rows(store)
    for number, table in enumerate(groups_with_rows(selection, ["shard", "kept", "score"])):
        record = records[number] if number < len(records) else None
        if record is None or table.num_rows != record.n_rows or table.column("shard")[0].as_py() != record.shard_id:
            raise _another_corpus(selection)
        kept = np.flatnonzero(table.column("kept").to_numpy())
        parts.append(np.full(len(kept), number, np.uint32))
        rows.append(kept.astype(np.uint32))
        if config.order != "corpus":
            scores.append(table.column("score").to_numpy()[kept])
            with store.open_part(record) as part:
                ties.append(seeded(part.column("key_hash")[kept], config.seed))
    if len(parts) != len(records):
        raise _another_corpus(selection)
    planned: Any = np.empty(sum(map(len, rows)), PLAN_DTYPE)
    planned["part"], planned["row"] = np.concatenate(parts), np.concatenate(rows)
    if config.order == "corpus":
        return planned
    tie, score = np.concatenate(ties), np.concatenate(scores)
    key = {"shuffled": np.zeros_like(score), "easy-to-hard": score, "hard-to-easy": -score}[config.order]
    return planned[np.lexsort((tie, key))]


def shard_borders(n: int, samples_per_shard: int) -> I64:
    """(shards + 1,) first sample of each output shard: as few shards as fit, their sizes at most one apart."""
    shards = max(1, -(-n // samples_per_shard))
    return (np.arange(shards + 1, dtype=np.int64) * n) // shards


def refuse_nested_output(output: Path, shards: Iterable[ShardRef]) -> None:
    """Refuse an output that is an input folder or lies in one: the next run could take its shards for input.

    Raises:
        UsageError: names both folders.
    """
    resolved = output.resolve()
    for folder in {Path(shard.path).resolve().parent for shard in shards}:
        if resolved.is_relative_to(folder):
            raise UsageError(f"{output}: the output lies in the input folder {folder}; name a folder outside of it")


def _refuse_bad_output(store: Store, output: Path, mark: str, *, overwrite: bool) -> None:
    """Refuse outputs that would harm something.

    Raises:
        UsageError: the output is an input folder or the store, a file, or holds something else.
    """
    resolved = output.resolve()
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output}: a file stands there; name a folder")
    refuse_nested_output(output, store.shards().values())
    if resolved.is_relative_to(store.path.resolve()):
        raise UsageError(f"{output}: the output lies in the store; name another folder")
    existing = output / META / "manifest.json"
    if existing.exists() and cast("dict", read_json(existing)).get("fingerprint") != mark:
        if not overwrite:
            raise UsageError(f"{output}: holds shards of another selection; name another folder, or give --overwrite")
        clear_output(output)
    elif not existing.exists() and not (output / META).exists() and output.exists() and any(output.glob("*.tar")):
        raise UsageError(f"{output}: holds .tar files that sspruning did not write; name another folder")


def clear_output(output: Path) -> None:
    """Remove what sspruning wrote into ``output`` and nothing else; the manifest goes first."""
    manifest = output / META / "manifest.json"
    names = [shard["name"] for shard in cast("dict", read_json(manifest))["shards"]]
    manifest.unlink()
    for name in [*names, "_info.json", "sizes.json", "shardindex.json"]:
        with suppress(FileNotFoundError):
            (output / name).unlink()
    shutil.rmtree(output / META, ignore_errors=True)


def _finished(output: Path, name: str, mark: str) -> dict[str, JSONValue] | None:
    """Facts of an output shard that is committed for this very selection."""
    with suppress(StoreError, OSError, KeyError, TypeError):
        facts = cast("dict[str, JSONValue]", read_json(record_path(output, name)))
        if facts["mark"] == mark and (output / name).stat().st_size == facts["size"]:
            return facts
    return None


def write_fingerprint(selection_mark: str, config: WriteConfig) -> str:
    """What the output shards depend on."""
    return fingerprint({"selection": selection_mark, "write": config.as_json()})


def up_to_date(output: Path, mark: str) -> Manifest | None:
    """The manifest of a finished output for this very selection; None if anything is missing."""
    path = output / META / "manifest.json"
    if not path.exists():
        return None
    content = cast("dict", read_json(path))
    whole = all(
        (output / shard["name"]).exists() and (output / shard["name"]).stat().st_size == shard["size"]
        for shard in content["shards"]
    )
    sidecars = all((output / name).exists() for name in ("_info.json", "sizes.json", "shardindex.json"))
    if content["fingerprint"] != mark or not whole or not sidecars:
        return None
    return Manifest(
        n_kept=content["n_kept"],
        n_embedded=content["n_embedded"],
        fingerprint=mark,
        shards=content["shards"],
        path=str(output),
    )


def write(
    store: Store,
    selection: SelectionFile,
    output: Path,
    config: WriteConfig,
    executor: Executor,
    progress: Progress | None = None,
    *,
    recipe: str = "",
    overwrite: bool = False,
) -> Manifest:
    """`Manifest` of the pruned shards that now stand in ``output``, with the trainers' index files.

    Output shards are planned from the selection alone and are committed one by one, so a killed run goes on where it
    stopped and ends with the same bytes.

    Args:
        store: the store the selection was made from; its corpus is read.
        selection: which samples stay.
        output: folder; made if missing.
        config: samples in a shard, order.
        executor: where the copying runs.
        progress: told after each shard.
        recipe: YAML text of what decided the result, kept beside the shards.
        overwrite: replace the shards of another selection.

    Raises:
        UsageError: the output folder cannot be used.
        ShardError: a source changed since it was embedded.
        MachineError: no space.
    """
    progress = progress or SilentProgress()
    mark = write_fingerprint(selection.selection.fingerprint, config)
    _refuse_bad_output(store, output, mark, overwrite=overwrite)
    done = up_to_date(output, mark)
    if done is not None:
        return done
    work = output / META / "work"
    work.mkdir(parents=True, exist_ok=True)
    for folder in (output, output / META, output / META / "shards", work):
        sweep(folder)
    planned = plan(store, selection, config)
    # the name is new each time: a worker object that lives on in this process must not be taken for another plan's
    plan_path = work / f"plan.{os.getpid()}.{secrets.token_hex(4)}.npy"
    np.save(plan_path, planned, allow_pickle=False)
    try:
        shards = _write_shards(store, plan_path, planned, output, config, mark, executor, progress)
    finally:
        plan_path.unlink(missing_ok=True)
    _remove_strangers(output, {str(shard["name"]) for shard in shards})
    facts: dict[str, JSONValue] = {
        "n_kept": len(planned),
        "n_embedded": selection.selection.n_embedded,
        "fingerprint": mark,
    }
    write_sidecars(store, selection, planned, output, shards, facts, recipe)
    shutil.rmtree(work, ignore_errors=True)
    shutil.rmtree(output / META / "shards", ignore_errors=True)
    return cast("Manifest", up_to_date(output, mark))


def _write_shards(
    store: Store,
    plan_path: Path,
    planned: np.ndarray,
    output: Path,
    config: WriteConfig,
    mark: str,
    executor: Executor,
    progress: Progress,
) -> list[dict[str, JSONValue]]:
    """Facts of every output shard, in order, after those that were missing are written."""
    borders = shard_borders(len(planned), config.samples_per_shard).tolist()
    names = [f"shard-{number:06d}.tar" for number in range(len(borders) - 1)]
    facts = {name: _finished(output, name, mark) for name in names}
    kwargs: dict[str, object] = {"store": str(store.path), "plan": str(plan_path), "output": str(output), "mark": mark}
    tasks = [
        Task(name, {"name": name, "start": start, "stop": stop})
        for name, start, stop in zip(names, borders[:-1], borders[1:], strict=True)
        if facts[name] is None
    ]
    with progress.stage(
        "write", sum(cast("int", t.payload["stop"]) - cast("int", t.payload["start"]) for t in tasks), "samples"
    ) as ticker:
        for outcome in executor.run(StageSpec(WORKER, kwargs), tasks):
            if outcome.kind != "ok":
                if isinstance(outcome.error, SSPruningError):
                    raise outcome.error
                raise MachineError(f"writing {outcome.task_id}: {outcome.kind}: {outcome.error!r}")
            facts[outcome.task_id] = cast("dict[str, JSONValue]", outcome.value)
            ticker.tick(int(cast("int", cast("dict", outcome.value)["n_samples"])))
    found = [cast("dict[str, JSONValue]", facts[name]) for name in names]
    if sum(cast("int", shard["n_samples"]) for shard in found) != len(planned):
        raise StoreError(
            f"{output}: the shards do not hold the {len(planned)} planned samples; remove it and write again"
        )
    return [{key: value for key, value in shard.items() if key != "mark"} for shard in found]


def _remove_strangers(output: Path, names: set[str]) -> None:
    """Remove shards of an earlier, unfinished attempt with another plan."""
    for path in output.glob("shard-[0-9][0-9][0-9][0-9][0-9][0-9].tar"):
        if path.name not in names:
            path.unlink()
