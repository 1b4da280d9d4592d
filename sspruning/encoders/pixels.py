"""Encoder without weights: the image itself, scaled down. The oracle of the tests and the quickest smoke run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from sspruning.errors import UsageError
from sspruning.records import F32, EncoderSpec, JSONValue

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["PixelEncoder", "build"]

_DEFAULT_SIDE: Final = 8
_BOX: Final = 4
"""PIL.Image.Resampling.BOX: every output pixel is the mean of the input pixels that it covers."""


class PixelEncoder:
    """Downscaled RGB pixels with the image's own mean taken off, in units of the 0..255 scale; numpy only.

    Each row is computed by itself with the same operations, so it is the same bits in any batch and on any machine with
    the same JPEG decoder. Good for near-duplicates and smoke tests; it knows nothing of what a picture shows.
    """

    def __init__(self, spec: EncoderSpec) -> None:
        side = spec.image_size or _DEFAULT_SIDE
        self.dim = 3 * side * side
        self.batch_size = spec.batch_size
        self.draft_size: int | None = side
        self.notes: list[str] = []
        self.identity: dict[str, JSONValue] = {
            "encoder": "pixels",
            "model": None,
            "weights_sha256": None,
            "preprocess": {
                "input_size": [3, side, side],
                "crop": "squash",
                "interpolation": "box",
                "jpeg_min_side": 2 * side,
            },
            "pooling": "image mean subtracted",
            "dtype": "float32",
            "device": "cpu",
            "batch_size": spec.batch_size,
        }
        self._side = side

    def prepare(self, image: Image) -> np.ndarray:
        """(side, side, 3) uint8: the whole image squashed to a square."""
        return np.asarray(image.resize((self._side, self._side), _BOX))

    def embed(self, batch: np.ndarray) -> F32:
        """(m, 3 side^2) float32 in [-255, 255], each row with mean zero (all zero for a flat image)."""
        rows = batch.reshape(len(batch), self.dim).astype(np.float64)
        # Sums of whole numbers below 2^53 are exact, so the order of summation cannot show.
        return (rows - rows.sum(axis=1, keepdims=True) / self.dim).astype(np.float32)


def build(spec: EncoderSpec) -> PixelEncoder:
    """Encoder of downscaled pixels; ``spec.image_size`` is the side of the small square, 8 by default.

    Raises:
        UsageError: the specification names a model, a checkpoint or a factory, which this encoder has no use for.
    """
    given = [key for key in ("model", "checkpoint", "factory") if getattr(spec, key) is not None]
    if given:
        raise UsageError(
            f"encoder 'pixels' has no weights, so it takes no {given[0]}; leave it out or use --encoder timm"
        )
    return PixelEncoder(replace(spec, device="cpu", dtype="float32"))
