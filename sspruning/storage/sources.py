"""Where the bytes of a shard come from: a local file, or an object behind a URL that is read in large steps."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections import deque
from concurrent.futures import Future
from pathlib import Path
from typing import Protocol

from sspruning.errors import ShardError
from sspruning.storage.atomic import file_sha256
from sspruning.storage.remote import is_url, read_range, stat

__all__ = ["Source", "open_source", "same_place", "source_exists", "source_sha256", "unreadable"]

STEP = 8 << 20  # bytes of one question to a store while a shard is read from front to back
FIRST_STEP = 1 << 18  # of the first one; doubled as long as reading goes on without jumps
SMALL_STEP = 1 << 16  # of one in the middle of nowhere: less would not be faster
NEAR = 1 << 20  # a gap that is cheaper to read over than to ask anew for what comes after it
KEPT_BYTES = 8 * STEP  # of a scan; while a GPU is busy, samples are read up to three batches after their headers
_OPEN = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)  # never waits, were it a FIFO by now


class Source(Protocol):
    """The bytes of one shard. Several threads may read at a time."""

    size: int
    prompt: bool
    """A scan had better hand out what it found before it reads on, while the payloads are at hand."""

    def read(self, start: int, size: int) -> bytes:
        """At most ``size`` bytes from ``start``; a short answer means the end or, beyond 2 GiB, that there is more.

        Raises:
            ShardError: they cannot be read.
        """

    def prepare_scan(self) -> None:
        """Say that the shard will be read from front to back, samples a little after their headers."""

    def state(self) -> tuple[int, int]:
        """Size and version of what stands in its place now, as `sspruning.records.ShardRef` has them.

        Raises:
            ShardError: nothing does.
        """

    def close(self) -> None:
        """Give back what it holds."""


def open_source(path: str) -> Source:
    """The bytes of the shard at a local path or URL.

    Raises:
        ShardError: it is not there, or cannot be read.
        MachineError: a store refuses access or gives no answer, or a package is missing.
    """
    return _RemoteSource(path) if is_url(path) else _LocalSource(path)


def unreadable(path: str, offset: int, error: OSError) -> ShardError:
    """The error for a shard that the system does not give out; what the process itself lacks is raised as it is."""
    if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM}:
        raise error
    return ShardError(
        path, offset, f"cannot be read ({error.strerror or error}); see to the disk, then run the same command again"
    )


class _LocalSource:
    """A local file."""

    prompt = False

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._descriptor = os.open(path, _OPEN)
        except OSError as error:
            raise unreadable(path, 0, error) from error
        self.size = os.fstat(self._descriptor).st_size

    def read(self, start: int, size: int) -> bytes:
        try:
            return os.pread(self._descriptor, size, start)
        except OSError as error:
            raise unreadable(self._path, start, error) from error

    def prepare_scan(self) -> None:
        """The system reads ahead and remembers by itself."""

    def state(self) -> tuple[int, int]:
        try:
            now = os.stat(self._path)  # noqa: PTH116
        except OSError as error:
            raise unreadable(self._path, 0, error) from error
        return now.st_size, now.st_mtime_ns

    def close(self) -> None:
        os.close(self._descriptor)


class _RemoteSource:
    """An object behind a URL.

    Reading from front to back, over small gaps, asks for ever larger steps, and from `STEP` on for one step ahead in a
    thread. After a jump only what is wanted is asked for. Memory: three steps; for a scan `KEPT_BYTES` more.
    """

    prompt = True

    def __init__(self, url: str) -> None:
        self._url = url
        self.size, _ = self.state()
        self._lock = threading.Lock()
        self._kept: deque[tuple[int, bytes]] = deque()
        self._kept_bytes = self._room = 0
        self._ahead: tuple[int, Future[bytes]] | None = None
        self._edge: int | None = None  # where the last step ended
        self._step = 0  # how long it was meant to be; 0 after a jump

    def prepare_scan(self) -> None:
        self._room = KEPT_BYTES

    def state(self) -> tuple[int, int]:
        try:
            return stat(self._url)
        except FileNotFoundError as error:
            problem = "the object is gone; put it back, then run the same command again"
            raise ShardError(self._url, 0, problem) from error

    def read(self, start: int, size: int) -> bytes:
        end = min(start + size, self.size)
        pieces = []
        with self._lock:
            while start < end:
                base, data = self._found(start) or self._fetch(start, end - start)
                piece = data if base == start and len(data) <= end - start else data[start - base : end - base]
                pieces.append(piece)
                start += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _found(self, at: int) -> tuple[int, bytes] | None:
        """What was read already and holds this byte, the newest first."""
        return next((own for own in reversed(self._kept) if own[0] <= at < own[0] + len(own[1])), None)

    def _fetch(self, at: int, wanted: int) -> tuple[int, bytes]:
        """Bytes from ``at`` or a little before it; from here on they are known."""
        if self._ahead is not None and self._ahead[0] <= at < self._ahead[0] + STEP:
            base, future = self._ahead
            self._ahead = None
            own = base, future.result()
        else:
            in_order = self._edge is not None and 0 <= at - self._edge <= NEAR
            self._step = min(max(2 * self._step, FIRST_STEP), STEP) if in_order else 0
            self._ahead = None
            base = at if not in_order or self._edge is None else self._edge  # what lies between may be wanted yet
            length = min(at - base + max(wanted, self._step, SMALL_STEP), STEP, self.size - base)
            own = base, read_range(self._url, base, length)
        self._edge = edge = own[0] + len(own[1])
        if self._step == STEP and edge < self.size:
            self._ahead = edge, self._asked(edge)
        self._kept.append(own)
        self._kept_bytes += len(own[1])
        while self._kept_bytes > self._room and len(self._kept) > 1:
            self._kept_bytes -= len(self._kept.popleft()[1])
        return own

    def _asked(self, at: int) -> Future[bytes]:
        """The step from ``at``, once a thread has got it. The thread never keeps the process from ending."""
        future: Future[bytes] = Future()

        def ask() -> None:
            try:
                future.set_result(read_range(self._url, at, min(STEP, self.size - at)))
            except Exception as error:  # noqa: BLE001 - it is raised where the bytes are wanted
                future.set_exception(error)

        threading.Thread(target=ask, name="read-ahead", daemon=True).start()
        return future

    def close(self) -> None:
        self._kept.clear()
        self._ahead = None


def source_exists(path: str) -> bool:
    """True if there is something at a local path or URL.

    Raises:
        MachineError: a store refuses access or gives no answer, or a package is missing.
    """
    if not is_url(path):
        return Path(path).exists()
    try:
        stat(path)
    except FileNotFoundError:
        return False
    return True


def source_sha256(path: str) -> str:
    """SHA-256 of all bytes at a local path or URL.

    Raises:
        ShardError, OSError: they cannot be read.
        MachineError: a store refuses access or gives no answer, or a package is missing.
    """
    if not is_url(path):
        return file_sha256(Path(path))
    source, digest, at = open_source(path), hashlib.sha256(), 0
    while at < source.size:
        piece = source.read(at, STEP)
        digest.update(piece)
        at += len(piece)
    source.close()
    return digest.hexdigest()


def same_place(path: str) -> str:
    """A name that two ways to write one place share: the URL, or the path without links."""
    return path if is_url(path) else str(Path(path).resolve())
