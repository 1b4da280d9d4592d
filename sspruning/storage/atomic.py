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
from collections.abc import Generator, Iterable
from pathlib import Path

from sspruning.errors import MachineError, StoreError
from sspruning.records import JSONValue

__all__ = ["create_once", "file_sha256", "read_json", "sweep", "write_bytes", "write_json", "write_stream"]

_OUT_OF_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
JSON_CAP_BYTES = 1 << 30


def _temporary(path: Path) -> Path:
    host = socket.gethostname().replace(".", "-")
    return path.with_name(f".{path.name}.tmp.{host}.{os.getpid()}.{secrets.token_hex(4)}")


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_folder(folder: Path) -> None:
    """Make the rename durable; some shared file systems refuse, which costs durability, never integrity."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _explained(path: Path) -> Generator[None]:
    """Turn a full or read-only disk into an error that says what to do."""
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
        raise


def write_stream(path: Path, pieces: Iterable[bytes | memoryview]) -> tuple[str, int]:
    """sha256 and size of the file that now stands whole at ``path``.

    The pieces are hashed as they are written, so nothing is held and nothing is read back.

    Raises:
        MachineError: no space, or no permission; nothing is visible under ``path`` then.
    """
    digest, size = hashlib.sha256(), 0
    temporary = _temporary(path)
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o644)
            try:
                for piece in pieces:
                    digest.update(piece)
                    size += len(piece)
                    _write_all(descriptor, piece)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(temporary, path)  # noqa: PTH105 - fault tests watch the os calls
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    _sync_folder(path.parent)
    return digest.hexdigest(), size


def write_bytes(path: Path, data: bytes) -> tuple[str, int]:
    """sha256 and size of ``data``, which now stands whole at ``path``."""
    return write_stream(path, [data])


def write_json(path: Path, value: JSONValue) -> None:
    """Write ``value`` as sorted, indented JSON, whole or not at all."""
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes(path, text.encode())


def create_once(path: Path, data: bytes) -> bool:
    """True if ``path`` was created with ``data``; False if something stood there already (it is left alone)."""
    temporary = _temporary(path)
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(temporary, data)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links: a rename is as good while one process starts the store
            if path.exists():
                return False
            os.replace(temporary, path)  # noqa: PTH105 - fault tests watch the os calls
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
    _sync_folder(path.parent)
    return True


def read_json(path: Path) -> JSONValue:
    """Parsed content of a JSON file that sspruning wrote.

    Raises:
        StoreError: the file is missing, too large or no JSON.
    """
    try:
        if path.stat().st_size > JSON_CAP_BYTES:
            raise StoreError(f"{path}: larger than {JSON_CAP_BYTES} bytes; not a file that sspruning wrote")
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise StoreError(f"{path}: missing") from error
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path}: damaged ({error}); delete it and run the same command again") from error


def file_sha256(path: Path) -> str:
    """sha256 of a file's content, 64 hex digits; about 1 GB/s or more."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sweep(folder: Path) -> int:
    """Number of temporary files removed from ``folder``: those of dead processes of this host."""
    removed = 0
    host = socket.gethostname().replace(".", "-")
    for path in folder.glob(".*.tmp.*"):
        fields = path.name.rsplit(".tmp.", 1)[1].split(".")
        if len(fields) == 3 and fields[0] == host and fields[1].isdecimal() and not _alive(int(fields[1])):
            with contextlib.suppress(OSError):
                path.unlink()
                removed += 1
    return removed


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    try:  # a killed process keeps its number until its parent has asked after it
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except (OSError, IndexError):
        return True
