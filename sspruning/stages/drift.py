"""New parts against the parts that prototypes were made of: do the prototypes still describe the samples?"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from sspruning.errors import UsageError
from sspruning.records import F64, I64
from sspruning.storage.artifacts import ASSIGNMENT_DTYPE, load_column
from sspruning.storage.store import Store

__all__ = ["Drift", "Verdict", "drift"]

Verdict: TypeAlias = Literal["fits", "watch", "cluster again"]

# What decides. All of it is ours, and rests on these measurements: samples of one distribution (seven planted ones and
# CIFAR-10, 640 to 6,000 old, 2,000 new) came to `farther` <= 0.05 and a share change <= 0.10 beyond chance, where plain
# distances would have come to 0.43. A new cluster that makes up a share s of the new samples comes to 0.8 s to 0.9 s. A
# class of CIFAR-10 that old samples lack: 0.11 to 0.40 if all new samples are of it, 0.04 to 0.15 if half of them are,
# and nothing to be seen if a fifth of them are: its images are hardly farther than others.
FARTHER = (0.05, 0.12)  # `farther` above which to watch, and to cluster again
SHARES = (0.15, 0.30)  # the same for `share_change` beyond `share_change_by_chance`
OPTIMISM = 3.5  # by this over m new samples were farther, for clusters of m, where nothing had changed; at most
CHANCE = 1e-3  # what chance alone does more rarely than this is not put down to chance

BINS = 4_096  # of the sine of half the angle to the prototype, from 0 to 1: fine where distances are small


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How new samples lie among prototypes that were made without them, compared with the old ones."""

    verdict: Verdict
    reason: str
    """The verdict in words, with the number that decided it."""
    n_old: int
    n_new: int
    old_distance: float
    """Mean cosine distance of the old samples to the prototypes, each as if it had played no part in making them."""
    new_distance: float
    """The same of the new ones, which played no part."""
    ks: float
    """Two-sample Kolmogorov-Smirnov statistic of these distances: the largest gap between the two distributions."""
    farther: float
    """The same for new samples that are farther only, and by more than an allowance: this share more lies beyond."""
    share_change: float
    """Share of the new samples that would have to change prototype to be spread like the old (total variation)."""
    share_change_by_chance: float
    """What to expect of it from as many samples of one distribution, to a tenth."""
    n_unvisited: int
    """Prototypes of old samples that no new one fell to."""
    n_unvisited_by_chance: float
    """What to expect of that from as many samples of one distribution."""
    margin: float
    """`farther`, and `share_change` beyond chance, stay below this 999 times in 1,000 if nothing changed."""

    @property
    def ratio(self) -> float:
        """Mean distance of the new samples in units of that of the old ones."""
        if self.old_distance == 0:
            return 1.0 if self.new_distance == 0 else math.inf
        return self.new_distance / self.old_distance


def drift(store: Store, assignments: dict[str, Path], old: Collection[str]) -> Drift:
    """`Drift` of the parts that joined a store after its prototypes were made.

    A sample lies nearer to a prototype that it was part of, so old and new distances differ even where nothing changed:
    by 2/m of them for clusters of m. Old distances are therefore those to the prototype without the sample, which
    follow from the distances of its cluster, or to the second prototype where that is nearer, as it would be for a new
    sample. K-means bends to its sample in more ways than this; for `farther` an allowance of OPTIMISM / m covers them.

    Args:
        store: all parts, old and new.
        assignments: file with the prototype of each row, by shard, all to the same prototypes.
        old: shards whose parts the prototypes were made of.

    Raises:
        UsageError: none of the old shards is in the store.

    Cost:
        two reads of the assignments, 0.1 microseconds a sample; memory for one part and the clusters.

    Source:
        the statistics are textbook; bounds on chance by Smirnov's limit and by McDiarmid's inequality; thresholds ours.
    """
    sizes, cosines = _clusters(store, assignments, old)
    n_old, n_new = int(sizes[0].sum()), int(sizes[1].sum())
    if n_old == 0:
        raise UsageError(
            f"{store.path}: no sample is left of the shards that the prototypes were made of, so they cannot be used "
            "again; make new ones with `sspruning cluster STORE --force`"
        )
    mean, ks, farther = _distances(store, assignments, old, sizes[0], cosines)
    margin = math.sqrt(math.log(1 / CHANCE) / 2 * (1 / n_old + 1 / n_new)) if n_new else 1.0
    change, by_chance = _share_change(sizes)
    verdict, reason = _verdict(n_new, farther, change - by_chance, margin)
    pooled = sizes.sum(axis=0) / max(n_old + n_new, 1)
    return Drift(
        verdict=verdict,
        reason=reason,
        n_old=n_old,
        n_new=n_new,
        old_distance=mean[0],
        new_distance=mean[1],
        ks=ks,
        farther=farther,
        share_change=change,
        share_change_by_chance=by_chance,
        n_unvisited=int(((sizes[0] > 0) & (sizes[1] == 0)).sum()),
        n_unvisited_by_chance=float(((1 - pooled[sizes[0] > 0]) ** n_new).sum()),
        margin=margin,
    )


