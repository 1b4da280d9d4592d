"""Write: pruned shards with digests verified, against ``WebDataset -> select -> ShardWriter`` on the same shards."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np

from bench.context import Context, interleave, seconds
from bench.rows import Row, alone, compared
from sspruning.config import Config, WriteConfig, load_config
from sspruning.execution import Executor, make_executor
from sspruning.progress import SilentProgress
from sspruning.records import EncoderSpec
from sspruning.stages.embed import embed
from sspruning.stages.run import up_to_selections
from sspruning.stages.workspace import Workspace
from sspruning.stages.write import write
from sspruning.storage.artifacts import SelectionFile
from sspruning.storage.corpus import open_corpus
from sspruning.storage.samples import ShardReader
from sspruning.storage.store import Store

__all__ = ["measure"]

KEEP = 0.7


class _Sides:
    """The ways to write, each into a fresh folder; what it wrote is removed before the next."""

    def __init__(self, context: Context, store: Path, executor: Executor) -> None:
        self._context, self._executor = context, executor
        self._store = Store(store)
        workspace = Workspace.of(store)
        self._selection = SelectionFile.open(workspace.selection)
        self._recipe = Config().to_yaml(recipe_only=True)
        self.kept = self._selection.selection.n_kept
        self._paths = [shard.path for shard in context.corpus.shards]
        self._ranges, self._keys = self._kept_ranges()
        self._round = 0

    def _kept_ranges(self) -> tuple[list[tuple[str, int, int]], set[str]]:
        """(path, start, end) of the runs of kept samples, and the kept keys."""
        ranges: list[tuple[str, int, int]] = []
        keys: set[str] = set()
        shards = self._store.shards()
        for record, table in zip(self._store.records(), self._selection.groups(["key", "kept"]), strict=True):
            kept = table.column("kept").to_numpy()
            keys.update(np.array(table.column("key").to_pylist())[kept].tolist())
            with self._store.open_part(record) as part:
                starts, ends = part.column("block_start")[kept].tolist(), part.column("block_end")[kept].tolist()
            path = shards[record.shard_id].path
            for start, end in zip(starts, ends, strict=True):
                if ranges and ranges[-1][0] == path and ranges[-1][2] == start:
                    ranges[-1] = (path, ranges[-1][1], end)
                else:
                    ranges.append((path, start, end))
        return ranges, keys

    def _fresh(self, name: str) -> Path:
        """A folder that no worker has seen."""
        self._round += 1
        shutil.rmtree(self._context.temp / "write-output", ignore_errors=True)
        return self._context.folder("write-output") / f"{name}-{self._round}"

    def ours(self, executor: Executor | None = None) -> float:
        """The write stage."""
        output = self._fresh("ours")

        def work() -> None:
            write(self._store, self._selection, output, WriteConfig(), executor or self._executor, recipe=self._recipe)

        taken = seconds(work)
        self._check(output)
        return taken

    def inline(self) -> float:
        """The write stage in this process."""
        return self.ours(make_executor("inline", 1))

    def webdataset(self) -> float:
        """The plain way."""
        import webdataset as wds

        output = self._fresh("webdataset")
        output.mkdir()

        def work() -> None:
            source = wds.WebDataset(self._paths, shardshuffle=False).select(lambda s: s["__key__"] in self._keys)
            pattern = str(output / "shard-%06d.tar")
            with wds.ShardWriter(pattern, maxcount=WriteConfig().samples_per_shard, verbose=0) as writer:
                for sample in source:
                    writer.write(sample)

        taken = seconds(work)
        self._check(output)
        return taken

    def _check(self, output: Path) -> None:
        """Both ways must have written the same samples."""
        found = set()
        for shard in open_corpus([str(output)]).shards:
            with ShardReader(shard.path) as reader:
                found.update(sample.key for sample in reader.samples())
        if found != self._keys:
            raise RuntimeError(f"{output}: {len(found)} keys written, {len(self._keys)} selected")

    def files(self) -> float:
        """Every shard as it is, by the file copy of the standard library."""
        output = self._fresh("files")
        output.mkdir()
        return seconds(lambda: [shutil.copy(path, output) for path in self._paths])

    def blocks(self) -> float:
        """Kept blocks into one file: no digest, no index, no fsync."""
        output = self._fresh("blocks")

        def work() -> None:
            sources = {path: os.open(path, os.O_RDONLY) for path in self._paths}
            with output.open("wb", buffering=0) as stream:
                for path, start, end in self._ranges:
                    stream.write(os.pread(sources[path], end - start, start))
            for descriptor in sources.values():
                os.close(descriptor)

        return seconds(work)


def measure(context: Context) -> list[Row]:
    corpus = context.corpus
    store = context.folder("write-store")
    config = load_config(None, [f"select.keep_fraction={KEEP}", "encoder.name=pixels"], base=Config())
    executor = make_executor("local", context.workers)
    try:
        embed(corpus, store, EncoderSpec(name="pixels"), config.corpus, executor)
        up_to_selections(Workspace.of(store), config, executor, SilentProgress())
        sides = _Sides(context, store, executor)
        total = Store(store).n_rows
        times = interleave(
            context.repeats,
            {
                "ours": sides.ours,
                "webdataset": sides.webdataset,
                "inline": sides.inline,
                "files": sides.files,
                "blocks": sides.blocks,
            },
        )
    finally:
        executor.close()
    rates = {name: [sides.kept / t for t in taken] for name, taken in times.items()}
    baseline = "samples/s, WebDataset -> select -> ShardWriter"
    note = f"{sides.kept} of {total} samples; fsync, sha256, commit records and index files included"
    workers = f"{context.workers} warm local workers"
    return [
        compared(
            "write", f"keep {KEEP}, digests verified, {workers}", "samples/s", rates["ours"], baseline,
            rates["webdataset"], target="ratio >= 12", note=note,
        ),
        compared(
            "write", f"keep {KEEP}, digests verified, 1 process", "samples/s", rates["inline"], baseline,
            rates["webdataset"],
        ),
        alone("write", "context: shutil.copy of all files", "samples/s", [total / t for t in times["files"]]),
        alone("write", "context: raw copy of kept blocks, no digests, no fsync", "samples/s", rates["blocks"]),
    ]  # fmt: skip
