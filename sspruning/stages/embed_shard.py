"""One shard to one part: what an embedding worker does."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import cast

import numpy as np

from sspruning.encoders import Encoder, build_encoder
from sspruning.encoders.images import ImageError, decode_with_defects
from sspruning.execution import worker
from sspruning.records import EncoderSpec, JSONValue, ShardRef
from sspruning.stages.decode_watch import DecodeWatch
from sspruning.stages.inspect import key_hash
from sspruning.storage.parts import PartData
from sspruning.storage.samples import KEY_CAP, Sample, ShardReader
from sspruning.storage.store import Store

__all__ = ["EmbedWorker", "Limits", "embed_shard", "with_store_keys"]

STREAM_BLOCKS_ABOVE = 64 << 20  # bytes; a larger sample is hashed in pieces instead of being read whole
DECODE_THREADS_PER_GPU = 8


@dataclass(frozen=True, slots=True)
class Limits:
    """What a sample may be, and where its image is found."""

    suffixes: tuple[str, ...]
    max_pixels: int
    max_member_bytes: int
    allow_missing_end: bool
    prefix_keys: bool = False
    """Keys get the shard's name in front."""
    decode_timeout_s: float = 60.0
    """Seconds that one image may take in a worker process."""
    decode_memory_bytes: int = 4 << 30
    """What a worker process may use on top of what the encoder takes; 0 for no limit."""


@dataclass(frozen=True, slots=True)
class _Facts:
    """What a part says of one sample besides its embedding."""

    digest: bytes
    content: bytes
    image_start: int
    image_size: int
    defects: int


@dataclass(slots=True)
class _Rows:
    """Rows of a part while they are gathered."""

    embedding: list[np.ndarray] = field(default_factory=list)
    norm: list[np.ndarray] = field(default_factory=list)
    embedded: list[tuple[Sample, _Facts]] = field(default_factory=list)
    skipped: list[tuple[int, str, str]] = field(default_factory=list)


@dataclass(slots=True)
class _Loaded:
    """One sample on its way to the encoder: the prepared image and its facts, or why there are none."""

    sample: Sample
    prepared: np.ndarray | None = None
    facts: _Facts | None = None
    reason: str | None = None


def with_store_keys(samples: Iterator[Sample], shard_id: str, limits: Limits) -> Iterator[Sample]:
    """The samples of a shard under the keys that the store knows them by: their own, or SHARD_ID/KEY."""
    if not limits.prefix_keys:
        yield from samples
        return
    for sample in samples:
        sample.key = f"{shard_id}/{sample.key}"
        if sample.skip_reason is None and len(name := sample.key.encode()) > KEY_CAP:
            mark = hashlib.blake2b(name, digest_size=8).hexdigest()
            sample.key, sample.skip_reason = f"{sample.key[: KEY_CAP // 8]}...{mark}", "key_too_long"
        yield sample


def _load(
    reader: ShardReader, sample: Sample, encoder: Encoder, limits: Limits, watch: DecodeWatch | None = None
) -> _Loaded:
    """Read, hash, decode and prepare one sample."""
    if watch is not None and sample.row in watch.skips:
        return _Loaded(sample, reason=watch.skips[sample.row])
    image = sample.find(limits.suffixes)
    if sample.skip_reason is not None or image is None:
        return _Loaded(sample, reason=sample.skip_reason or "no_image")
    if image.size > limits.max_member_bytes:
        return _Loaded(sample, reason="image_too_large")
    digest = hashlib.blake2b(digest_size=16)
    length = sample.block_end - sample.block_start
    if length <= STREAM_BLOCKS_ABOVE:
        blocks = reader.read(sample.block_start, length)
        digest.update(blocks)
        data = blocks[image.start - sample.block_start : image.start - sample.block_start + image.size]
    else:
        for start in range(sample.block_start, sample.block_end, STREAM_BLOCKS_ABOVE):
            digest.update(reader.read(start, min(STREAM_BLOCKS_ABOVE, sample.block_end - start)))
        data = reader.read(image.start, image.size)
    try:
        with nullcontext() if watch is None else watch.decoding(sample.row):
            picture, defects = decode_with_defects(data, max_pixels=limits.max_pixels, draft_size=encoder.draft_size)
            prepared = encoder.prepare(picture)
    except ImageError as error:
        return _Loaded(sample, reason=error.reason)
    except MemoryError:
        if watch is None:
            raise
        return _Loaded(sample, reason="too_much_memory")
    content = hashlib.blake2b(data, digest_size=16).digest()
    return _Loaded(sample, prepared, _Facts(digest.digest(), content, image.start, image.size, defects))


