"""How damage to a file is noticed: digests inside our JSON files, a list of digests beside other files, and times.

A digest costs a read of the file. Every day only files that were changed after what vouches for them are read, as git
does by its index; `sspruning verify` reads all. What reads as sound then has its voucher's time moved on, so that a
folder that was copied is read once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import cast

from sspruning.errors import StoreError
from sspruning.fingerprint import fingerprint
from sspruning.records import JSONValue
from sspruning.storage.atomic import file_sha256, json_bytes, read_json, write_bytes

__all__ = [
    "DIGEST",
    "DIGESTS",
    "changed_at",
    "damaged",
    "damaged_files",
    "drop_damaged",
    "fits_digest",
    "is_whole",
    "list_files",
    "listed",
    "read_with_digest",
    "with_digest",
]

DIGEST = "digest"
"""Key of the digest in an object of JSON."""
DIGESTS = "digests.json"
"""List of digests of the files of a folder for which no other file vouches."""


def with_digest(content: Mapping[str, JSONValue]) -> dict[str, JSONValue]:
    """``content`` with the fingerprint of all else in it under the key `DIGEST`."""
    rest = {key: value for key, value in content.items() if key != DIGEST}
    return {**rest, DIGEST: fingerprint(rest)}


def fits_digest(content: JSONValue) -> bool:
    """True if ``content`` is an object with the digest of all else in it."""
    return isinstance(content, dict) and content.get(DIGEST) == with_digest(content)[DIGEST]


def read_with_digest(path: Path) -> dict[str, JSONValue]:
    """The JSON object at ``path``; one without a digest, as earlier releases wrote them, is taken as it is.

    Raises:
        StoreError: missing, no JSON object, or not what its digest says.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise StoreError(f"{path}: damaged (no JSON object); run the same command again")
    if DIGEST in content and not fits_digest(content):
        raise StoreError(f"{path}: damaged (its digest is not that of its content); run the same command again")
    return content


def changed_at(path: Path) -> int:
    """When a file was last changed or put under its name, in nanoseconds.

    Raises:
        OSError: it is not there.
    """
    status = path.stat()
    return max(status.st_mtime_ns, status.st_ctime_ns)


def damaged(digests: Mapping[Path, str], voucher: Path) -> list[Path]:
    """The files that are missing or known not to have their sha256: those changed after ``voucher`` are read.

    Args:
        digests: sha256 by file.
        voucher: the file that the digests come from; where all are sound it gets the time of the latest change.
    """
    since = latest = voucher.stat().st_mtime_ns
    found: list[Path] = []
    for path, sha256 in digests.items():
        try:
            at = changed_at(path)
            if at > since and file_sha256(path) != sha256:
                found.append(path)
        except OSError:
            found.append(path)
        else:
            latest = max(latest, at)
    if not found:
        _move_on(voucher, since, latest)
    return found


def _move_on(voucher: Path, since: int, latest: int) -> None:
    if latest > since:
        with suppress(OSError):  # not ours to change: then sound files are read again next time
            os.utime(voucher, ns=(latest, latest))


def listed(folder: Path) -> dict[str, str]:
    """sha256 by name, as the list of a folder has them.

    Raises:
        StoreError: there is no list, it is damaged, or it names a file outside of the folder.
    """
    content = read_with_digest(folder / DIGESTS)
    files = content.get("files")
    if DIGEST not in content or not isinstance(files, dict) or any(_leads_out(name) for name in files):
        raise StoreError(f"{folder / DIGESTS}: damaged; run the same command again")
    return cast("dict[str, str]", files)


def _leads_out(name: str) -> bool:
    path = Path(name)
    return path.is_absolute() or ".." in path.parts or not path.parts


def damaged_files(folder: Path) -> list[Path]:
    """The listed files that are missing or known not to be what was listed; none where there is no sound list."""
    with suppress(StoreError):
        return damaged({folder / name: sha256 for name, sha256 in listed(folder).items()}, folder / DIGESTS)
    return []


def is_whole(folder: Path) -> bool:
    """True if a folder has a sound list, and no listed file is missing or known to be damaged."""
    with suppress(StoreError):
        listed(folder)
        return not damaged_files(folder)
    return False


def drop_damaged(folder: Path, keep: Iterable[Path] = ()) -> list[Path]:
    """The `damaged_files` that were there and are removed now, so that whoever needs them makes them again.

    Args:
        folder: with a list.
        keep: files that stay, whatever they are.
    """
    found = [path for path in damaged_files(folder) if path.exists() and path not in set(keep)]
    for path in found:
        path.unlink()
    return found


def list_files(folder: Path, paths: Iterable[Path]) -> None:
    """Make the list of a folder name these files and no others; a list that does so already is left alone.

    Those that were listed and have not changed since are not read.
    """
    voucher, known, since = folder / DIGESTS, dict[str, str](), 0
    with suppress(StoreError):
        known, since = listed(folder), voucher.stat().st_mtime_ns
    found, latest = dict[str, JSONValue](), since
    for path in sorted(paths):
        name, at = path.relative_to(folder).as_posix(), changed_at(path)
        found[name] = known[name] if name in known and at <= since else file_sha256(path)
        latest = max(latest, at)
    if found == known and since:
        _move_on(voucher, since, latest)
    elif found:
        write_bytes(voucher, json_bytes(with_digest({"files": found})))
