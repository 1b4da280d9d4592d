"""Store against evaluation sets: a table of the samples that are too near to one that models will be tested on."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sspruning.config import CorpusConfig
from sspruning.errors import DataError, StoreError, UsageError
from sspruning.execution import Executor
from sspruning.fingerprint import canonical_json, fingerprint, short
from sspruning.progress import Progress, SilentProgress
from sspruning.records import I64, EmbedReport, EncoderSpec, JSONValue
from sspruning.stages.embed import embed
from sspruning.stages.nearest import nearest_rows
from sspruning.storage.atomic import write_bytes
from sspruning.storage.corpus import Corpus
from sspruning.storage.digests import is_whole
from sspruning.storage.sources import same_place
from sspruning.storage.store import Store

__all__ = ["THRESHOLD", "Contamination", "Pair", "compare", "decontaminate"]

THRESHOLD = 0.9
"""With the shipped encoder, of 10,000 training images of CIFAR-10 compared with its test images: 43 are above, all of
them the same picture by eye. Below, the first pairs of two pictures come at 0.88; at 0.80 about every second is one."""
REASON = "contaminated"
FORMAT, VERSION = "sspruning-contaminated", 1
SHOWN = 10  # pairs that a report names

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row", pa.uint32(), nullable=False),
        pa.field("nearest", pa.string(), nullable=False),
        pa.field("nearest_shard", pa.string(), nullable=False),
        pa.field("similarity", pa.float32(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Pair:
    """A sample and the evaluation sample that it is most like."""

    key: str
    shard: str
    nearest: str
    """Key of the evaluation sample."""
    nearest_shard: str
    similarity: float
    """Their cosine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contamination:
    """What of a store is too near to evaluation sets."""

    threshold: float
    n_store: int
    n_eval: int
    n_contaminated: int
    n_eval_matched: int
    """Evaluation samples that are the nearest of a contaminated sample."""
    eval_skipped: dict[str, int]
    """Evaluation samples without an embedding, by reason: nothing was compared with them."""
    highest: list[Pair]
    """The pairs that are most alike, whether above the threshold or not."""
    borderline: list[Pair]
    """The contaminated pairs that are least alike: if they are no copies, the threshold is too low."""
    fingerprint: str
    path: str = ""
    """The table of contaminated samples."""


def decontaminate(
    store: Store,
    against: Corpus,
    folder: Path,
    spec: EncoderSpec,
    executor: Executor,
    progress: Progress | None = None,
    *,
    threshold: float = THRESHOLD,
    image_key: str | None = None,
    output: Path | None = None,
) -> Contamination:
    """`Contamination` of a store: its samples whose cosine to some evaluation sample is above ``threshold``.

    The evaluation shards are embedded beside the store, by its own encoder and limits. What is up to date is not done
    again: not their embeddings, not the comparison of a part, which holds for any threshold, and not the table.

    Args:
        store: what models will be trained on.
        against: shards that they will be tested on. Keys may repeat among them.
        folder: of the workspace; embeddings and comparisons go to ``against/`` inside.
        spec: the encoder that made the store.
        executor: where the evaluation shards are embedded.
        progress: told of every stage.
        threshold: cosine in (0, 1) above which a sample is contaminated.
        image_key: suffixes of the evaluation images; None: those of the store.
        output: the table; None: ``contaminated.parquet`` in ``folder``.

    Raises:
        UsageError: a threshold outside (0, 1), an evaluation shard that is a shard of the store, or a store of imported
            embeddings.
        StoreError: ``spec`` is not the encoder that made the store.
        DataError: an evaluation shard that cannot be read, or none with an image: the comparison would have gaps.

    Cost:
        one embedding of the evaluation shards, and 2 d operations for each pair of samples.

    Source:
        the curation of DINOv2, arXiv:2304.07193, which drops groups of samples too near to evaluation sets.
    """
    progress = progress or SilentProgress()
    if not 0 < threshold < 1:
        raise UsageError(f"a threshold of {threshold}: expected a cosine above 0 and below 1, such as {THRESHOLD}")
    if _encoder_name(store) == "imported":
        raise UsageError(
            f"{store.path}: its embeddings were imported, so nothing here can embed evaluation shards in the same way; "
            "embed the corpus with an encoder of sspruning, into another store, and check that one"
        )
    _refuse_own_shards(store, against)
    side, limits = _side_store(store, against, folder / "against", image_key)
    try:
        report = embed(against, side, spec, limits, executor, progress)
    except StoreError as error:
        raise StoreError(f"evaluation shards have to be embedded as {store.path} was: {error}") from error
    _refuse_gaps(against, report)
    return compare(store, Store(side), output or folder / f"{REASON}.parquet", threshold, progress)


