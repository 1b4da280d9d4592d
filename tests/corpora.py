"""Small corpora, hand-made tar archives and made-up parts for tests; equal arguments give equal bytes."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from sspruning.storage.parts import PartData

END = bytes(1024)


def picture(number, size=32, kind="JPEG"):
    """Encoded image with structure at several scales, different for every number."""
    draws = np.random.default_rng(number)
    coarse = Image.fromarray(draws.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), dtype=np.int16)
    noisy = smooth + draws.integers(-20, 21, smooth.shape, dtype=np.int16)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def sample_files(number):
    """(name, content) of the three members of one sample: image, class, caption."""
    key = f"{number:06d}"
    return [
        (f"{key}.jpg", picture(number)),
        (f"{key}.cls", str(number % 10).encode()),
        (f"{key}.txt", f"picture number {number}".encode()),
    ]


def tar(files, form=tarfile.USTAR_FORMAT, encoding="utf-8"):
    """Archive of (name, content) pairs, or of ready `tarfile.TarInfo` objects, as Python's tarfile writes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form, encoding=encoding) as archive:
        for entry in files:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry)
                continue
            name, content = entry
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def make_shard(path, numbers):
    """Path of a new shard with one sample for each number."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar([file for number in numbers for file in sample_files(number)]))
    return path


def make_corpus(folder, shards=3, samples=4):
    """Paths of new shards ``train-000000.tar`` and on in ``folder``; keys are unique across them."""
    return [
        make_shard(Path(folder) / f"train-{index:06d}.tar", range(index * samples, (index + 1) * samples))
        for index in range(shards)
    ]


def padded(content):
    """``content`` with zeros up to a whole number of blocks."""
    return content + bytes(-len(content) % 512)


def header(name, size=0, kind=b"0", *, size_field=None, prefix=b"", magic=b"ustar\x0000"):
    """One 512-byte header with the right checksum; ``size_field`` replaces the 12 bytes of the size."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:124] = b"0000644\x000000000\x000000000\x00"
    block[124:136] = size_field or b"%011o\0" % size
    block[136:148] = b"%011o\0" % 0
    block[156:157] = kind
    block[257:265] = magic
    block[345 : 345 + len(prefix)] = prefix
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def member(name, content=b"", kind=b"0", **fields):
    """Header and padded content of one member."""
    return header(name, len(content), kind, **fields) + padded(content)


def pax_record(keyword, value):
    """One record of a PAX header: its own length in decimal, a space, keyword=value, a newline."""
    body = b" " + keyword + b"=" + value + b"\n"
    length = len(body)
    while len(b"%d" % length) + len(body) != length:
        length = len(b"%d" % length) + len(body)
    return b"%d" % length + body


def pax(records, kind=b"x"):
    """A PAX header (`x`, or `g` for a global one) with these records; a ready bytes object is taken as it is."""
    if not isinstance(records, bytes):
        records = b"".join(pax_record(keyword, value) for keyword, value in records.items())
    return member(b"PaxHeader", records, kind)


def make_part(n=7, d=5, skipped=3, seed=0, keys=None):
    """A part of n random rows in d dimensions and some skipped samples, unlike any real one in every column."""
    draws = np.random.default_rng(seed)
    rows = draws.permutation(n + skipped)
    reasons = ["not_an_image", "no_image", "truncated"]
    return PartData(
        embedding=draws.standard_normal((n, d)).astype(np.float16),
        norm=draws.uniform(0.5, 2, n).astype(np.float32),
        key=keys or [f"folder/å{number:04d}" for number in range(n)],
        key_hash=draws.integers(0, 2**64, n, dtype=np.uint64),
        row=np.sort(rows[:n]).astype(np.uint32),
        block_start=draws.integers(0, 2**63, n, dtype=np.uint64),
        block_end=draws.integers(0, 2**63, n, dtype=np.uint64),
        digest=draws.integers(0, 256, (n, 16), dtype=np.uint8),
        image_start=draws.integers(0, 2**63, n, dtype=np.uint64),
        image_size=draws.integers(0, 2**32, n).astype(np.uint32),
        content=draws.integers(0, 256, (n, 16), dtype=np.uint8),
        defects=draws.integers(0, 8, n, dtype=np.uint8),
        skipped_row=np.sort(rows[n:]).astype(np.uint32),
        skipped_key=[f"bad{number}" for number in range(skipped)],
        skipped_reason=[reasons[number % 3] for number in range(skipped)],
        attributes={"shard_id": "s", "encoder": {"name": "x", "size": [1, 2]}, "shard_size": 5},
    )


class FileSource:
    """An open file as a scan takes it; it may be cut or changed meanwhile."""

    prompt = False

    def __init__(self, file, size=None):
        self.file = file
        self.size = os.fstat(file.fileno()).st_size if size is None else size

    def read(self, start, size):
        return os.pread(self.file.fileno(), size, start)