def _parts(store: Store, assignments: dict[str, Path], old: Collection[str]) -> Iterator[tuple[int, np.ndarray]]:
    """(0 for old and 1 for new, assignment) of each part in store order."""
    for record in store.records():
        rows = load_column(assignments[record.shard_id], record.n_rows, ASSIGNMENT_DTYPE)
        yield int(record.shard_id not in old), rows


def _clusters(store: Store, assignments: dict[str, Path], old: Collection[str]) -> tuple[I64, F64]:
    """(2, k) old and new samples of each prototype, and (k,) sum of the cosines of the old ones to it."""
    sizes, cosines = np.zeros((2, 0), np.int64), np.zeros(0)
    for new, rows in _parts(store, assignments, old):
        label = rows["label"]
        more = max(0, int(label.max(initial=-1)) + 1 - len(cosines))
        sizes, cosines = np.pad(sizes, ((0, 0), (0, more))), np.pad(cosines, (0, more))
        sizes[new] += np.bincount(label, minlength=len(cosines))
        if not new:
            cosines += np.bincount(label, 1.0 - rows["cosine_distance"].astype(np.float64), minlength=len(cosines))
    return sizes, cosines


def _distances(
    store: Store, assignments: dict[str, Path], old: Collection[str], sizes: I64, cosines: F64
) -> tuple[tuple[float, float], float, float]:
    """Mean distances of the old samples and of the new ones, and the fields `ks` and `farther`."""
    counts, totals = np.zeros((3, BINS), np.int64), np.zeros(2)  # of old, of new, and of old with the allowance
    for new, rows in _parts(store, assignments, old):
        distance, own = rows["cosine_distance"].astype(np.float64), sizes[rows["label"]]
        if not new:
            distance, own = _left_out(rows, distance, own, cosines)
            counts[2] += _histogram(distance * (1.0 + OPTIMISM / own))
        counts[new] += _histogram(distance)
        totals[new] += distance.sum()
    compared = np.maximum(counts.sum(axis=1), 1)
    nearer = np.cumsum(counts, axis=1) / compared[:, None]
    gap = nearer[[0, 2]] - nearer[1] if counts[0].any() and counts[1].any() else np.zeros((2, BINS))
    mean = totals / compared[:2]
    return (float(mean[0]), float(mean[1])), float(np.abs(gap[0]).max()), max(0.0, float(gap[1].max()))


def _left_out(rows: np.ndarray, distance: F64, own: I64, cosines: F64) -> tuple[F64, I64]:
    """Distances of old samples, each to the nearest prototype there would be without it; and the size of its cluster.

    A prototype points to the sum of its m members, whose length R is the sum of their cosines c to it. Without one of
    them the sum is sqrt(R^2 - 2 R c + 1) long, and its product with that member R c - 1. Where m is 1 the second
    prototype is left, or in Euclidean geometry, which does not tell its cosine, nothing: the sample is left out.
    """
    label, cosine = rows["label"], 1.0 - distance
    length = cosines[label]
    without = np.sqrt(np.maximum(length**2 - 2.0 * length * cosine + 1.0, 1e-12))
    found = 1.0 - np.clip((length * cosine - 1.0) / without, -1.0, 1.0)
    found[own == 1] = np.inf
    if np.array_equal(rows["distance"], rows["cosine_distance"]):  # cosine geometry: the second distance is one as well
        other = rows["second_label"] != label
        found[other] = np.minimum(found[other], rows["second_distance"][other])
    known = np.isfinite(found)
    return found[known], own[known]


def _histogram(distance: F64) -> I64:
    sine = np.sqrt(np.clip(distance, 0.0, 2.0) / 2.0)
    return np.bincount(np.minimum(sine * BINS, BINS - 1).astype(np.int64), minlength=BINS)


def _share_change(sizes: I64) -> tuple[float, float]:
    """Total variation between old and new shares of the prototypes, and what to expect of it by chance.

    The difference of two shares is nearly normal where they rest on many samples; where they do not, its mean is at
    most the sum of both.
    """
    n_old, n_new = sizes.sum(axis=1).tolist()
    if n_new == 0:
        return 0.0, 0.0
    change = 0.5 * np.abs(sizes[0] / n_old - sizes[1] / n_new).sum()
    share = sizes.sum(axis=0) / (n_old + n_new)
    normal = np.sqrt(2.0 / np.pi * share * (1.0 - share) * (1.0 / n_old + 1.0 / n_new))
    return float(change), float(0.5 * np.minimum(normal, 2.0 * share).sum())


def _verdict(n_new: int, farther: float, change: float, margin: float) -> tuple[Verdict, str]:
    if n_new == 0:
        return "fits", "there are no new samples"
    seen = (
        (farther, FARTHER, f"{farther:.0%} more of the new samples than of the old lie far from all prototypes"),
        (change, SHARES, f"{change:.0%} of the new samples, beyond chance, are spread over the prototypes differently"),
    )
    for level, verdict in ((1, "cluster again"), (0, "watch")):
        for value, thresholds, words in seen:
            if value > max(thresholds[level], margin):
                return verdict, f"{words}; {verdict} above {max(thresholds[level], margin):.0%}"
    if margin > FARTHER[1]:
        return "fits", f"nothing beyond chance, but {n_new:,} new samples tell no difference below {margin:.0%}"
    return "fits", f"the new samples lie as the old ones do, as far as {n_new:,} of them can tell"
