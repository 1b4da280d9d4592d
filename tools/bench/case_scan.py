"""Scan: listing the samples of all shards, against iterating ``webdataset.WebDataset``. One process each."""

from __future__ import annotations

from bench.context import Context, interleave, seconds
from bench.rows import Row, compared
from sspruning.storage.samples import ShardReader

__all__ = ["measure"]


def measure(context: Context) -> list[Row]:
    import webdataset

    paths = [shard.path for shard in context.corpus.shards]
    counts: dict[str, int] = {}

    def ours() -> None:
        count = 0
        for path in paths:
            with ShardReader(path) as reader:
                for _ in reader.samples():
                    count += 1
        counts["ours"] = count

    def theirs() -> None:
        counts["theirs"] = sum(1 for _ in webdataset.WebDataset(paths, shardshuffle=False))

    times = interleave(context.repeats, {"ours": lambda: seconds(ours), "webdataset": lambda: seconds(theirs)})
    count = counts["ours"]
    if counts["theirs"] != count:
        raise RuntimeError(f"sspruning sees {count} samples, webdataset {counts['theirs']}")
    return [
        compared(
            "scan", "list samples, 1 process", "samples/s", [count / t for t in times["ours"]],
            "samples/s, webdataset.WebDataset", [count / t for t in times["webdataset"]],
            target="ratio >= 10", note=f"{count} samples, {len(paths)} shards; only webdataset reads the payloads",
        )
    ]  # fmt: skip
