"""Millions of empty members on no disk at all: a sparse file whose blocks are made when they are read. Run as a script.

``python tiny_members.py FOLDER COUNT`` embeds ``FOLDER/shards`` into ``FOLDER/store`` while ``b.tar`` seems to hold so
many members, and writes to standard output by how many MiB the process grew.
"""

import os
import resource
import sys
from pathlib import Path

import numpy as np

__all__ = ["blocks", "size_of"]

END_BLOCKS = 2


def size_of(count):
    """Bytes of an archive of so many empty members."""
    return 512 * (count + END_BLOCKS)


def blocks(first, last, count):
    """The blocks ``first`` to ``last`` of the archive: headers of 0000000.txt, 0000001.txt and on, then zeros."""
    numbers = np.arange(first, min(last, count))
    table = np.zeros((last - first, 512), np.uint8)
    headers = table[: len(numbers)]
    headers[:, 7:11] = list(b".txt")
    headers[:, 100:124] = list(b"0000644\x000000000\x000000000\x00")
    headers[:, 124:148] = list(b"00000000000\x0000000000000\x00")
    headers[:, 148:156] = list(b"        ")
    headers[:, 156] = ord("0")
    headers[:, 257:265] = list(b"ustar\x0000")
    for place in range(7):
        headers[:, place] = 48 + numbers // 10 ** (6 - place) % 10
    sums = headers.sum(axis=1, dtype=np.int64)
    for place in range(6):
        headers[:, 148 + place] = 48 + sums // 8 ** (5 - place) % 8
    headers[:, 154] = 0
    return table.tobytes()


def pretend(path, count):
    """Have `os.pread` on the sparse file at ``path`` return the archive."""
    with path.open("wb") as stream:
        stream.truncate(size_of(count))
    real, inode = os.pread, path.stat().st_ino

    def pread(descriptor, length, start):
        if os.fstat(descriptor).st_ino != inode:
            return real(descriptor, length, start)
        stop = min(start + length, size_of(count))
        first, last = start // 512, -(-stop // 512)
        return blocks(first, last, count)[start - 512 * first : stop - 512 * first]

    os.pread = pread


def main(folder, count):
    from sspruning import api
    from sspruning.config import load_config

    folder = Path(folder)
    config = load_config(None, ["encoder.name=pixels", "execution.executor=inline"])
    api.embed([str(folder / "shards" / "a.tar")], folder / "warm", config=config)
    pretend(folder / "shards" / "b.tar", int(count))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    api.embed([str(folder / "shards")], folder / "store", config=config)
    sys.stdout.write(str((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024))


if __name__ == "__main__":
    main(*sys.argv[1:])