def _loaded(
    reader: ShardReader,
    samples: Iterator[Sample],
    encoder: Encoder,
    limits: Limits,
    pool: ThreadPoolExecutor | None,
    watch: DecodeWatch | None,
) -> Iterator[_Loaded]:
    """Samples of the shard, prepared, in order; ahead of the encoder when there is a pool."""
    if pool is None:
        for sample in samples:
            yield _load(reader, sample, encoder, limits, watch)
        return
    ahead: list = []
    while True:
        fresh = list(islice(samples, encoder.batch_size))
        ahead.append([pool.submit(_load, reader, sample, encoder, limits) for sample in fresh])
        if len(ahead) > 2 or not fresh:
            for future in ahead.pop(0):
                yield future.result()
        if not fresh:
            for futures in ahead:
                for future in futures:
                    yield future.result()
            return


def _embed_batch(encoder: Encoder, batch: list[_Loaded], rows: _Rows) -> None:
    """Run one batch; rows whose embedding is useless become skipped samples."""
    values = encoder.embed(np.stack([cast("np.ndarray", loaded.prepared) for loaded in batch]))
    norm = np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64)).astype(np.float32)
    good = np.isfinite(norm) & (norm > 0)
    for loaded, usable, length in zip(batch, good.tolist(), norm.tolist(), strict=True):
        if usable:
            rows.embedded.append((loaded.sample, cast("_Facts", loaded.facts)))
        else:
            reason = "zero_embedding" if length == 0 else "nonfinite_embedding"
            rows.skipped.append((loaded.sample.row, loaded.sample.key, reason))
    rows.embedding.append((values[good] / norm[good, None]).astype(np.float16))
    rows.norm.append(norm[good])


def embed_shard(
    shard: ShardRef,
    encoder: Encoder,
    limits: Limits,
    pool: ThreadPoolExecutor | None = None,
    watch: DecodeWatch | None = None,
) -> tuple[PartData, str, dict[str, int]]:
    """Part of one shard, the shard's sha256, and its ignored members by reason.

    Batches never cross shards, so a part depends on its shard and the encoder alone. Memory: two batches of prepared
    images, and the rows of the part.

    Raises:
        ShardError: the archive is damaged, or changed while it was read.
    """
    hasher = hashlib.sha256()
    rows, batch = _Rows(), []
    with ShardReader(shard.path, hasher=hasher, allow_missing_end=limits.allow_missing_end) as reader:
        samples = with_store_keys(reader.samples(), shard.shard_id, limits)
        for loaded in _loaded(reader, samples, encoder, limits, pool, watch):
            if loaded.reason is not None:
                rows.skipped.append((loaded.sample.row, loaded.sample.key, loaded.reason))
                continue
            batch.append(loaded)
            if len(batch) == encoder.batch_size:
                _embed_batch(encoder, batch, rows)
                batch = []
        if batch:
            _embed_batch(encoder, batch, rows)
        ignored = dict(reader.ignored)
        reader.check_unchanged(shard.size, shard.mtime_ns)
    return _part(rows, encoder, shard, hasher.hexdigest()), hasher.hexdigest(), ignored


