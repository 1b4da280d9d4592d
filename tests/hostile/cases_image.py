"""Hostile images: cases 47 to 60, and our own from 100 on."""

import io
import struct
import zlib

import numpy as np
from corpora import END, member, picture
from hostile.harness import Case, Kept, image
from PIL import Image

from sspruning.encoders.pixels import PixelEncoder

__all__ = ["CASES"]

BOTH = {"b0": "embedded", "b1": "embedded"}


def encoded(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def images(**contents):
    """A builder of a shard with these images between its two sound ones; a function is called to make one."""

    def build(folder):
        made = {key: content() if callable(content) else content for key, content in contents.items()}
        blocks = [member(f"{key}.jpg".encode(), content) for key, content in made.items()]
        return member(b"b0.jpg", image("b0")) + b"".join(blocks) + member(b"b1.jpg", image("b1")) + END

    return build


def png(width, height, *chunks, data=b""):
    """A grey PNG with a header, these (name, content) chunks and compressed ``data``."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in parts
    )


def blank_png(side):
    """A true image of ``side`` x ``side`` pixels in a thousandth of the bytes."""
    packer, row = zlib.compressobj(9), bytes(1 + side)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    return png(side, side, data=data)


def text_bomb():
    return png(8, 8, (b"zTXt", b"bomb\0\0" + zlib.compress(bytes(80 << 20), 1)), data=zlib.compress(bytes(72)))


def odd_modes():
    draws = np.random.default_rng(0)
    grey = Image.fromarray(draws.integers(0, 256, (16, 16), dtype=np.uint8))
    deep = Image.fromarray(draws.integers(0, 65536, (16, 16), dtype=np.uint16))
    return {
        "cmyk": encoded(grey.convert("CMYK"), "JPEG"),
        "deep": encoded(deep),
        "float": encoded(Image.fromarray(draws.normal(size=(16, 16)).astype(np.float32)), "TIFF"),
        "palette": encoded(grey.convert("RGB").quantize(16)),
        "alpha": encoded(Image.merge("LA", (grey, grey))),
        "bits": encoded(grey.convert("1")),
    }


def animation():
    frames = [Image.open(io.BytesIO(picture(number))) for number in range(3)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(Image.open(io.BytesIO(picture(1))), "JPEG", exif=exif.tobytes())


def scans(count):
    """A progressive JPEG that goes over its pixels again and again, for 50 bytes each time."""
    whole = encoded(Image.new("L", (2000, 2000), 77), "JPEG", progressive=True)
    starts = [at for at in range(len(whole)) if whole.startswith(b"\xff\xda", at)]
    again = whole[starts[1] : starts[2]]
    return whole[: starts[2]] + again * count + whole[starts[2] :]


def strips(count):
    """A TIFF of one column, each pixel in a strip of its own."""
    tags = [(256, 4, 1, 1), (257, 4, 1, count), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, count, 8),
            (277, 3, 1, 1), (278, 4, 1, 1), (279, 4, count, 8)]  # fmt: skip
    offsets = bytes(4 * count)
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(offsets)) + offsets + directory


def segments(count):
    whole = image()
    return whole[:2] + b"\xff\xe1\x00\x02" * count + whole[2:]


def not_finite(monkeypatch, arena):
    """A patch: the images of the hostile shard come out of the encoder as no numbers."""
    embed, batches = PixelEncoder.embed, []

    def broken(self, batch):
        batches.append(batch)
        values = embed(self, batch)
        if len(batches) == 2:
            values[0, 3], values[1, 0] = np.nan, np.inf
        return values

    monkeypatch.setattr(PixelEncoder, "embed", broken)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(touch MARKER) (w) file\n%%EOF\n"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>fetch("http://example.org")</script></svg>'

CASES = [
    Case(47, "empty image", images(x=b""), Kept(BOTH | {"x": "empty"})),
    Case(48, "HTML as .jpg", images(x=b"<!DOCTYPE html><html>404</html>"), Kept(BOTH | {"x": "not_an_image"})),
    Case(49, "cut JPEG", images(x=image("b2")[:400]), Kept(BOTH | {"x": "truncated"})),
    Case(50, "PNG of 100 Mpx in 12 kB", images(x=png(10_000, 10_000)), Kept(BOTH | {"x": "too_many_pixels"})),
    Case(51, "PNG of 400 Mpx", images(x=png(20_000, 20_000)), Kept(BOTH | {"x": "too_many_pixels"})),
    Case(
        51,
        "PNG of 400 Mpx, with all of them",
        images(x=lambda: blank_png(20_000)),
        Kept(BOTH | {"x": "too_many_pixels"}),
        slow=True,
    ),
    Case(
        52,
        "EPS, SVG and PSD as .jpg",
        images(eps=EPS, svg=SVG, psd=b"8BPS\0\1" + bytes(20)),
        Kept(BOTH | dict.fromkeys(("eps", "svg", "psd"), "not_an_image")),
    ),
    Case(53, "zTXt bomb", images(x=text_bomb), Kept(BOTH | {"x": "decode_error"})),
    Case(
        54,
        "CMYK, 16 bits, float, P, LA, 1 bit",
        images(**odd_modes()),
        Kept(BOTH | dict.fromkeys(odd_modes(), "embedded")),
    ),
    Case(55, "animated GIF", images(x=animation), Kept(BOTH | {"x": "embedded"})),
    Case(56, "turned by EXIF", images(x=turned), Kept(BOTH | {"x": "embedded"})),
    Case(
        57,
        "1 x 20,000, and 1 x 1, which has no direction",
        images(line=encoded(Image.linear_gradient("L").resize((1, 20_000))), dot=encoded(Image.new("L", (1, 1)))),
        Kept(BOTH | {"line": "embedded", "dot": "zero_embedding"}),
    ),
    Case(
        60,
        "grey: an embedding of length 0",
        images(x=encoded(Image.new("L", (9, 9), 7))),
        Kept(BOTH | {"x": "zero_embedding"}),
    ),
    Case(
        60,
        "embeddings of NaN and infinity",
        images(),
        Kept({"b0": "nonfinite_embedding", "b1": "nonfinite_embedding"}),
        patch=not_finite,
    ),
    Case(100, "JPEG of 1,000 scans", images(x=lambda: scans(1000)), Kept(BOTH | {"x": "decompression_bomb"})),
    Case(101, "TIFF of 300,000 strips", images(x=lambda: strips(300_000)), Kept(BOTH | {"x": "decompression_bomb"})),
    Case(102, "JPEG of many segments", images(x=lambda: segments(100_000)), Kept(BOTH | {"x": "decompression_bomb"})),
]
