"""NVIDIA DALI, and NeMo's loaders on it: an index of members for each shard, so that it does not scan the tars itself.

``shard-000000.idx`` is a line ``v1.2 N``, then a line for each sample: ``suffix offset size name`` of every member.
Blanks separate these, so a shard with blanks in its names gets the older form v1.1, which holds no names.
Source: ``dali/operators/reader/loader/webdataset_loader.cc`` and ``tools/wds2idx.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path

from sspruning.errors import DataError
from sspruning.records import Output, OutputSample, OutputShard
from sspruning.trainers import Files
from sspruning.trainers.shards import folder_of, image_suffixes, key_of, paths_of

__all__ = ["DALI", "Dali"]

BLOCK = 512


class Dali:
    """Pipelines with ``nvidia.dali.fn.readers.webdataset``."""

    title = "NVIDIA DALI"
    packages = ("nvidia.dali",)
    install = "pip install nvidia-dali-cuda120, or nvidia-dali-cuda130"
    needs = ("{stem}.idx",)
    remark = ""

    def shard_files(self, shard: OutputShard, samples: Sequence[OutputSample]) -> Files:
        """The index of a shard; members whose suffix has a blank are left out, as it cannot be asked for."""
        named = not any(_has_blank(sample.key) for sample in samples)
        lines = [f"v1.{2 if named else 1} {len(samples)}"]
        for sample in samples:
            members = [member for member in sample.members if not _has_blank(member[0])]
            if not members:
                return  # it wants a member in every line
            lines.append(
                " ".join(
                    f"{suffix} {start} {size} {sample.key}.{suffix}" if named else f"{suffix} {start} {size}"
                    for suffix, start, size in members
                )
            )
        yield f"{Path(shard.name).stem}.idx", ["\n".join([*lines, ""]).encode()]

    def files(self, output: Output) -> Files:
        """None."""
        del output
        return iter(())

    def obstacles(self, output: Output) -> list[str]:
        """None."""
        del output
        return []

    def command(self, output: Output) -> str:
        """The reader, in a pipeline."""
        return (
            f"paths = sorted(glob.glob({folder_of(output) + '/shard-*.tar'!r}))\n"
            'nvidia.dali.fn.readers.webdataset(paths=paths, index_paths=[path[:-3] + "idx" for path in paths], '
            f'ext=["{";".join(image_suffixes(output))}"], missing_component_behavior="error")'
        )

    def read(self, output: Output) -> Iterator[str]:
        """Keys of the images that DALI's own reader yields, on the CPU; nothing where the index holds no names."""
        dali = import_module("nvidia.dali")

        @dali.pipeline_def(batch_size=1, num_threads=1, device_id=None)
        def reader() -> object:
            return dali.fn.readers.webdataset(
                paths=paths_of(output),
                index_paths=[path[:-3] + "idx" for path in paths_of(output)],
                ext=[";".join(image_suffixes(output))],
                missing_component_behavior="error",
                name="shards",
            )

        pipeline = reader()
        pipeline.build()
        for _ in range(pipeline.epoch_size("shards")):
            (images,) = pipeline.run()
            name = images[0].source_info().split(":")[-1]
            yield key_of(name) if "." in name else ""

    def read_by_rule(self, output: Output) -> Iterator[str]:
        """Keys of the images at the places of the index; nothing where it holds no names."""
        wanted = set(image_suffixes(output))
        for path in paths_of(output):
            index = Path(path).with_suffix(".idx")
            with index.open(encoding="utf-8") as lines, Path(path).open("rb") as shard:
                version, _ = next(lines).split()
                width = {"v1.1": 3, "v1.2": 4}[version]
                for line in lines:
                    fields = line.split()
                    members = [fields[at : at + width] for at in range(0, len(fields), width)]
                    found = next((member for member in members if member[0] in wanted), None)
                    if found is None or int(found[1]) % BLOCK:
                        raise DataError(f"{index}: no image, or one that does not begin with a block: {line.strip()}")
                    shard.seek(int(found[1]))
                    if len(shard.read(int(found[2]))) != int(found[2]):
                        raise DataError(f"{index}: speaks of bytes behind the end of the shard: {line.strip()}")
                    yield key_of(found[3]) if width == 4 else ""


def _has_blank(text: str) -> bool:
    return text.split() != [text]


DALI = Dali()