def _encoder_name(store: Store) -> JSONValue:
    identity = store.settings["encoder"]
    return identity.get("encoder") if isinstance(identity, dict) else None


def _refuse_own_shards(store: Store, against: Corpus) -> None:
    """Samples compared with themselves would all be contaminated."""
    own = {same_place(shard.path) for shard in store.shards().values()}
    for shard in against.shards:
        if same_place(shard.path) in own:
            raise UsageError(f"{shard.path}: is a shard of the store itself; name the shards of evaluation sets only")


def _side_store(store: Store, against: Corpus, folder: Path, image_key: str | None) -> tuple[Path, CorpusConfig]:
    """Where the evaluation shards are embedded, a store with the settings of ``store``; and its limits."""
    settings: dict[str, Any] = {**store.settings, "image_key": image_key or store.settings["image_key"]}
    names = ("image_key", "max_pixels", "max_member_bytes", "allow_missing_end")
    limits = CorpusConfig(**{name: settings[name] for name in names})
    settings["image_key"] = ";".join(limits.suffixes)
    settings.pop("key_prefix", None)  # evaluation shards may share keys: tables name their shard
    shards: list[JSONValue] = [[shard.shard_id, shard.path, shard.size] for shard in against.shards]
    side = folder / short(fingerprint({"settings": settings, "shards": shards}))
    Store.create(side, settings)  # so that another encoder is refused before it embeds anything
    return side, limits


def _refuse_gaps(against: Corpus, report: EmbedReport) -> None:
    """What is in an evaluation shard that cannot be read would go unnoticed in the store."""
    for shard in against.shards:
        if shard.shard_id in report.quarantined:
            raise DataError(
                f"{shard.path}: {report.quarantined[shard.shard_id]}; {len(report.quarantined)} of {report.n_shards} "
                "evaluation shards cannot be read, so what they contaminate would be missed; repair or leave them out"
            )


_Hit: TypeAlias = "tuple[float, int, int, int]"
"""A pair: cosine, number of the part, row in it, row of the evaluation store."""


def _hits(number: int, found: np.ndarray, rows: I64) -> list[_Hit]:
    return [(float(found["cosine"][row]), number, row, int(found["row"][row])) for row in rows.tolist()]


def _first_falling(hit: _Hit) -> tuple[float, int, int]:
    """Sort key: the highest cosine first, then store order."""
    return -hit[0], hit[1], hit[2]


def compare(
    store: Store, evals: Store, output: Path, threshold: float = THRESHOLD, progress: Progress | None = None
) -> Contamination:
    """`Contamination` of a store by the rows of another of the same encoder; see `decontaminate`.

    The comparison of each part is kept in ``nearest/`` of the store ``evals``.

    Raises:
        StoreError: the two have not the same encoder.
        DataError: there is nothing to compare with.
    """
    if store.settings["encoder"] != evals.settings["encoder"]:
        raise StoreError(f"{evals.path}: was not embedded by the encoder of {store.path}; cosines would mean nothing")
    skipped = _skipped(evals)
    if evals.n_rows == 0:
        why = ", ".join(f"{count} {reason}" for reason, count in skipped.items()) or "they are empty"
        raise DataError(f"no evaluation sample could be embedded ({why}); is the image key the right one?")
    mark = fingerprint(
        {
            "format_version": VERSION,
            "content": store.content_fingerprint(),
            "against": evals.content_fingerprint(),
            "threshold": threshold,
        }
    )
    known = _known(output, mark) if is_whole(evals.path / "nearest") else None
    if known is not None:
        return known
    highest, lowest, hits = list[_Hit](), list[_Hit](), list[tuple[I64, np.ndarray]]()
    for number, found in enumerate(nearest_rows(store, evals, evals.path / "nearest", progress or SilentProgress())):
        rows = np.flatnonzero(found["cosine"] > threshold)
        rising = rows[np.argsort(found["cosine"][rows], kind="stable")]
        falling = np.argsort(-found["cosine"], kind="stable")
        highest = sorted([*highest, *_hits(number, found, falling[:SHOWN])], key=_first_falling)[:SHOWN]
        lowest = sorted([*lowest, *_hits(number, found, rising[:SHOWN])])[:SHOWN]
        hits.append((rows, found[rows]))
    matched = np.unique(np.concatenate([np.empty(0, np.int64), *(found["row"] for _, found in hits)]))
    names = _names(evals, np.union1d(matched, [hit[3] for hit in highest]).astype(np.int64))
    report = Contamination(
        threshold=threshold,
        n_store=store.n_rows,
        n_eval=evals.n_rows,
        n_contaminated=sum(len(rows) for rows, _ in hits),
        n_eval_matched=len(matched),
        eval_skipped=skipped,
        highest=_pairs(store, highest, names),
        borderline=_pairs(store, lowest, names),
        fingerprint=mark,
    )
    _save(output, _tables(store, hits, names), report)
    return replace(report, path=str(output))


