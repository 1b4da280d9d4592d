"""Corpora of a few dozen images, and ways to look at folders; loaded by path, as tests are no package."""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

import sspruning

PACKAGE_ROOT = Path(sspruning.__file__).parent.parent
CONFIG = """\
name: tiny
corpus: {input: 'shards/*.tar'}
encoder: {name: pixels}
cluster: {n_clusters: 4}
select: {keep_fraction: 0.7}
write: {samples_per_shard: 16}
execution: {executor: inline}
"""


def image(seed, kind="JPEG", side=16):
    """Bytes of an image of one of four colours, with its own noise."""
    rng = np.random.default_rng(seed)
    colour = np.array([(220, 40, 40), (40, 200, 60), (50, 60, 210), (200, 190, 60)][seed % 4])
    ramp = np.linspace(-40, 40, side)[:, None, None] * ([1, -1, 0.5, -0.5][seed % 4])
    pixels = colour + ramp + rng.normal(0, 5 + 25 * (seed % 7 == 0), (side, side, 3))
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def samples(shard, count):
    """``{key: {suffix: bytes}}`` of one shard: several folders, several image formats, sometimes a json member."""
    found = {}
    for number in range(count):
        seed = 1000 * shard + number
        suffix, kind = [("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP"), ("jpeg", "JPEG")][(number // 5) % 4]
        members = {suffix: image(seed, kind), "cls": str(seed % 4).encode(), "txt": f"caption of {seed}".encode()}
        if number % 3 == 0:
            members["meta.json"] = b'{"seed": %d}' % seed
        found[f"part.{number % 2}/s{shard}-{number:04d}"] = members
    return found


def shard(path, content):
    """Write ``{key: {suffix: bytes}}`` as one tar, members in the order given, headers as real tools leave them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, (key, members) in enumerate(content.items()):
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size, info.mtime, info.uid, info.uname = len(data), 1_600_000_000 + number, 1000, "someone"
                tar.addfile(info, io.BytesIO(data))
    return path


def corpus(folder, shards=3, count=20):
    """``{key: {suffix: bytes}}`` of a corpus that now stands in ``folder`` as train-000000.tar, ..."""
    content = {}
    for number in range(shards):
        own = samples(number, count)
        shard(folder / f"train-{number:06d}.tar", own)
        content.update(own)
    return content


def rewrite(path, change):
    """Read a shard, let ``change`` edit its ``{key: {suffix: bytes}}``, and write it again."""
    content = members(path)
    change(content)
    shard(path, content)


def members(path):
    """``{key: {suffix: bytes}}`` of a shard, read by Python's own tarfile."""
    found = {}
    with tarfile.open(path) as tar:
        for info in tar:
            folder, _, name = info.name.rpartition("/")
            stem, _, suffix = name.partition(".")
            found.setdefault(f"{folder}/{stem}" if folder else stem, {})[suffix] = tar.extractfile(info).read()
    return found


def entries(*paths):
    """``{member name: (bytes, mtime, uid, user)}`` of shards, read by Python's own tarfile."""
    found = {}
    for path in paths:
        with tarfile.open(path) as tar:
            for info in tar:
                assert info.name not in found
                found[info.name] = (tar.extractfile(info).read(), info.mtime, info.uid, info.uname)
    return found


def offset_of(path, key, suffix):
    """Byte offset of a member's payload in a shard."""
    with tarfile.open(path) as tar:
        return tar.getmember(f"{key}.{suffix}").offset_data


def flip(path, offset):
    """Change one byte of a file in place; size and modification time stay."""
    before = path.stat()
    with path.open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)
        stream.seek(offset)
        stream.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def cut(path, size):
    """Keep the first ``size`` bytes of a file."""
    with path.open("r+b") as stream:
        stream.truncate(size)


def digests(*folders):
    """``{path: sha256}`` of all files below the folders."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def stamps(*folders, but=()):
    """``{path: (sha256, mtime_ns)}`` of all files below the folders, without those named in ``but``."""
    return {
        str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in but
    }


def temporaries(folder):
    """Temporary files below a folder."""
    return [str(path) for path in folder.rglob(".*.tmp.*")]


def environment(**more):
    """Variables under which a child process finds the package that is tested."""
    return {**os.environ, "PYTHONPATH": str(PACKAGE_ROOT), "COLUMNS": "120", **more}


def command(*args):
    """Command line of ``sspruning`` with these arguments."""
    return [sys.executable, "-m", "sspruning", *map(str, args)]


def cli(*args, cwd, **more):
    """`subprocess.CompletedProcess` of the command line in a process of its own."""
    return subprocess.run(
        command(*args), cwd=cwd, env=environment(**more), capture_output=True, text=True, timeout=120, check=False
    )
