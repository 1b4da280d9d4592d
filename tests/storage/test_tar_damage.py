"""Damaged and hostile archives: an error that names the first damaged byte, never fewer members in silence."""

import gzip
import os
import random
import tarfile
import tempfile
from dataclasses import astuple

import pytest
from corpora import END, FileSource, header, member, padded, pax, pax_record, tar
from hypothesis import given
from hypothesis import strategies as st

from sspruning.errors import ShardError
from sspruning.storage.tar_scan import EXTENSION_CAP, scan_tar

A = member(b"a.jpg", b"1" * 600)
B = member(b"b.jpg", b"2" * 100)
MIXED = (
    A
    + pax({b"path": "søren.txt".encode()})
    + member(b"x", b"3")
    + member(b"d/", kind=b"5")
    + member(b"././@LongLink", b"n" * 200 + b"\0", b"L")
    + member(b"n" * 99, b"4" * 512)
    + member(b"link", kind=b"2")
    + B
    + END
)
HEADERS = [0, 1536, 2560, 3584, 4096, 5120, 6144, 6656]  # of MIXED: every header block, records' ones included


class Archive:
    """A file that is scanned again and again while its bytes change."""

    def __init__(self, content):
        self.content = content

    def __enter__(self):
        self.file = tempfile.TemporaryFile()
        self.file.write(self.content)
        self.file.flush()
        return self

    def __exit__(self, *details):
        self.file.close()

    def scan(self, size=None, **options):
        rows = []
        for chunk in scan_tar("a.tar", FileSource(self.file, size), **options):
            rows += zip(*astuple(chunk), strict=True)
        return rows

    def damaged(self, at, data):
        """What a scan finds while ``data`` stands at ``at``: the members, or the error."""
        descriptor = self.file.fileno()
        os.pwrite(descriptor, data, at)
        try:
            return self.scan()
        except ShardError as error:
            return error
        finally:
            os.pwrite(descriptor, self.content[at : at + len(data)], at)


@pytest.fixture(scope="module")
def mixed():
    with Archive(MIXED) as archive:
        yield archive


def problem(content, **options):
    with Archive(content) as archive, pytest.raises(ShardError) as caught:
        archive.scan(**options)
    assert caught.value.path == "a.tar"
    return caught.value


def test_the_sample_archive_is_sound(mixed):
    rows = mixed.scan()
    assert [row[0] for row in rows] == [b"a.jpg", "søren.txt".encode(), b"d/", b"n" * 200, b"link", b"b.jpg"]


def test_every_truncation_is_an_error_and_names_where_the_member_was(mixed):
    borders = {row[3] for row in mixed.scan()} | {len(MIXED) - len(END)} | set(HEADERS)
    for size in range(0, len(MIXED), 64):
        os.ftruncate(mixed.file.fileno(), size)
        try:
            with pytest.raises(ShardError) as caught:
                mixed.scan(size)
        finally:
            os.pwrite(mixed.file.fileno(), MIXED, 0)
        assert caught.value.offset in borders
        assert caught.value.offset <= size


def test_a_truncation_inside_the_padding_loses_no_member():
    content = tar([("a.jpg", b"1"), ("b.jpg", b"2")])
    for size in range(2048, len(content) + 1, 64):
        if size < 2048 + 1024:
            assert problem(content[:size]).offset == 2048
        else:
            with Archive(content[:size]) as archive:
                assert len(archive.scan()) == 2


@pytest.mark.parametrize("at", HEADERS)
def test_any_bit_flipped_in_a_header_is_an_error_there_or_harmless(mixed, at):
    sound = mixed.scan()
    bits = random.Random(at).sample(range(4096), 1500 if at == 0 else 300)  # noqa: S311
    harmless = 0
    for bit in bits:
        where = at + bit // 8
        found = mixed.damaged(where, bytes([MIXED[where] ^ 1 << bit % 8]))
        if isinstance(found, ShardError):
            assert found.offset == at
        else:
            harmless += 1
            assert found == sound
    assert harmless <= len(bits) // 100


@given(st.sampled_from(HEADERS), st.lists(st.tuples(st.integers(0, 511), st.integers(0, 255)), min_size=1, max_size=8))
def test_random_bytes_in_a_header_never_lose_a_member_in_silence(mixed, at, changes):
    block = bytearray(MIXED[at : at + 512])
    for index, value in changes:
        block[index] = value
    found = mixed.damaged(at, bytes(block))
    assert isinstance(found, ShardError) or len(found) == len(mixed.scan())


