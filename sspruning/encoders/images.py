"""Bytes of one image file -> RGB image, safely: bounded size, no format that starts a program, fixed colour rules.

Colour rules, fixed because they are part of what an embedding means:
  alpha (RGBA, LA, P with transparency)   dropped, as timm's and torchvision's loaders do
  P, 1-bit, L, CMYK, YCbCr                Pillow's own conversion (1-bit becomes 0 or 255)
  16-bit grey                             scaled by 1/257, rounded; never clipped
  32-bit integer or float grey            whole numbers within 0..65535 as 16-bit; else its range stretched to 0..255
  animation, several pages                the first frame
  EXIF orientation                        applied; unreadable EXIF counts as none

What is odd about an image that decodes all the same is told in the bits of `sspruning.records.DEFECTS`. They depend on
the file and its decoded pixels alone: Python's warnings say more, but they belong to the process and not to the thread
that decodes, so they cannot be told apart by image.
"""

from __future__ import annotations

import importlib
import io
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Final, TypeAlias, cast

import numpy as np
from PIL import Image

from sspruning.encoders.image_bombs import bomb_in
from sspruning.errors import DataError
from sspruning.records import DEFECTS

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

__all__ = ["REASONS", "ImageError", "decode_image", "decode_with_defects"]

REASONS: Final = ("empty", "not_an_image", "truncated", "too_many_pixels", "decode_error", "decompression_bomb")
"""Every reason that an `ImageError` can carry; the order is stable, new ones are added at the end."""

_MAX_PIXELS: Final = 50_000_000
_AT_ONCE: Final = 1 << 20  # values
_TINY_PX: Final = 16
_BLANK_STD: Final = 2  # of 255
_BLOCKS: Final = 8
_SMALL_PX: Final = 32 * 32  # up to here two pixels are contrast enough
_FILL: Final = (128, (128, 128, 128))
"""What libjpeg paints where the data of an image end early, in grey and in RGB."""
_LAST_BYTES: Final = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82", "GIF": b";"}
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
    return _decoded_safely(data, max_pixels, draft_size)[0]


def decode_with_defects(
    data: bytes, *, max_pixels: int = _MAX_PIXELS, draft_size: int | None = None
) -> tuple[Image.Image, int]:
    """The image that `decode_image` returns for the same arguments, and the bits of `DEFECTS` that are set for it.

    blank: in every channel of the decoded picture the standard deviation is below 2 of 255.
    tiny: width or height in the file is below 16 pixels.
    warned: the file goes on after the image or lacks its end, zero bytes apart (JPEG, PNG, GIF and WebP only); or the
        data of a JPEG end early and the decoder filled the rest with grey, down to the last row.

    Raises:
        ImageError: as `decode_image`.

    Cost:
        20 us for a JPEG of 32 x 32 pixels, 50 us for 256 x 256, beside 80 and 350 us for decoding it; 30 us and more
        on top where there is little contrast.
    """
    image, source, size = _decoded_safely(data, max_pixels, draft_size)
    defects = DEFECTS["blank"] if _is_blank(image) else 0
    if min(size) < _TINY_PX:
        defects |= DEFECTS["tiny"]
    if not _ends_well(data, source.format) or (source.format == "JPEG" and _is_filled_up(source)):
        defects |= DEFECTS["warned"]
    return image, defects


_Decoded: TypeAlias = "tuple[Image.Image, ImageFile, tuple[int, int]]"
"""The RGB image, the file as the decoder left it, and the width and height that its header gives."""


def _decoded_safely(data: bytes, max_pixels: int, draft_size: int | None) -> _Decoded:
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


