"""A folder of pruned shards, read: what its manifest says, and its samples in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from sspruning.errors import StoreError, UsageError
from sspruning.storage.atomic import read_json
from sspruning.storage.samples import Sample, ShardReader

__all__ = ["META", "PrunedFolder", "PrunedShard"]

META = ".sspruning"
"""Folder of everything that is no shard and no index of a trainer."""
FORMAT = "sspruning-output"
VERSIONS = (1, 2)


@dataclass(frozen=True, slots=True)
class PrunedShard:
    """One shard, as the manifest has it."""

    path: str
    n_samples: int
    size: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class PrunedFolder:
    """A finished folder of pruned shards."""

    path: Path
    fingerprint: str
    """Hex digest of everything that its shards depend on."""
    shards: tuple[PrunedShard, ...]
    """In the order of the manifest, which is the order of samples."""
    image_key: tuple[str, ...] = ()
    """Suffixes of the image, in order of preference; none where the manifest is too old to tell."""

    @classmethod
    def open(cls, folder: Path) -> PrunedFolder:
        """The pruned shards in ``folder``, all of them there and of the recorded size.

        Raises:
            UsageError: no such folder, or it has no manifest.
            StoreError: the manifest is damaged, or a shard is missing or has another size.
        """
        if not folder.is_dir():
            raise UsageError(f"{folder}: no such folder; give a folder of pruned shards")
        manifest = folder / META / "manifest.json"
        if not manifest.exists():
            raise UsageError(
                f"{folder}: no finished pruned shards here ({META}/manifest.json is missing); give the folder that "
                "`sspruning write` or `run` made, or, if that was interrupted, run the same command again"
            )
        try:
            content = cast("dict", read_json(manifest))
            if content["format"] != FORMAT or content["format_version"] not in VERSIONS:
                raise StoreError(
                    f"{manifest}: {content['format']!r} {content['format_version']!r}; this release reads {FORMAT!r} "
                    f"{' and '.join(map(str, VERSIONS))}; use the release that wrote it, or write the shards again"
                )
            shards = tuple(
                PrunedShard(str(folder / _plain(shard["name"])), int(shard["n_samples"]), int(shard["size"]))
                for shard in content["shards"]
            )
            mark = content.get("shards_fingerprint", content["fingerprint"])
            found = cls(folder, str(mark), shards, tuple(map(str, content.get("image_key", ()))))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{manifest}: damaged ({error!r}); run `sspruning write` again") from error
        for shard in shards:
            path = Path(shard.path)
            if not path.is_file() or path.stat().st_size != shard.size:
                raise StoreError(
                    f"{path}: missing, or not the {shard.size:,} bytes of the manifest; copy it again from its source, "
                    "or run `sspruning write` again"
                )
        return found

    @property
    def n_samples(self) -> int:
        """Samples of all shards."""
        return sum(shard.n_samples for shard in self.shards)

    @property
    def selection(self) -> Path:
        """The selection that the shards were written from."""
        return self.path / META / "selection.parquet"

    def samples(self, number: int, start: int = 0) -> Iterator[tuple[ShardReader, Sample]]:
        """Samples of shard ``number`` from its sample ``start`` on, each with the open shard that its bytes lie in.

        Raises:
            ShardError: the shard is damaged, or gone.
            StoreError: it has other samples than the manifest says.
        """
        shard = self.shards[number]
        with ShardReader(shard.path) as reader:
            row = -1
            for row, sample in enumerate(reader.samples()):
                if row >= start:
                    yield reader, sample
            if row + 1 != shard.n_samples:
                raise StoreError(
                    f"{shard.path}: has {row + 1:,} samples, and {shard.n_samples:,} in the manifest; "
                    "run `sspruning verify`"
                )


def _plain(name: object) -> str:
    """A file name.

    Raises:
        ValueError: it is a path.
    """
    if not isinstance(name, str) or not name or Path(name).name != name:
        raise ValueError(f"{name!r} is not a file name")
    return name
