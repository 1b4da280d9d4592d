"""Embed photographs with timm's resnet50 at 224 px, against what forward passes and decoding alone allow together."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from bench.bound import against_bound
from bench.checkpoints import random_weights
from bench.context import Context
from bench.rows import Row
from sspruning.records import EncoderSpec
from sspruning.storage.corpus import open_corpus

__all__ = ["measure"]

COPIES = 8  # shards: enough that no worker waits long for the last one


def _repeated(photos: Path, folder: Path, copies: int) -> None:
    """Leave ``copies`` shards in ``folder``: the members of ``photos`` under keys of their own."""
    with tarfile.open(photos) as source:
        members = [(m.name, source.extractfile(m)) for m in source if m.isfile()]
        content = [(name, stream.read()) for name, stream in members if stream is not None]
    for number in range(copies):
        with tarfile.open(folder / f"photos-{number:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as target:
            for name, data in content:
                info = tarfile.TarInfo(f"{number:02d}-{name}")
                info.size = len(data)
                target.addfile(info, io.BytesIO(data))


def measure(context: Context) -> list[Row]:
    model, side, batch = ("resnet18", 64, 8) if context.smoke else ("resnet50", 224, 128)
    folder = context.folder("photographs")
    _repeated(context.photos, folder, 2 if context.smoke else COPIES)
    weights = random_weights(model, context.temp)
    spec = EncoderSpec(name="timm", model=model, checkpoint=str(weights), image_size=side, batch_size=batch)
    return against_bound(
        context, "embed_resnet50", open_corpus([str(folder)]), spec, target="ratio >= 0.85", cold=False
    )
