"""Valid archives: the scanner sees what Python's tarfile sees, and feeds the hasher every byte once."""

import hashlib
import io
import tarfile
import tempfile
from dataclasses import astuple

import pytest
from corpora import END, FileSource, header, member, padded, pax, tar
from hypothesis import given
from hypothesis import strategies as st

from sspruning.errors import ShardError
from sspruning.storage.tar_scan import CHUNK_MEMBERS, WINDOW, scan_tar

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT}


def chunks_of(archive, **options):
    with tempfile.TemporaryFile() as file:
        file.write(archive)
        file.flush()
        return list(scan_tar("a.tar", FileSource(file), **options))


def scanned(archive, **options):
    """(name, data_start, size, block_start, block_end, regular) of every member."""
    return [row for chunk in chunks_of(archive, **options) for row in zip(*astuple(chunk), strict=True)]


def by_tarfile(archive):
    """The same rows from Python's tarfile."""
    rows = []
    with tarfile.open(fileobj=io.BytesIO(archive)) as file:
        for info in file:
            size = info.size if info.isreg() else 0
            end = info.offset_data + -(-size // 512) * 512
            name = info.name.encode("utf-8", "surrogateescape")
            rows.append((name, info.offset_data, size, info.offset, end, info.isreg()))
    return rows


def entry(name, kind=tarfile.REGTYPE, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


class RecordingHasher:
    """sha256 that counts what it was fed."""

    def __init__(self):
        self.digest, self.fed = hashlib.sha256(), 0

    def update(self, data, /):
        self.digest.update(data)
        self.fed += len(data)


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_members_are_those_of_tarfile(form):
    files = [("a.jpg", b"x" * 700), ("a.txt", b""), ("d/" * 40 + "b.jpg", b"y" * 512), ("c" * 99, b"z")]
    archive = tar(files, FORMATS[form])
    assert scanned(archive) == by_tarfile(archive)
    assert [row[0].decode() for row in scanned(archive)] == [name for name, _ in files]


@pytest.mark.parametrize("form", ["pax", "gnu"])
def test_names_of_any_length_and_alphabet_are_read(form):
    files = [("n" * 300 + ".jpg", b"1"), ("søren/日本.jpg", b"2"), ("p" * 101, b"3"), ("short", b"4")]
    archive = tar(files, FORMATS[form])
    assert [row[0].decode() for row in scanned(archive)] == [name for name, _ in files]
    assert scanned(archive) == by_tarfile(archive)


def test_a_name_of_more_than_a_hundred_bytes_may_stand_in_the_ustar_prefix():
    archive = tar([("p" * 90 + "/" + "n" * 90, b"abc")])
    assert scanned(archive) == [(b"p" * 90 + b"/" + b"n" * 90, 512, 3, 0, 1024, True)]


def test_the_prefix_field_of_old_gnu_archives_holds_times_and_is_no_part_of_the_name():
    archive = member(b"a.jpg", b"abc", prefix=b"00000000000\x00", magic=b"ustar  \x00") + END
    assert scanned(archive)[0][0] == b"a.jpg"


def test_directories_links_and_devices_are_members_without_payload():
    kinds = [tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE]
    archive = tar([("a.jpg", b"1"), *[entry(f"m{number}", kind, "a.jpg") for number, kind in enumerate(kinds)]])
    rows = scanned(archive)
    assert [row[5] for row in rows] == [True] + [False] * 6
    assert [row[2] for row in rows] == [1] + [0] * 6
    assert [row[1:] for row in rows] == [row[1:] for row in by_tarfile(archive)]


def test_the_old_regular_type_and_the_contiguous_type_are_regular():
    archive = member(b"a.jpg", b"1", kind=b"\0") + member(b"b.jpg", b"2", kind=b"7") + END
    assert [row[5] for row in scanned(archive)] == [True, True]


def test_a_long_link_target_belongs_to_its_link():
    archive = tar([entry("link.jpg", tarfile.SYMTYPE, "t" * 200), ("b.jpg", b"2")], tarfile.GNU_FORMAT)
    assert [row[1:] for row in scanned(archive)] == [row[1:] for row in by_tarfile(archive)]


def test_the_blocks_of_a_member_include_its_own_records():
    archive = tar([("a.jpg", b"1"), ("ø" * 80 + ".jpg", b"2"), ("c.jpg", b"3")], tarfile.PAX_FORMAT)
    rows = scanned(archive)
    assert [row[3] for row in rows[1:]] == [row[4] for row in rows[:-1]]
    assert rows[1][1] - rows[1][3] == 3 * 512  # its PAX header, the record, its own header


def test_sizes_may_be_written_in_base_256():
    field = (1 << 95 | 700).to_bytes(12, "big")
    archive = header(b"a.jpg", size_field=field) + padded(b"x" * 700) + END
    assert scanned(archive) == by_tarfile(archive) == [(b"a.jpg", 512, 700, 0, 1536, True)]


@pytest.mark.parametrize("field", [b"00000000007\x00", b"     7      ", b"7\0\0\0\0\0\0\0\0\0\0\0", b"000000000007"])
def test_octal_sizes_may_be_padded_with_zeros_spaces_or_nul(field):
    assert scanned(header(b"a.jpg", size_field=field) + padded(b"1234567") + END)[0][2] == 7


def test_checksums_of_signed_bytes_are_accepted():
    block = bytearray(header("ø.jpg".encode()))
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(byte - 256 if byte > 127 else byte for byte in block)
    assert scanned(bytes(block) + END)[0][0] == "ø.jpg".encode()


@pytest.mark.parametrize("via", ["base-256", "pax"])
def test_a_member_above_8_gib_is_stepped_over(tmp_path, via):
    size = (8 << 30) + 5
    if via == "pax":
        head = pax({b"size": b"%d" % size}) + header(b"big.bin")
    else:
        head = header(b"big.bin", size_field=(1 << 95 | size).to_bytes(12, "big"))
    end = len(head) + -(-size // 512) * 512
    path = tmp_path / "sparse.tar"
    with path.open("wb") as file:
        file.write(head)
        file.seek(end)
        file.write(member(b"a.jpg", b"1") + END)
    with path.open("rb") as file:
        (chunk,) = scan_tar(str(path), FileSource(file))
    assert (chunk.size, chunk.block_start) == ([size, 1], [0, end])


def test_the_size_of_a_pax_header_replaces_that_of_the_member():
    archive = pax({b"size": b"700"}) + header(b"a.jpg") + padded(b"x" * 700) + member(b"b.jpg") + END
    assert [row[0] for row in scanned(archive)] == [b"a.jpg", b"b.jpg"]
    assert scanned(archive) == by_tarfile(archive)


def test_global_records_that_change_no_member_are_read_over():
    archive = pax({b"comment": b"0123abcd", b"mtime": b"1.5"}, b"g") + member(b"a.jpg", b"1") + END
    assert scanned(archive) == [(b"a.jpg", 1536, 1, 1024, 2048, True)]


def test_an_archive_without_members_is_empty_not_wrong():
    assert scanned(bytes(10240)) == scanned(END) == []


def test_members_come_in_chunks_of_bounded_length():
    archive = tar([(f"{number}.txt", b"x" * (number % 3)) for number in range(2 * CHUNK_MEMBERS + 100)])
    chunks = chunks_of(archive)
    assert [len(chunk.names) for chunk in chunks] == [CHUNK_MEMBERS, CHUNK_MEMBERS, 100]
    assert scanned(archive) == by_tarfile(archive)


def test_records_and_links_keep_their_places_across_chunks():
    files = [
        entry(f"l{number}", tarfile.SYMTYPE, "a") if number % 5 == 0 else ("ü" * (number % 120 + 1), b"1")
        for number in range(CHUNK_MEMBERS + 50)
    ]
    archive = tar(files, tarfile.PAX_FORMAT)
    assert scanned(archive) == by_tarfile(archive)


LAYOUTS = {
    "no members": lambda: bytes(10240),
    "small members": lambda: tar([(f"{number}.txt", b"x" * number) for number in range(1200)]),
    "payload beyond the window": lambda: tar([("a.bin", b"x" * (3 * WINDOW + 17)), ("b.txt", b"y")]),
    "payload that ends at the window": lambda: tar([("a.bin", b"x" * (WINDOW - 512)), ("b.txt", b"y")]),
    "header across the window": lambda: tar([("a.bin", b"x" * (WINDOW - 1024)), ("ü" * 90, b"y")], tarfile.PAX_FORMAT),
    "record beyond the window": lambda: (
        pax({b"comment": b"c" * 2 * WINDOW}) + member(b"a.txt", b"1") + member(b"b.txt", b"2") + END
    ),
    "long name across the window": lambda: tar(
        [("a.bin", b"x" * (WINDOW - 2048)), ("n" * 3000 + ".txt", b"y"), ("c.txt", b"z")], tarfile.GNU_FORMAT
    ),
    "padding beyond the window": lambda: tar([("a.txt", b"1")]) + bytes(2 * WINDOW + 512),
    "unaligned padding": lambda: tar([("a.txt", b"1")]) + bytes(100),
}


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_the_hasher_is_fed_the_file_once_and_changes_nothing(layout):
    archive = LAYOUTS[layout]()
    hasher = RecordingHasher()
    assert scanned(archive, hasher=hasher) == scanned(archive) == by_tarfile(archive)
    assert hasher.fed == len(archive)
    assert hasher.digest.hexdigest() == hashlib.sha256(archive).hexdigest()


def test_the_hasher_is_fed_all_of_an_archive_without_its_end_marker():
    archive = tar([("a.txt", b"x" * (WINDOW + 5)), ("b.txt", b"y")])[: WINDOW + 512 + 512 + 1024]
    hasher = RecordingHasher()
    assert len(scanned(archive, hasher=hasher, allow_missing_end=True)) == 2
    assert hasher.digest.hexdigest() == hashlib.sha256(archive).hexdigest()


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=130).filter(
    lambda name: not name.endswith("/")
)
CONTENTS = st.one_of(st.binary(max_size=40), st.integers(500, 1600).map(lambda size: b"x" * size))
KINDS = st.sampled_from([tarfile.REGTYPE] * 6 + [tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE])


@given(st.lists(st.tuples(NAMES, CONTENTS, KINDS), max_size=12), st.sampled_from(sorted(FORMATS)), st.booleans())
def test_any_legal_archive_reads_as_by_tarfile(members, form, hashed):
    files = []
    for name, content, kind in members:
        if form == "ustar" and len(name.encode()) > 100:
            continue
        regular = kind in (tarfile.REGTYPE, tarfile.AREGTYPE)
        files.append((name, content) if kind == tarfile.REGTYPE else entry(name, kind, "" if regular else "t"))
    archive = tar(files, FORMATS[form])
    hasher = RecordingHasher() if hashed else None
    rows = scanned(archive, hasher=hasher)
    assert [(row[0] if row[5] else row[0].rstrip(b"/"), *row[1:]) for row in rows] == by_tarfile(archive)
    assert hasher is None or hasher.digest.hexdigest() == hashlib.sha256(archive).hexdigest()


def test_a_name_may_be_longer_than_the_window_of_the_scanner():
    archive = tar([("n" * (2 * WINDOW), b"1"), ("b.txt", b"2")], tarfile.GNU_FORMAT)
    for hasher in (None, RecordingHasher()):
        assert [len(row[0]) for row in scanned(archive, hasher=hasher)] == [2 * WINDOW, 5]


def test_a_file_that_shrinks_while_it_is_read_is_reported():
    archive = tar([("a.txt", b"1")]) + bytes(4 * WINDOW)
    with tempfile.TemporaryFile() as file:
        file.write(archive)
        file.flush()
        scan = scan_tar("a.tar", FileSource(file))
        next(scan)
        file.truncate(WINDOW)
        with pytest.raises(ShardError, match="shrank"):
            list(scan)


@pytest.mark.realdata
def test_real_shards_read_as_by_tarfile(real_shards):
    for path in sorted(real_shards.glob("*.tar"))[:2]:
        archive = path.read_bytes()
        assert scanned(archive, hasher=RecordingHasher()) == by_tarfile(archive)
