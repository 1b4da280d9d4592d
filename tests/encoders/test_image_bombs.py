"""Files that cost far more than they weigh are told from their headers; all others, damaged ones too, pass."""

import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sspruning.encoders.image_bombs import MAX_SCANS, MAX_SEGMENTS, MAX_TIFF_ENTRIES, MAX_TIFF_VALUES, bomb_in
from sspruning.encoders.images import ImageError, decode_image

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))


def encoded(kind, **options):
    buffer = io.BytesIO()
    PICTURE.save(buffer, kind, **options)
    return buffer.getvalue()


def refused(data):
    """What a bomb is called; decoding must refuse it for the same reason."""
    with pytest.raises(ImageError) as caught:
        decode_image(data)
    assert caught.value.reason == "decompression_bomb"
    assert caught.value.detail == bomb_in(data)
    return caught.value.detail


SOUND = {
    "baseline": encoded("JPEG"),
    "progressive": encoded("JPEG", progressive=True),
    "with metadata": encoded(
        "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0", comment=b"\xff\xda" * 500, icc_profile=bytes(200_000)
    ),
    "with restart markers": encoded("JPEG", progressive=True, restart_marker_blocks=1),
    "with a film behind it": encoded("JPEG", progressive=True) + b"\xff\xda" * 1000,
    "tiff": encoded("TIFF"),
    "big-endian tiff": encoded("TIFF", compression="tiff_lzw", big_tiff=True),
    "png": encoded("PNG"),
    "text": b"text",
    "nothing": b"",
}


@pytest.mark.parametrize("name", list(SOUND))
def test_what_is_no_bomb_passes(name):
    assert bomb_in(SOUND[name]) is None


def progressive(scans, between=b""):
    """A JPEG with so many scans, each preceded by the bytes ``between``."""
    whole = encoded("JPEG", progressive=True)
    starts = [at for at in range(len(whole)) if whole.startswith(b"\xff\xda", at)]
    first, again = whole[: starts[1]], whole[starts[1] : starts[2]]
    return first + (between + again) * (scans - 1) + b"\xff\xd9"


@pytest.mark.parametrize("between", [b"", b"\xff\xfe\x00\x04\xff\xd9", b"\xff\xff\xff\xfe\x00\x02"])
def test_a_jpeg_with_too_many_scans_is_a_bomb_whatever_stands_between_them(between):
    assert bomb_in(progressive(MAX_SCANS, between)) is None
    assert refused(progressive(MAX_SCANS + 1, between)) == f"a JPEG of more than {MAX_SCANS} scans"


def test_segments_are_counted_between_scans_too():
    whole = SOUND["baseline"]
    assert bomb_in(whole[:2] + b"\xff\xe1\x00\x02" * 1000 + whole[2:]) is None
    assert "segments" in refused(whole[:2] + b"\xff\xe1\x00\x02" * (MAX_SEGMENTS + 300) + whole[2:])
    assert "segments" in refused(progressive(2, b"\xff\xfe\x00\x02" * (MAX_SEGMENTS + 300)))


def tiff(tags, order="<", *, wide=False, count=None):
    """A TIFF header and a first directory of (tag, type, number of values)."""
    start = b"II" if order == "<" else b"MM"
    head = struct.pack(order + ("HHHQ" if wide else "HI"), *((43, 8, 0, 16) if wide else (42, 8)))
    entries = b"".join(struct.pack(order + ("HHQQ" if wide else "HHII"), *tag, 0) for tag in tags)
    return start + head + struct.pack(order + ("Q" if wide else "H"), len(tags) if count is None else count) + entries


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("wide", [False, True])
def test_a_tiff_of_too_many_pieces_is_a_bomb(order, wide):
    offsets, profile = (273, 4, MAX_TIFF_VALUES), (34675, 7, 1 << 24)
    assert bomb_in(tiff([offsets, profile], order, wide=wide)) is None
    assert refused(tiff([(256, 4, 1), (273, 4, MAX_TIFF_VALUES + 1)], order, wide=wide)) == (
        f"a TIFF tag of {MAX_TIFF_VALUES + 1} values"
    )
    assert refused(tiff([], order, wide=wide, count=MAX_TIFF_ENTRIES + 1)) == (
        f"a TIFF directory of {MAX_TIFF_ENTRIES + 1} entries"
    )


@given(st.binary(max_size=200), st.sampled_from([b"\xff\xd8", b"\xff\xd8\xff\xc2\x00\x02\xff\xda", b"II*\0", b"MM\0+"]))
def test_any_bytes_are_looked_at_without_a_failure(content, start):
    assert bomb_in(start + content) is None or content
