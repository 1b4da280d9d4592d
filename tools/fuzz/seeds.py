"""What the targets share: small valid files to start from, made by code, and how a broken promise is told."""

from __future__ import annotations

import io
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from sspruning.storage.parts import PartData, encode_part

__all__ = ["archives", "arguments", "parts", "promise"]


def promise(kept: bool, what: str) -> None:  # noqa: FBT001 - reads as a sentence
    """Stop the fuzzer, which then keeps the input, if a promise was not kept."""
    if not kept:
        raise AssertionError(what)


def arguments(seeds: Iterable[bytes]) -> list[str]:
    """The command line; if it names no folder, with one at its end that keeps what is found from run to run."""
    if any(not argument.startswith("-") for argument in sys.argv[1:]):
        return sys.argv
    folder = Path(tempfile.gettempdir(), f"sspruning-{Path(sys.argv[0]).stem}")
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (folder / "corpus" / f"seed-{number:03d}").write_bytes(seed)
    return [*sys.argv, f"-artifact_prefix={folder}/", str(folder / "corpus")]


def archives() -> list[bytes]:
    """Archives of every form that tarfile writes, with names, sizes and kinds of members of all sorts."""
    contents = [
        [("a.jpg", 700), ("a.txt", 0), ("b.jpg", 512)],
        [("d/" * 30 + "k.seg.png", 3), ("søren/日本.jpg", 5), ("n" * 150 + ".jpg", 1)],
        [("__meta__/x.json", 2), (".hidden", 1), ("README", 1), ("s.__key__", 1)],
        [],
    ]
    made = []
    for form in (tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        for members in contents:
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
                for name, size in members:
                    if form == tarfile.USTAR_FORMAT and len(name) > 100:
                        continue
                    info = tarfile.TarInfo(name)
                    info.size = size
                    archive.addfile(info, io.BytesIO(bytes(size)))
                link = tarfile.TarInfo("link.jpg")
                link.type, link.linkname = tarfile.SYMTYPE, "a.jpg"
                archive.addfile(link)
            content = buffer.getvalue().rstrip(b"\0")
            made.append(content + bytes(-len(content) % 512 + 1024))
    return made


def parts() -> list[bytes]:
    """Parts of a few rows, one of them without any."""
    made = []
    for n, dim, skipped in ((3, 4, 2), (0, 4, 1), (40, 8, 0)):
        draws = np.random.default_rng(n)
        rows = np.arange(n + skipped, dtype=np.uint32)
        part = PartData(
            embedding=draws.standard_normal((n, dim)).astype(np.float16),
            norm=draws.uniform(0.5, 2, n).astype(np.float32),
            key=[f"folder/å{number:04d}" for number in range(n)],
            key_hash=draws.integers(0, 2**64, n, dtype=np.uint64),
            row=rows[:n],
            block_start=np.arange(n, dtype=np.uint64) * 1024,
            block_end=np.arange(1, n + 1, dtype=np.uint64) * 1024,
            digest=draws.integers(0, 256, (n, 16), dtype=np.uint8),
            image_start=np.arange(n, dtype=np.uint64) * 1024 + 512,
            image_size=np.full(n, 500, np.uint32),
            content=draws.integers(0, 256, (n, 16), dtype=np.uint8),
            defects=np.zeros(n, np.uint8),
            skipped_row=rows[n:],
            skipped_key=[f"bad{number}" for number in range(skipped)],
            skipped_reason=["not_an_image"] * skipped,
            attributes={"shard_id": "s", "shard_sha256": "0" * 64, "shard_size": 99},
        )
        made.append(encode_part(part))
    return made
