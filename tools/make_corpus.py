"""Make a small synthetic corpus of webdataset shards: coloured shapes with captions, for trying things and for tests.

    python tools/make_corpus.py OUT --samples 1000 --shards 4 --seed 0

Every sample has an image (`.jpg`), a caption (`.txt`) and its facts (`.json`). Sample i is drawn from (seed, i) alone,
so more samples or other shards leave it as it is. The same arguments give the same bytes with the same Pillow.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {
    "red": (214, 39, 40),
    "green": (44, 160, 44),
    "blue": (31, 119, 180),
    "yellow": (240, 200, 30),
    "purple": (148, 103, 189),
    "white": (240, 240, 240),
}
SHAPES = {"triangle": 3, "square": 4, "pentagon": 5, "hexagon": 6, "circle": 48}
JPEG_QUALITY = 90


def draw_sample(seed: int, index: int, size_px: int) -> tuple[bytes, str, dict[str, object]]:
    """JPEG bytes, caption and facts of one sample: a shape of one colour on a dark, noisy ground."""
    rng = np.random.default_rng([seed, index])
    shape, colour = str(rng.choice(list(SHAPES))), str(rng.choice(list(COLOURS)))
    radius = rng.uniform(0.15, 0.42) * size_px
    centre = rng.uniform(radius, size_px - radius, 2)
    turn = rng.uniform(0, 2 * math.pi)
    ground = rng.integers(0, 60, 3) + rng.normal(0, rng.uniform(1, 20), (size_px, size_px, 3))
    image = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))
    angles = turn + 2 * math.pi * np.arange(SHAPES[shape]) / SHAPES[shape]
    corners = centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    ImageDraw.Draw(image).polygon([(float(x), float(y)) for x, y in corners], fill=COLOURS[colour])
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    scale = "large" if radius > 0.3 * size_px else "small"
    return buffer.getvalue(), f"a {scale} {colour} {shape}", {"shape": shape, "colour": colour, "size": scale}


def write_shard(path: Path, seed: int, first: int, last: int, size_px: int) -> None:
    """Write samples ``first`` to ``last`` (not included) as one tar archive without times or owners."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for index in range(first, last):
            image, caption, facts = draw_sample(seed, index, size_px)
            members = {"jpg": image, "txt": caption.encode(), "json": json.dumps(facts, sort_keys=True).encode()}
            for suffix, payload in members.items():
                member = tarfile.TarInfo(f"{index:08d}.{suffix}")
                member.size = len(payload)
                archive.addfile(member, io.BytesIO(payload))


def make_corpus(folder: Path, samples: int, shards: int, seed: int = 0, size_px: int = 64) -> list[Path]:
    """Paths of the written shards, ``shapes-000000.tar`` and on; their sizes are at most one sample apart.

    Raises:
        ValueError: fewer samples than shards, or other shards lie in the folder.
    """
    if not 1 <= shards <= samples:
        raise ValueError(f"{samples} samples cannot fill {shards} shards; ask for 1 to {max(samples, 1)} shards")
    names = [f"shapes-{number:06d}.tar" for number in range(shards)]
    if folder.exists() and (others := {path.name for path in folder.glob("*.tar")} - set(names)):
        raise ValueError(f"{folder} holds other shards, such as {min(others)}; name an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    borders = [number * samples // shards for number in range(shards + 1)]
    for number, name in enumerate(names):
        write_shard(folder / name, seed, borders[number], borders[number + 1], size_px)
    return [folder / name for name in names]


def main() -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(description="Make webdataset shards of coloured shapes with captions.")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the shards; made if missing")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size-px", type=int, default=64, help="side of the square images")
    given = parser.parse_args()
    try:
        made = make_corpus(given.out, given.samples, given.shards, given.seed, given.size_px)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{given.samples} samples in {len(made)} shards in {given.out}, {sum(p.stat().st_size for p in made)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
