"""One output shard from the plan: what a writing worker does."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import numpy as np

from sspruning.errors import ShardError
from sspruning.records import JSONValue
from sspruning.stages.sidecars import META
from sspruning.storage.atomic import write_json, write_stream
from sspruning.storage.samples import ShardReader
from sspruning.storage.store import CommitRecord, Store
from sspruning.storage.tar_scan import END_MARKER

__all__ = ["ShardWriter", "record_path", "records_with_rows"]

RECORD_BYTES = 10_240  # tar archives are padded to whole records of 20 blocks
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
        size = 0
        with ExitStack() as stack:
            readers: dict[int, ShardReader] = {}
            part, start, end = planned["part"].tolist(), ranges["start"].tolist(), ranges["end"].tolist()
            digests = ranges["digest"].tobytes()
            first = 0
            while first < len(part):
                last = first
                while (
                    last + 1 < len(part)
                    and part[last + 1] == part[first]
                    and start[last + 1] == end[last]
                    and end[last + 1] - start[first] <= COPY_BYTES
                ):
                    last += 1
                if part[first] not in readers:
                    if len(readers) >= OPEN_SOURCES:
                        readers.pop(next(iter(readers))).__exit__(None, None, None)
                    readers[part[first]] = self._open(part[first])
                reader = readers[part[first]]
                for piece in self._run(
                    reader, part[first], start[first : last + 1], end[first : last + 1], digests, first
                ):
                    size += len(piece)
                    yield piece
                first = last + 1
            for reader in readers.values():
                stack.push(reader)
        yield END_MARKER + bytes(-(size + len(END_MARKER)) % RECORD_BYTES)

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

    def _run(
        self, reader: ShardReader, number: int, starts: list[int], ends: list[int], digests: bytes, first: int
    ) -> Iterator[bytes]:
        """Blocks of samples that stand together, each checked against its digest."""
        if ends[-1] - starts[0] > COPY_BYTES:
            yield from self._large(reader, number, starts[0], ends[0], digests[16 * first : 16 * first + 16])
            return
        data = reader.read(starts[0], ends[-1] - starts[0])
        view = memoryview(data)
        base = starts[0]
        blake2b = hashlib.blake2b
        for index, (start, end) in enumerate(zip(starts, ends, strict=True), start=first):
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
