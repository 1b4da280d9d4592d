"""Members of raw blocks are those that the scanner finds; a header under another name keeps all else that it says."""

import io
import tarfile
import tempfile
from dataclasses import astuple

import pytest
from corpora import END, FileSource, header, member, padded, pax
from hypothesis import given
from hypothesis import strategies as st

from sspruning.errors import ShardError
from sspruning.storage.tar_members import new_header, raw_members, renamed_header
from sspruning.storage.tar_scan import scan_tar

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
LONG = "folder-" * 20 + "/" + "x" * 30 + ".jpg"
NAMES = ["a.jpg", "d/e/f.seg.png", "x" * 96 + ".jpg", "x" * 97 + ".jpg", LONG, "é/ü.jpg", "日本" * 40 + ".jpg"]


def members_of(blocks):
    return list(raw_members("a.tar", lambda start, size: blocks[start : start + size], 0, len(blocks)))


def scanned(archive):
    """(name, first block, payload, size) of every regular member, by the scanner."""
    with tempfile.TemporaryFile() as file:
        file.write(archive)
        file.flush()
        rows = [
            row
            for chunk in scan_tar("a.tar", FileSource(file), allow_missing_end=True)
            for row in zip(*astuple(chunk), strict=True)
        ]
    return [
        (name.decode("utf-8", "surrogateescape"), row[2], row[0], row[1]) for name, *row, regular in rows if regular
    ]


def info_of(name, content=b"payload"):
    """A member with something in every field that a header has."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.uid, info.gid, info.mtime = len(content), 0o640, 1000, 1001, 1_600_000_000
    info.uname, info.gname = "someone", "group"
    return info


def only_member(blocks):
    """The one member of an archive without end, as tarfile reads it."""
    with tarfile.open(fileobj=io.BytesIO(blocks)) as archive:
        (found,) = archive.getmembers()
        return found, archive.extractfile(found).read()


names = st.text(st.sampled_from("ab.é/_-"), min_size=1, max_size=12) | st.sampled_from(NAMES)
kinds = st.sampled_from([tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE])


@given(st.lists(st.tuples(names, kinds, st.binary(max_size=9)), min_size=1, max_size=5), st.sampled_from(FORMATS[1:]))
def test_members_are_those_that_the_scanner_finds(files, form):
    blocks = b""
    for name, kind, content in files:
        info = info_of(name, content)
        info.type, info.linkname = kind, "to" if kind == tarfile.SYMTYPE else ""
        info.size = len(content) if info.isreg() else 0
        blocks += info.tobuf(form, "utf-8") + (padded(content) if info.isreg() else b"")
    assert [tuple(found) for found in members_of(blocks)] == scanned(blocks + END)


@pytest.mark.parametrize(
    "blocks",
    [
        member(b"a.jpg", b"x" * 600),
        member(b"a.jpg", b"x" * 512, prefix=b"some/folder"),
        member(b"a.jpg", b"x", prefix=b"01234567\0", magic=b"ustar  \0"),
        member(b"old.jpg", b"x", magic=b"\0" * 8),
        pax({b"path": b"long.jpg", b"size": b"3"}) + member(b"short", b"abc", size_field=b"%011o\0" % 0),
        pax({b"mtime": b"1.5"}, b"g") + member(b"a.jpg", b"x") + pax({b"mtime": b"2"}, b"g") + member(b"a.txt", b"y"),
        member(b"././@LongLink", b"n" * 120 + b".jpg\0", b"L") + member(b"n", b"x"),
    ],
    ids=["plain", "prefix", "gnu-times", "v7", "pax", "global", "longlink"],
)
def test_unusual_members_are_found_as_the_scanner_finds_them(blocks):
    found = [tuple(one) for one in members_of(blocks)]
    assert found == scanned(blocks + END)
    assert found


@pytest.mark.parametrize(
    "blocks", [member(b"a.jpg", b"x" * 600)[:-512], header(b"a", kind=b"S"), header(b"a", size_field=b"x" * 12)]
)
def test_blocks_that_are_no_whole_members_are_refused(blocks):
    with pytest.raises(ShardError, match="not the header of a member") as caught:
        members_of(blocks)
    assert (caught.value.path, caught.value.offset) == ("a.tar", 0)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("old", ["a.jpg", LONG, "é.jpg"], ids=["short", "long", "unicode"])
@pytest.mark.parametrize("new", NAMES, ids=range(len(NAMES)))
def test_a_renamed_member_keeps_all_but_its_name(old, new, form):
    blocks = info_of(old).tobuf(form, "utf-8") + padded(b"payload")
    (found,) = members_of(blocks)
    again, content = only_member(renamed_header("a.tar", blocks[: found.payload], 0, new) + blocks[found.payload :])
    before, _ = only_member(blocks)
    assert (again.name, content) == (new, b"payload")
    for field in ("size", "mode", "uid", "gid", "mtime", "uname", "gname", "type"):
        assert getattr(again, field) == getattr(before, field)


def test_records_of_a_renamed_member_are_kept():
    records = {b"path": b"old.jpg", b"mtime": b"1600000000.25", b"comment": "schön".encode(), b"SCHILY.xattr.a": b"b"}
    blocks = pax(records) + member(b"cut", b"x")
    for new in ("new.jpg", LONG):
        found, _ = only_member(renamed_header("a.tar", blocks[:-512], 0, new) + blocks[-512:])
        assert (found.name, found.mtime) == (new, 1600000000.25)
        assert found.pax_headers.items() >= {"comment": "schön", "SCHILY.xattr.a": "b"}.items()


def test_a_plain_header_differs_in_name_and_checksum_alone():
    old = header(b"a.jpg", 5, prefix=b"01234567", magic=b"ustar  \0")
    new = renamed_header("a.tar", old, 0, "bb.jpg")
    assert (new[100:148], new[156:]) == (old[100:148], old[156:])
    assert renamed_header("a.tar", header(b"a.jpg", 5), 0, "bb.jpg") == header(b"bb.jpg", 5)


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
@pytest.mark.parametrize("size", [1, 12, 700])
def test_a_new_header_is_that_of_tarfile(name, size):
    info = tarfile.TarInfo(name)
    info.size = size
    assert new_header(name, size) == info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def test_a_header_that_tarfile_cannot_read_is_an_error_at_its_place():
    with pytest.raises(ShardError, match="tarfile") as caught:
        renamed_header("a.tar", b"x" * 512, 1024, LONG)
    assert caught.value.offset == 1024
