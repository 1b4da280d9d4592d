"""One output shard from the plan: what a writing worker does."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import numpy as np

from sspruning.errors import ShardError
from sspruning.records import JSONValue
from sspruning.stages.sidecars import META
from sspruning.storage.atomic import write_json, write_stream
from sspruning.storage.samples import ShardReader
from sspruning.storage.store import CommitRecord, Store
from sspruning.storage.tar_scan import archive_end

__all__ = ["ShardWriter", "record_path", "records_with_rows"]

COPY_BYTES = 4 << 20
OPEN_SOURCES = 64


def records_with_rows(store: Store) -> list[CommitRecord]:
    """Records with rows: a shard without any has no row group in the selection."""
    return [record for record in store.records() if record.n_rows]


def record_path(output: Path, name: str) -> Path:
    """Commit record of one output shard."""
    return output / META / "shards" / f"{name}.json"


class ShardWriter:
    """Built once in each worker: writes one output shard at a time from the plan."""

    def __init__(self, *, store: str, plan: str, output: str, mark: str) -> None:
        """Open the store and map the plan; ``mark`` is kept in every shard's record."""
        self._store = Store(store)
        self._records = records_with_rows(self._store)
        self._shards = self._store.shards()
        self._plan = np.load(plan, mmap_mode="r")
        self._output = Path(output)
        self._mark = mark

    def __call__(self, payload: dict[str, JSONValue]) -> JSONValue:
        """Facts of the committed shard with the samples ``start`` to ``stop`` of the plan."""
        name, start, stop = str(payload["name"]), int(cast("int", payload["start"])), int(cast("int", payload["stop"]))
        planned = np.array(self._plan[start:stop])
        ranges = self._ranges(planned)
        sha256, size = write_stream(self._output / name, self._blocks(planned, ranges))
        facts: dict[str, JSONValue] = {
            "name": name,
            "n_samples": len(planned),
            "sha256": sha256,
            "size": size,
            "samples_digest": hashlib.blake2b(ranges["digest"].tobytes(), digest_size=16).hexdigest(),
            "mark": self._mark,
        }
        write_json(record_path(self._output, name), facts)
        return facts

    def _ranges(self, planned: np.ndarray) -> np.ndarray:
        """(m,) block_start, block_end and digest of the planned samples."""
        out = np.empty(len(planned), [("start", "<u8"), ("end", "<u8"), ("digest", "u1", (16,))])
        for number in np.unique(planned["part"]).tolist():
            here = planned["part"] == number
            rows = planned["row"][here]
            with self._store.open_part(self._records[number]) as part:
                out["start"][here] = part.column("block_start")[rows]
                out["end"][here] = part.column("block_end")[rows]
                out["digest"][here] = part.digest()[rows]
        return out

    def _blocks(self, planned: np.ndarray, ranges: np.ndarray) -> Iterator[bytes]:
        """The output archive, piece by piece: samples that stand together in a source are read together."""
        part, start, end = planned["part"].tolist(), ranges["start"].tolist(), ranges["end"].tolist()
        digests = ranges["digest"].tobytes()
        size = 0
        with _Sources(self._open) as sources:
            for first, last in _runs_of_neighbours(part, start, end):
                reader = sources.reader(part[first])
                for piece in self._checked(
                    reader, part[first], start[first:last], end[first:last], digests[16 * first :]
                ):
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

    def _checked(
        self, reader: ShardReader, number: int, starts: list[int], ends: list[int], digests: bytes
    ) -> Iterator[bytes]:
        """Blocks of samples that stand together, each checked against its digest."""
        if ends[-1] - starts[0] > COPY_BYTES:
            yield from self._large(reader, number, starts[0], ends[0], digests[:16])
            return
        data = reader.read(starts[0], ends[-1] - starts[0])
        view = memoryview(data)
        base = starts[0]
        blake2b = hashlib.blake2b
        for index, (start, end) in enumerate(zip(starts, ends, strict=True)):
            if (
                blake2b(view[start - base : end - base], digest_size=16).digest()
                != digests[16 * index : 16 * index + 16]
            ):
                raise self._changed(number, start)
        yield data

    def _large(self, reader: ShardReader, number: int, start: int, end: int, expected: bytes) -> Iterator[bytes]:
        """One large sample in pieces; a wrong digest is found at its end, before the shard gets its name."""
        digest = hashlib.blake2b(digest_size=16)
        for at in range(start, end, COPY_BYTES):
            piece = reader.read(at, min(COPY_BYTES, end - at))
            digest.update(piece)
            yield piece
        if digest.digest() != expected:
            raise self._changed(number, start)

    def _changed(self, number: int, offset: int) -> ShardError:
        path = self._shards[self._records[number].shard_id].path
        problem = "these bytes are not the ones that were embedded; restore the shard, or run `sspruning embed` again"
        return ShardError(path, offset, problem)


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


def _runs_of_neighbours(part: list[int], start: list[int], end: list[int]) -> Iterator[tuple[int, int]]:
    """(first, last + 1) of samples that stand next to each other in one source, at most `COPY_BYTES` together."""
    first = 0
    for index in range(1, len(part) + 1):
        if (
            index == len(part)
            or part[index] != part[first]
            or start[index] != end[index - 1]
            or end[index] - start[first] > COPY_BYTES
        ):
            yield first, index
            first = index
