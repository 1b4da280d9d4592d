"""May a part be relied on whose record and size fit? What the manifest and the times of the files say of it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import cast

from sspruning.errors import StoreError
from sspruning.records import JSONValue
from sspruning.storage.atomic import file_sha256
from sspruning.storage.digests import damaged, read_with_digest
from sspruning.storage.store_info import CommitRecord

__all__ = ["doubt", "noted_parts"]


def noted_parts(folder: Path) -> dict[str, JSONValue]:
    """Commit records as the manifest of a store has them, by shard; none if it is missing or damaged."""
    with suppress(StoreError, TypeError, KeyError):
        parts = cast("list[dict]", read_with_digest(folder / "manifest.json")["parts"])
        return {str(entry["shard_id"]): entry for entry in parts}
    return {}


def doubt(
    record: CommitRecord,
    place: Path,
    part: Path,
    noted: Mapping[str, JSONValue],
    *,
    read: bool = False,
    remote: bool = False,
) -> str:
    """Why a part cannot be relied on, in words; nothing if it can.

    Args:
        record: of the part.
        place: where the record stands.
        part: the file.
        noted: what `noted_parts` gives.
        read: read the part in any case.
        remote: its shard is remote, whose time may have been recorded anew since the manifest was written.

    Cost:
        a look at two files; a part that was changed after its record is read.
    """
    known = noted.get(record.shard_id)
    if isinstance(known, dict) and known.get("fingerprint") == record.fingerprint:
        if remote:
            known = {**known, "shard_mtime_ns": record.shard_mtime_ns}
        if known != asdict(record):
            return "its record is not what manifest.json says"
    lost = damaged({part: record.sha256}, place) or (read and file_sha256(part) != record.sha256)
    return "its part is missing or damaged" if lost else ""
