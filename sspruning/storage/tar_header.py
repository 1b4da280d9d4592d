"""Fields of tar headers: numbers, checksums, names and PAX records. Many headers at once where that is faster."""

from __future__ import annotations

import numpy as np

from sspruning.errors import ShardError
from sspruning.records import U8

__all__ = ["bad_checksum", "octal", "pax_records", "plain_names"]


def octal(field: bytes) -> int:
    """Number in a header field; -1 if it is not one. Octal with NUL or space padding, or base-256."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        return -1 if field[0] & 0x40 else value
    digits = field.strip(b" \0")
    if not digits:
        return 0
    return int(digits, 8) if digits.isdigit() and b"8" not in digits and b"9" not in digits else -1


def bad_checksum(table: U8, headers: list[bytes]) -> int:
    """Index of the first of the (n, 512) headers whose checksum is wrong; -1 if all are right."""
    stored = np.ascontiguousarray(table[:, 148:156].T).astype(np.int32)  # one row a digit: whole-row arithmetic is fast
    total = table.sum(axis=1, dtype=np.uint32).astype(np.int32) - stored.sum(axis=0) + 8 * 32
    plain = (stored[6] == 0) & (stored[7] == 32)
    value = np.zeros_like(total)
    for digit in stored[:6] - 48:
        plain &= (digit >= 0) & (digit <= 7)
        value = value * 8 + digit
    for index in np.flatnonzero(~plain | (value != total)).tolist():
        signed = table[index].view(np.int8).astype(np.int64)
        if octal(headers[index][148:156]) not in (
            int(total[index]),
            int(signed.sum() - signed[148:156].sum()) + 8 * 32,
        ):
            return index
    return -1


def pax_records(path: str, offset: int, payload: bytes) -> dict[str, bytes]:
    """Records of a PAX header, checked byte by byte."""
    records: dict[str, bytes] = {}
    at = 0
    while at < len(payload):
        space = payload.find(b" ", at, at + 12)
        length_text = payload[at:space] if space > 0 else b""
        length = int(length_text) if length_text.isdigit() else 0
        body = payload[space + 1 : at + length]
        if length < 5 or at + length > len(payload) or not body.endswith(b"\n") or b"=" not in body:
            raise ShardError(path, offset + at, "damaged PAX record; the archive cannot be trusted")
        keyword, _, value = body[:-1].partition(b"=")
        records[keyword.decode("utf-8", "replace")] = value
        at += length
    return records


def plain_names(table: U8) -> list[bytes]:
    """Names of (n, 512) headers: the name field up to its first NUL, with the USTAR prefix in front if there is one."""
    names: list[bytes] = np.ascontiguousarray(table[:, :100]).view("S100").ravel().tolist()
    for index in np.flatnonzero(table[:, 345]).tolist():
        if table[index, 257:263].tobytes() == b"ustar\0":
            prefix = table[index, 345:500].tobytes().partition(b"\0")[0]
            names[index] = prefix + b"/" + names[index]
    return [name if 0 not in name else name.partition(b"\0")[0] for name in names]
