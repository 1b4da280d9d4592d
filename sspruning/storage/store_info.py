"""What vouches for parts: ``store.json``, the settings that all of them share, and a commit record for each.

The fingerprint in ``store.json`` proves the rest of it, so damage is told from another format.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from sspruning.errors import StoreError
from sspruning.fingerprint import canonical_json, fingerprint, short
from sspruning.records import JSONValue
from sspruning.storage.atomic import read_json
from sspruning.storage.parts import FORMAT_VERSION

__all__ = [
    "CommitRecord",
    "DamagedStoreError",
    "encode_info",
    "had_settings",
    "other_settings",
    "part_fingerprint",
    "read_info",
    "store_fingerprint",
]

STORE_FORMAT = "sspruning-store"


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


class DamagedStoreError(StoreError):
    """``store.json`` is there, but it is not what was written."""


def store_fingerprint(settings: JSONValue, version: JSONValue = FORMAT_VERSION) -> str:
    """Fingerprint of a store with these settings."""
    return fingerprint({"format_version": version, "settings": settings})


def part_fingerprint(store: str, shard_sha256: str) -> str:
    """Fingerprint of the part that a shard with this content has in a store with this fingerprint."""
    return fingerprint({"store": store, "shard_sha256": shard_sha256})


def encode_info(settings: dict[str, JSONValue]) -> bytes:
    """``store.json`` of a store with these settings."""
    return _encoded(
        {
            "format": STORE_FORMAT,
            "format_version": FORMAT_VERSION,
            "settings": settings,
            "fingerprint": store_fingerprint(settings),
        }
    )


def _encoded(info: JSONValue) -> bytes:
    return (canonical_json(info) + "\n").encode()


def read_info(folder: Path) -> dict[str, JSONValue]:
    """Content of the ``store.json`` in ``folder``.

    Raises:
        DamagedStoreError: it is not what was written.
        StoreError: it has a format version that this release does not know.
    """
    path = folder / "store.json"
    damage = DamagedStoreError(
        f"{path}: store.json is damaged; run `sspruning embed` with the settings of this store again, put the file "
        "back from a copy, or embed the shards into another folder"
    )
    try:
        found = read_json(path)
    except StoreError as error:
        raise damage from error
    info = found if isinstance(found, dict) else {}
    version, settings = info.get("format_version"), info.get("settings")
    whole = path.read_bytes() == _encoded(info) and info.get("fingerprint") == store_fingerprint(settings, version)
    if whole and (info.get("format") != STORE_FORMAT or version != FORMAT_VERSION):
        raise StoreError(f"{folder}: {_other_format(folder, info.get('format'), version)}")
    if not whole or not isinstance(settings, dict) or not isinstance(settings.get("dim"), int):
        raise damage
    return info


def _other_format(path: Path, kind: JSONValue, version: JSONValue) -> str:
    """What to do about a store that this release does not read."""
    found = f"store format {version!r}, this release reads {FORMAT_VERSION}"
    if kind == STORE_FORMAT and isinstance(version, int) and version < FORMAT_VERSION:
        return (
            f"{found}: an earlier release made it, without columns that are needed now, and stores are not upgraded. "
            f"Move the folder away and run `sspruning embed SHARDS --store {path}` again, or use a new folder"
        )
    return f"{found}; use the release that made it, or another folder"


def had_settings(folder: Path, settings: dict[str, JSONValue]) -> bool:
    """True if a commit record shows that parts of this store were made by these settings, or there are no records."""
    mark, records = store_fingerprint(settings), list((folder / "parts").glob("*.json"))
    for path in records:
        with contextlib.suppress(StoreError, TypeError):
            record = CommitRecord(**cast("dict", read_json(path)))
            if record.fingerprint == part_fingerprint(mark, record.shard_sha256):
                return True
    return not records


def other_settings(theirs: dict[str, JSONValue], settings: dict[str, JSONValue]) -> str:
    """What differs between the settings of a store and those that were asked for, and what to do."""
    differing = [
        f"{key}: here {theirs.get(key)!r}, asked for {settings.get(key)!r}"
        for key in sorted({*theirs, *settings})
        if theirs.get(key) != settings.get(key)
    ]
    keys = theirs.get("key_prefix") != settings.get("key_prefix")
    hint = " (--repeated-keys decides key_prefix)" if keys else ""
    return (
        f"this store was made with other settings ({'; '.join(differing)}); "
        f"use another --store folder, or the same settings{hint}"
    )
