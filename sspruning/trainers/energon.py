"""Megatron Energon: a description in ``.nv-meta/`` and an index of samples for each shard.

``shard-000000.tar.idx`` holds little-endian 8-byte numbers: where each sample begins, and where the last one ends.
Source: ``megatron/energon/flavors/webdataset/`` (`metadata.py`, `itar.py`, `itar_reader.py`).
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import logging
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from sspruning.errors import DataError
from sspruning.records import JSONValue, Output, OutputSample, OutputShard
from sspruning.trainers import Files
from sspruning.trainers.shards import count_samples, folder_of, image_suffixes, json_pieces, key_of

__all__ = ["ENERGON", "Energon"]

META = ".nv-meta"
BLOCK = 512


class Energon:
    """Loaders made with Megatron Energon."""

    title = "Megatron Energon"
    packages = ("megatron.energon",)
    install = "pip install megatron-energon"
    needs = (f"{META}/.info.json", f"{META}/split.yaml", f"{META}/dataset.yaml", "{shard}.idx")
    remark = (
        "joining datasets needs its database of samples as well: "
        "energon prepare --non-interactive --force-overwrite --split-parts 'train:.*' --skip-dataset-yaml DIR"
    )

    def shard_files(self, shard: OutputShard, samples: Sequence[OutputSample]) -> Files:
        """The index of a shard; samples stand without gaps, so each begins where the one before it ends."""
        ends = [max(start + size for _, start, size in sample.members) for sample in samples]
        offsets = np.array([0, *(-(-end // BLOCK) * BLOCK for end in ends)], "<u8")
        yield f"{shard.name}.idx", [offsets.tobytes()]

    def files(self, output: Output) -> Files:
        """Counts (for releases before 7 as well), one split named train, and which member becomes which field."""
        counts: JSONValue = {"shard_counts": {shard.name: shard.n_samples for shard in output.shards}}
        split: JSONValue = {"exclude": [], "split_parts": {"train": [shard.name for shard in output.shards]}}
        yield f"{META}/.info.json", json_pieces(counts)
        yield f"{META}/.info.yaml", json_pieces(counts)  # JSON is YAML
        yield f"{META}/split.yaml", json_pieces(split)
        yield f"{META}/dataset.yaml", [_dataset(output).encode()]

    def obstacles(self, output: Output) -> list[str]:
        """None."""
        del output
        return []

    def command(self, output: Output) -> str:
        """A training dataset, as its documentation begins."""
        return (
            f"megatron.energon.get_train_dataset({folder_of(output)!r}, batch_size=32, shuffle_buffer_size=100, "
            "max_samples_per_sequence=100, worker_config=megatron.energon.WorkerConfig.default_worker_config())"
        )

    def read(self, output: Output) -> Iterator[str]:
        """Keys of what Energon's training dataset decodes and yields."""
        energon = import_module("megatron.energon")
        with tempfile.TemporaryDirectory() as links:
            folder = folder_of(output)
            if _is_beginning(output):
                folder = _linked(output, links)
            with contextlib.redirect_stdout(io.StringIO()):  # it prints its share of the shards
                dataset = energon.get_train_dataset(
                    folder,
                    batch_size=None,
                    shuffle_buffer_size=None,
                    max_samples_per_sequence=None,
                    worker_config=_worker(energon.WorkerConfig),
                    repeat=False,
                )
                loader = energon.get_loader(dataset)
            for sample in loader:
                (source,) = sample.__sources__
                yield sample.__key__.removeprefix(f"{source.shard_name}/")  # which some releases put in front

    def read_by_rule(self, output: Output) -> Iterator[str]:
        """Keys of the samples in the byte ranges of the index, each read as a tar of its own."""
        wanted = set(_images(output))
        for shard in output.shards:
            path = Path(output.folder, shard.name)
            offsets = np.fromfile(path.with_name(f"{shard.name}.idx"), "<u8").tolist()
            with path.open("rb") as stream:
                for start, end in itertools.pairwise(offsets):
                    stream.seek(start)
                    with tarfile.open(fileobj=io.BytesIO(stream.read(end - start)), mode="r:") as members:
                        names = [name for name in members.getnames() if "." in name.rpartition("/")[2]]
                    keys = {key_of(name) for name in names}
                    if len(keys) != 1 or wanted.isdisjoint(name[len(key_of(name)) + 1 :] for name in names):
                        raise DataError(
                            f"{shard.name}.idx: bytes {start:,} to {end:,} are no sample with an image: {names}"
                        )
                    yield keys.pop()


def _worker(kind: Any) -> Any:
    """The `WorkerConfig` of one process that logs samples it cannot use, where it would print them at length."""
    handler = {"global_error_handler": _heard} if "global_error_handler" in kind.__dataclass_fields__ else {}
    return kind(rank=0, world_size=1, num_workers=0, **handler)


def _heard(error: Exception, *details: object) -> None:
    del details
    logging.getLogger(__name__).warning("%s: %s", type(error).__name__, error)


def _images(output: Output) -> list[str]:
    """Suffixes of images in small and in large letters: Energon takes names as they are."""
    return [spelled for suffix in image_suffixes(output) for spelled in (suffix, suffix.upper())]


def _dataset(output: Output) -> str:
    """``dataset.yaml``: captions are a field if every sample has one."""
    captioned = not count_samples(output, without=["txt"])
    lines = [
        "sample_type:",
        "  __module__: megatron.energon",
        f"  __class__: {'CaptioningSample' if captioned else 'ImageSample'}",
        "field_map:",
        f"  image: {json.dumps(','.join(_images(output)))}",
        *(["  caption: txt"] if captioned else []),
    ]
    return "\n".join([*lines, ""])


def _is_beginning(output: Output) -> bool:
    """Whether the index speaks of more shards than the output."""
    listed = list(json.loads(Path(output.folder, META, ".info.json").read_text(encoding="utf-8"))["shard_counts"])
    names = [shard.name for shard in output.shards]
    return len(names) < len(listed) and listed[: len(names)] == names


def _linked(output: Output, folder: str) -> str:
    """The folder, with links to the output's shards and their indices, and a description of these alone."""
    Path(folder, META).mkdir()
    for name, pieces in ENERGON.files(output):
        Path(folder, name).write_bytes(b"".join(pieces))
    for shard in output.shards:
        for name in (shard.name, f"{shard.name}.idx"):
            Path(folder, name).symlink_to(Path(output.folder, name).absolute())
    return folder


ENERGON = Energon()