@pytest.mark.parametrize("at", HEADERS)
def test_a_zeroed_header_in_the_middle_is_an_error_there(mixed, at):
    found = mixed.damaged(at, bytes(512))
    assert isinstance(found, ShardError)
    assert found.offset in {at, 1536, 4096}  # records without their member are reported where they stand or end


def test_the_earliest_damage_is_named_even_if_a_later_one_is_met_first():
    content = bytearray(A + B + END)
    content[130] ^= 1  # the size of a: the scan goes on in the wrong place
    content[len(A) + 3] ^= 1
    assert problem(bytes(content)).offset == 0


def test_members_before_the_damage_are_handed_out_whole_chunks_only():
    content = bytearray(tar([(f"{number}.txt", b"1") for number in range(1100)]))
    content[1050 * 1024 + 7] ^= 1
    with Archive(bytes(content)) as archive:
        chunks = scan_tar("a.tar", FileSource(archive.file))
        assert len(next(chunks).names) == 1024
        with pytest.raises(ShardError) as caught:
            next(chunks)
    assert caught.value.offset == 1050 * 1024


HOSTILE = {
    "empty file": (b"", 0, "not a tar archive: 0 bytes"),
    "100 bytes": (b"a" * 100, 0, "not a tar archive: 100 bytes"),
    "no tar at all": (b"<html>" * 500, 0, "damaged header"),
    "gzip": (gzip.compress(A + END, mtime=0), 0, "gzip-compressed"),
    "cut inside a header": (A + B[:300], len(A), "cut inside a header"),
    "cut inside a payload": (A + B[:520], len(A), "claims 100 bytes but 8 are left"),
    "no end marker": (A + B, len(A + B), "end-of-archive marker is missing"),
    "one zero block": (A + B + bytes(512), len(A + B), "end-of-archive marker is missing"),
    "half a zero block at the end": (A + B + bytes(700), len(A + B), "end-of-archive marker is missing"),
    "two archives joined": (A + END + B + END, len(A) + 1024, "two archives joined"),
    "data far behind the marker": (
        A + END + bytes(1 << 20) + b"x",
        len(A) + 1024 + (1 << 20),
        "data after the end-of-archive",
    ),
    "one zero block in the middle": (A + bytes(512) + B + END, len(A), "zeroed in the middle"),
    "octal size with junk": (header(b"a", size_field=b"0000000012x\x00") + END, 0, "not a valid number"),
    "octal size with an 8": (header(b"a", size_field=b"00000000018\x00") + END, 0, "not a valid number"),
    "size with a sign": (header(b"a", size_field=b"-0000000001\x00") + END, 0, "not a valid number"),
    "size -1 in base-256": (header(b"a", size_field=b"\xff" * 12) + END, 0, "not a valid number"),
    "size 8 GiB": (A + header(b"b", 8 << 30, size_field=b"100000000000") + END, len(A), "cut short"),
    "size 2^95 in base-256": (header(b"a", size_field=b"\xbf" + b"\xff" * 11) + END, 0, "cut short"),
    "PAX size too large": (pax({b"size": b"5000"}) + B + END, 1024, "claims 5000 bytes"),
    "PAX size too small": (pax({b"size": b"0"}) + B + END, 2 * 512 + 512, "damaged header"),
    "PAX size no number": (pax({b"size": b"-1"}) + B + END, 0, "PAX size is not a number"),
    "PAX size with 5,000 digits": (pax({b"size": b"9" * 5000}) + B + END, 0, "PAX size is not a number"),
    "PAX record of length 0": (pax(b"0 path=x\n") + B + END, 512, "damaged PAX record"),
    "PAX record too long": (pax(b"99 path=x\n") + B + END, 512, "damaged PAX record"),
    "PAX record of 10^11 bytes": (pax(b"99999999999 path=x\n") + B + END, 512, "damaged PAX record"),
    "PAX record without newline": (pax(b"9 path=xy") + B + END, 512, "damaged PAX record"),
    "PAX record without value": (pax(b"7 path\n") + B + END, 512, "damaged PAX record"),
    "PAX record without length": (pax(b"path=x\n") + B + END, 512, "damaged PAX record"),
    "second PAX record damaged": (
        pax(pax_record(b"path", b"x") + b"1 y=z\n") + B + END,
        512 + len(pax_record(b"path", b"x")),
        "damaged PAX record",
    ),
    "huge PAX header": (
        pax({b"comment": b"c" * (EXTENSION_CAP + 1)}) + B + END,
        0,
        "extension record of",
    ),
    "PAX header that claims 1 GB": (A + header(b"p", 1 << 30, b"x") + B + END, len(A), "extension record of"),
    "huge long name": (member(b"L", b"n" * (EXTENSION_CAP + 1), b"L") + B + END, 0, "extension record of"),
    "long name cut short": (A + header(b"L", 2000, b"L") + padded(b"n"), len(A), "cut short"),
    "negative long name": (header(b"L", kind=b"L", size_field=b"\xff" * 12) + B + END, 0, "not a valid number"),
    "record without its member": (A + pax({b"path": b"x"}) + END, len(A) + 1024, "without its member"),
    "sparse by PAX": (pax({b"GNU.sparse.major": b"1"}) + B + END, 0, "sparse member"),
    "sparse by type": (A + member(b"s", b"x", b"S") + END, len(A), "sparse member"),
    "unknown type": (A + member(b"v", b"x", b"V") + END, len(A), "unknown member type 'V'"),
    "global path": (A + pax({b"path": b"x"}, b"g") + B + END, len(A), "global PAX record 'path'"),
    "global size": (pax({b"comment": b"c", b"size": b"1"}, b"g") + B + END, 0, "global PAX record 'size'"),
}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_hostile_archives_are_refused_with_the_offset_of_the_damage(name):
    content, offset, message = HOSTILE[name]
    error = problem(content)
    assert message in error.problem
    assert error.offset == offset
    assert str(error).startswith(f"a.tar: at byte {offset}: ")


