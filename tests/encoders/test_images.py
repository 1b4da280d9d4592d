import io
import pickle
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sspruning.encoders.images import REASONS, ImageError, decode_image


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def reason_of(data, **options):
    with pytest.raises(ImageError) as caught:
        decode_image(data, **options)
    assert caught.value.reason in REASONS
    return caught.value.reason


def png_header(width, height):
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_format_of_the_list_decodes_to_rgb(kind, picture):
    image = decode_image(encoded(picture(40, 30), kind))
    assert (image.mode, image.size) == ("RGB", (40, 30))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_give_back_the_same_pixels(kind, picture):
    assert np.array_equal(np.asarray(decode_image(encoded(picture(), kind))), np.asarray(picture()))


@pytest.mark.parametrize("kind", ["EPS", "PPM", "ICO", "JPEG2000", "PDF"])
def test_formats_outside_the_list_are_refused_whatever_pillow_could_do(kind, picture):
    assert reason_of(encoded(picture(64, 64), kind)) == "not_an_image"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>404</html>", "not_an_image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_an_image"),
        (b"8BPS\x00\x01", "not_an_image"),
        (b"\x80\x04\x95pickle", "not_an_image"),
    ],
)
def test_what_is_no_image_is_told_apart(data, reason):
    assert reason_of(data) == reason


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.9])
def test_a_cut_file_is_an_error_and_never_half_a_picture(kind, kept, picture):
    data = encoded(picture(90, 70), kind)
    assert reason_of(data[: int(len(data) * kept)]) in {"truncated", "decode_error", "not_an_image"}


def test_a_cut_jpeg_is_called_truncated(picture):
    data = encoded(picture(90, 70), "JPEG")
    assert reason_of(data[: len(data) // 2]) == "truncated"


@pytest.mark.parametrize("size", [(10_000, 10_000), (20_000, 20_000), (2**31 - 1, 2**31 - 1)])
def test_a_pixel_bomb_is_refused_from_its_header_without_a_warning(size):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert reason_of(png_header(*size)) == "too_many_pixels"
    assert caught == []


def test_the_pixel_cap_is_inclusive(picture):
    data = encoded(picture(40, 30))
    assert decode_image(data, max_pixels=1200).size == (40, 30)
    assert reason_of(data, max_pixels=1199) == "too_many_pixels"


def test_a_text_chunk_bomb_in_a_png_is_a_skip(picture):
    body = b"zTXtbomb\x00\x00" + zlib.compress(b"\0" * 80_000_000, 9)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    data = encoded(picture(8, 8))
    assert reason_of(data[:33] + chunk + data[33:]) == "decode_error"


def test_sixteen_bit_grey_is_scaled_and_not_clipped():
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    decoded = np.asarray(decode_image(encoded(Image.fromarray(ramp), "PNG")))
    assert np.array_equal(decoded[..., 0].ravel(), np.arange(256))
    assert np.array_equal(decoded[..., 0], decoded[..., 2])


def test_float_and_integer_tiffs_use_their_whole_range():
    values = np.linspace(-3, 7, 256).reshape(16, 16)
    for array in (values.astype(np.float32), (values * 1e6).astype(np.int32)):
        decoded = np.asarray(decode_image(encoded(Image.fromarray(array), "TIFF")))
        assert (decoded.min(), decoded.max()) == (0, 255)


def test_a_float_tiff_with_nan_is_a_skip():
    array = np.zeros((4, 4), np.float32)
    array[1, 1] = np.nan
    assert reason_of(encoded(Image.fromarray(array), "TIFF")) == "decode_error"


@pytest.mark.parametrize("flat", [0.5, 70000.0])
def test_a_flat_float_tiff_decodes_to_black(flat):
    decoded = np.asarray(decode_image(encoded(Image.fromarray(np.full((4, 4), flat, np.float32)), "TIFF")))
    assert not decoded.any()


def test_cmyk_becomes_rgb():
    decoded = decode_image(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95))
    red, green, blue = decoded.getpixel((8, 8))
    assert red > 200
    assert max(green, blue) < 60


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("1", (4, 4), 1), (255, 255, 255)),
        (Image.new("L", (4, 4), 77), (77, 77, 77)),
        (Image.new("LA", (4, 4), (77, 0)), (77, 77, 77)),
        (Image.new("RGBA", (4, 4), (1, 2, 3, 0)), (1, 2, 3)),
        (Image.new("RGB", (4, 4), (9, 8, 7)).convert("P", palette=Image.Palette.ADAPTIVE), (9, 8, 7)),
    ],
    ids=["1", "L", "LA", "RGBA", "P"],
)
def test_colour_rules(image, expected):
    assert decode_image(encoded(image)).getpixel((1, 1)) == expected


def test_a_palette_with_transparency_keeps_its_colours():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    data = encoded(image, transparency=bytes([255, 0]))
    assert decode_image(data).getpixel((0, 0)) == (10, 20, 30)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_the_first_frame_stands_for_an_animation(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    options = {"lossless": True} if kind == "WEBP" else {}
    decoded = decode_image(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert decoded.getpixel((4, 4)) == (255, 0, 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind, orientation):
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :24] = 255  # white in the upper left quarter only
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # PIL.Image.Transpose that stores it as a camera would
    stored = Image.fromarray(upright)
    if orientation > 1:
        stored = stored.transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    decoded = np.asarray(decode_image(encoded(stored, kind, exif=exif.tobytes(), **options)))
    assert decoded.shape == upright.shape
    assert np.abs(decoded.astype(int) - upright).mean() < 3


def test_damaged_exif_does_not_cost_the_picture(picture):
    data = encoded(picture(), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7f\x05\x00")
    assert decode_image(data).size == (80, 60)


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1)])
def test_extreme_shapes_decode(size):
    assert decode_image(encoded(Image.new("RGB", size))).size == size


@pytest.mark.parametrize(("side", "expected"), [(None, 400), (30, 100), (50, 100), (51, 200), (100, 200), (101, 400)])
def test_a_jpeg_is_reduced_only_while_both_sides_stay_twice_the_target(side, expected, picture):
    assert min(decode_image(encoded(picture(600, 400), "JPEG"), draft_size=side).size) == expected


def test_a_reduced_jpeg_is_nearly_the_full_one_after_resizing(picture):
    data = encoded(picture(640, 512), "JPEG", quality=90)
    full, reduced = (decode_image(data, draft_size=s).resize((64, 64), Image.Resampling.BICUBIC) for s in (None, 64))
    assert np.abs(np.asarray(full).astype(int) - np.asarray(reduced)).max() <= 4


def test_pillow_still_refuses_truncated_files_elsewhere(picture):
    decode_image(encoded(picture()))
    from PIL import ImageFile

    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_the_error_survives_a_process_boundary():
    error = pickle.loads(pickle.dumps(ImageError("empty", "0 bytes")))  # noqa: S301 - made in this line
    assert (error.reason, error.detail, str(error)) == ("empty", "0 bytes", "empty: 0 bytes")


SEEDS = [
    encoded(Image.linear_gradient("L").resize((24, 20)).convert("RGB"), kind)
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
]


@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6))
@settings(max_examples=200, deadline=None, derandomize=True, database=None)
def test_flipped_bytes_give_an_image_or_an_image_error(data, flips):
    damaged = bytearray(data)
    for at, value in flips:
        damaged[at % len(damaged)] = value
    try:
        outcome = decode_image(bytes(damaged), max_pixels=1_000_000).mode
    except ImageError as error:
        outcome = error.reason
    assert outcome in {"RGB", *REASONS}
