"""wids: random access by ``shardindex.json``."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path

from sspruning.records import JSONValue, Output, OutputSample, OutputShard
from sspruning.trainers import Files
from sspruning.trainers.shards import folder_of, json_pieces

__all__ = ["WIDS", "Wids"]

INDEX = "shardindex.json"


class Wids:
    """Loaders made with wids."""

    title = "wids"
    packages = ("wids",)
    install = "pip install wids"
    needs = (INDEX,)
    remark = "without localname it first copies every shard to /tmp/_wids_cache, and reads old copies there later on"

    def shard_files(self, shard: OutputShard, samples: Sequence[OutputSample]) -> Files:
        """None."""
        del shard, samples
        return iter(())

    def files(self, output: Output) -> Files:
        """``shardindex.json``: samples and bytes of each shard; paths are relative to it."""
        shards: list[JSONValue] = [
            {"url": shard.name, "nsamples": shard.n_samples, "filesize": shard.size} for shard in output.shards
        ]
        yield INDEX, json_pieces({"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": shards})

    def obstacles(self, output: Output) -> list[str]:
        """None that can be seen without reading shards: names over 100 characters are cut by its tar reader."""
        del output
        return []

    def command(self, output: Output) -> str:
        """A dataset with random access that reads the shards where they are."""
        index = f"{folder_of(output)}/{INDEX}"
        return f"wids.ShardListDataset({index!r}, localname=lambda path: path)"

    def read(self, output: Output) -> Iterator[str]:
        """Keys of what ``wids.ShardListDataset`` finds by number; members are not decoded, which may unpickle."""
        wids = import_module("wids")
        with tempfile.TemporaryDirectory() as links:

            def linked(path: str) -> str:
                link = Path(links, Path(path).name)  # beside it, wids makes a lock file
                if not link.is_symlink():
                    link.symlink_to(path)
                return str(link)

            with contextlib.redirect_stderr(io.StringIO()):  # it prints what it opened
                dataset = wids.ShardListDataset(
                    f"{folder_of(output)}/{INDEX}", localname=linked, transformations=[], lru_size=2
                )
            try:
                for index in range(sum(dataset.lengths[: len(output.shards)])):
                    yield dataset[index]["__key__"]
            finally:
                dataset.close()

    def read_by_rule(self, output: Output) -> Iterator[str] | None:
        """None: its own code is asked."""
        del output
        return None


WIDS = Wids()
