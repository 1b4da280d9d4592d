"""Any bytes as a shard: a named error, or samples whose ranges lie inside the file, in order, and do not overlap.

    pip install atheris
    python tools/fuzz/fuzz_tar_scan.py -max_total_time=60 [libFuzzer options] [FOLDER]

It begins with small valid archives, and keeps what it finds in FOLDER, or in one of the system's temporary folder. An
input that breaks a promise is written beside it; make a test of it.
"""

from __future__ import annotations

import hashlib
import os

import atheris

with atheris.instrument_imports(include=["sspruning"]):
    from sspruning.errors import ShardError
    from sspruning.storage.samples import ShardReader

from seeds import archives, arguments, promise

__all__ = ["check"]

BLOCK = 512


def check(data: bytes) -> str:
    """What became of a shard of these bytes; raises AssertionError if it breaks a promise."""
    descriptor = os.memfd_create("shard")
    try:
        os.write(descriptor, data)
        path = f"/proc/self/fd/{descriptor}"
        strict = _read(path, data, allow_missing_end=False)
        lenient = _read(path, data, allow_missing_end=True)
    finally:
        os.close(descriptor)
    if strict is not None:
        promise(strict == lenient, "an archive with its end reads otherwise when a missing end is allowed")
    return "error" if strict is None else "samples"


def _read(path: str, data: bytes, *, allow_missing_end: bool) -> list[tuple] | None:
    """Samples of the shard, checked; None if it was refused."""
    hasher = hashlib.sha256()
    found: list[tuple] = []
    end = 0
    try:
        with ShardReader(path, hasher=hasher, allow_missing_end=allow_missing_end) as reader:
            for sample in reader.samples():
                promise(sample.row == len(found), "rows are counted from 0")
                promise(end <= sample.block_start < sample.block_end, "samples do not overlap")
                promise(sample.block_start % BLOCK == sample.block_end % BLOCK == 0, "samples are whole blocks")
                at = sample.block_start
                for member in sample.members:
                    promise(at + BLOCK <= member.start, "a member has a header")
                    at = member.start + member.size
                    promise(at <= min(sample.block_end, len(data)), "payloads lie in the sample and in the file")
                promise(sample.key.encode().count(b"\0") == 0, "a key can be stored")
                end = sample.block_end
                found.append((sample.key, sample.skip_reason, sample.members, sample.block_start, sample.block_end))
    except ShardError as error:
        promise(0 <= error.offset <= len(data), "the offset lies in the file")
        return None
    promise(hasher.digest() == hashlib.sha256(data).digest(), "every byte was seen once")
    return found


def mended(data: bytes) -> bytes:
    """``data`` with the right checksum in all that looks like a header: without it hardly any would be read."""
    content = bytearray(data)
    for at in range(0, len(content) - BLOCK + 1, BLOCK):
        if content[at + 257 : at + 262] == b"ustar":
            content[at + 148 : at + 156] = b" " * 8
            content[at + 148 : at + 156] = b"%06o\0 " % sum(content[at : at + BLOCK])
    return bytes(content)


def both(data: bytes) -> None:
    """Check ``data`` as it is and mended."""
    check(data)
    check(mended(data))


if __name__ == "__main__":
    promise({check(seed) for seed in archives()} == {"samples"}, "sound archives are read")
    atheris.Setup(arguments(archives()), both)
    atheris.Fuzz()
