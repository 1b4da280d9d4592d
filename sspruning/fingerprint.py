"""Fingerprints: what an artefact was made from, as one short hex string that does not depend on place or time."""

from __future__ import annotations

import hashlib
import json

from sspruning.records import JSONValue

__all__ = ["canonical_json", "fingerprint", "short"]


def canonical_json(value: JSONValue) -> str:
    """The one JSON text of ``value``: sorted keys, no spaces, NaN and infinity refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint(value: JSONValue) -> str:
    """sha256 of the canonical JSON of ``value``, 64 hex digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def short(digest: str) -> str:
    """First 16 hex digits, for file names and messages."""
    return digest[:16]