def _decoded(data: bytes, max_pixels: int, draft_size: int | None) -> _Decoded:
    image = _open(data)
    size = image.size
    _check_size(size, max_pixels)
    if draft_size is not None and image.format == "JPEG" and min(image.size) >= 4 * draft_size:
        image.draft(None, (2 * draft_size, 2 * draft_size))
    image.load()
    return _upright(image, _to_rgb(image)), image, size


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
            bomb = bomb_in(data)
            if bomb is not None:
                raise ImageError("decompression_bomb", bomb)
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
        return _grey(np.asarray(image), _sixteen_bits)
    if image.mode in {"I", "F"}:
        return _wide_grey(np.asarray(image))
    if image.mode in {"P", "PA"} and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns where such a palette is taken straight to RGB
    return image.convert("RGB")


def _wide_grey(values: np.ndarray) -> Image.Image:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(low) or not np.isfinite(high):
        raise ImageError("decode_error", "the image holds values that are not finite")
    if low >= 0 and high <= 65535 and all(bool((rows == np.rint(rows)).all()) for _, rows in _some_rows(values)):
        return _grey(values, _sixteen_bits)
    if high == low:
        return _grey(values, np.zeros_like)
    return _grey(values, lambda rows: (rows - low) * (255.0 / (high - low)))


def _sixteen_bits(rows: np.ndarray) -> np.ndarray:
    return rows / 257.0


def _grey(values: np.ndarray, scaled: Callable[[np.ndarray], np.ndarray]) -> Image.Image:
    """RGB image of what ``scaled`` makes of some rows in float64, rounded."""
    out = np.empty(values.shape, np.uint8)
    for at, rows in _some_rows(values):
        out[at : at + len(rows)] = np.rint(scaled(rows))
    return Image.fromarray(out).convert("RGB")


def _some_rows(values: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """The rows in float64, some at a time: 50 megapixels of it would be 400 MB."""
    step = max(1, _AT_ONCE // max(1, values.shape[1]))
    for at in range(0, len(values), step):
        yield at, values[at : at + step].astype(np.float64)


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


def _is_blank(image: Image.Image) -> bool:
    """True if no channel of an RGB image has a standard deviation of `_BLANK_STD` or more; exact, and mostly quick."""
    width, height = image.size
    n = width * height
    across = down = 1
    green = image.getchannel("G")
    if n > _SMALL_PX:
        across, down = max(1, width // _BLOCKS), max(1, height // _BLOCKS)
        green = green.reduce((across, down), (0, 0, width // across * across, height // down * down))
    low, high = cast("tuple[int, int]", green.getextrema())
    # Two blocks whose means differ by x add x^2/2 times their pixels, or more, to n times the variance.
    spread = high - low - 2  # the means are rounded
    if spread > 0 and spread**2 * across * down >= 2 * _BLANK_STD**2 * n:
        return False
    counts, values = np.array(image.histogram(), np.int64).reshape(3, 256), np.arange(256)
    sums, squares = (counts @ values).tolist(), (counts @ values**2).tolist()
    return all(n * square - total**2 < (_BLANK_STD * n) ** 2 for total, square in zip(sums, squares, strict=True))


def _ends_well(data: bytes, kind: str | None) -> bool:
    """True if the file ends where its format says that the image ends, but for zero bytes; also if that is unknown."""
    if kind == "WEBP":
        return not data[8 + int.from_bytes(data[4:8], "little") :].strip(b"\0")
    last = _LAST_BYTES.get(kind or "")
    return last is None or data.endswith(last) or data.rstrip(b"\0").endswith(last)


def _is_filled_up(image: Image.Image) -> bool:
    """True if the last row of a JPEG is the decoder's grey and the first is not, as where the data end early."""
    width, height = image.size
    if image.getpixel((0, height - 1)) not in _FILL:
        return False
    first, last = (image.crop((0, row, width, row + 1)).getcolors(1) for row in (0, height - 1))
    return last is not None and last[0][1] in _FILL and last != first


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return "too_many_pixels"
    text = str(error).lower()
    if isinstance(error, EOFError) or "truncated" in text or "not enough data" in text or "premature" in text:
        return "truncated"
    return "decode_error"
