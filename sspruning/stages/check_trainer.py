"""Proof that trainers read pruned shards: each trainer's own code reads one epoch, and its keys are compared."""

from __future__ import annotations

import importlib.util
import logging
import sys
import time
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from sspruning.errors import DataError, UsageError
from sspruning.progress import Progress, SilentProgress, Ticker
from sspruning.records import U64, Output
from sspruning.stages.inspect import key_hash
from sspruning.stages.sidecars import output_of
from sspruning.storage.output_place import local_only
from sspruning.storage.samples import ShardReader
from sspruning.trainers import TRAINERS, Trainer

__all__ = ["TrainerCheck", "check_trainer"]

BATCH = 4096  # keys compared at once
SHOWN = 3  # keys that a result names
LENGTH = 300  # characters of a message that are kept


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerCheck:
    """What came of one trainer."""

    name: str
    title: str
    way: Literal["run", "by rule", "no package", "no index"]
    """Its own code ran; its documented rule was followed; or why neither."""
    n_samples: int
    """Samples in the shards."""
    n_read: int = 0
    n_lost: int = 0
    """Samples that it did not yield."""
    n_strange: int = 0
    """Samples that it yielded though they are not in the shards, or had come before."""
    lost: list[str] = field(default_factory=list)
    """The first keys of those."""
    strange: list[str] = field(default_factory=list)
    keys_told: bool = True
    """Whether keys were compared; otherwise only the count."""
    seconds: float = 0.0
    problem: str = ""
    """What stopped it, or keeps it from starting."""
    heard: str = ""
    """The first warning that it logged."""
    obstacles: list[str] = field(default_factory=list)
    command: str = ""
    remark: str = ""
    version: str = ""
    """Of its first package; empty where it does not tell."""

    @property
    def ok(self) -> bool | None:
        """True if it read every sample once and nothing else; None if it was not started."""
        if self.way in {"no package", "no index"}:
            return None
        return not self.problem and self.n_read == self.n_samples and not self.n_lost and not self.n_strange


