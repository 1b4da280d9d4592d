"""Store to prototypes: a sample that does not depend on order, and a clustering of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sspruning.clusterers import CLUSTERERS, KMeansSettings
from sspruning.config import ClusterConfig
from sspruning.errors import DataError, UsageError
from sspruning.fingerprint import fingerprint, short
from sspruning.progress import Progress, SilentProgress
from sspruning.records import F32, U64, Prototypes
from sspruning.storage.store import Store

__all__ = ["choose_k", "choose_sample", "cluster", "clustering_fingerprint", "read_sample", "seeded"]

MIN_POINTS_PER_CLUSTER = 32  # below this, a prototype is made of too few samples to be typical of anything
K_RANGE = (16, 50_000)
READ_ROWS = 65536


def seeded(key_hash: U64, seed: int) -> U64:
    """(n,) uint64 hashes of (seed, key), uniform and independent for each seed: the SplitMix64 finaliser twice."""

    def mix(value: U64) -> U64:
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))

    with np.errstate(over="ignore"):
        salt = mix(np.array([seed], np.uint64) + np.uint64(0x9E3779B97F4A7C15))
        return mix(key_hash ^ salt)


def choose_k(n: int, wanted: int | None) -> tuple[int, str]:
    """Number of prototypes for n samples, and the reason for it in words.

    Raises:
        UsageError: more prototypes than samples are asked for.
    """
    if wanted is not None:
        if wanted > n:
            raise UsageError(f"{wanted} prototypes for {n} samples; ask for at most {n // MIN_POINTS_PER_CLUSTER or 1}")
        reason = f"k = {wanted} as asked for"
        if n / wanted < MIN_POINTS_PER_CLUSTER:
            reason += f"; warning: only {n / wanted:.1f} samples for each, small clusters make unreliable prototypes"
        return wanted, reason
    low, high = K_RANGE
    k = max(1, min(max(low, min(high, round(math.sqrt(n)))), n // MIN_POINTS_PER_CLUSTER))
    return k, f"k = {k}: about the square root of {n:,} samples, at least {MIN_POINTS_PER_CLUSTER} samples for each"


def clustering_fingerprint(config: ClusterConfig) -> str:
    """What of the section decides prototypes: all but whether those that are there may serve for more data.

    Without full rounds it is what it was before there were any.
    """
    without = {"reuse"} if config.full_rounds else {"reuse", "full_rounds"}
    return fingerprint(config.model_dump(mode="json", exclude=without))


@dataclass(slots=True)
class SampledRows:
    """Where the sampled rows are: hash, part number and row of each, in the order of their hashes."""

    hashes: U64
    part: np.ndarray
    row: np.ndarray


def choose_sample(store: Store, size: int, seed: int) -> SampledRows:
    """The ``size`` rows with the smallest seeded key hashes.

    Cost:
        O(n) time and a few sorts of three times the sample, which is the memory too: 72 bytes a sampled row.
    """
    none = SampledRows(np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int64))
    pieces, waiting, largest = [none], 0, np.iinfo(np.uint64).max
    for number, (_, hashes) in enumerate(store.key_hashes()):
        drawn = seeded(hashes, seed)
        near = np.flatnonzero(drawn <= largest)
        pieces.append(SampledRows(drawn[near], np.full(len(near), number), near))
        waiting += len(near)
        if waiting > 2 * size:
            pieces, waiting = [_smallest(pieces, size)], 0
            largest = pieces[0].hashes[-1]
    return _smallest(pieces, size)


def _smallest(pieces: Sequence[SampledRows], size: int) -> SampledRows:
    """The ``size`` rows with the smallest hashes, in the order of (hash, part, row)."""
    hashes, part, row = (
        np.concatenate([getattr(piece, name) for piece in pieces]) for name in ("hashes", "part", "row")
    )
    order = np.lexsort((row, part, hashes))[:size]
    return SampledRows(hashes[order], part[order], row[order])


def read_sample(store: Store, place: SampledRows, progress: Progress) -> F32:
    """(m, d) float32 rows of the sample in the order of their hashes."""
    sample = np.empty((len(place.hashes), store.dim), np.float32)
    with progress.stage("sample", len(sample), "rows") as ticker:
        for number, record in enumerate(store.records()):
            target = np.flatnonzero(place.part == number)
            if len(target) == 0:
                continue
            with store.open_part(record) as part:
                for start in range(0, record.n_rows, READ_ROWS):
                    inside = (place.row[target] >= start) & (place.row[target] < start + READ_ROWS)
                    if inside.any():
                        rows = part.embedding(start, start + READ_ROWS)
                        sample[target[inside]] = rows[place.row[target[inside]] - start]
            ticker.tick(len(target))
    return sample


def cluster(store: Store, config: ClusterConfig, progress: Progress | None = None, mark: str = "") -> Prototypes:
    """`Prototypes` of a store's embeddings.

    The sample is chosen by the smallest hash(seed, key), so it is the same whatever the order of the shards or the
    number of workers; every point of it is used.

    Args:
        store: where the embeddings are.
        config: number of prototypes, iterations, geometry, start, sample size, seed.
        progress: told while the sample is read.
        mark: the fingerprint that is stored with the result.

    Raises:
        UsageError: more prototypes than samples.
        DataError: the store is empty.

    Cost:
        O(niter m k d) time; 4 d bytes of memory for each sampled row.
    """
    progress = progress or SilentProgress()
    n = store.n_rows
    if n == 0:
        raise DataError(f"{store.path}: no sample was embedded, so there is nothing to cluster; see `sspruning status`")
    k, reason = choose_k(n, config.n_clusters)
    size = min(n, config.points_per_centroid * k)
    sample = read_sample(store, choose_sample(store, size, config.seed), progress)
    settings = KMeansSettings(
        k=k, niter=config.niter, spherical=config.spherical, init=config.init, seed=config.seed, device=config.device
    )
    with progress.stage("cluster", None, "iterations") as ticker:
        found = CLUSTERERS.resolve(config.name)(sample, settings)
        ticker.tick(len(found.objective))
    info = {**found.info, "k_reason": reason, "n_embedded": n, "seed": config.seed, "niter": config.niter}
    info["settings"] = clustering_fingerprint(config)
    parts = tuple(short(record.fingerprint) for record in store.records())
    return Prototypes(found.centroids, config.spherical, found.objective, size, mark, info, parts)
