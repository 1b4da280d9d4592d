"""Evaluation preprocessing of timm, split: resize and crop per image on PIL, the arithmetic per batch on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from timm.data import create_transform
from torchvision.transforms import CenterCrop, Compose, Resize

from sspruning.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

    from sspruning.records import F32, JSONValue

__all__ = ["Preprocess"]

_ELONGATED: Final = 8
"""Images more than this many times as long as wide are cut to that, centred, before they are resized: the centre crop
never sees the rest, and a 1 x 20,000 image would take 250 MB when its short side is brought to 64."""
_PIL_FILTERS: Final = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}


class Preprocess:
    """What timm's `create_transform(is_training=False)` does to an image, in two halves.

    Args:
        config: what timm's `resolve_data_config` returns.

    Raises:
        UsageError: the model does not take square RGB images.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        channels, height, width = config["input_size"]
        if channels != 3 or height != width:
            raise UsageError(
                f"the model takes {channels} x {height} x {width} inputs; an encoder takes square RGB images"
            )
        keys = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
        whole = create_transform(**{key: config[key] for key in keys if key in config}, is_training=False)
        # The last two steps are ToTensor and Normalize.
        self._geometry = Compose(whole.transforms[:-2])
        self.side = int(height)
        first, last = self._geometry.transforms[0], self._geometry.transforms[-1]
        self._crops_centre = isinstance(first, Resize) and isinstance(first.size, int) and isinstance(last, CenterCrop)
        self.resized_side = int(first.size) if self._crops_centre else self.side
        self._filter = _PIL_FILTERS[str(first.interpolation.value)] if isinstance(first, Resize) else None
        self._mean, self._std = np.asarray(config["mean"], np.float64), np.asarray(config["std"], np.float64)
        self.described: dict[str, JSONValue] = {
            "input_size": [channels, self.side, self.side],
            "crop_pct": float(config.get("crop_pct") or 1.0),
            "crop_mode": str(config.get("crop_mode") or "center"),
            "interpolation": str(config["interpolation"]),
            "mean": [float(x) for x in config["mean"]],
            "std": [float(x) for x in config["std"]],
            "jpeg_min_side": 2 * self.resized_side,
        }

    def geometry(self, image: Image) -> np.ndarray:
        """(side, side, 3) uint8: the image after timm's own resize and crop."""
        if self._crops_centre and self.resized_side == self.side and image.width == image.height:
            # What timm's two steps come to for a square image, without their 9 us of bookkeeping (resize: 31 us).
            return np.asarray(image.resize((self.side, self.side), self._filter))
        return np.asarray(self._geometry(_shortened(image) if self._crops_centre else image))

    def affine_row(self) -> tuple[F32, F32]:
        """Factor and offset of a row of pixels, (3 side,) float32 each: x * factor + offset = (x / 255 - mean) / std.

        A whole row and not three values, because broadcasting three values over the last axis is not vectorised.
        """
        factor, offset = 1.0 / (255.0 * self._std), -self._mean / self._std
        return np.tile(factor, self.side).astype(np.float32), np.tile(offset, self.side).astype(np.float32)


def _shortened(image: Image) -> Image:
    """``image``, or its centre where it is more than `_ELONGATED` times as long as wide."""
    width, height = image.size
    keep = _ELONGATED * min(width, height)
    if max(width, height) <= keep:
        return image
    left, top = max(0, width - keep) // 2, max(0, height - keep) // 2
    return image.crop((left, top, width - left, height - top))