def check_trainer(
    folder: str | Path,
    names: Sequence[str] = (),
    *,
    limit: int | None = None,
    progress: Progress | None = None,
) -> list[TrainerCheck]:
    """What came of each trainer of ``names``, all of the table if there are none, in that order.

    Whatever a trainer's own code raises becomes the `problem` of its result.

    Args:
        folder: pruned shards.
        names: of ``sspruning.trainers.TRAINERS``.
        limit: read the first shards only, this many.
        progress: told what is read.

    Raises:
        UsageError: an unknown name, or a limit below 1.
        DataError: the folder holds no finished output, or a damaged one.

    Cost:
        one reading of the shards for each trainer, with its own decoding; 40 bytes of memory a sample.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit}: expected a number of shards, 1 or more")
    for name in names:
        TRAINERS.check(name)
    progress = progress or SilentProgress()
    output = output_of(local_only(folder, "trainers are checked on"))
    if limit is not None:
        output = replace(output, shards=output.shards[:limit])
    known = _known(output, progress)
    return [_check(name, output, known, progress) for name in names or TRAINERS]


def _known(output: Output, progress: Progress) -> U64:
    """(n,) hashes of the keys in the shards, sorted."""
    hashes = np.empty(output.n_samples, np.uint64)
    at = 0
    with progress.stage("keys", output.n_samples, "samples") as ticker:
        for shard in output.shards:
            own = np.array([key_hash(key) for key in _keys(output, shard.name)], np.uint64)
            if len(own) != shard.n_samples:
                raise DataError(
                    f"{Path(output.folder, shard.name)}: has {len(own):,} samples, the manifest says "
                    f"{shard.n_samples:,}; run `sspruning verify {output.folder}`"
                )
            hashes[at : at + len(own)] = own
            at += len(own)
            ticker.tick(len(own))
    hashes.sort()
    return hashes


def _keys(output: Output, shard: str) -> Iterator[str]:
    with ShardReader(str(Path(output.folder, shard))) as reader:
        for sample in reader.samples():
            yield sample.key


def _check(name: str, output: Output, known: U64, progress: Progress) -> TrainerCheck:
    trainer = TRAINERS.resolve(name)
    result = TrainerCheck(
        name=name,
        title=trainer.title,
        way="run",
        n_samples=output.n_samples,
        obstacles=trainer.obstacles(output),
        command=trainer.command(output),
        remark=trainer.remark,
    )
    if absent := _absent(trainer, output):
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        problem = f"it needs {absent[0]}{more}: write again with {name} among --index"
        return replace(result, way="no index", problem=problem)
    lacking = ", ".join(package for package in trainer.packages if not _importable(package))
    if not lacking:
        try:
            return _read(result, trainer.read(output), output, known, progress)
        except ImportError as error:  # of what it imports itself
            lacking = _first_line(error)
    problem = f"not installed: {lacking} ({trainer.install})"
    by_rule = trainer.read_by_rule(output)
    if by_rule is None:
        return replace(result, way="no package", problem=problem)
    result = replace(result, way="by rule", remark="; ".join(filter(None, [problem, trainer.remark])))
    return _read(result, by_rule, output, known, progress)


def _absent(trainer: Trainer, output: Output) -> list[str]:
    """Files that the trainer needs and that are not there."""
    needed = dict.fromkeys(
        need.format(shard=shard.name, stem=Path(shard.name).stem) for need in trainer.needs for shard in output.shards
    )
    return [name for name in needed if not Path(output.folder, name).exists()]


def _importable(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # a parent that is missing, or is no package
        return False


@dataclass(slots=True)
class _Reading:
    """What a trainer has yielded so far."""

    n: int = 0
    told: bool = True
    hashes: list[U64] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def take(self, keys: Iterator[str], known: U64, ticker: Ticker) -> None:
        """Read to the end, but no further than one sample too many; what comes before an error counts."""
        batch: list[str] = []
        try:
            for key in islice(keys, len(known) + 1):
                batch.append(key)
                if len(batch) == BATCH:
                    self._add(batch, known, ticker)
                    batch = []
        finally:
            self._add(batch, known, ticker)

    def _add(self, batch: list[str], known: U64, ticker: Ticker) -> None:
        self.n += len(batch)
        self.told = self.told and all(batch)
        own = np.array([key_hash(key) for key in batch], np.uint64)
        self.hashes.append(own)
        if self.told and len(self.unknown) < SHOWN:
            fresh = np.flatnonzero(~np.isin(own, known)).tolist()
            self.unknown += [batch[index] for index in fresh[: SHOWN - len(self.unknown)]]
        ticker.tick(len(batch))


def _read(result: TrainerCheck, keys: Iterator[str], output: Output, known: U64, progress: Progress) -> TrainerCheck:
    """The result with what was read, and how it compares.

    Raises:
        ImportError: the trainer lacks something and has yielded nothing.
    """
    reading, problem = _Reading(), ""
    started = time.monotonic()
    with progress.stage(result.name, output.n_samples, "samples") as ticker, _listening() as heard:
        try:
            reading.take(keys, known, ticker)
        except MemoryError:
            raise
        except ImportError:
            if not reading.n:
                raise
            problem = "it lacks a package"
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a trainer may raise anything
            problem = f"{type(error).__name__}: {_first_line(error)}"
    result = replace(
        result,
        n_read=reading.n,
        keys_told=reading.told,
        seconds=time.monotonic() - started,
        problem=problem,
        heard=heard[0] if heard else "",
        version=_version(TRAINERS.resolve(result.name)) if result.way == "run" else "",
    )
    if not reading.told:
        missing = output.n_samples - reading.n
        return replace(result, n_lost=max(0, missing), n_strange=max(0, -missing))
    return _compared(result, reading, output, known)


def _compared(result: TrainerCheck, reading: _Reading, output: Output, known: U64) -> TrainerCheck:
    """The result with the samples that are lost or too many, by key."""
    read = np.sort(np.concatenate([np.empty(0, np.uint64), *reading.hashes]))
    values = np.union1d(known, read)
    difference = _counts(values, read) - _counts(values, known)
    lost, again = values[difference < 0], values[difference > 0]
    return replace(
        result,
        n_lost=int(-difference[difference < 0].sum()),
        n_strange=int(difference[difference > 0].sum()),
        lost=_named(output, lost),
        strange=reading.unknown + _named(output, again),
    )


def _counts(values: U64, of: U64) -> np.ndarray:
    """(m,) how often each of the values occurs in a sorted array."""
    return np.searchsorted(of, values, "right") - np.searchsorted(of, values, "left")


def _named(output: Output, hashes: U64) -> list[str]:
    """The first keys in the shards that have one of these hashes."""
    if not len(hashes):
        return []
    wanted = set(hashes[: 1 << 16].tolist())
    keys = (key for shard in output.shards for key in _keys(output, shard.name) if key_hash(key) in wanted)
    return list(islice(keys, SHOWN))


@contextmanager
def _listening() -> Generator[list[str]]:
    """The first message that is logged meanwhile; it and Python's warnings do not go to the terminal."""
    heard: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if not heard:
                heard.append(record.getMessage()[:LENGTH])

    root = logging.getLogger()
    handlers = root.handlers[:]
    root.handlers[:] = [Ear(logging.WARNING)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield heard
    finally:
        root.handlers[:] = handlers


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:LENGTH] if lines else type(error).__name__


def _version(trainer: Trainer) -> str:
    """Name and version of the trainer's first package, as it says itself."""
    package = trainer.packages[0]
    version = getattr(sys.modules.get(package), "__version__", None)
    return f"{package} {version}" if isinstance(version, str) else ""
