"""An output shard read again when it stands: is it what was planned, and what do index files have to know of it?"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from sspruning.errors import DataError, ShardError
from sspruning.records import OutputSample
from sspruning.storage.samples import ShardReader
from sspruning.storage.tar_scan import Hasher

__all__ = ["Found", "read_back", "read_known"]


class Found(NamedTuple):
    """What is in a shard."""

    samples: list[OutputSample]
    """In archive order."""
    suffixes: dict[str, int]
    """Samples by their set of suffixes, as `sspruning.records.OutputShard` has them."""


def _read(path: str, hasher: Hasher | None = None) -> Found:
    samples: list[OutputSample] = []
    kinds: Counter[tuple[str, ...]] = Counter()
    with ShardReader(path, hasher=hasher) as reader:
        for sample in reader.samples():
            if sample.skip_reason is not None:
                raise ShardError(path, sample.block_start, f"sample {sample.key!r}: {sample.skip_reason}")
            members = cast("list[tuple[str, int, int]]", sample.members)
            kinds[tuple([member[0] for member in members])] += 1
            samples.append(OutputSample(sample.key, members))
    suffixes: Counter[str] = Counter()
    for kind, count in kinds.items():
        suffixes[";".join(sorted(kind))] += count
    return Found(samples, dict(suffixes))


def read_back(path: Path, n_samples: int) -> Found:
    """What is in a shard that was just written; a shard that is not what was planned is removed.

    Raises:
        DataError: says what was found instead.

    Cost:
        3 microseconds a sample, from the system's cache; memory: some 400 bytes a sample.
    """
    problem = ""
    try:
        found = _read(str(path))
        if len(found.samples) == n_samples:
            return found
        problem = f"{len(found.samples):,} samples"
    except ShardError as error:
        problem = str(error)
    path.unlink(missing_ok=True)
    raise DataError(
        f"{path}: was written with {n_samples:,} samples, but reads back with {problem}. If shards share keys, embed "
        "them with --repeated-keys prefix; otherwise check the disk, and run the same command again"
    )


def read_known(path: str, known: Mapping[str, Any]) -> Found | None:
    """What is in a shard that stands already; None if it is not the one that ``known`` records, so must be written.

    Args:
        path: of the shard, or its URL.
        known: its `sha256` and `n_samples`.

    Cost:
        one read of the shard, all of it hashed.
    """
    hasher = hashlib.sha256()
    try:
        found = _read(path, hasher)
    except (ShardError, OSError):
        return None
    return found if hasher.hexdigest() == known["sha256"] and len(found.samples) == known["n_samples"] else None
