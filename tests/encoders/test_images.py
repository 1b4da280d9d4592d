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

from sspruning.encoders.images import REASONS, ImageError, decode_image, decode_with_defects
from sspruning.records import DEFECTS


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


def defects_of(data, **options):
    """Names of the defects, in order of their bits."""
    bits = decode_with_defects(data, **options)[1]
    assert 0 <= bits < 2 ** len(DEFECTS)
    return [name for name, bit in DEFECTS.items() if bits & bit]


def around(level, std, shape=(64, 80), channels=(0, 1, 2), seed=0):
    """Image of one colour whose given channels have exactly that standard deviation: half below and half above."""
    pixels = np.full((*shape, 3), level, np.uint8)
    signs = np.random.default_rng(seed).permutation(np.arange(shape[0] * shape[1]) % 2 * 2 - 1).reshape(shape)
    for channel in channels:
        pixels[..., channel] = level + std * signs
    return Image.fromarray(pixels)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_sound_picture_has_no_defects_and_is_what_decoding_alone_returns(kind, picture):
    data = encoded(picture(90, 70), kind)
    image, bits = decode_with_defects(data)
    assert bits == 0
    assert image.tobytes() == decode_image(data).tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_one_colour_is_blank_in_every_format(kind, mode):
    assert defects_of(encoded(Image.new("L", (50, 30), 200).convert(mode), kind)) == ["blank"]


@pytest.mark.parametrize("shape", [(16, 16), (32, 32), (64, 80), (37, 302)])
@pytest.mark.parametrize(("std", "expected"), [(1, ["blank"]), (2, [])])
@pytest.mark.parametrize("channels", [(0,), (1,), (2,), (0, 1, 2)])
def test_an_image_is_blank_while_no_channel_reaches_a_standard_deviation_of_two(std, expected, shape, channels):
    assert defects_of(encoded(around(100, std, shape, channels))) == expected


@pytest.mark.parametrize("level", [0, 255])
def test_one_grain_in_an_even_picture_is_blank_and_a_small_object_is_not(level):
    pixels = np.full((400, 400, 3), level, np.uint8)
    pixels[7, 7] = 128
    assert defects_of(encoded(Image.fromarray(pixels))) == ["blank"]
    pixels[:10, :10] = 255 - level  # 1/1600 of the pixels: 6.4 of 255
    assert defects_of(encoded(Image.fromarray(pixels))) == []


def test_noise_is_not_blank_though_its_mean_is_even_everywhere():
    assert defects_of(encoded(around(128, 100, (512, 512)))) == []


SPREADS = st.tuples(st.integers(16, 70), st.integers(16, 70), st.sampled_from([0, 1, 2, 3, 5, 20]), st.integers(0, 99))


@given(SPREADS)
def test_blank_agrees_with_the_plain_standard_deviation(spread):
    width, height, scale, seed = spread
    draws = np.random.default_rng(seed)
    smooth = Image.fromarray(draws.integers(0, 256, (3, 3, 3), dtype=np.uint8)).resize((width, height), 2)
    noise = draws.normal(128, scale * draws.uniform(0, 1, 3), (height, width, 3))
    pixels = np.clip(noise + draws.choice([0, 0.02, 0.3]) * (np.asarray(smooth) - 128.0), 0, 255).astype(np.uint8)
    expected = (pixels.reshape(-1, 3).std(axis=0) < 2).all()
    assert (defects_of(encoded(Image.fromarray(pixels))) == ["blank"]) is bool(expected)


@pytest.mark.parametrize(
    ("size", "expected"), [((15, 400), ["tiny"]), ((400, 15), ["tiny"]), ((16, 16), []), ((10, 40), ["tiny"])]
)
def test_an_image_below_sixteen_pixels_on_a_side_is_tiny(size, expected, picture):
    assert defects_of(encoded(picture(*size))) == expected


def test_the_size_in_the_file_decides_and_not_the_size_that_was_decoded(picture):
    data = encoded(picture(16, 16), "JPEG")
    assert decode_image(data, draft_size=4).size == (8, 8)
    assert defects_of(data, draft_size=4) == []


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
@pytest.mark.parametrize(
    ("tail", "expected"), [(b"<html>", ["warned"]), (bytes(600) + b"x", ["warned"]), (bytes(600), []), (b"", [])]
)
def test_bytes_after_the_image_are_warned_of_unless_they_are_zeros(kind, tail, expected, picture):
    assert defects_of(encoded(picture(), kind) + tail) == expected


@pytest.mark.parametrize("kind", ["BMP", "TIFF"])
def test_formats_without_an_end_are_not_warned_of(kind, picture):
    assert defects_of(encoded(picture(), kind) + b"<html>") == []


@pytest.mark.parametrize(("kind", "cut"), [("PNG", 1), ("PNG", 12), ("GIF", 1)])
def test_a_file_that_lacks_its_end_but_no_pixel_is_warned_of(kind, cut, picture):
    data = encoded(picture(90, 70), kind)
    assert np.array_equal(decode_image(data[:-cut]), decode_image(data))
    assert defects_of(data[:-cut]) == ["warned"]


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("side", [None, 10])
def test_a_jpeg_that_was_cut_and_given_an_end_again_is_warned_of(mode, side, picture):
    data = encoded(picture(90, 80).convert(mode), "JPEG", quality=90)
    assert defects_of(data, draft_size=side) == []
    assert defects_of(data[: len(data) // 2] + b"\xff\xd9", draft_size=side) == ["warned"]


def test_a_jpeg_with_another_jpeg_behind_it_is_sound(picture):
    assert defects_of(encoded(picture(), "JPEG") + encoded(picture(20, 20), "JPEG")) == []


def test_grey_all_around_a_picture_is_no_damage(picture):
    framed = Image.new("RGB", (96, 96), (128, 128, 128))
    framed.paste(picture(32, 32), (32, 32))
    assert defects_of(encoded(framed, "JPEG", quality=95)) == []
    assert defects_of(encoded(Image.new("RGB", (40, 40), (128, 128, 128)), "JPEG")) == ["blank"]


def test_defects_are_the_same_where_python_warnings_are_errors_and_where_they_are_not(picture):
    data = encoded(picture(), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7f\x05\x00")
    for action in ("error", "ignore"):
        with warnings.catch_warnings():
            warnings.simplefilter(action)
            assert defects_of(data) == []
            assert defects_of(data + b"more") == ["warned"]


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
