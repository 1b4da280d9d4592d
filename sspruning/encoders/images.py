"""Bytes of one image file -> RGB image, safely: bounded size, no format that starts a program, fixed colour rules.

Colour rules, fixed because they are part of what an embedding means:
  alpha (RGBA, LA, P with transparency)   dropped, as timm's and torchvision's loaders do
  P, 1-bit, L, CMYK, YCbCr                Pillow's own conversion (1-bit becomes 0 or 255)
  16-bit grey                             scaled by 1/257, rounded; never clipped
  32-bit integer or float grey            whole numbers within 0..65535 as 16-bit; else its range stretched to 0..255
  animation, several pages                the first frame
  EXIF orientation                        applied; unreadable EXIF counts as none
"""

from __future__ import annotations

import importlib
import io
import warnings
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

from sspruning.errors import DataError

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

__all__ = ["REASONS", "ImageError", "decode_image"]

REASONS: Final = ("empty", "not_an_image", "truncated", "too_many_pixels", "decode_error")
"""Every reason that an `ImageError` can carry; the order is stable, new ones are added at the end."""

_MAX_PIXELS: Final = 50_000_000
_ORIENTATION_TAG: Final = 0x0112
_TRANSPOSES: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Format by first bytes. Other formats are refused whatever the file is called (EPS, for one, would start Ghostscript).
_SIGNATURES: Final = (
    (b"\xff\xd8\xff", "JpegImagePlugin:JpegImageFile"),
    (b"\x89PNG\r\n\x1a\n", "PngImagePlugin:PngImageFile"),
    (b"RIFF", "WebPImagePlugin:WebPImageFile"),
    (b"GIF87a", "GifImagePlugin:GifImageFile"),
    (b"GIF89a", "GifImagePlugin:GifImageFile"),
    (b"BM", "BmpImagePlugin:BmpImageFile"),
    (b"II*\x00", "TiffImagePlugin:TiffImageFile"),
    (b"MM\x00*", "TiffImagePlugin:TiffImageFile"),
    (b"II+\x00", "TiffImagePlugin:TiffImageFile"),
    (b"MM\x00+", "TiffImagePlugin:TiffImageFile"),
)


class ImageError(DataError):
    """One image cannot be decoded; the sample is to be skipped and counted under ``reason``.

    Args:
        reason: one of `REASONS`.
        detail: what the decoder said, for the log.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        """Keep both parts when the error crosses a process boundary."""
        return type(self), (self.reason, self.detail)


def decode_image(data: bytes, *, max_pixels: int = _MAX_PIXELS, draft_size: int | None = None) -> Image.Image:
    """RGB image held in the bytes of a JPEG, PNG, WebP, GIF, BMP or TIFF file.

    Args:
        data: the whole file.
        max_pixels: larger images are refused from their header, before any pixel is decoded.
        draft_size: side in pixels that the caller is going to resize the image to. A JPEG may then be decoded at 1/2,
            1/4 or 1/8 of its size, as long as both sides stay at twice that or more. None decodes in full.

    Raises:
        ImageError: nothing that can be used; ``reason`` is one of `REASONS`.
    """
    if not data:
        raise ImageError("empty", "0 bytes")
    try:
        try:
            return _decoded(data, max_pixels, draft_size)
        except UserWarning:  # damaged metadata, where the process turns warnings into errors: the pixels may be fine
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return _decoded(data, max_pixels, draft_size)
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        raise ImageError(_reason(error), f"{type(error).__name__}: {error}") from error


def _decoded(data: bytes, max_pixels: int, draft_size: int | None) -> Image.Image:
    image = _open(data)
    _check_size(image.size, max_pixels)
    if draft_size is not None and image.format == "JPEG" and min(image.size) >= 4 * draft_size:
        image.draft(None, (2 * draft_size, 2 * draft_size))
    image.load()
    return _upright(image, _to_rgb(image))


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise ImageError("too_many_pixels", f"{size[0]} x {size[1]} pixels, at most {max_pixels} are decoded")


def _open(data: bytes) -> ImageFile:
    """Image with its header read and no pixel decoded.

    The plugin is called directly and not through `Image.open`: its pixel check comes before ours and speaks through a
    warning, which could only be turned into an error for the whole process.
    """
    for signature, target in _SIGNATURES:
        if data.startswith(signature):
            return _plugin(target)(io.BytesIO(data))
    raise ImageError(
        "not_an_image", f"starts with {data[:12]!r}, not with a JPEG, PNG, WebP, GIF, BMP or TIFF signature"
    )


@cache
def _plugin(target: str) -> type[ImageFile]:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(f"PIL.{module}"), name)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):
        return _grey(np.rint(np.asarray(image).astype(np.float64) / 257.0))
    if image.mode in {"I", "F"}:
        return _wide_grey(np.asarray(image).astype(np.float64))
    if image.mode in {"P", "PA"} and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns where such a palette is taken straight to RGB
    return image.convert("RGB")


def _wide_grey(values: np.ndarray) -> Image.Image:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(low) or not np.isfinite(high):
        raise ImageError("decode_error", "the image holds values that are not finite")
    if low >= 0 and high <= 65535 and bool((values == np.rint(values)).all()):
        return _grey(np.rint(values / 257.0))
    return _grey(np.rint((values - low) * (255.0 / (high - low))) if high > low else np.zeros_like(values))


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.astype(np.uint8)).convert("RGB")


def _upright(source: Image.Image, image: Image.Image) -> Image.Image:
    """``image`` turned by the EXIF orientation of ``source``; most files have none and pay nothing for it."""
    if source.format != "TIFF" and not ("exif" in source.info or "xmp" in source.info):
        return image
    try:
        orientation = source.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # noqa: BLE001 - a damaged EXIF block must not cost the picture
        return image
    method = _TRANSPOSES.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return "too_many_pixels"
    text = str(error).lower()
    if isinstance(error, EOFError) or "truncated" in text or "not enough data" in text or "premature" in text:
        return "truncated"
    return "decode_error"
