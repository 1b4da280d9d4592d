"""Members of one sample in its raw tar blocks, and headers under other names: what rewriting a sample needs.

The blocks are ones that `tar_scan` has accepted and whose digest is right, so nothing is checked a second time.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple, cast

from sspruning.errors import ShardError
from sspruning.storage.tar_header import octal, pax_records
from sspruning.storage.tar_scan import BLOCK

__all__ = ["RawMember", "Read", "new_header", "padding", "raw_members", "renamed_header"]

Read = Callable[[int, int], bytes]
"""``read(start, size)``: exactly these bytes of the shard."""

NAME_BYTES = 100  # of a header's name field; longer names, and names beyond ASCII, go into a PAX record
REGULAR = b"07\0"
LINKS = b"123456"  # and devices, directories, fifos: no payload
FROM_NAME = ("path", "linkpath", "size")  # PAX records that a new header states anew


class RawMember(NamedTuple):
    """A regular file in a tar archive; offsets are those of the archive."""

    name: str
    start: int
    """Of its first extension record, or of its header where it has none."""
    payload: int
    size: int

    @property
    def end(self) -> int:
        """One past its padding."""
        return self.payload + self.size + len(padding(self.size))


def padding(size: int) -> bytes:
    """Zeros after a payload of ``size`` bytes, up to a whole block."""
    return bytes(-size % BLOCK)


def raw_members(path: str, read: Read, start: int, end: int) -> Iterator[RawMember]:
    """Regular files between ``start`` and ``end``, in archive order; links and directories are passed over.

    Args:
        path: of the shard, for messages.
        read: reads it.
        start: where the sample's blocks begin.
        end: where they end.

    Raises:
        ShardError: the blocks are not those of whole members.
    """
    at, first = start, -1
    name, size = b"", -1
    while at < end:
        header = read(at, BLOCK)
        kind, length = header[156], octal(header[124:136])
        if kind in b"xgLK" and length >= 0:
            first = at if first < 0 and kind != ord("g") else first
            if kind == ord("x"):
                records = pax_records(path, at + BLOCK, read(at + BLOCK, length))
                name, size = records.get("path", name), int(records.get("size", size))
            elif kind == ord("L"):
                name = read(at + BLOCK, length).rstrip(b"\0")
            at += BLOCK + length + len(padding(length))
            continue
        length = 0 if kind in LINKS else length if size < 0 else size
        after = at + BLOCK + length + len(padding(length))
        if length < 0 or after > end or kind not in REGULAR + LINKS:
            raise ShardError(path, at, "not the header of a member that ends inside its sample; embed the shard again")
        if kind in REGULAR:
            own = name or _plain_name(header)
            yield RawMember(own.decode("utf-8", "surrogateescape"), at if first < 0 else first, at + BLOCK, length)
        at, first, name, size = after, -1, b"", -1


def _plain_name(header: bytes) -> bytes:
    """The name in a header, as `sspruning.storage.tar_header.plain_names` reads many of them."""
    name = header[:NAME_BYTES].partition(b"\0")[0]
    if header[345] and header[257:263] == b"ustar\0":
        return header[345:500].partition(b"\0")[0] + b"/" + name
    return name


def renamed_header(path: str, blocks: bytes, offset: int, name: str) -> bytes:
    """Header blocks of a member under another name; all else that they say is kept, PAX records too.

    Args:
        path: of the shard, for messages.
        blocks: its extension records and its header.
        offset: where they stand in the shard.
        name: the new one.

    Raises:
        ShardError: Python's tarfile cannot read the blocks.
    """
    if len(blocks) == BLOCK and _is_plain(name):
        return _named(blocks, name)
    try:
        with tarfile.open(fileobj=io.BytesIO(blocks), mode="r:", encoding="utf-8") as archive:
            info = cast("tarfile.TarInfo", archive.next())
    except tarfile.TarError as error:
        raise ShardError(path, offset, f"a header that Python's tarfile cannot read ({error})") from error
    info.name = name
    info.pax_headers = {key: value for key, value in info.pax_headers.items() if key not in FROM_NAME}
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def new_header(name: str, size: int) -> bytes:
    """Header blocks of a new member: mode 0644, modification time 0, no owner."""
    if _is_plain(name):
        return _named(_template(size), name)
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


@lru_cache(maxsize=64)
def _template(size: int) -> bytes:
    info = tarfile.TarInfo("x")
    info.size = size
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def _is_plain(name: str) -> bool:
    return name.isascii() and len(name) <= NAME_BYTES


def _named(header: bytes, name: str) -> bytes:
    """``header`` with its name field, and where it has one its prefix field, set anew: 20 times faster than tarfile."""
    block = bytearray(header)
    block[:NAME_BYTES] = name.encode().ljust(NAME_BYTES, b"\0")
    if block[257:263] == b"ustar\0":  # others keep times where this form keeps the start of a long name
        block[345:500] = bytes(155)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)
