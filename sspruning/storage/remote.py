"""Objects behind URLs: ``s3://``, ``gs://``, ``hf://`` and ``https://``, read and written through fsspec.

Credentials and endpoints come from the environment, as each backend reads them (``AWS_ACCESS_KEY_ID``,
``AWS_PROFILE``, ``AWS_ENDPOINT_URL``, ``GOOGLE_APPLICATION_CREDENTIALS``, ``HF_TOKEN``, ``HTTPS_PROXY`` ...). URLs that
could hold any are refused, so that no artefact, log or message ever contains one.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sspruning.errors import ShardError, StoreError, UsageError
from sspruning.storage.remote_tries import NoAnswerError, answer
from sspruning.storage.urls import HTTP, check_url, is_url, shown

__all__ = [
    "check_url",
    "check_writable",
    "get_bytes",
    "is_url",
    "matching",
    "names",
    "put_bytes",
    "put_file",
    "read_range",
    "remove",
    "shown",
    "stat",
]

WRITABLE = ("s3", "gs", "gcs")
PART_BYTES = 8 << 20  # of an upload; about ten are in memory at a time, twice
BEYOND_THE_END = 416  # HTTP status for a range that begins after the end
SMALLEST = 1 << 16  # bytes of a range that is not halved any more


def stat(url: str) -> tuple[int, int]:
    """Size in bytes of an object, and a number that changes whenever its content does.

    The number is made from the ETag (the generation or hash where a store has one instead); from the time of the last
    modification and the size where a server sends nothing better. It takes the place of a modification time.

    Raises:
        FileNotFoundError: there is no such object.
        MachineError: access is refused, no answer, or a package is missing.
        ShardError: the server does not tell the size.
    """

    def ask(fs: Any, path: str) -> dict[str, Any]:
        fs.invalidate_cache()
        return fs.info(path)

    info = answer(url, ask)
    if info.get("type") != "file":
        raise FileNotFoundError(errno.ENOENT, "no such object", shown(url))
    size = info.get("size")
    if not isinstance(size, int):
        raise ShardError(shown(url), 0, "the server does not tell its size; copy the file to a disk or a bucket")
    return size, _version(info)


def _version(info: dict[str, Any]) -> int:
    """63 bits made from what tells one content of an object from another."""
    for name in ("ETag", "etag", "generation", "blob_id", "md5Hash", "Content-MD5", "Digest"):
        if info.get(name):
            mark = f"{name}={info[name]}"
            break
    else:
        when = next((info[name] for name in ("LastModified", "Last-Modified", "updated") if info.get(name)), "")
        mark = f"{when} {info['size']}"
    return int.from_bytes(hashlib.blake2b(mark.encode(), digest_size=8).digest(), "little") >> 1


def read_range(url: str, start: int, size: int) -> bytes:
    """Exactly ``size`` bytes of an object from ``start``.

    Where an answer breaks off, half as much is asked for the next time, so that what a connection can carry gets
    through, and what has come is kept.

    Raises:
        ShardError: the object is gone, ends before, or gave no whole answer in several tries; names URL and offset.
        MachineError: access is refused, or a package is missing.
    """
    parts: list[bytes] = []
    got, step = 0, size

    def ask(fs: Any, path: str) -> None:
        nonlocal got, step
        while got < size:
            length = min(step, size - got)
            step = max(length // 2, SMALLEST)  # should this one fail
            data = _range(fs, path, start + got, length)
            step = length
            parts.append(data)
            got += len(data)
            if len(data) < length:
                return

    try:
        answer(url, ask)
    except FileNotFoundError as error:
        problem = "the object is gone; put it back, then run the same command again"
        raise ShardError(shown(url), start + got, problem) from error
    except NoAnswerError as error:
        if error.status == BEYOND_THE_END:
            raise ShardError(shown(url), start + got, _cut(size - got)) from error
        problem = f"cannot be read ({error.problem}); see to the network, then run the same command again"
        raise ShardError(shown(url), start + got, problem) from error
    if got < size:
        raise ShardError(shown(url), start + got, _cut(size - got))
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _cut(missing: int) -> str:
    return f"the object ends here but {missing} more bytes were expected; it was cut or replaced while it was read"


def _range(fs: Any, path: str, start: int, size: int) -> bytes:
    """At most ``size`` bytes from ``start``, in one question."""
    if is_url(path):  # HTTP: a server that knows no ranges would send the whole file to `cat_file`
        with fs.open(path, block_size=size, size=start + size, cache_type="none") as file:
            data = file._fetch_range(start, start + size)
    else:
        data = fs.cat_file(path, start=start, end=start + size)
    if len(data) > size:
        raise NoAnswerError(path, "it ignores byte ranges")
    return data


def names(prefix_url: str, *, deep: bool = True) -> dict[str, int]:
    """Sizes of the objects below a folder, by name relative to it; empty if there are none.

    Args:
        prefix_url: the folder, with or without a slash at its end.
        deep: with what lies in folders below it, as ``a/b.tar``; False leaves these out.

    Raises:
        UsageError: HTTP has no listing.
        MachineError: access is refused, no answer, or a package is missing.
    """
    _refuse_http_listing(prefix_url)

    def ask(fs: Any, path: str) -> tuple[str, list[dict[str, Any]]]:
        fs.invalidate_cache()
        path = path.rstrip("/")
        return path, list(fs.find(path, detail=True).values()) if deep else fs.ls(path, detail=True)

    try:
        root, entries = answer(prefix_url, ask)
    except FileNotFoundError:
        return {}
    below = f"{root}/"
    files = [entry for entry in entries if entry["type"] == "file" and entry["name"].startswith(below)]
    found = {entry["name"].removeprefix(below): int(entry["size"]) for entry in files}
    return {name: found[name] for name in sorted(found) if name and not name.endswith("/")}


def matching(pattern_url: str) -> list[str]:
    """URLs of the objects that match a pattern with ``*``, ``?`` or ``[...]``, sorted.

    Raises:
        UsageError: HTTP has no listing.
        MachineError: access is refused, no answer, or a package is missing.
    """
    _refuse_http_listing(pattern_url)
    scheme = urlsplit(pattern_url).scheme

    def ask(fs: Any, path: str) -> list[str]:
        fs.invalidate_cache()
        found = fs.glob(path, detail=True)
        return [name for name, info in found.items() if info["type"] == "file"]

    try:
        return sorted(f"{scheme}://{name}" for name in answer(pattern_url, ask))
    except FileNotFoundError:
        return []


def _refuse_http_listing(url: str) -> None:
    if urlsplit(url).scheme in HTTP:
        raise UsageError(
            f"{shown(url)}: HTTP cannot list a folder; name the files, for example with {{000000..000099}}"
        )


def get_bytes(url: str) -> bytes:
    """The whole content of a small object.

    Raises:
        FileNotFoundError: there is no such object.
        MachineError: access is refused, no answer, or a package is missing.
    """
    return answer(url, lambda fs, path: fs.cat_file(path))


def put_bytes(url: str, data: bytes) -> None:
    """Make ``data`` the content of an object, at once: readers see the old content or the new one.

    Raises:
        UsageError: nothing can be written there, or there is no such bucket.
        MachineError: access is refused, no answer, or a package is missing.
    """
    _write(url, lambda fs, path: fs.pipe_file(path, data))


def put_file(local_path: str | Path, url: str) -> None:
    """Upload a file, in parts if it is large; the object appears when all of it is there.

    Raises:
        UsageError: nothing can be written there, or there is no such bucket.
        MachineError: access is refused, no answer, or a package is missing.
        StoreError: the object has another size afterwards.

    Cost:
        up to 250 MB of memory.
    """
    size = Path(local_path).stat().st_size
    _write(url, lambda fs, path: fs.put_file(str(local_path), path, chunksize=PART_BYTES))
    try:
        there, _ = stat(url)
    except FileNotFoundError:
        there = 0
    if there != size:
        raise StoreError(f"{shown(url)}: {there} bytes after an upload of {size}; run the same command again")


def _write(url: str, ask: Callable[[Any, str], object]) -> None:
    check_writable(url)
    try:
        answer(url, ask, writes=True)
    except FileNotFoundError as error:
        raise UsageError(f"{shown(url)}: no such bucket; make it first, or name another") from error


def remove(url: str) -> None:
    """Remove an object; one that is not there is fine.

    Raises:
        UsageError: nothing can be written there.
        MachineError: access is refused, no answer, or a package is missing.
    """
    check_writable(url)
    try:
        answer(url, lambda fs, path: fs.rm_file(path), writes=True)
    except FileNotFoundError:
        return


def check_writable(url: str) -> None:
    """Make sure that objects can be written below ``url``, as far as its scheme tells.

    Raises:
        UsageError: they cannot, or the URL may not be used at all.
    """
    check_url(url)
    if urlsplit(url).scheme not in WRITABLE:
        raise UsageError(f"{shown(url)}: can be read but not written; name an s3:// or gs:// URL or a local folder")
