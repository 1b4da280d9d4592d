"""What tasks of an array cost, measured: shards of a real embedding, the start, and what grows with the store."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from sspruning import api
from sspruning.config import Config, load_config
from sspruning.encoders import build_encoder
from sspruning.execution import Executor, Outcome, StageSpec, Task
from sspruning.execution.processes import ProcessExecutor
from sspruning.records import EncoderSpec
from sspruning.stages.embed import embed
from sspruning.stages.embed_shard import embed_shard
from sspruning.stages.fill import limits_of, pending_shards
from sspruning.stages.status import status
from sspruning.storage.corpus import open_corpus
from sspruning.storage.store import Store

__all__ = ["Driver", "at_size", "shard_times", "start_times"]

ROOT = Path(__file__).resolve().parents[2]
COMMITS = 20


class _Timed:
    """An executor that notes the time between two outcomes: with one worker, that of a shard, its commit included."""

    workers = 1

    def __init__(self, inner: Executor) -> None:
        self.inner, self.seconds = inner, list[float]()

    def run(self, spec: StageSpec, tasks: Iterable[Task]) -> Iterator[Outcome]:
        before, found = time.perf_counter(), list[float]()
        for outcome in self.inner.run(spec, tasks):
            found.append(time.perf_counter() - before)
            yield outcome
            before = time.perf_counter()
        self.seconds = found

    def close(self) -> None:
        self.inner.close()


def shard_times(pattern: str, folder: Path) -> list[float]:
    """Seconds of each shard with one warm worker and the shipped encoder."""
    executor = _Timed(ProcessExecutor(workers=1))
    try:
        embed(open_corpus([pattern]), folder, EncoderSpec(), Config().corpus, executor)
    finally:
        executor.close()
    return executor.seconds


def start_times(pattern: str, folder: Path, repeats: int) -> list[float]:
    """Seconds of a task besides its shard: interpreter, libraries, worker, encoder, and the last words."""
    n, found = len(open_corpus([pattern]).shards), []
    for index in range(repeats):
        command = [sys.executable, "-m", "sspruning", "embed", pattern, "--store", str(folder), "--workers", "1"]
        command += ["--num-workers", str(n), "--worker-index", str(index)]
        begun = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        wall = time.perf_counter() - begun
        log = folder / "logs" / f"events.task-{index + 1}-of-{n}.jsonl"
        events = [json.loads(line) for line in log.read_text().splitlines()]
        found.append(wall - next(e["seconds"] for e in events if e["event"] == "end" and e["stage"] == "embed"))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """Seconds of what a task or a verb does with a store of ``n`` shards, none of which needs work."""

    n: int
    open_corpus: float
    pending: float
    """Of all shards."""
    records: float
    status: float
    commit: float
    """One part of one row and its record."""
    key_hashes: float
    tasks: dict[int, float]
    """By number of tasks: one with nothing to do, while another has something left."""
    last: float
    """One of the largest number of tasks that finds all settled and writes the manifest."""


def _seconds(work: Callable[[], object], repeats: int = 3) -> float:
    found = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        found.append(time.perf_counter() - begun)
    return median(found)


def _stand_in(folder: Path, shard: Path, n: int, config: Config) -> Store:
    """A store of ``n`` shards that all are one: links to its bytes and to its part, with records of their own."""
    shards = folder / "shards"
    shards.mkdir(parents=True)
    shutil.copyfile(shard, shards / "s-000000.tar")
    api.embed(str(shards), folder / "store", config=config)
    store = Store(folder / "store")
    [record] = store.records()
    for number in range(1, n):
        own = asdict(record) | {"shard_id": f"s-{number:06d}"}
        os.link(shards / "s-000000.tar", shards / f"s-{number:06d}.tar")
        os.link(store.part_path(record), store.path / "parts" / f"s-{number:06d}{record.part_name[8:]}")
        (store.path / "parts" / f"s-{number:06d}.json").write_text(json.dumps(own, sort_keys=True, indent=1) + "\n")
    store.set_shards(open_corpus([str(shards)]).shards)
    (store.path / "manifest.json").unlink()
    return store


def at_size(folder: Path, shard: Path, n: int, counts: tuple[int, ...]) -> Driver:
    """`Driver` for a store of ``n`` shards, made for the purpose in ``folder`` from one small shard."""
    keys = "corpus.repeated_keys=prefix"  # they are equal in all shards
    config = load_config(None, ["encoder.name=pixels", "execution.executor=inline", keys])
    store = _stand_in(folder, shard, n, config)
    corpus = open_corpus([str(folder / "shards")])

    def task(count: int) -> None:
        api.embed(str(folder / "shards"), store.path, config=config, worker_index=0, num_workers=count)

    def last() -> None:
        (store.path / "manifest.json").unlink(missing_ok=True)
        task(counts[-1])

    whole, hashes = _seconds(last), _seconds(lambda: list(store.key_hashes()), 1)
    left = store.path / "parts" / f"s-{n - 1:06d}.json"
    kept = left.read_bytes()
    left.unlink()
    tasks = {count: _seconds(lambda count=count: task(count)) for count in counts}
    left.write_bytes(kept)
    part, sha256, ignored = embed_shard(
        corpus.shards[1], build_encoder(config.encoder.spec()), limits_of(config.corpus)
    )
    return Driver(
        n=n,
        open_corpus=_seconds(lambda: open_corpus([str(folder / "shards")])),
        pending=_seconds(lambda: pending_shards(store.path, corpus)),
        records=_seconds(lambda: store.records(refresh=True)),
        status=_seconds(lambda: status(store.path)),
        commit=_seconds(lambda: store.commit(corpus.shards[1], sha256, part, ignored), COMMITS),
        key_hashes=hashes,
        tasks=tasks,
        last=whole,
    )
