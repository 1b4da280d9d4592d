"""One sample: its scores, why it stays or goes, and the samples that it is most like."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from sspruning.errors import UsageError
from sspruning.metrics.distances import unit_rows
from sspruning.records import DEFECTS, F16, I64
from sspruning.reporting.words import reason_words, visible
from sspruning.stages.inspect import key_hash
from sspruning.stages.place import Place
from sspruning.stages.report_numbers import groups_with_rows
from sspruning.storage.artifacts import SelectionFile
from sspruning.storage.store import CommitRecord, Store

__all__ = ["Choosing", "Neighbour", "SampleFacts", "show"]

SPARE = 4  # times as many neighbours as are wanted are compared again in float64
EXAMPLES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Choosing:
    """What a selection says of a sample."""

    score: float
    """Larger = harder."""
    rank: int | None
    """Kept when more than this many samples are kept; None in a selection without ranks."""
    n_kept: int
    n_embedded: int
    kept: bool
    reason: str
    meaning: str
    """The reason in words."""
    cluster: int
    cosine_distance: float
    """To the prototype."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A sample that another one is like."""

    key: str
    shard: str
    cosine: float
    kept: bool | None
    """None without a selection."""
    cluster: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleFacts:
    """All that is known of one sample."""

    key: str
    shard: str
    row: int
    """Ordinal in its shard."""
    skipped: str = ""
    """Why it was not embedded; empty if it was."""
    defects: list[str] = field(default_factory=list)
    choosing: Choosing | None = None
    """None without a selection, or if it was not embedded."""
    neighbours: list[Neighbour] = field(default_factory=list)
    """The most alike first."""


@dataclass(frozen=True, slots=True)
class _Found:
    record: CommitRecord
    at: int
    """Row of the whole store."""
    place: int
    """Row of its part."""


def show(path: str | Path, key: str, *, neighbours: int = 8) -> SampleFacts:
    """`SampleFacts` of the sample with this key.

    Args:
        path: run folder, store, or a ``selection.parquet`` beside its store.
        key: as it stands in the store.
        neighbours: how many of the samples that it is most like.

    Raises:
        UsageError: no sample has this key.

    Cost:
        8 bytes of hash a sample to find it; 2 d operations a sample for its neighbours, one block of rows in memory.
    """
    place = Place.of(Path(path))
    found = _find(place.store, key)
    if found is None:
        return _skipped(place.store, key)
    with place.store.open_part(found.record) as part:
        row, bits = int(part.column("row")[found.place]), int(part.column("defects")[found.place])
        embedding = part.embedding(found.place, found.place + 1)
    alike = _nearest(place.store, embedding, found.at, neighbours)
    chosen = _chosen(place.file, [found.at, *(at for at, _ in alike)]) if place.file else {}
    keys = _keys(place.store, [at for at, _ in alike])
    return SampleFacts(
        key=key,
        shard=found.record.shard_id,
        row=row,
        defects=[name for name, bit in DEFECTS.items() if bits & bit],
        choosing=chosen.get(found.at),
        neighbours=[
            Neighbour(
                key=keys[at][0],
                shard=keys[at][1],
                cosine=cosine,
                kept=chosen[at].kept if at in chosen else None,
                cluster=chosen[at].cluster if at in chosen else None,
            )
            for at, cosine in alike
        ],
    )


def _find(store: Store, key: str) -> _Found | None:
    wanted, at = np.uint64(key_hash(key)), 0
    for record, hashes in store.key_hashes():
        places = np.flatnonzero(hashes == wanted).tolist()
        if places:
            with store.open_part(record) as part:
                keys = part.keys()
            for place in places:
                if keys[place] == key:
                    return _Found(record, at + place, place)
        at += record.n_rows
    return None


def _skipped(store: Store, key: str) -> SampleFacts:
    """What is known of a sample that was not embedded.

    Raises:
        UsageError: there is none with this key either.
    """
    for record in store.records():
        if not record.skipped:
            continue
        with store.open_part(record) as part:
            for row, other, reason in part.skipped():
                if other == key:
                    return SampleFacts(key=key, shard=record.shard_id, row=row, skipped=reason)
    raise UsageError(f"no sample has the key '{visible(key)}'{_examples(store)}")


def _examples(store: Store) -> str:
    for record in store.records():
        if record.n_rows:
            with store.open_part(record) as part:
                keys = [f"'{visible(key)}'" for key in part.keys()[:EXAMPLES]]
            return f"; keys look like {', '.join(keys)}"
    return "; nothing is embedded here"


def _nearest(store: Store, embedding: F16, own: int, most: int) -> list[tuple[int, float]]:
    """Row and cosine of the samples that a row is most like, without itself; ties go to the earlier row."""
    unit = unit_rows(embedding)[0]
    rows, cosines, at = np.empty(0, np.int64), np.empty(0), 0
    for chunk in store.chunks(16_384):
        block = chunk.embeddings.astype(np.float32)
        similar = block @ unit.astype(np.float32) / np.maximum(np.linalg.norm(block, axis=1), 1e-30)
        if at <= own < at + len(block):
            similar[own - at] = -np.inf
        likely = np.argsort(-similar, kind="stable")[: SPARE * most]
        likely = likely[np.isfinite(similar[likely])]
        rows = np.concatenate([rows, at + likely])
        cosines = np.concatenate([cosines, unit_rows(chunk.embeddings[likely]) @ unit])
        best = np.lexsort((rows, -cosines))[:most]
        rows, cosines, at = rows[best], cosines[best], at + len(block)
    return list(zip(rows.tolist(), cosines.tolist(), strict=True))


def _grouped(rows: list[int], sizes: list[int]) -> Iterator[tuple[int, int, I64]]:
    """Index of each shard that holds some of the rows, its first row, and the places of these rows in it."""
    wanted, at = np.unique(np.array(rows, np.int64)), 0
    for index, size in enumerate(sizes):
        own = wanted[(wanted >= at) & (wanted < at + size)]
        if len(own):
            yield index, at, own - at
        at += size


def _keys(store: Store, rows: list[int]) -> dict[int, tuple[str, str]]:
    """Key and shard of rows of the whole store."""
    records = store.records()
    found = {}
    for index, at, places in _grouped(rows, [record.n_rows for record in records]):
        with store.open_part(records[index]) as part:
            keys = part.keys()
        found.update({at + place: (keys[place], records[index].shard_id) for place in places.tolist()})
    return found


def _chosen(file: SelectionFile, rows: list[int]) -> dict[int, Choosing]:
    """What the selection says of rows of the whole store."""
    wanted, at = np.unique(np.array(rows, np.int64)), 0
    found = {}
    for group in groups_with_rows(file, ["centroid", "cosine_dist_to_cent", "score", "rank", "kept", "reason"]):
        own = wanted[(wanted >= at) & (wanted < at + group.num_rows)] - at
        for place, fact in zip(own.tolist(), group.take(pa.array(own)).to_pylist(), strict=True):
            found[at + place] = Choosing(
                score=fact["score"],
                rank=fact["rank"],
                n_kept=file.selection.n_kept,
                n_embedded=file.selection.n_embedded,
                kept=fact["kept"],
                reason=fact["reason"],
                meaning="" if fact["kept"] else reason_words(fact["reason"].partition(":")[0]),
                cluster=fact["centroid"],
                cosine_distance=fact["cosine_dist_to_cent"],
            )
        at += group.num_rows
    return found
