"""Hostile archives: cases 1 to 46 and 70, and our own from 97 on."""

import errno
import gzip
import hashlib
import os

from corpora import END, header, member, pax, tar
from hostile.harness import Case, Kept, Quarantined, Refused, image, shard_of

from sspruning.encoders.pixels import PixelEncoder

__all__ = ["CASES"]

BOTH = {"b0": "embedded", "b1": "embedded"}
FIRST = member(b"b0.jpg", image("b0"))
SECOND = member(b"b1.jpg", image("b1"))
WHOLE = FIRST + SECOND + END
AT = len(FIRST)  # where the second member begins
PICTURE = image("b2")
ODD_NAMES = ["x\ny", "\x1b[31mred\x1b]0;title\x07", "<script>alert(1)<|script>", "\u202egpj", "=1+1", "[bold]x[|bold]"]
LONG = b"k" * 5000
LINKS = [header(b"l.jpg", kind=kind) for kind in (b"1", b"2", b"3", b"4", b"6")]


def fixed(content):
    """A builder of a shard of these bytes."""
    return lambda folder: content


def between(*blocks):
    """A builder of a shard with these blocks between its two sound samples."""
    return fixed(shard_of(*blocks))


def flipped(at):
    content = bytearray(WHOLE)
    content[at] ^= 1
    return fixed(bytes(content))


def named(name, content):
    """A builder of a shard under another name."""

    def build(folder):
        (folder / "shards" / name).write_bytes(content)

    return build


def pax_named(name, content=PICTURE):
    return pax({b"path": name}) + member(b"x", content)


def long_named(name):
    return member(b"././@LongLink", name + b"\0", b"L") + member(b"cut", PICTURE)


def five_gigabytes(folder):
    """A member of 5 GB on hardly any disk."""
    size = 5 << 30
    with (folder / "shards" / "b.tar").open("wb") as stream:
        stream.write(header(b"b0.jpg", size_field=b"\x80" + size.to_bytes(11, "big")))
        stream.seek(512 + size)
        stream.write(SECOND + END)


def long_names(count, length):
    """Sound samples whose names are far longer than any key may be, one after the other."""
    return between(
        *(member(b"L", b"%05d" % number + b"n" * length, b"L") + member(b"x", b"") for number in range(count))
    )


def many_members(count):
    return fixed(FIRST + b"".join(header(b"b0.%06d" % number) for number in range(count)) + SECOND + END)


def while_it_is_read(change):
    """A patch: ``change`` happens to the hostile shard when its first image, the third of all, is decoded."""

    def patch(monkeypatch, arena):
        prepare, seen = PixelEncoder.prepare, []

        def disturbed(self, picture):
            seen.append(picture)
            if len(seen) == 3:
                arena.disturb(change)
            return prepare(self, picture)

        monkeypatch.setattr(PixelEncoder, "prepare", disturbed)

    return patch


def disk_error(monkeypatch, arena):
    """A patch: reading the hostile shard fails as on a broken disk, after it was listed and inspected."""
    inode, real = (arena.shards / "b.tar").stat().st_ino, os.pread

    def pread(descriptor, length, start):
        if os.fstat(descriptor).st_ino == inode and start >= AT:
            raise OSError(errno.EIO, "Input/output error")
        return real(descriptor, min(length, AT) if os.fstat(descriptor).st_ino == inode else length, start)

    monkeypatch.setattr(os, "pread", pread)


def touched(path):
    os.utime(path, ns=(1, 1))


def replaced(path):
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes() + bytes(10240))
    other.replace(path)


def cut_short(path):
    os.truncate(path, AT + 100)


