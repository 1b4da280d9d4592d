"""Images of a corpus as one uint8 array, read through the product's own shard reader. Labels are never looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sspruning.encoders.images import ImageError, decode_image
from sspruning.errors import DataError, MachineError
from sspruning.records import F64
from sspruning.storage.artifacts import SelectionFile
from sspruning.storage.corpus import open_corpus
from sspruning.storage.samples import ShardReader

__all__ = ["LoadedImages", "find_selection", "load_images", "read_weights"]


@dataclass(frozen=True, slots=True)
class LoadedImages:
    """Decoded images of a corpus and what was left out."""

    pixels: NDArray[np.uint8]
    """(n, cache_px, cache_px, 3), in corpus order."""
    keys: list[str]
    """Key of each image."""
    skipped: Counter[str]
    """Samples without a usable image, by reason."""


def load_images(inputs: Sequence[str], *, suffixes: Sequence[str], cache_px: int, memory_bytes: int) -> LoadedImages:
    """Every image of the shards, decoded, cut to its central square and resized to ``cache_px``.

    Cost: n * cache_px^2 * 3 bytes, known and checked against ``memory_bytes`` before the first image is decoded.

    Raises:
        MachineError: the images would need more memory than allowed.
        DataError: a shard is damaged, or no sample holds an image.
    """
    skipped: Counter[str] = Counter()
    shards = open_corpus(inputs).shards
    places = [_places(shard.path, suffixes, skipped) for shard in shards]
    count = sum(map(len, places))
    needed = count * cache_px * cache_px * 3
    if needed > memory_bytes:
        raise MachineError(
            f"{count} images at {cache_px} x {cache_px} pixels need {needed / 1e9:.1f} GB, but "
            f"{memory_bytes / 1e9:.1f} GB are allowed; choose a smaller --cache-px, fewer shards, or raise --memory-gb"
        )
    pixels = np.empty((count, cache_px, cache_px, 3), np.uint8)
    keys: list[str] = []
    for shard, spans in zip(shards, places, strict=True):
        with ShardReader(shard.path) as reader:
            for key, start, size in spans:
                try:
                    image = decode_image(reader.read(start, size), draft_size=cache_px)
                except ImageError as error:
                    skipped[error.reason] += 1
                    continue
                pixels[len(keys)] = np.asarray(_square(image, cache_px))
                keys.append(key)
    if not keys:
        raise DataError(f"none of the samples holds an image ({dict(skipped)}); is --image-key right?")
    return LoadedImages(pixels[: len(keys)], keys, skipped)


def _places(path: str, suffixes: Sequence[str], skipped: Counter[str]) -> list[tuple[str, int, int]]:
    """Key, start and size of each sample's image in one shard."""
    found = []
    with ShardReader(path) as reader:
        for sample in reader.samples():
            member = sample.find(suffixes) if sample.skip_reason is None else None
            if member is None:
                skipped[sample.skip_reason or "no_image"] += 1
            else:
                found.append((sample.key, member.start, member.size))
    return found


def read_weights(selection: Path, keys: Sequence[str]) -> F64 | None:
    """(n,) float64 weights of the images by the selection's column ``weight``; None if all are alike.

    Args:
        selection: a ``selection.parquet``.
        keys: of the images, each of which the selection must have kept.

    Raises:
        StoreError: not a selection.
        DataError: an image is none of the selection's kept samples, or the weights are no weights.
    """
    held: dict[str, float] = {}
    for table in SelectionFile.open(selection).groups(["key", "weight", "kept"]):
        kept = table.filter(table.column("kept"))
        held.update(zip(kept.column("key").to_pylist(), kept.column("weight").to_pylist(), strict=True))
    strange = [key for key in keys if key not in held]
    if strange:
        raise DataError(
            f"{selection}: {len(strange)} of {len(keys)} images are not among its kept samples, the first is "
            f"{strange[0]!r}; name the selection of these shards with --selection, or --selection none"
        )
    weights = np.array([held[key] for key in keys], np.float64)
    if not (np.isfinite(weights).all() and weights.min() >= 0 and weights.max() > 0):
        raise DataError(
            f"{selection}: weights go from {weights.min():g} to {weights.max():g}; expected finite numbers, none below "
            "0 and not all 0; mend the column or ignore it with --selection none"
        )
    return None if (weights == weights[0]).all() else weights


def find_selection(inputs: Sequence[str]) -> Path | None:
    """The ``selection.parquet`` that a folder of pruned shards carries; None where the shards are no pruned ones."""
    folders = {Path(shard.path).parent for shard in open_corpus(inputs).shards}
    found = [folder / ".sspruning" / "selection.parquet" for folder in folders]
    return found[0] if len(found) == 1 and found[0].is_file() else None


def _square(image: Image.Image, side: int) -> Image.Image:
    """The central square of ``image`` at ``side`` pixels; an image of that size comes back untouched."""
    width, height = image.size
    if (width, height) == (side, side):
        return image
    short = min(width, height)
    left, top = (width - short) // 2, (height - short) // 2
    return image.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, left + short, top + short))
