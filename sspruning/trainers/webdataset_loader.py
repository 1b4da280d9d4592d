"""webdataset: the library itself, which needs nothing beside the shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sspruning.records import Output, OutputSample, OutputShard
from sspruning.trainers import Files
from sspruning.trainers.shards import paths_of, shard_range

__all__ = ["WEBDATASET", "WebDatasetLoader"]


class WebDatasetLoader:
    """Loaders made with webdataset."""

    title = "webdataset"
    packages = ("webdataset",)
    install = "pip install webdataset"
    needs = ()
    remark = "every worker of a DataLoader needs a shard of its own (write with --min-shards)"

    def shard_files(self, shard: OutputShard, samples: Sequence[OutputSample]) -> Files:
        """None."""
        del shard, samples
        return iter(())

    def files(self, output: Output) -> Files:
        """None."""
        del output
        return iter(())

    def obstacles(self, output: Output) -> list[str]:
        """None."""
        del output
        return []

    def command(self, output: Output) -> str:
        """A dataset with shards and samples in random order."""
        return f"webdataset.WebDataset({shard_range(output)!r}, shardshuffle={len(output.shards)}).shuffle(1000)"

    def read(self, output: Output) -> Iterator[str]:
        """Keys of what ``webdataset.WebDataset`` yields."""
        from webdataset.compat import WebDataset

        for sample in WebDataset(paths_of(output), shardshuffle=False):
            yield sample["__key__"]

    def read_by_rule(self, output: Output) -> Iterator[str] | None:
        """None: its own code is asked."""
        del output
        return None


WEBDATASET = WebDatasetLoader()
