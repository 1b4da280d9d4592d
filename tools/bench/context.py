"""What every case is given: input, temporary folder, repeats; and how two sides are timed in turns."""

from __future__ import annotations

import gc
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sspruning.records import EncoderSpec
from sspruning.storage.corpus import Corpus, open_corpus

__all__ = ["Context", "interleave", "seconds"]


@dataclass(frozen=True, slots=True)
class Context:
    """Input and settings of a benchmark run."""

    repository: Path
    pattern: str
    """Glob of the shards to measure on."""
    photos: Path
    """One shard of photographs."""
    temp: Path
    repeats: int
    workers: int
    """Processes; one for each usable core."""
    encoder: EncoderSpec
    """The shipped encoder."""
    smoke: bool = False
    """Sizes so small that figures mean nothing; only to see that a case runs."""

    @property
    def corpus(self) -> Corpus:
        """The shards to measure on."""
        return open_corpus([self.pattern])

    def folder(self, name: str) -> Path:
        """An empty temporary folder."""
        folder = self.temp / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder


def seconds(work: Callable[[], object]) -> float:
    """Wall time of ``work``."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def interleave(
    repeats: int, sides: Mapping[str, Callable[[], float]], *, warm_up: bool = True
) -> dict[str, list[float]]:
    """What each side returned at each repeat, sides in turns: A B A B ...

    Args:
        repeats: measured rounds; every one is kept.
        sides: functions that return the seconds they took, without their own preparations.
        warm_up: let every side run once before, unmeasured, so that all find a warm page cache.
    """
    measured: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(-1 if warm_up else 0, repeats):
        for name, side in sides.items():
            gc.collect()
            os.sync()  # what the side before left to the disk must not slow this one
            value = side()
            if number >= 0:
                measured[name].append(value)
    return measured