@pytest.mark.parametrize("name", list(HOSTILE))
def test_a_hasher_changes_no_verdict(name):
    class Ignoring:
        def update(self, data, /):
            pass

    content, offset, _ = HOSTILE[name]
    assert problem(content, hasher=Ignoring()).offset == offset


def test_a_missing_end_may_be_allowed_but_nothing_else_may_be_missing():
    for content in (A + B, A + B + bytes(512), A + B + bytes(700)):
        with Archive(content) as archive:
            assert len(archive.scan(allow_missing_end=True)) == 2
    for name in ("cut inside a header", "cut inside a payload", "two archives joined", "one zero block in the middle"):
        content, offset, _ = HOSTILE[name]
        assert problem(content, allow_missing_end=True).offset == offset


def test_a_missing_end_that_is_allowed_is_zeros_or_nothing():
    problem(A + bytes(512) + b"x" * 100, allow_missing_end=True)


@given(st.binary(max_size=3000))
def test_random_bytes_are_a_shard_error_and_nothing_else(content):
    for data in (content, A + padded(content) + END):
        with Archive(data) as archive:
            try:
                archive.scan()
            except ShardError as error:
                assert 0 <= error.offset <= len(data)  # noqa: PT017 - no error is right too


@given(st.binary(max_size=300), st.sampled_from([b"x", b"g", b"L", b"K"]))
def test_random_records_are_taken_or_refused_and_lose_no_member(content, kind):
    with Archive(A + member(b"r", content, kind) + B + END) as archive:
        try:
            assert len(archive.scan()) == 2
        except ShardError as error:
            assert error.offset >= len(A)  # noqa: PT017 - no error is right too


def test_a_damaged_payload_is_invisible_to_a_scan_and_moves_nothing(mixed):
    assert mixed.damaged(700, b"?") == mixed.scan()


def test_gnu_tar_and_pax_archives_of_tarfile_withstand_the_same_flips():
    files = [("ü" * 90 + ".jpg", b"1" * 30), ("b.jpg", b"2")]
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        content = tar(files, form)
        with Archive(content) as archive:
            sound = archive.scan()
            for bit in random.Random(form).sample(range(4096), 300):  # noqa: S311
                found = archive.damaged(bit // 8, bytes([content[bit // 8] ^ 1 << bit % 8]))
                assert isinstance(found, ShardError) or found == sound