CASES = [
    Case(1, "zero-byte file", fixed(b""), Quarantined("not a tar archive: 0 bytes", 0)),
    Case(2, "100 bytes", fixed(b"x" * 100), Quarantined("not a tar archive: 100 bytes", 0)),
    Case(3, "cut in a header", fixed(WHOLE[: AT + 300]), Quarantined("cut inside a header", AT)),
    Case(4, "cut at a member border", fixed(FIRST + SECOND), Quarantined("marker is missing", len(FIRST + SECOND))),
    Case(5, "cut in a payload", fixed(WHOLE[: AT + 700]), Quarantined("left: the file is cut short", AT)),
    Case(6, "one zero block", fixed(WHOLE[:-512]), Quarantined("marker is missing", len(FIRST + SECOND))),
    Case(7, "flip in a header", flipped(AT + 130), Quarantined("damaged header", AT)),
    Case(9, "zeroed block in the middle", between(bytes(512)), Quarantined("zeroed in the middle", AT)),
    Case(10, "two archives joined", fixed(WHOLE + WHOLE), Quarantined("two archives joined", len(WHOLE))),
    Case(11, "not a tar", fixed(b"<html>not found</html>" * 100), Quarantined("damaged header", 0)),
    Case(12, "gzip named .tar", fixed(gzip.compress(WHOLE)), Quarantined("gunzip the shard first", 0)),
    Case(
        13,
        "truncated .tar.gz",
        named("b.tar.gz", gzip.compress(WHOLE)[:-20]),
        Refused("gunzip it first"),
        inputs=("shards", "shards/b.tar.gz"),
    ),
    Case(14, "gzip bomb 1000:1", fixed(gzip.compress(bytes(1 << 22))), Quarantined("gunzip the shard first", 0)),
    Case(15, "size of 8 GiB", between(header(b"b2.jpg", size_field=b"100000000000")), Quarantined("cut short", AT)),
    Case(16, "size of -1", between(header(b"b2.jpg", size_field=b"\xff" * 12)), Quarantined("not a valid number", AT)),
    Case(
        17, "size with junk", between(header(b"b", size_field=b"000000012x \0")), Quarantined("not a valid number", AT)
    ),
    Case(
        18,
        "PAX size that lies",
        between(pax({b"size": b"99999"}) + member(b"b2.jpg", PICTURE)),
        Quarantined("claims 99999 bytes but", AT + 1024),
    ),
    Case(19, "PAX record of length 0", between(pax(b"0 path=x\n"), SECOND), Quarantined("damaged PAX", AT + 512)),
    Case(19, "PAX record too long", between(pax(b"99 path=x\n"), SECOND), Quarantined("damaged PAX", AT + 512)),
    Case(19, "PAX record without newline", between(pax(b"9 path=xy"), SECOND), Quarantined("damaged PAX", AT + 512)),
    Case(20, "PAX header of 1 GB", between(header(b"p", 1 << 30, b"x")), Quarantined("extension record of", AT)),
    Case(21, "GNU long name", between(long_named(b"n" * 300 + b".jpg")), Kept(BOTH | {"n" * 300: "embedded"})),
    Case(
        22, "PAX name in UTF-8", between(pax_named("søren/日本.jpg".encode())), Kept(BOTH | {"søren/日本": "embedded"})
    ),
    Case(23, "name not in UTF-8", between(member(b"\xff\xfe.jpg", PICTURE)), Kept(BOTH | {"\\xff\\xfe": "bad_name"})),
    Case(24, "NUL in a PAX path", between(pax_named(b"x\0y.jpg")), Kept(BOTH | {"x\\x00y": "bad_name"})),
    Case(25, "sparse member by type", between(member(b"s.jpg", PICTURE, b"S")), Quarantined("sparse member", AT)),
    Case(
        25,
        "sparse member by PAX",
        between(pax({b"GNU.sparse.major": b"1"}) + member(b"s.jpg", PICTURE)),
        Quarantined("sparse member", AT),
    ),
    Case(26, "global PAX header", between(pax({b"comment": b"made by a tool"}, b"g")), Kept(BOTH)),
    Case(26, "global PAX path", between(pax({b"path": b"x"}, b"g")), Quarantined("global PAX record 'path'", AT)),
    Case(27, "links, devices, a FIFO", between(*LINKS), Kept(BOTH, {"directory_or_link": 5})),
    Case(28, "directories", between(header(b"d/", kind=b"5")), Kept(BOTH, {"directory_or_link": 1})),
    Case(29, "../../x.jpg", between(member(b"../../x.jpg", PICTURE)), Kept(BOTH | {"../../x": "embedded"})),
    Case(30, "/abs/x.jpg", between(member(b"/abs/x.jpg", PICTURE)), Kept(BOTH | {"/abs/x": "embedded"})),
    Case(
        31,
        "newline, ANSI, script, bidi, formula, markup in names",
        between(*(member(f"{name}.jpg".encode(), PICTURE) for name in ODD_NAMES)),
        Kept(BOTH | dict.fromkeys(ODD_NAMES, "embedded")),
    ),
    Case(
        32,
        "key of 5,000 bytes",
        between(pax_named(LONG + b".jpg")),
        Kept(BOTH | {f"{LONG[:512].decode()}...{hashlib.blake2b(LONG, digest_size=8).hexdigest()}": "key_too_long"}),
    ),
    Case(33, "no extension", between(member(b"README", b"x")), Kept(BOTH, {"no_key": 1})),
    Case(34, "dot file", between(member(b"d/.hidden", b"x")), Kept(BOTH, {"no_key": 1})),
    Case(35, "__meta__", between(member(b"__meta__/x.json", b"{}")), Kept(BOTH, {"no_key": 1})),
    Case(
        36,
        "suffix __key__",
        between(member(b"k.__key__", b"b0"), member(b"k.jpg", PICTURE)),
        Kept(BOTH | {"k": "reserved_suffix"}),
    ),
    Case(
        36,
        "suffix __url__",
        between(member(b"k.jpg", PICTURE), member(b"k.__url__", b"pipe:touch MARKER")),
        Kept(BOTH | {"k": "reserved_suffix"}),
    ),
    Case(37, "member twice", between(member(b"b0.jpg", PICTURE)), Quarantined("two members with the suffix 'jpg'", AT)),
    Case(38, "member twice but for case", between(member(b"b0.JPG", PICTURE)), Quarantined("two members", AT)),
    Case(
        39,
        "interleaved samples",
        fixed(tar([("b0.jpg", PICTURE), ("b1.jpg", PICTURE), ("b0.txt", b"x"), ("b1.txt", b"y")])),
        Quarantined("'b0' occurs again", 2 * len(member(b"", PICTURE))),
    ),
    Case(
        40,
        "key again, later",
        between(member(b"b2.jpg", PICTURE), member(b"b0.txt", b"x")),
        Quarantined("'b0' occurs again"),
    ),
    Case(41, "key in two shards", between(member(b"a1.jpg", PICTURE)), Refused("'a1' in ")),
    Case(42, "empty archive", fixed(END), Kept({})),
    Case(43, "one sample", fixed(FIRST + END), Kept({"b0": "embedded"})),
    Case(
        44,
        "nothing but skips",
        fixed(member(b"x.jpg", b"") + member(b"y.txt", b"text") + END),
        Kept({"x": "empty", "y": "no_image"}),
    ),
    Case(46, "member of 5 GB", five_gigabytes, Kept({"b0": "image_too_large", "b1": "embedded"}), slow=True),
    Case(
        46,
        "member over the cap",
        between(member(b"x.jpg", bytes(3000))),
        Kept(BOTH | {"x": "image_too_large"}),
        settings=("corpus.max_member_bytes=2999",),
    ),
    Case(
        70,
        "touched while it is read",
        fixed(WHOLE),
        Quarantined("changed while it was read", 0),
        patch=while_it_is_read(touched),
    ),
    Case(
        70,
        "replaced while it is read",
        fixed(WHOLE),
        Quarantined("changed while it was read", 0),
        patch=while_it_is_read(replaced),
    ),
    Case(
        70,
        "cut while it is read",
        fixed(WHOLE),
        Quarantined("the file ends here"),
        patch=while_it_is_read(cut_short),
    ),
    Case(
        70, "gone while it is read", fixed(WHOLE), Quarantined("cannot be read", 0), patch=while_it_is_read(os.unlink)
    ),
    Case(108, "disk error", fixed(WHOLE), Quarantined("cannot be read (Input/output error)", AT), patch=disk_error),
    Case(97, "sample of 40,000 members", many_members(40_000), Kept({"b0": "too_many_members", "b1": "embedded"})),
    Case(98, "suffix of 5,000 bytes", between(pax_named(b"x." + b"s" * 5000)), Kept(BOTH | {"x": "bad_name"})),
    Case(
        99,
        "30 names of 1 MB",
        long_names(30, 1_000_000),
        Kept(BOTH, {"no_key": 30}),
    ),
]
