"""The embedding store: a folder of immutable parts with commit records. A part counts only through its record."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Container, Generator, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import cast

import numpy as np

from sspruning.errors import StoreError
from sspruning.fingerprint import fingerprint, short
from sspruning.records import EmbeddingChunk, JSONValue, Scores, ShardRef
from sspruning.storage.artifacts import load_column, score_path
from sspruning.storage.atomic import create_once, file_sha256, json_bytes, read_json, write_bytes, write_json
from sspruning.storage.digests import with_digest
from sspruning.storage.doubts import doubt, noted_parts
from sspruning.storage.parts import PartData, PartReader, encode_part, open_part
from sspruning.storage.sources import source_sha256
from sspruning.storage.store_info import (
    CommitRecord,
    DamagedStoreError,
    encode_info,
    had_settings,
    other_settings,
    part_fingerprint,
    read_info,
    store_fingerprint,
)
from sspruning.storage.urls import is_url

__all__ = ["CommitRecord", "Store"]


def _corpus_bytes(shards: tuple[ShardRef, ...]) -> bytes:
    value = [{"shard_id": s.shard_id, "path": s.path, "size": s.size, "mtime_ns": s.mtime_ns} for s in shards]
    return json_bytes(cast("JSONValue", value))


class Store:
    """A store on disk.

    ``Store(path)`` opens an existing one for reading; `Store.create` makes one or opens the one that matches.
    Reading never holds more than one chunk of rows.
    """

    def __init__(self, path: str | Path) -> None:
        """Open the store at ``path``.

        Raises:
            StoreError: there is no store, it is damaged, or of a format version that this release does not know.
        """
        self.path = Path(path)
        if not (self.path / "store.json").exists():
            raise StoreError(f"{self.path}: no store here (store.json is missing); `sspruning embed` makes one")
        self.info = read_info(self.path)
        self._records: list[CommitRecord] | None = None
        self._noted: dict[str, JSONValue] | None = None

    @classmethod
    def at(cls, path: Path) -> Store | None:
        """The store at ``path``; None if its ``store.json`` is missing or damaged, which `Store.create` makes good.

        Raises:
            StoreError: it has a format version that this release does not know.
        """
        if not (path / "store.json").exists():
            return None
        with contextlib.suppress(DamagedStoreError):
            return cls(path)
        return None

    @classmethod
    def create(cls, path: Path, settings: dict[str, JSONValue]) -> Store:
        """The store at ``path`` with these settings, made if it is not there.

        A damaged ``store.json`` is written again if the commit records show that it had these settings.

        Raises:
            StoreError: a store with other settings stands there; the message names what differs.
        """
        for folder in ("parts", "quarantine", "logs"):
            (path / folder).mkdir(parents=True, exist_ok=True)
        create_once(path / "store.json", encode_info(settings))
        try:
            store = cls(path)
        except DamagedStoreError:
            if not had_settings(path, settings):
                raise
            write_bytes(path / "store.json", encode_info(settings))
            store = cls(path)
        if store.fingerprint != store_fingerprint(settings):
            raise StoreError(f"{path}: {other_settings(store.settings, settings)}")
        return store

    @property
    def fingerprint(self) -> str:
        """Hex digest of the settings that every part shares."""
        return str(self.info["fingerprint"])

    @property
    def settings(self) -> dict[str, JSONValue]:
        """What every embedding of this store was made with."""
        return cast("dict[str, JSONValue]", self.info["settings"])

    def part_fingerprint(self, shard_sha256: str) -> str:
        """Fingerprint of the part that a shard with this content has in this store."""
        return part_fingerprint(self.fingerprint, shard_sha256)

    def records(self, *, refresh: bool = False) -> list[CommitRecord]:
        """Commit records of the current corpus, sorted by shard, each with its part in place.

        A record of a shard that is no longer in ``corpus.json`` is left out: its part stays, unused.
        """
        if self._records is None or refresh:
            self._records = self.records_of(self.shards())
        return self._records

    def records_of(self, shard_ids: Iterable[str]) -> list[CommitRecord]:
        """Commit records of these shards as they are now, sorted by shard, each with its part in place."""
        found = (self.read_record(shard_id) for shard_id in sorted(shard_ids))
        return [record for record in found if record is not None]

    def record_path(self, shard_id: str) -> Path:
        """Path of the commit record of a shard."""
        return self.path / "parts" / f"{shard_id}.json"

    def read_record(self, shard_id: str) -> CommitRecord | None:
        """The commit record of a shard if its part stands there with the right size."""
        path = self.record_path(shard_id)
        if not path.exists():
            return None
        with contextlib.suppress(StoreError, TypeError, OSError):
            record = CommitRecord(**cast("dict", read_json(path)))
            part = self.path / "parts" / record.part_name
            belongs = record.shard_id == shard_id and record.fingerprint == self.part_fingerprint(record.shard_sha256)
            if belongs and part.stat().st_size == record.size:
                return record
        return None

    def committed(self, shard: ShardRef, *, verify_content: bool = False) -> CommitRecord | None:
        """The record of a shard that needs no work: its content is the recorded one.

        Size and modification time decide, as in git's index; a shard that was only touched is hashed, and
        ``verify_content`` hashes it, and the part, in any case. A remote shard that had to be read for it is recorded
        as it is now, so that it is not read again.
        """
        record = self.read_record(shard.shard_id)
        if record is None or record.shard_size != shard.size:
            return None
        if self.doubt(record, read=verify_content, remote=is_url(shard.path)):
            return None
        if record.shard_mtime_ns == shard.mtime_ns and not verify_content:
            return record
        if source_sha256(shard.path) != record.shard_sha256:
            return None
        if is_url(shard.path) and record.shard_mtime_ns != shard.mtime_ns:
            record = replace(record, shard_mtime_ns=shard.mtime_ns)
            write_json(self.record_path(shard.shard_id), cast("JSONValue", asdict(record)))
        return record

    def doubt(self, record: CommitRecord, *, read: bool = False, remote: bool = False) -> str:
        """Why a part cannot be relied on although its record and its size fit; see `sspruning.storage.doubts.doubt`."""
        if self._noted is None:
            self._noted = noted_parts(self.path)
        files = (self.record_path(record.shard_id), self.part_path(record))
        return doubt(record, *files, self._noted, read=read, remote=remote)

    def _named_part(self, shard_id: str) -> Path | None:
        """Path of the part that a shard's record names, whatever became of it; None if the record is not sound."""
        with contextlib.suppress(StoreError, TypeError):
            record = CommitRecord(**cast("dict", read_json(self.record_path(shard_id))))
            sound = record.shard_id == shard_id and record.fingerprint == self.part_fingerprint(record.shard_sha256)
            return self.part_path(record) if sound else None
        return None

    def commit(self, shard: ShardRef, shard_sha256: str, part: PartData, ignored: dict[str, int]) -> CommitRecord:
        """Write a part, then the record that makes it count.

        The part that the record named before is removed; what a killed commit left is `drop_stale_parts`' to find, for
        to look for it here would be to list all parts at each commit.
        """
        before = self._named_part(shard.shard_id)
        image = encode_part(part)
        mark = self.part_fingerprint(shard_sha256)
        target = self.path / "parts" / f"{shard.shard_id}.{short(mark)}.h5"
        sha256, size = write_bytes(target, image)
        record = CommitRecord(
            shard_id=shard.shard_id,
            fingerprint=mark,
            sha256=sha256,
            size=size,
            n_samples=len(part.key) + len(part.skipped_key),
            n_rows=len(part.key),
            skipped=dict(sorted(Counter(part.skipped_reason).items())),
            ignored=dict(sorted(ignored.items())),
            shard_size=shard.size,
            shard_mtime_ns=shard.mtime_ns,
            shard_sha256=shard_sha256,
        )
        write_json(self.record_path(shard.shard_id), cast("JSONValue", asdict(record)))
        if before is not None and before != target:
            before.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            (self.path / "quarantine" / f"{shard.shard_id}.json").unlink()
        return record

    def drop_stale_parts(self, records: Iterable[CommitRecord], shard_ids: Container[str]) -> None:
        """Remove parts of these shards that none of the records names: a commit that was killed may have left one."""
        named = {record.part_name for record in records}
        for path in (self.path / "parts").glob("*.h5"):
            if path.name not in named and path.name.removesuffix(".h5").rpartition(".")[0] in shard_ids:
                path.unlink(missing_ok=True)

    def quarantine(self, shard: ShardRef, problem: str) -> None:
        """Record that a shard cannot be embedded, and why."""
        write_json(
            self.path / "quarantine" / f"{shard.shard_id}.json",
            {"shard_id": shard.shard_id, "path": shard.path, "size": shard.size, "problem": problem},
        )

    def quarantined(self) -> dict[str, str]:
        """Problem of each quarantined shard of the current corpus, by shard."""
        current = self.shards()
        found: dict[str, str] = {}
        for path in sorted((self.path / "quarantine").glob("*.json")):
            try:
                content = read_json(path)
            except StoreError:
                if path.exists():
                    raise
                continue  # another task has embedded the shard meanwhile
            if not isinstance(content, dict) or not {"shard_id", "problem"} <= content.keys():
                raise StoreError(f"{path}: damaged; delete it and run `sspruning embed` again")
            if content["shard_id"] in current:
                found[str(content["shard_id"])] = str(content["problem"])
        return found

    def set_shards(self, shards: tuple[ShardRef, ...]) -> None:
        """Record which shards make up the corpus and where they lie now."""
        write_bytes(self.path / "corpus.json", _corpus_bytes(shards))
        self._records = None

    def has_shards(self, shards: tuple[ShardRef, ...]) -> bool:
        """True if this is what ``corpus.json`` says, to the byte."""
        path = self.path / "corpus.json"
        return path.exists() and path.read_bytes() == _corpus_bytes(shards)

    def shards(self) -> dict[str, ShardRef]:
        """Shards of the current corpus by name, as they were last seen."""
        path = self.path / "corpus.json"
        listed = read_json(path)
        try:
            found = [ShardRef(**cast("dict", entry)) for entry in (listed if isinstance(listed, list) else [None])]
            strange = [shard.shard_id for shard in found if "/" in shard.shard_id or "\0" in shard.shard_id]
        except TypeError as error:
            raise StoreError(f"{path}: damaged ({error}); run `sspruning embed` again") from error
        if strange:
            raise StoreError(f"{path}: {strange[0]!r} is no name of a shard; run `sspruning embed` again")
        return {shard.shard_id: shard for shard in found}

    def manifest(self, *, refresh: bool = False) -> dict[str, JSONValue]:
        """What ``manifest.json`` has to say: all commit records, and digests of the files that nothing else proves."""
        records = [asdict(record) for record in self.records(refresh=refresh)]
        aside = [self.path / "quarantine" / f"{shard_id}.json" for shard_id in self.quarantined()]
        others = [self.path / "corpus.json", self.path / "request.json", *aside]
        files = {path.relative_to(self.path).as_posix(): file_sha256(path) for path in others if path.exists()}
        content = {"store": self.fingerprint, "parts": records, "files": files}
        return with_digest(cast("dict[str, JSONValue]", content))

    def has_manifest(self, content: dict[str, JSONValue]) -> bool:
        """True if this is what ``manifest.json`` says, to the byte."""
        path = self.path / "manifest.json"
        return path.exists() and path.read_bytes() == json_bytes(content)

    def write_manifest(self) -> None:
        """Bring ``manifest.json`` up to date; it can be rebuilt at any time. A file that is as it shall be stays."""
        if not self.has_manifest(content := self.manifest(refresh=True)):
            write_json(self.path / "manifest.json", cast("JSONValue", content))
        self._noted = None

    def content_fingerprint(self) -> str:
        """Hex digest of all embeddings of the current corpus: changes when any part does."""
        return fingerprint([[record.shard_id, record.fingerprint] for record in self.records()])

    @property
    def n_rows(self) -> int:
        """Embedded samples."""
        return sum(record.n_rows for record in self.records())

    @property
    def dim(self) -> int:
        """Dimensions of an embedding."""
        return cast("int", self.settings["dim"])

    def part_path(self, record: CommitRecord) -> Path:
        """Path of a committed part."""
        return self.path / "parts" / record.part_name

    @contextlib.contextmanager
    def open_part(self, record: CommitRecord) -> Generator[PartReader]:
        """An open part whose row count is the recorded one."""
        with open_part(self.part_path(record)) as part:
            if part.n_rows != record.n_rows or part.dim != self.dim:
                raise StoreError(
                    f"{part.path}: {part.n_rows} rows, its record says {record.n_rows}; run `sspruning embed` again"
                )
            if part.shard_sha256 not in {None, record.shard_sha256}:
                raise StoreError(
                    f"{part.path}: was made from another shard than its record says; delete it and run "
                    "`sspruning embed` again"
                )
            yield part

    def chunks(self, rows: int = 65536, scores: Scores | None = None) -> Iterator[EmbeddingChunk]:
        """`EmbeddingChunk` of at most ``rows`` samples at a time, in store order; never across shards.

        Args:
            rows: upper bound, and with it the memory.
            scores: what `sspruning.score` returned, to have each sample's score as well.
        """
        for record in self.records():
            values = None
            if scores is not None:
                values = load_column(score_path(Path(scores.folder), record.shard_id), record.n_rows, np.dtype("<f4"))
            with self.open_part(record) as part:
                keys = part.keys()
                for start in range(0, record.n_rows, rows):
                    stop = min(start + rows, record.n_rows)
                    own = None if values is None else values[start:stop]
                    yield EmbeddingChunk(keys[start:stop], part.embedding(start, stop), own)

    def key_hashes(self) -> Iterator[tuple[CommitRecord, np.ndarray]]:
        """(record, (n,) uint64 key hashes) of each part in store order."""
        for record in self.records():
            with self.open_part(record) as part:
                yield record, part.column("key_hash")
