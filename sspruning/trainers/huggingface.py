"""Hugging Face datasets, and what is built on it such as torchtitan: columns are those of the first samples."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from importlib import import_module

from sspruning.records import Output, OutputSample, OutputShard
from sspruning.trainers import Files
from sspruning.trainers.shards import folder_of, image_suffixes, paths_of

__all__ = ["HUGGINGFACE", "HuggingFace"]


class HuggingFace:
    """The loader "webdataset" of Hugging Face datasets."""

    title = "Hugging Face datasets"
    packages = ("datasets",)
    install = "pip install datasets"
    needs = ()
    remark = "name the shards with data_files: given the folder alone, it takes the index files beside them for data"

    def shard_files(self, shard: OutputShard, samples: Sequence[OutputSample]) -> Files:
        """None."""
        del shard, samples
        return iter(())

    def files(self, output: Output) -> Files:
        """None."""
        del output
        return iter(())

    def obstacles(self, output: Output) -> list[str]:
        """Samples that differ in their members: columns, and the image's too, come from the first five samples."""
        found = []
        images = image_suffixes(output)
        if len(images) > 1:
            first = next(iter(images))
            renaming = " ".join(f"--rename-suffix {suffix}={first}" for suffix in images if suffix != first)
            found.append(
                f"images have the suffixes {', '.join(images)}, and only the one of the first samples becomes a "
                f"column, so other samples come without an image: write with {renaming}"
            )
        if len(output.shards[0].suffixes) > 1:
            common = set.intersection(*(set(joined.split(";")) for joined in output.suffixes))
            found.append(
                f"samples differ in their members ({_listed(output)}), and the dataset is refused if the first five "
                f"do: write with --members '{';'.join(sorted(common | set(list(images)[:1])))}'"
            )
        return found

    def command(self, output: Output) -> str:
        """A streamed dataset."""
        files = f"{folder_of(output)}/*.tar"
        return f'datasets.load_dataset("webdataset", data_files={files!r}, split="train", streaming=True)'

    def read(self, output: Output) -> Iterator[str]:
        """Keys of what ``datasets.load_dataset("webdataset")`` decodes and yields with an image."""
        with tempfile.TemporaryDirectory() as cache:
            dataset = import_module("datasets").load_dataset(
                "webdataset", data_files=paths_of(output), split="train", streaming=True, cache_dir=cache
            )
            for sample in dataset:
                if any(sample.get(suffix) is not None for suffix in output.image_key):
                    yield sample["__key__"]

    def read_by_rule(self, output: Output) -> Iterator[str] | None:
        """None: its own code is asked."""
        del output
        return None


def _listed(output: Output) -> str:
    """The most frequent sets of suffixes, in words."""
    sets = output.suffixes
    words = [f"{count:,} have {joined.replace(';', ', ')}" for joined, count in list(sets.items())[:3]]
    return "; ".join(words) + ("; ..." if len(sets) > 3 else "")


HUGGINGFACE = HuggingFace()
