"""Hostile cases that need worker processes, or two million members: 45, 58 and 59. All of them are slow."""

import io

from corpora import member, picture
from hostile.cases_image import blank_png
from hostile.harness import Case, Kept, shard_of
from PIL import Image

__all__ = ["MEMBERS", "TINY", "WORKERS"]

MEMBERS = 2_000_000
POISON = """\
import os, signal, time
from sspruning.encoders.pixels import PixelEncoder

prepare = PixelEncoder.prepare

def deadly(self, image):
    if image.size == (13, 13):
        os.kill(os.getpid(), signal.SIGSEGV)
    if image.size == (14, 14):
        time.sleep(3600)
    return prepare(self, image)

PixelEncoder.prepare = deadly
"""


def poisoned(side):
    """A builder of a shard with an image of that size, and of a start-up file that makes workers suffer from it.

    Python reads sitecustomize.py whenever it starts, so it reaches the workers and not this process.
    """

    def build(folder):
        (folder / "sitecustomize.py").write_text(POISON)
        stream = io.BytesIO()
        Image.open(io.BytesIO(picture(5))).resize((side, side)).save(stream, "PNG")
        return shard_of(member(b"x.png", stream.getvalue()))

    return build


BOTH = {"b0": "embedded", "b1": "embedded"}
WORKERS = [
    Case(58, "image that kills the decoder", poisoned(13), Kept(BOTH | {"x": "decoder_died"}), slow=True),
    Case(
        59,
        "image that hangs the decoder",
        poisoned(14),
        Kept(BOTH | {"x": "decode_timeout"}),
        settings=("corpus.decode_timeout_s=1",),
        slow=True,
    ),
    Case(
        109,
        "image beyond the memory of a worker",
        lambda folder: shard_of(member(b"x.png", blank_png(6000))),
        Kept(BOTH | {"x": "too_much_memory"}),
        settings=("corpus.decode_memory_bytes=60_000_000",),
        slow=True,
    ),
]
TINY = Case(45, "2 million tiny members", lambda folder: None, Kept({}), slow=True)
