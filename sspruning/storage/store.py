"""The embedding store: a folder of immutable parts with commit records. A part counts only through its record."""

from __future__ import annotations

import contextlib
import glob
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np

from sspruning.errors import StoreError
from sspruning.fingerprint import canonical_json, fingerprint, short
from sspruning.records import EmbeddingChunk, JSONValue, Scores, ShardRef
from sspruning.storage.artifacts import load_column, score_path
from sspruning.storage.atomic import create_once, read_json, write_bytes, write_json
from sspruning.storage.parts import FORMAT_VERSION, PartData, PartReader, encode_part, open_part
from sspruning.storage.sources import source_sha256
from sspruning.storage.urls import is_url

__all__ = ["CommitRecord", "Store"]

STORE_FORMAT = "sspruning-store"


_PUT_BACK = "put it back from a copy, or embed the shards into another folder"


def _other_format(path: Path, kind: JSONValue, version: JSONValue) -> str:
    """What to do about a store that this release does not read."""
    found = f"store format {version!r}, this release reads {FORMAT_VERSION}"
    if kind == STORE_FORMAT and isinstance(version, int) and version < FORMAT_VERSION:
        return (
            f"{found}: an earlier release made it, without columns that are needed now, and stores are not upgraded. "
            f"Move the folder away and run `sspruning embed SHARDS --store {path}` again, or use a new folder"
        )
    return f"{found}; use the release that made it, or another folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitRecord:
    """What proves that a part is whole: written after the part, read instead of it."""

    shard_id: str
    fingerprint: str
    """Of the encoder, the key rule and the shard's content."""
    sha256: str
    size: int
    """Of the part file."""
    n_samples: int
    n_rows: int
    skipped: dict[str, int]
    """Samples that were not embedded, by reason."""
    ignored: dict[str, int]
    """Members that belong to no sample, by reason."""
    shard_size: int
    shard_mtime_ns: int
    shard_sha256: str

    @property
    def part_name(self) -> str:
        """File name of the part in ``parts/``."""
        return f"{self.shard_id}.{short(self.fingerprint)}.h5"