def _part(rows: _Rows, encoder: Encoder, shard: ShardRef, sha256: str) -> PartData:
    samples, facts = [sample for sample, _ in rows.embedded], [known for _, known in rows.embedded]
    skipped = sorted(rows.skipped)
    empty = np.empty((0, encoder.dim), np.float16)
    return PartData(
        embedding=np.concatenate([empty, *rows.embedding]),
        norm=np.concatenate([np.empty(0, np.float32), *rows.norm]),
        key=[sample.key for sample in samples],
        key_hash=np.array([key_hash(sample.key) for sample in samples], np.uint64),
        row=np.array([sample.row for sample in samples], np.uint32),
        block_start=np.array([sample.block_start for sample in samples], np.uint64),
        block_end=np.array([sample.block_end for sample in samples], np.uint64),
        digest=np.frombuffer(b"".join(known.digest for known in facts), np.uint8).reshape(-1, 16),
        image_start=np.array([known.image_start for known in facts], np.uint64),
        image_size=np.array([known.image_size for known in facts], np.uint32),
        content=np.frombuffer(b"".join(known.content for known in facts), np.uint8).reshape(-1, 16),
        defects=np.array([known.defects for known in facts], np.uint8),
        skipped_row=np.array([row for row, _, _ in skipped], np.uint32),
        skipped_key=[key for _, key, _ in skipped],
        skipped_reason=[reason for _, _, reason in skipped],
        attributes={
            "encoder": encoder.identity,
            "shard_id": shard.shard_id,
            "shard_sha256": sha256,
            "shard_size": shard.size,
            "normalized": 1,
        },
    )


class EmbedWorker:
    """Built once in each worker: holds the encoder, describes it, and embeds the shards it is given."""

    def __init__(self, *, spec: EncoderSpec, limits: Limits, store: str) -> None:
        """Load the encoder; the store folder is opened at the first shard."""
        self._encoder = build_encoder(spec)
        self._limits = limits
        self._store_path = store
        on_cpu = self._encoder.identity.get("device", "cpu") == "cpu"
        if on_cpu:
            _one_thread()
            _bound_memory(limits.decode_memory_bytes)
        self._pool = None if on_cpu else ThreadPoolExecutor(min(DECODE_THREADS_PER_GPU, os.cpu_count() or 1))

    def __call__(self, payload: dict[str, JSONValue]) -> JSONValue:
        """Facts about the encoder for ``{"describe": true}``; counts of the committed part for a shard."""
        if payload.get("describe"):
            return {
                "identity": self._encoder.identity,
                "dim": self._encoder.dim,
                "notes": cast("JSONValue", list(self._encoder.notes)),
            }
        shard = ShardRef(**cast("dict", payload["shard"]))
        part, sha256, ignored = self._embedded(shard)
        record = Store(self._store_path).commit(shard, sha256, part, ignored)
        return {"n_samples": record.n_samples, "n_rows": record.n_rows}

    def _embedded(self, shard: ShardRef) -> tuple[PartData, str, dict[str, int]]:
        """What `embed_shard` returns; an image that stops a worker of one thread is skipped at the next attempt."""
        if self._pool is not None or worker.owner() is None:
            return embed_shard(shard, self._encoder, self._limits, self._pool)
        watch = DecodeWatch(Path(self._store_path, "parts"), shard.shard_id, self._limits.decode_timeout_s)
        try:
            return embed_shard(shard, self._encoder, self._limits, watch=watch)
        finally:
            watch.close()


def _one_thread() -> None:
    """Keep torch on one thread in worker processes: parallelism comes from the number of workers."""
    import sys

    if "torch" in sys.modules and worker.owner() is not None:
        sys.modules["torch"].set_num_threads(1)


def _bound_memory(extra: int) -> None:
    """Let this worker process allocate ``extra`` bytes more than now; decoders then fail, and the image is skipped."""
    status = Path("/proc/self/status")
    if not extra or worker.owner() is None or not status.exists():
        return
    import resource

    found = re.search(r"^VmData:\s+(\d+) kB", status.read_text(), re.MULTILINE)
    if found is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = (int(found[1]) << 10) + extra
        resource.setrlimit(
            resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )
