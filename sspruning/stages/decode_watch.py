"""Which image a worker is decoding, kept where its death cannot take it: the image is skipped then, and not its shard.

Before every decode the row goes into a small mapped file. A worker that dies or hangs leaves the file behind, and the
next attempt at the shard reads it.
"""

from __future__ import annotations

import mmap
import signal
import struct
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from sspruning.execution import worker

__all__ = ["DIED", "TIMEOUT", "DecodeWatch"]

DIED, TIMEOUT = "decoder_died", "decode_timeout"
DEATHS = 2
"""Of workers at the same image before it is to blame: the first may have been killed for the memory of another."""
ENTRY = struct.Struct("<dqq")
"""Time of day at which the decode began (the next attempt may be another machine's), row + 1 (0 for none), deaths."""
SKIPPED = struct.Struct("<qq")
"""Row + 1, and whether it was a timeout."""
SKIPS = 64  # images of one shard that can be told so


class DecodeWatch:
    """The rows of one shard that stopped earlier attempts at it, and the one that is being decoded.

    Only what a worker of the same run left behind counts: being killed and started again changes no result.
    """

    def __init__(self, folder: Path, shard_id: str, timeout_s: float) -> None:
        """Take over what an earlier attempt left in ``folder``, if any. For worker processes only.

        Args:
            folder: where the file lies; it is a temporary one of the process that hands out the work, wherever that is.
            shard_id: name of the shard.
            timeout_s: seconds that one image may take. This process dies then, and the next attempt skips the image.
        """
        owner = worker.owner() or worker.Owner.here()
        self._path = folder / f".{shard_id}.decoding.tmp.{owner.host.replace('.', '-')}.{owner.pid}.0"
        self._timeout_s = timeout_s
        size = ENTRY.size + SKIPS * SKIPPED.size
        with self._path.open("a+b") as stream:
            stream.write(bytes(max(0, size - stream.tell())))  # a full disk says so here; to a mapped file, by SIGBUS
            stream.flush()
            self._map = mmap.mmap(stream.fileno(), size)
        began, row, deaths = ENTRY.unpack_from(self._map)
        self.skips = {r - 1: TIMEOUT if late else DIED for r, late in SKIPPED.iter_unpack(self._map[ENTRY.size :]) if r}
        self._row, self._deaths = row, deaths + 1 if row else 0
        died_at = worker.died_at() or time.time()  # before this worker was started and had loaded its encoder
        if row and died_at - began >= timeout_s:
            self._skip(row, TIMEOUT)
        elif row and self._deaths >= DEATHS:
            self._skip(row, DIED)

    def _skip(self, row: int, reason: str) -> None:
        if len(self.skips) < SKIPS:
            SKIPPED.pack_into(self._map, ENTRY.size + len(self.skips) * SKIPPED.size, row, reason == TIMEOUT)
            self.skips[row - 1] = reason

    @contextmanager
    def decoding(self, row: int) -> Generator[None]:
        """Around the decode of one image, in the main thread of a process. Cost: 3 microseconds."""
        deaths = self._deaths if row + 1 == self._row else 0
        ENTRY.pack_into(self._map, 0, time.time(), row + 1, deaths)
        signal.setitimer(signal.ITIMER_REAL, self._timeout_s)  # unhandled, so it ends even a decoder written in C
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            ENTRY.pack_into(self._map, 0, 0.0, 0, 0)

    def close(self) -> None:
        """Remove the file: the shard is done, or failed in a way of its own."""
        self._map.close()
        self._path.unlink(missing_ok=True)
