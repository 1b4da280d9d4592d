"""Image files that cost far more time or memory than their size and their pixels say, told from their headers.

A progressive JPEG may run over all its pixels again for every few bytes; a TIFF may cut an image into a million strips,
each an object in memory. No limit on bytes or pixels sees that, so what is counted here is what such files are full of.
"""

from __future__ import annotations

import re
import struct
from typing import Final

__all__ = ["bomb_in"]

MAX_SCANS: Final = 100
"""Of a JPEG; usual progressive ones have about ten. libtiff has the same limit for JPEG inside of TIFF."""
MAX_SEGMENTS: Final = 4096
"""Of a JPEG before its first scan: tables, metadata and comments, each of them an object in memory."""
MAX_TIFF_ENTRIES: Final = 4096
MAX_TIFF_VALUES: Final = 1 << 18
"""Of one TIFF tag, such as the offsets of strips: 50 megapixels in the smallest tiles of the standard have fewer."""

_MARKER: Final = re.compile(rb"\xff([^\x00\xff])")
_CODED: Final = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")  # ends the coded data of a scan
_ALONE: Final = frozenset([0x01, *range(0xD0, 0xD9)])  # markers without a length
_SOS, _EOI = 0xDA, 0xD9
_FRAMES: Final = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_LINEAR: Final = frozenset({0xC0, 0xC1})  # Huffman, not progressive: every scan has at least two bits for each block
_BYTES: Final = frozenset({1, 2, 6, 7})  # TIFF types of one byte, which stay together


def bomb_in(data: bytes) -> str | None:
    """What makes this file a bomb, in words; None for all other files, images or not. JPEG and TIFF are looked at.

    Cost: 3 microseconds for an ordinary JPEG; for a progressive one a pass over its bytes, about 1 GB/s.
    """
    if data.startswith(b"\xff\xd8"):
        return _jpeg_bomb(data)
    if data[:4] in {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}:
        return _tiff_bomb(data)
    return None


def _jpeg_bomb(data: bytes) -> str | None:
    at, frame, scans = 2, None, 0
    for _ in range(MAX_SEGMENTS + 2 * MAX_SCANS):
        found = (_CODED if scans else _MARKER).search(data, at)
        if found is None:
            return None
        at, marker = found.end(), found[1][0]
        if marker == _EOI:
            return None
        if marker in _FRAMES and frame is None:
            frame = marker
        if marker == _SOS:
            scans += 1
            if frame in _LINEAR:
                return None
            if scans > MAX_SCANS:
                return f"a JPEG of more than {MAX_SCANS} scans"
        if marker not in _ALONE:
            at += int.from_bytes(data[at : at + 2], "big")
    return f"a JPEG of more than {MAX_SEGMENTS} segments"


def _tiff_bomb(data: bytes) -> str | None:
    """Look at the first directory; the image is in it, and no other is read."""
    order, wide = "<" if data[:1] == b"I" else ">", b"+" in data[2:4]
    header, counter, entry = (8, "Q", "HHQ8s") if wide else (4, "I", "HHI4s")
    count_type = "Q" if wide else "H"
    try:
        (at,) = struct.unpack_from(order + counter, data, header)
        (count,) = struct.unpack_from(order + count_type, data, at)
        if count > MAX_TIFF_ENTRIES:
            return f"a TIFF directory of {count} entries"
        at += struct.calcsize(order + count_type)
        size = struct.calcsize(order + entry)
        for _, kind, values, _ in struct.iter_unpack(order + entry, data[at : at + count * size]):
            if values > MAX_TIFF_VALUES and kind not in _BYTES:
                return f"a TIFF tag of {values} values"
    except (struct.error, OverflowError):
        return None  # damaged; the decoder says how
    return None
