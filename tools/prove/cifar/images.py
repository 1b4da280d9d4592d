"""CIFAR-10 as arrays, read from shards through the product's reader. Labels are for training and evaluation alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sspruning.encoders.images import decode_image
from sspruning.errors import DataError
from sspruning.records import I64
from sspruning.storage.corpus import open_corpus
from sspruning.storage.samples import ShardReader

__all__ = ["Labelled", "load_labelled"]

SIDE_PX = 32


@dataclass(frozen=True, slots=True)
class Labelled:
    """Images with their classes."""

    keys: list[str]
    pixels: NDArray[np.uint8]
    """(n, 32, 32, 3), in corpus order."""
    labels: I64
    """(n,) class numbers."""


def load_labelled(shards: str, cache: Path) -> Labelled:
    """The images and classes of ``shards``; decoded once, then kept in ``cache``, an ``.npz`` file.

    Raises:
        DataError: a sample has no image or no class, or an image is not 32 x 32.
    """
    if not cache.exists():
        _decode(shards, cache)
    with np.load(cache, allow_pickle=False) as held:
        return Labelled(held["keys"].tolist(), held["pixels"], held["labels"])


def _decode(shards: str, cache: Path) -> None:
    keys, pixels, labels = [], [], []
    for shard in open_corpus([shards]).shards:
        with ShardReader(shard.path) as reader:
            for sample in reader.samples():
                image, label = sample.find(("jpg", "png")), sample.find(("cls",))
                if image is None or label is None:
                    raise DataError(f"{shard.path}: sample {sample.key!r} has no image or no .cls")
                decoded = np.asarray(decode_image(reader.read(image.start, image.size), draft_size=None))
                if decoded.shape != (SIDE_PX, SIDE_PX, 3):
                    raise DataError(f"{shard.path}: sample {sample.key!r} is {decoded.shape}, not 32 x 32 pixels")
                keys.append(sample.key)
                pixels.append(decoded)
                labels.append(int(reader.read(label.start, label.size)))
    cache.parent.mkdir(parents=True, exist_ok=True)
    np.savez(cache, keys=np.array(keys), pixels=np.stack(pixels), labels=np.array(labels, np.int64))