def _skipped(store: Store) -> dict[str, int]:
    """Samples without an embedding, by reason."""
    total: Counter[str] = Counter()
    for record in store.records():
        total.update(record.skipped)
    return dict(sorted(total.items()))


def _names(store: Store, rows: I64) -> dict[int, tuple[str, str]]:
    """Key and shard of each of the given rows, in ascending order, of the whole store."""
    found, at = dict[int, tuple[str, str]](), 0
    for record in store.records():
        inside = rows[np.searchsorted(rows, at) : np.searchsorted(rows, at + record.n_rows)]
        if len(inside):
            with store.open_part(record) as part:
                keys = part.keys()
            found.update((row, (keys[row - at], record.shard_id)) for row in inside.tolist())
        at += record.n_rows
    return found


def _pairs(store: Store, hits: list[_Hit], names: dict[int, tuple[str, str]]) -> list[Pair]:
    records, found = store.records(), list[Pair]()
    for cosine, number, row, other in hits:
        with store.open_part(records[number]) as part:
            found.append(Pair(part.keys()[row], records[number].shard_id, *names[other], cosine))
    return found


def _tables(store: Store, hits: list[tuple[I64, np.ndarray]], names: dict[int, tuple[str, str]]) -> Iterator[pa.Table]:
    """One table for each shard with contaminated samples, in store order."""
    for record, (rows, found) in zip(store.records(), hits, strict=True):
        if len(rows) == 0:
            continue
        with store.open_part(record) as part:
            keys, place = part.keys(), part.column("row")
        nearest = [names[row] for row in found["row"].tolist()]
        columns = [
            [keys[row] for row in rows.tolist()],
            [record.shard_id] * len(rows),
            place[rows],
            [key for key, _ in nearest],
            [shard for _, shard in nearest],
            found["cosine"].astype(np.float32),
            [REASON] * len(rows),
        ]
        yield pa.table(columns, schema=SCHEMA)


def _save(path: Path, tables: Iterable[pa.Table], report: Contamination) -> None:
    """Write the table with its report. Memory: the compressed rows, some ten bytes for each."""
    facts: dict[str, JSONValue] = {"format": FORMAT, "format_version": VERSION, "report": asdict(report)}
    buffer = io.BytesIO()
    schema = SCHEMA.with_metadata({b"sspruning": canonical_json(facts).encode()})
    with pq.ParquetWriter(buffer, schema, compression="zstd", write_page_checksum=True) as writer:
        for table in tables:
            writer.write_table(table.cast(schema))
    write_bytes(path, buffer.getvalue())


def _known(path: Path, mark: str) -> Contamination | None:
    """The report of the table at ``path`` if it is the one asked for; None if it has to be made."""
    try:
        facts = json.loads((pq.read_schema(path).metadata or {})[b"sspruning"])
        report: dict[str, Any] = facts["report"]
        if (facts["format"], report["fingerprint"]) != (FORMAT, mark):
            return None
        for name in ("highest", "borderline"):
            report[name] = [Pair(**pair) for pair in report[name]]
        return replace(Contamination(**report), path=str(path))
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException):
        return None
