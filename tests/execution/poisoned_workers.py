"""Embedding workers that some images do harm to: 13 pixels wide kills them, 14 hangs them. Imported by name there."""

import os
import signal
import time

from sspruning.encoders.pixels import PixelEncoder
from sspruning.stages.embed_shard import EmbedWorker

prepare = PixelEncoder.prepare


def deadly(self, image):
    if image.width == 13:
        os.kill(os.getpid(), signal.SIGSEGV)
    if image.width == 14:
        time.sleep(600)
    return prepare(self, image)


def embed(**kwargs):
    """An `EmbedWorker` that suffers."""
    PixelEncoder.prepare = deadly
    return EmbedWorker(**kwargs)
