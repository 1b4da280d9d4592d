"""Weak scaling of an array by replay: recorded times of shards, drawn again, and costs that grow with the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Costs", "Replay", "fitted", "replay"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What a task costs besides its shards: seconds, from the number of all shards N and of its own m."""

    start_s: Sequence[float]
    """Recorded: from the start of the process to the first shard."""
    fixed_s: float
    per_shard_s: float
    """Times N: listing the corpus, reading `corpus.json`, looks at the folder of parts."""
    per_own_shard_s: float
    """Times m: commit records, read as often as a task does."""
    last_per_shard_s: float
    """Times N, for the task that comes last: all commit records and the manifest."""
    calls_per_shard: float = 0.0
    """Times N: calls to the file system of a task, for a file server that all tasks share."""
    calls_per_own_shard: float = 0.0
    server_calls_per_s: float = float("inf")
    """What the file server answers in a second, all tasks together."""


@dataclass(frozen=True, slots=True)
class Replay:
    """One array."""

    workers: int
    n_shards: int
    total_s: float
    """Until the last task has ended, median of the replays."""
    shards_s: float
    """Of that, in a mean task: its shards."""
    start_s: float
    listing_s: float
    """What grows with the number of all shards, processor time of the task."""
    server_s: float
    """Waiting for the file server, if it is the bottleneck."""
    straggling_s: float
    """Between the mean task and the last."""
    last_s: float


def fitted(points: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    """(fixed, per N, per m) of ``(N, m, seconds)`` by least squares, none below 0."""
    rows = np.array([(1.0, n, m) for n, m, _ in points])
    seconds = np.array([value for *_, value in points])
    weights = 1 / np.maximum(seconds, 1e-9)  # relative errors count, or the largest store would decide alone
    found, *_ = np.linalg.lstsq(rows * weights[:, None], seconds * weights, rcond=None)
    fixed, per_shard, per_own = (max(0.0, float(value)) for value in found)
    return fixed, per_shard, per_own


def replay(
    workers: int, shards_each: int, shard_s: Sequence[float], costs: Costs, *, seed: int, repeats: int = 20
) -> Replay:
    """`Replay` of an array of ``workers`` tasks with ``shards_each`` shards each, drawn with replacement."""
    draws = np.random.default_rng(seed)
    n = workers * shards_each
    listing = costs.fixed_s + costs.per_shard_s * n + costs.per_own_shard_s * shards_each
    calls = workers * (costs.calls_per_shard * n + costs.calls_per_own_shard * shards_each)
    server = max(0.0, calls / costs.server_calls_per_s - listing)
    last = costs.last_per_shard_s * n
    totals, means, starts = [], [], []
    for _ in range(repeats):
        own = draws.choice(np.asarray(shard_s), (workers, shards_each)).sum(1)
        start = draws.choice(np.asarray(costs.start_s), workers)
        totals.append(float((own + start).max()))
        means.append(float(own.mean()))
        starts.append(float(start.mean()))
    slowest, mean, begun = (float(np.median(values)) for values in (totals, means, starts))
    return Replay(
        workers=workers,
        n_shards=n,
        total_s=slowest + listing + server + last,
        shards_s=mean,
        start_s=begun,
        listing_s=listing,
        server_s=server,
        straggling_s=slowest - mean - begun,
        last_s=last,
    )