class Store:
    """A store on disk.

    ``Store(path)`` opens an existing one for reading; `Store.create` makes one or opens the one that matches.
    Reading never holds more than one chunk of rows.
    """

    def __init__(self, path: str | Path) -> None:
        """Open the store at ``path``.

        Raises:
            StoreError: there is no store, or it has a format version that this release does not know.
        """
        self.path = Path(path)
        if not (self.path / "store.json").exists():
            raise StoreError(f"{self.path}: no store here (store.json is missing); `sspruning embed` makes one")
        info = read_json(self.path / "store.json")
        self.info = info if isinstance(info, dict) else {}
        version = self.info.get("format_version")
        if self.info.get("format") != STORE_FORMAT or version != FORMAT_VERSION:
            raise StoreError(f"{self.path}: {_other_format(self.path, self.info.get('format'), version)}")
        settings = self.info.get("settings")
        if not isinstance(settings, dict) or not isinstance(settings.get("dim"), int) or "fingerprint" not in self.info:
            raise StoreError(f"{self.path}: store.json is damaged; {_PUT_BACK}")
        self._records: list[CommitRecord] | None = None

    @classmethod
    def create(cls, path: Path, settings: dict[str, JSONValue]) -> Store:
        """The store at ``path`` with these settings, made if it is not there.

        Raises:
            StoreError: a store with other settings stands there; the message names what differs.
        """
        content: dict[str, JSONValue] = {
            "format": STORE_FORMAT,
            "format_version": FORMAT_VERSION,
            "settings": settings,
            "fingerprint": fingerprint({"format_version": FORMAT_VERSION, "settings": settings}),
        }
        for folder in ("parts", "quarantine", "logs"):
            (path / folder).mkdir(parents=True, exist_ok=True)
        create_once(path / "store.json", (canonical_json(content) + "\n").encode())
        store = cls(path)
        if store.fingerprint != content["fingerprint"]:
            theirs = store.settings
            differing = [
                f"{key}: here {theirs.get(key)!r}, asked for {settings.get(key)!r}"
                for key in sorted({*theirs, *settings})
                if theirs.get(key) != settings.get(key)
            ]
            keys = theirs.get("key_prefix") != settings.get("key_prefix")
            hint = " (--repeated-keys decides key_prefix)" if keys else ""
            raise StoreError(
                f"{path}: this store was made with other settings ({'; '.join(differing)}); "
                f"use another --store folder, or the same settings{hint}"
            )
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
        return fingerprint({"store": self.fingerprint, "shard_sha256": shard_sha256})

    def records(self, *, refresh: bool = False) -> list[CommitRecord]:
        """Commit records of the current corpus, sorted by shard, each with its part in place.

        A record of a shard that is no longer in ``corpus.json`` is left out: its part stays, unused.
        """
        if self._records is None or refresh:
            current = self.shards()
            found = (self._read_record(shard_id) for shard_id in sorted(current))
            self._records = [record for record in found if record is not None]
        return self._records

    def _record_path(self, shard_id: str) -> Path:
        return self.path / "parts" / f"{shard_id}.json"

    def _read_record(self, shard_id: str) -> CommitRecord | None:
        """The commit record of a shard if its part stands there with the right size."""
        path = self._record_path(shard_id)
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
        ``verify_content`` hashes in any case. A remote shard that had to be read for it is recorded as it is now, so
        that it is not read again.
        """
        record = self._read_record(shard.shard_id)
        if record is None or record.shard_size != shard.size:
            return None
        if record.shard_mtime_ns == shard.mtime_ns and not verify_content:
            return record
        if source_sha256(shard.path) != record.shard_sha256:
            return None
        if is_url(shard.path) and record.shard_mtime_ns != shard.mtime_ns:
            record = replace(record, shard_mtime_ns=shard.mtime_ns)
            write_json(self._record_path(shard.shard_id), cast("JSONValue", asdict(record)))
        return record

    def why_pending(self, shard: ShardRef) -> str:
        """Why a shard that has no up-to-date part has none, in words."""
        if not self._record_path(shard.shard_id).exists():
            aside = (self.path / "quarantine" / f"{shard.shard_id}.json").exists()
            return "put aside before" if aside else "new"
        return "its part is missing or damaged" if self._read_record(shard.shard_id) is None else "its content changed"

    def commit(self, shard: ShardRef, shard_sha256: str, part: PartData, ignored: dict[str, int]) -> CommitRecord:
        """Write a part, then the record that makes it count."""
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
        write_json(self._record_path(shard.shard_id), cast("JSONValue", asdict(record)))
        for stale in target.parent.glob(f"{glob.escape(shard.shard_id)}.????????????????.h5"):
            if stale != target:
                stale.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            (self.path / "quarantine" / f"{shard.shard_id}.json").unlink()
        return record

    def drop_stale_parts(self) -> None:
        """Remove parts of the current corpus that no record names: a commit that was killed may have left one."""
        named = {record.part_name for record in self.records(refresh=True)}
        current = self.shards()
        for path in (self.path / "parts").glob("*.h5"):
            shard_id = path.name.removesuffix(".h5").rpartition(".")[0]
            if shard_id in current and path.name not in named:
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
            content = read_json(path)
            if not isinstance(content, dict) or not {"shard_id", "problem"} <= content.keys():
                raise StoreError(f"{path}: damaged; delete it and run `sspruning embed` again")
            if content["shard_id"] in current:
                found[str(content["shard_id"])] = str(content["problem"])
        return found

    def set_shards(self, shards: tuple[ShardRef, ...]) -> None:
        """Record which shards make up the corpus and where they lie now."""
        value = [{"shard_id": s.shard_id, "path": s.path, "size": s.size, "mtime_ns": s.mtime_ns} for s in shards]
        write_json(self.path / "corpus.json", cast("JSONValue", value))
        self._records = None

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

    def write_manifest(self) -> None:
        """Gather the commit records in ``manifest.json``; it can be rebuilt from ``parts/`` at any time."""
        records = [asdict(record) for record in self.records(refresh=True)]
        write_json(self.path / "manifest.json", {"store": self.fingerprint, "parts": cast("JSONValue", records)})

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
