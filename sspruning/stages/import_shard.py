"""One shard and a table of embeddings to one part: what an importing worker does. No image is decoded."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import cast

import numpy as np

from sspruning.records import F16, F32, U64, BoolArray, JSONValue, ShardRef
from sspruning.stages.embed_shard import STREAM_BLOCKS_ABOVE, Limits, with_store_keys
from sspruning.stages.inspect import key_hash
from sspruning.stages.key_index import KeyIndex, Lookup
from sspruning.storage.parts import PartData
from sspruning.storage.samples import Member, Sample, ShardReader
from sspruning.storage.store import Store

__all__ = ["ImportWorker", "import_shard", "key_hashes", "unit_rows"]

NO_EMBEDDING = "no_embedding"  # reason of samples whose key the table does not have
BATCH_ROWS = 4096
UNIT_TOLERANCE = 5e-4  # rounding to float16 moves a length of 1 by less than 2^-11


def key_hashes(samples: Sequence[Sample]) -> U64:
    """(m,) hashes of the samples' keys."""
    return np.array([key_hash(sample.key) for sample in samples], np.uint64)


def unit_rows(values: F32) -> tuple[F16, F32, BoolArray]:
    """Rows as a store keeps them, the length that each had, and whether it has a direction at all.

    Rows are normalised in float32 and rounded once. A row that is so already, all of its numbers float16 and its length
    1 but for rounding, is kept as it is: rounding it a second time would move it.

    Args:
        values: (m, d) float32.

    Returns:
        (m, d) float16, (m,) float32, (m,) bool; a row without a direction is False and means nothing.
    """
    wide = values.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        norm = np.sqrt(np.einsum("ij,ij->i", wide, wide)).astype(np.float32)
        good = np.isfinite(norm) & (norm > 0)
        unit, half = (values / norm[:, None]).astype(np.float16), values.astype(np.float16)
    done = (half == values).all(1) & (np.abs(norm - 1) <= UNIT_TOLERANCE)
    unit[done] = half[done]
    return unit, norm, good


@dataclass(slots=True)
class _Rows:
    """Rows of a part while they are gathered."""

    embedding: list[F16] = field(default_factory=list)
    norm: list[F32] = field(default_factory=list)
    embedded: list[tuple[Sample, Member, bytes, bytes]] = field(default_factory=list)
    """Sample, its image, digest of the blocks, digest of the image."""
    skipped: list[tuple[int, str, str]] = field(default_factory=list)

    def skip(self, sample: Sample, reason: str) -> None:
        self.skipped.append((sample.row, sample.key, reason))


def import_shard(
    shard: ShardRef, lookup: Lookup, dim: int, limits: Limits, identity: dict[str, JSONValue]
) -> tuple[PartData, str, dict[str, int]]:
    """Part of one shard, the shard's sha256, and its ignored members by reason.

    Raises:
        ShardError: the archive is damaged, or changed while it was read.
    """
    hasher, rows = hashlib.sha256(), _Rows()
    with ShardReader(shard.path, hasher=hasher, allow_missing_end=limits.allow_missing_end) as reader:
        samples = with_store_keys(reader.samples(), shard.shard_id, limits)
        while batch := list(islice(samples, BATCH_ROWS)):
            _import_batch(reader, batch, lookup, limits, rows)
        ignored = dict(reader.ignored)
        reader.check_unchanged(shard.size, shard.mtime_ns)
    return _part(rows, dim, identity, shard, hasher.hexdigest()), hasher.hexdigest(), ignored


