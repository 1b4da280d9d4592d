"""Files that are there whole or not at all: temporary name, write, fsync, rename, fsync of the folder.

Every artefact of sspruning becomes visible through this module. A kill at any instant leaves either the old file, the
new file, or a temporary file whose name tells its owner, which `sweep` removes once that process is gone.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import socket
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import ParamSpec, TypeVar

from sspruning.errors import MachineError, StoreError
from sspruning.records import JSONValue

__all__ = [
    "create_once",
    "file_sha256",
    "json_bytes",
    "read_json",
    "sweep",
    "write_bytes",
    "write_json",
    "write_stream",
]

_OUT_OF_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
JSON_CAP_BYTES = 1 << 30
MAX_PID = (1 << 31) - 1  # a file with a larger number in its name is not ours
CLOCK_SLACK_S = 2.0  # clocks of file servers and processes differ a little
P = ParamSpec("P")
R = TypeVar("R")


def _temporary(path: Path) -> Path:
    host = socket.gethostname().replace(".", "-")
    return path.with_name(f".{path.name}.tmp.{host}.{os.getpid()}.{secrets.token_hex(4)}")


def _again(call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Result of an os call, repeated when a signal interrupts it: Python does not do so for all of them."""
    while True:
        try:
            return call(*args, **kwargs)
        except InterruptedError:
            continue


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[_again(os.write, descriptor, view) :]


def _close(descriptor: int) -> None:
    """Close a file; one that a signal interrupts is closed, and its number may be another file's by now."""
    with contextlib.suppress(InterruptedError):
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Make the rename durable; some shared file systems refuse, which costs durability, never integrity."""
    with contextlib.suppress(OSError):
        descriptor = _again(os.open, folder, os.O_RDONLY)
        try:
            _again(os.fsync, descriptor)
        finally:
            _close(descriptor)


def _remove(path: Path) -> None:
    """Remove a temporary file if that is possible; `sweep` does so later if it is not."""
    with contextlib.suppress(OSError):
        _again(os.unlink, path)


@contextlib.contextmanager
def _explained(path: Path) -> Generator[None]:
    """Turn what a disk refuses into an error that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in _OUT_OF_SPACE:
            raise MachineError(
                f"{path}: no space left to write; free some and run the same command again, it goes on from here"
            ) from error
        if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
            raise MachineError(
                f"{path}: cannot be written ({error.strerror}); check the folder's permissions"
            ) from error
        raise MachineError(
            f"{path}: cannot be written ({error.strerror or error}); check the disk, "
            "then run the same command again, it goes on from here"
        ) from error


def write_stream(path: Path, pieces: Iterable[bytes | memoryview]) -> tuple[str, int]:
    """sha256 and size of the file that now stands whole at ``path``.

    The pieces are hashed as they are written, so nothing is held and nothing is read back.

    Raises:
        MachineError: the disk is full, read-only or broken; nothing new is visible under ``path`` then.
    """
    digest, size = hashlib.sha256(), 0
    temporary = _temporary(path)
    with _explained(path):
        _again(path.parent.mkdir, parents=True, exist_ok=True)
    try:
        with _explained(path):
            descriptor = _again(os.open, temporary, _CREATE, 0o644)
        try:
            for piece in pieces:  # what goes wrong while they come about is not told as a failure to write
                digest.update(piece)
                size += len(piece)
                with _explained(path):
                    _write_all(descriptor, piece)
            with _explained(path):
                _again(os.fsync, descriptor)
        finally:
            with _explained(path):
                _close(descriptor)
        with _explained(path):
            _again(os.replace, temporary, path)
    except BaseException:
        _remove(temporary)
        raise
    _sync_folder(path.parent)
    return digest.hexdigest(), size


def write_bytes(path: Path, data: bytes) -> tuple[str, int]:
    """sha256 and size of ``data``, which now stands whole at ``path``."""
    return write_stream(path, [data])


def json_bytes(value: JSONValue) -> bytes:
    """``value`` as `write_json` writes it."""
    return (json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_json(path: Path, value: JSONValue) -> None:
    """Write ``value`` as sorted, indented JSON, whole or not at all."""
    write_bytes(path, json_bytes(value))


def create_once(path: Path, data: bytes) -> bool:
    """True if ``path`` was created with ``data``; False if something stood there already (it is left alone)."""
    temporary = _temporary(path)
    write_bytes(temporary, data)
    try:
        _again(os.link, temporary, path)
    except FileExistsError:
        if not _same(temporary, path):
            return False
    except OSError:  # a file system without hard links: a rename is as good while one process starts the store
        if path.exists():
            return False
        with _explained(path):
            _again(os.replace, temporary, path)
    finally:
        _remove(temporary)
    _sync_folder(path.parent)
    return True


def _same(temporary: Path, path: Path) -> bool:
    """True if both names are of one file: a file server may refuse a link that it has made already."""
    with contextlib.suppress(OSError):
        return temporary.samefile(path)
    return False


def read_json(path: Path) -> JSONValue:
    """Parsed content of a JSON file that sspruning wrote.

    Raises:
        StoreError: the file is missing, too large or no JSON.
        MachineError: the disk does not give it.
    """
    try:
        if path.stat().st_size > JSON_CAP_BYTES:
            raise StoreError(f"{path}: larger than {JSON_CAP_BYTES} bytes; not a file that sspruning wrote")
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise StoreError(f"{path}: missing") from error
    except OSError as error:
        raise MachineError(f"{path}: cannot be read ({error.strerror or error}); check disk and permissions") from error
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path}: damaged ({error}); delete it and run the same command again") from error


def file_sha256(path: Path) -> str:
    """sha256 of a file's content, 64 hex digits; about 1 GB/s or more."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sweep(folder: Path, *, ours: bool = False) -> int:
    """Number of temporary files removed from ``folder``: those of dead processes of this host.

    Args:
        folder: where they lie; nothing is done in folders below it.
        ours: those of this process too, which writes nothing at the moment, and whose workers have ended.
    """
    removed = 0
    host = socket.gethostname().replace(".", "-")
    for path in folder.glob(".*.tmp.*"):
        fields = path.name.rsplit(".tmp.", 1)[1].split(".")
        if len(fields) == 3 and fields[0] == host and fields[1].isdecimal():
            pid = int(fields[1])
            with contextlib.suppress(OSError):
                if (ours and pid == os.getpid()) or not _alive(pid, path.stat().st_mtime):
                    path.unlink()
                    removed += 1
    return removed


def _alive(pid: int, since: float) -> bool:
    """True unless the process that wrote something at ``since`` is known to be gone.

    Numbers of processes come again, in containers after each start; a file that is older than the process that has
    the number now was somebody else's.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() < since + CLOCK_SLACK_S
    except psutil.NoSuchProcess:
        return pid > MAX_PID
    except psutil.Error:
        return True
