"""timm: its reader of webdataset folders, with counts from ``_info.json`` and labels from ``.cls`` members."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from sspruning.errors import DataError
from sspruning.records import JSONValue, Output, OutputSample, OutputShard
from sspruning.trainers import Files
from sspruning.trainers.shards import (
    count_samples,
    folder_of,
    image_suffixes,
    json_pieces,
    quoted,
    shard_range,
)

__all__ = ["TIMM", "Timm"]

INFO = "_info.json"
INPUT_KEY = ("jpg", "png", "webp")
"""Suffixes of images that timm looks for where it is not told others."""
WORKERS = 4
"""Of its data loader, where it is not told another number; one without a shard of its own cuts the epoch short."""


class Timm:
    """timm's training script and its loaders."""

    title = "timm"
    packages = ("timm", "webdataset")
    install = "pip install timm webdataset"
    needs = (INFO,)
    remark = ""

    def shard_files(self, shard: OutputShard, samples: Sequence[OutputSample]) -> Files:
        """None."""
        del shard, samples
        return iter(())

    def files(self, output: Output) -> Files:
        """``_info.json``: one split named train; its reader asks for all four fields."""
        split: dict[str, JSONValue] = {
            "name": "train",
            "num_samples": output.n_samples,
            "filenames": [shard.name for shard in output.shards],
            "shard_lengths": [shard.n_samples for shard in output.shards],
        }
        yield INFO, json_pieces({"splits": {"train": split}})

    def obstacles(self, output: Output) -> list[str]:
        """Samples without a class, which timm leaves out with a warning at most."""
        unlabeled = count_samples(output, without=["cls"])
        if not unlabeled:
            return []
        return [
            f"{unlabeled:,} of {output.n_samples:,} samples have no .cls, and timm leaves them out without an error: "
            "write with --cls cluster (the number of the prototype as class) or --cls zero"
        ]

    def command(self, output: Output) -> str:
        """The training script of timm, told what differs from its defaults: suffixes of images, few shards."""
        keys, shards = _input_key(output), len(output.shards)
        more = f" --input-key {quoted(keys)}" if keys != ";".join(INPUT_KEY) else ""
        more += f" --workers {shards}" if shards < WORKERS else ""
        folder = quoted(folder_of(output))
        return f"python train.py --dataset wds/pruned --data-dir {folder} --train-split train --val-split ''{more}"

    def read(self, output: Output) -> Iterator[str]:
        """Keys of what ``timm.data.create_dataset("wds/...")`` decodes, labels, and yields."""
        from timm.data import create_dataset

        dataset = create_dataset(
            "wds/pruned", root=folder_of(output), split=_split(output), input_key=_input_key(output)
        )
        if dataset.reader.num_samples != output.n_samples:
            raise DataError(f"{INFO} counts {dataset.reader.num_samples:,} samples; run `sspruning write` again")
        if next(iter(dataset), None) is None:
            return
        for sample in dataset.reader.ds:  # what the dataset iterates, before it drops the keys
            yield sample["__key__"]

    def read_by_rule(self, output: Output) -> Iterator[str] | None:
        """None: its own code is asked."""
        del output
        return None


def _input_key(output: Output) -> str:
    """Suffixes of images, in timm's order, then others that are there; timm needs jpg among them."""
    return ";".join(dict.fromkeys([*INPUT_KEY, *filter(None, image_suffixes(output))]))


def _split(output: Output) -> str:
    """The split of the index; the shards by name where the output is only its beginning."""
    listed = json.loads(Path(output.folder, INFO).read_text(encoding="utf-8"))["splits"]["train"]["filenames"]
    names = [shard.name for shard in output.shards]
    if len(names) < len(listed) and listed[: len(names)] == names:
        return f"{Path(shard_range(output)).name}|{output.n_samples}"
    return "train"


TIMM = Timm()