def _import_batch(reader: ShardReader, batch: list[Sample], lookup: Lookup, limits: Limits, rows: _Rows) -> None:
    """Find the embeddings of some samples, and read those samples."""
    usable: list[tuple[Sample, Member]] = []
    for sample in batch:
        image = sample.find(limits.suffixes)
        if sample.skip_reason is not None or image is None:
            rows.skip(sample, sample.skip_reason or "no_image")
        elif image.size > limits.max_member_bytes:
            rows.skip(sample, "image_too_large")
        else:
            usable.append((sample, image))
    if not usable:
        return
    places, found = lookup.places(key_hashes([sample for sample, _ in usable]))
    values, norm, good = unit_rows(lookup.take(places[found]))
    lengths = iter(norm.tolist())
    for (sample, image), known in zip(usable, found.tolist(), strict=True):
        length = next(lengths) if known else None
        if length is None:
            rows.skip(sample, NO_EMBEDDING)
        elif length == 0:
            rows.skip(sample, "zero_embedding")
        elif not math.isfinite(length):
            rows.skip(sample, "nonfinite_embedding")
        else:
            rows.embedded.append((sample, image, *_digests(reader, sample, image)))
    rows.embedding.append(values[good])
    rows.norm.append(norm[good])


def _digests(reader: ShardReader, sample: Sample, image: Member) -> tuple[bytes, bytes]:
    """blake2b-128 of a sample's raw blocks, and of its image."""
    digest, length = hashlib.blake2b(digest_size=16), sample.block_end - sample.block_start
    if length <= STREAM_BLOCKS_ABOVE:
        blocks = reader.read(sample.block_start, length)
        digest.update(blocks)
        start = image.start - sample.block_start
        data = memoryview(blocks)[start : start + image.size]
    else:
        for start in range(sample.block_start, sample.block_end, STREAM_BLOCKS_ABOVE):
            digest.update(reader.read(start, min(STREAM_BLOCKS_ABOVE, sample.block_end - start)))
        data = reader.read(image.start, image.size)
    return digest.digest(), hashlib.blake2b(data, digest_size=16).digest()


def _part(rows: _Rows, dim: int, identity: dict[str, JSONValue], shard: ShardRef, sha256: str) -> PartData:
    samples, images = [entry[0] for entry in rows.embedded], [entry[1] for entry in rows.embedded]
    skipped = sorted(rows.skipped)
    return PartData(
        embedding=np.concatenate([np.empty((0, dim), np.float16), *rows.embedding]),
        norm=np.concatenate([np.empty(0, np.float32), *rows.norm]),
        key=[sample.key for sample in samples],
        key_hash=key_hashes(samples),
        row=np.array([sample.row for sample in samples], np.uint32),
        block_start=np.array([sample.block_start for sample in samples], np.uint64),
        block_end=np.array([sample.block_end for sample in samples], np.uint64),
        digest=np.frombuffer(b"".join(entry[2] for entry in rows.embedded), np.uint8).reshape(-1, 16),
        image_start=np.array([image.start for image in images], np.uint64),
        image_size=np.array([image.size for image in images], np.uint32),
        content=np.frombuffer(b"".join(entry[3] for entry in rows.embedded), np.uint8).reshape(-1, 16),
        defects=np.zeros(len(samples), np.uint8),  # nothing was decoded
        skipped_row=np.array([row for row, _, _ in skipped], np.uint32),
        skipped_key=[key for _, key, _ in skipped],
        skipped_reason=[reason for _, _, reason in skipped],
        attributes={
            "encoder": identity,
            "shard_id": shard.shard_id,
            "shard_sha256": sha256,
            "shard_size": shard.size,
            "normalized": 1,
        },
    )


class ImportWorker:
    """Built once in each worker: makes and commits the part of each shard that it is given."""

    def __init__(self, *, index: KeyIndex, limits: Limits, identity: dict[str, JSONValue], store: str) -> None:
        """Nothing is opened yet: maps that live as long as a worker would hold the space of scratch files."""
        self._index = index
        self._limits = limits
        self._identity = identity
        self._store_path = store

    def __call__(self, payload: dict[str, JSONValue]) -> JSONValue:
        """Counts of the committed part."""
        shard = ShardRef(**cast("dict", payload["shard"]))
        lookup = Lookup(self._index)
        part, sha256, ignored = import_shard(shard, lookup, self._index.dim, self._limits, self._identity)
        record = Store(self._store_path).commit(shard, sha256, part, ignored)
        return {"n_samples": record.n_samples, "n_rows": record.n_rows}
