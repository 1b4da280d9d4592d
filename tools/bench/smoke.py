"""Input so small that every case runs in seconds: it shows that the benchmarks work, and measures nothing."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from bench.checkpoints import random_weights
from sspruning.records import EncoderSpec

__all__ = ["make_corpus", "make_photographs", "stand_in"]


def _jpeg(random: np.random.Generator, width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def _shard(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as target:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            target.addfile(info, io.BytesIO(data))


def make_corpus(folder: Path) -> str:
    """Pattern of two shards with 40 samples each, written into ``folder``."""
    random = np.random.default_rng(0)
    for shard in range(2):
        members = []
        for sample in range(40):
            key = f"{40 * shard + sample:08d}"
            members += [(f"{key}.jpg", _jpeg(random, 32, 32)), (f"{key}.cls", b"0")]
        _shard(folder / f"train-{shard:06d}.tar", members)
    return str(folder / "train-*.tar")


def make_photographs(folder: Path) -> Path:
    """A shard of four photographs, written into ``folder``."""
    random = np.random.default_rng(1)
    path = folder / "photos.tar"
    _shard(path, [(f"photo-{number}.jpg", _jpeg(random, 400, 300)) for number in range(4)])
    return path


def stand_in(folder: Path, card: Path) -> EncoderSpec:
    """The shipped encoder, or a random one where a working tree has no ``card`` and so no weights yet."""
    if card.exists():
        return EncoderSpec()
    weights = random_weights("resnet10t", folder)
    return EncoderSpec(name="timm", model="resnet10t", checkpoint=str(weights), image_size=64)
