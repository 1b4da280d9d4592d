"""One output shard from the plan: what a writing worker does."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from sspruning.errors import ShardError, SSPruningError
from sspruning.records import JSONValue, OutputShard
from sspruning.stages.output_plan import records_with_rows
from sspruning.stages.read_back import read_back, read_known
from sspruning.stages.rewrite import Rewriting, SourceSample, rewritten
from sspruning.stages.sidecars import record_name, record_path, write_shard_files
from sspruning.storage.atomic import write_json, write_stream
from sspruning.storage.output_place import place_at
from sspruning.storage.samples import ShardReader
from sspruning.storage.store import Store
from sspruning.storage.tar_scan import Hasher, archive_end

__all__ = ["ShardWriter"]

COPY_BYTES = 4 << 20
OPEN_SOURCES = 64
RANGES = [("start", "<u8"), ("end", "<u8"), ("digest", "u1", (16,)), ("image", "<u8"), ("centroid", "<i4")]


@dataclass(frozen=True, slots=True)
class _Run:
    """Samples that stand together in one source."""

    number: int
    """Of the record of the source."""
    start: list[int]
    end: list[int]
    digest: list[bytes]
    image: list[int]
    centroid: list[int]


class ShardWriter:
    """Built once in each worker: writes one output shard at a time from the plan."""

    def __init__(
        self, *, store: str, plan: str, output: str, folder: str, mark: str, rule: Rewriting, index: list[str]
    ) -> None:
        """Open the store and map the plan; ``mark`` is kept in every shard's record.

        Files are made in ``folder``, which is the ``output`` unless that is a URL.
        """
        self._store = Store(store)
        self._records = records_with_rows(self._store)
        self._shards = self._store.shards()
        self._plan = np.load(plan, mmap_mode="r")
        self._place = place_at(output, Path(folder))
        self._output = Path(folder)
        self._mark = mark
        self._rule = rule
        self._index = index

    def __call__(self, payload: dict[str, JSONValue]) -> JSONValue:
        """Facts of the committed shard with the samples ``start`` to ``stop`` of the plan.

        A shard that stands already, as ``known`` records it, is not written again; only its index files are.
        """
        name, start, stop = str(payload["name"]), int(cast("int", payload["start"])), int(cast("int", payload["stop"]))
        path, facts = self._output / name, cast("dict[str, Any] | None", payload["known"])
        found = None if facts is None else read_known(self._place.source(name), facts)
        if found is None or facts is None:
            facts = self._written(path, np.array(self._plan[start:stop]))
            found = read_back(path, facts["n_samples"])
            self._place.publish([name])
        shard = OutputShard(
            name=name, n_samples=facts["n_samples"], size=facts["size"], suffixes=dict(sorted(found.suffixes.items()))
        )
        files = write_shard_files(self._output, shard, found.samples, self._index)
        self._place.publish(files)
        record: dict[str, JSONValue] = {
            "name": name,
            "n_samples": shard.n_samples,
            "sha256": facts["sha256"],
            "size": shard.size,
            "samples_digest": facts["samples_digest"],
            "suffixes": cast("JSONValue", shard.suffixes),
            "files": cast("JSONValue", files),
            "index": cast("JSONValue", self._index),
            "mark": self._mark,
        }
        write_json(record_path(self._output, name), record)
        self._place.publish([record_name(name)])
        return record

    def _written(self, path: Path, planned: np.ndarray) -> dict[str, Any]:
        """Count, digests and size of a shard that now stands."""
        digests = hashlib.blake2b(digest_size=16)
        sha256, size = write_stream(path, self._blocks(planned, digests))
        return {"n_samples": len(planned), "sha256": sha256, "size": size, "samples_digest": digests.hexdigest()}

    def _ranges(self, planned: np.ndarray) -> np.ndarray:
        """(m,) byte range and digest of the planned samples, first byte of the image, and prototype."""
        out = np.zeros(len(planned), RANGES)
        for number in np.unique(planned["part"]).tolist():
            here = planned["part"] == number
            rows = planned["row"][here]
            with self._store.open_part(self._records[number]) as part:
                out["start"][here] = part.column("block_start")[rows]
                out["end"][here] = part.column("block_end")[rows]
                out["digest"][here] = part.digest()[rows]
                if self._rule.needed:
                    out["image"][here] = part.column("image_start")[rows]
        if "centroid" in cast("tuple[str, ...]", planned.dtype.names):
            out["centroid"] = planned["centroid"]
        return out

    def _blocks(self, planned: np.ndarray, digests: Hasher) -> Iterator[bytes]:
        """The output archive, piece by piece: samples that stand together in a source are read together.

        Args:
            planned: the samples.
            digests: is fed the digest of each sample as it stands in the output.
        """
        size = 0
        with _Sources(self._open) as sources:
            for run in _runs(planned["part"].tolist(), self._ranges(planned)):
                reader = sources.reader(run.number)
                large = run.end[-1] - run.start[0] > COPY_BYTES
                for piece in self._large(reader, run, digests) if large else self._together(reader, run, digests):
                    size += len(piece)
                    yield piece
        yield archive_end(size)

    def _open(self, number: int) -> ShardReader:
        record = self._records[number]
        shard = self._shards[record.shard_id]
        try:
            reader = ShardReader(shard.path)
        except OSError as error:
            raise ShardError(
                shard.path, 0, f"cannot be read any more ({error.strerror}); `write` copies from it"
            ) from error
        if reader.size != record.shard_size:
            raise ShardError(shard.path, 0, "the shard changed since it was embedded; run `sspruning embed` again")
        return reader

    def _together(self, reader: ShardReader, run: _Run, digests: Hasher) -> Iterator[bytes]:
        """Blocks of small samples that stand together, each checked against its digest before it is used."""
        base = run.start[0]
        data = reader.read(base, run.end[-1] - base)
        view = memoryview(data)
        blake2b = hashlib.blake2b
        for start, end, digest in zip(run.start, run.end, run.digest, strict=True):
            if blake2b(view[start - base : end - base], digest_size=16).digest() != digest:
                raise self._changed(run.number, start)
        if not self._rule.needed:
            digests.update(b"".join(run.digest))
            yield data
            return

        def read(start: int, size: int) -> bytes:
            return data[start - base : start - base + size]

        blocks: list[bytes] = []
        for index in range(len(run.start)):
            pieces = rewritten(self._rule, read, self._sample(run, index))
            own = b"".join(p if isinstance(p, bytes) else data[p[0] - base : p[1] - base] for p in pieces)
            digests.update(blake2b(own, digest_size=16).digest())
            blocks.append(own)
        yield b"".join(blocks)

    def _sample(self, run: _Run, index: int) -> SourceSample:
        shard = self._shards[self._records[run.number].shard_id]
        return SourceSample(
            path=shard.path,
            shard_id=shard.shard_id,
            start=run.start[index],
            end=run.end[index],
            image=run.image[index],
            centroid=run.centroid[index],
        )

    def _large(self, reader: ShardReader, run: _Run, digests: Hasher) -> Iterator[bytes]:
        """One large sample in pieces; a wrong digest is found at its end, before the shard gets its name."""
        source, own = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)
        at, [end] = run.start[0], run.end
        for piece in self._pieces(reader, run):
            if isinstance(piece, bytes):
                own.update(piece)
                yield piece
                continue
            _drain(_streamed(reader, at, piece[0], source))  # what is left out
            for block in _streamed(reader, *piece, source):
                own.update(block)
                yield block
            at = piece[1]
        _drain(_streamed(reader, at, end, source))
        if source.digest() != run.digest[0]:
            raise self._changed(run.number, run.start[0])
        digests.update(own.digest())

    def _pieces(self, reader: ShardReader, run: _Run) -> list[bytes | tuple[int, int]]:
        """What a large sample becomes. Its headers are not proved yet: if they mislead, that is what is told."""
        if not self._rule.needed:
            return [(run.start[0], run.end[0])]
        try:
            return rewritten(self._rule, reader.read, self._sample(run, 0))
        except (SSPruningError, ValueError):
            source = hashlib.blake2b(digest_size=16)
            _drain(_streamed(reader, run.start[0], run.end[0], source))
            if source.digest() != run.digest[0]:
                raise self._changed(run.number, run.start[0]) from None
            raise

    def _changed(self, number: int, offset: int) -> ShardError:
        path = self._shards[self._records[number].shard_id].path
        problem = "these bytes are not the ones that were embedded; restore the shard, or run `sspruning embed` again"
        return ShardError(path, offset, problem)


def _streamed(reader: ShardReader, start: int, end: int, hasher: Hasher) -> Iterator[bytes]:
    """The bytes of a range in pieces, hashed as they go by."""
    for at in range(start, end, COPY_BYTES):
        piece = reader.read(at, min(COPY_BYTES, end - at))
        hasher.update(piece)
        yield piece


def _drain(pieces: Iterator[bytes]) -> None:
    deque(pieces, maxlen=0)


class _Sources:
    """Open source shards, at most `OPEN_SOURCES` of them, all closed at the end."""

    def __init__(self, open_source: Callable[[int], ShardReader]) -> None:
        self._open_source = open_source
        self._readers: dict[int, ShardReader] = {}

    def __enter__(self) -> _Sources:
        return self

    def __exit__(self, *details: object) -> None:
        for reader in self._readers.values():
            reader.close()

    def reader(self, number: int) -> ShardReader:
        """Reader of source ``number``; the one opened longest ago makes room."""
        if number not in self._readers:
            if len(self._readers) >= OPEN_SOURCES:
                self._readers.pop(next(iter(self._readers))).close()
            self._readers[number] = self._open_source(number)
        return self._readers[number]


def _runs(part: list[int], ranges: np.ndarray) -> Iterator[_Run]:
    """Samples that stand next to each other in one source, at most `COPY_BYTES` together; a larger one stands alone."""
    start, end, image, centroid = (ranges[name].tolist() for name in ("start", "end", "image", "centroid"))
    joined = ranges["digest"].tobytes()
    digest = [joined[at : at + 16] for at in range(0, len(joined), 16)]
    first = 0
    for index in range(1, len(part) + 1):
        if (
            index == len(part)
            or part[index] != part[first]
            or start[index] != end[index - 1]
            or end[index] - start[first] > COPY_BYTES
        ):
            own = slice(first, index)
            yield _Run(part[first], start[own], end[own], digest[own], image[own], centroid[own])
            first = index
