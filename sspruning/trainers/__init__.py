"""Trainers: what each needs to find beside pruned shards, how it is started, and proof that it reads them.

A trainer is one file here and one line in the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from sspruning.records import Output, OutputSample, OutputShard
from sspruning.registry import Registry

__all__ = ["DEFAULT_INDEX", "TRAINERS", "Files", "Trainer"]

DEFAULT_INDEX = ("timm", "open_clip", "wids", "dino")
"""Trainers whose index files are written unless others are asked for."""

Files = Iterator[tuple[str, Iterable[bytes]]]
"""Names of files, relative to the output folder, and the pieces of their content."""


class Trainer(Protocol):
    """A program that reads pruned shards."""

    title: str
    """Its name as people write it."""
    packages: tuple[str, ...]
    """What has to be importable for `read`."""
    install: str
    """The command that installs them."""
    needs: tuple[str, ...]
    """Files that it does not start without, relative to the output folder; {shard} and {stem} stand for every shard."""
    remark: str
    """What people should know when they start it; may be empty."""

    def shard_files(self, shard: OutputShard, samples: Sequence[OutputSample]) -> Files:
        """Files that belong to one shard; asked in a writing worker when the shard stands. Most have none."""
        ...

    def files(self, output: Output) -> Files:
        """Files that belong to the whole output; asked once, when all shards stand."""
        ...

    def obstacles(self, output: Output) -> list[str]:
        """Why this trainer would not see every sample, each with the cure; empty if it would. Reads no shard."""
        ...

    def command(self, output: Output) -> str:
        """What to type to train with it: a command line, or lines of Python."""
        ...

    def read(self, output: Output) -> Iterator[str]:
        """Key of each sample that the trainer's own code yields in one epoch; "" where it does not tell keys.

        Index files may speak of more shards than ``output`` has; the samples of the others are left out.

        Raises:
            ImportError: one of `packages` is not installed.
            Exception: whatever the trainer's code raises.
        """
        ...

    def read_by_rule(self, output: Output) -> Iterator[str] | None:
        """The same, as the documentation of the trainer has it, without its packages; None where they are needed."""
        ...


TRAINERS: Registry[Trainer] = Registry(
    "trainer",
    {
        "timm": "sspruning.trainers.timm_wds:TIMM",
        "open_clip": "sspruning.trainers.open_clip:OPEN_CLIP",
        "webdataset": "sspruning.trainers.webdataset_loader:WEBDATASET",
        "hf": "sspruning.trainers.huggingface:HUGGINGFACE",
        "wids": "sspruning.trainers.wids_index:WIDS",
        "dino": "sspruning.trainers.dino:DINO",
        "dali": "sspruning.trainers.dali:DALI",
        "energon": "sspruning.trainers.energon:ENERGON",
    },
)
