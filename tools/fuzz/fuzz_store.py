"""Any bytes as a part of a store: a named error, or columns that agree with each other.

    pip install atheris
    python tools/fuzz/fuzz_store.py -max_total_time=60 [libFuzzer options] [FOLDER]

It begins with small valid parts, and keeps what it finds in FOLDER, or in one of the system's temporary folder. An
input that breaks a promise is written beside it; make a test of it.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import tempfile
import zlib
from pathlib import Path

import atheris
import h5py
import numpy as np

with atheris.instrument_imports(include=["sspruning"]):
    from sspruning.errors import StoreError
    from sspruning.storage.hdf5_safe import _checksums
    from sspruning.storage.parts import open_part

from seeds import arguments, parts, promise

__all__ = ["check"]

PATH = Path(tempfile.gettempdir(), f"sspruning-fuzz-{os.getpid()}.h5")
SEEDS = parts()
IMPOSSIBLE = (OSError, LookupError, RuntimeError, TypeError, ValueError, OverflowError, MemoryError)
"""What h5py raises for datasets that it cannot make; those made before them stay."""
COLUMNS = ("norm", "key_hash", "row", "block_start", "block_end", "image_start", "image_size", "defects")


def check(data: bytes) -> str:
    """What became of a part of these bytes; raises AssertionError if it breaks a promise."""
    PATH.write_bytes(data)
    try:
        with open_part(PATH) as part:
            n, m = part.n_rows, part.n_skipped
            embedding, row = part.embedding(), part.column("row").astype(np.int64)
            promise(embedding.shape == (n, part.dim), "there is an embedding for each row")
            promise(embedding.dtype == np.float16, "embeddings are float16")
            promise(bool(np.isfinite(embedding).all()), "embeddings are finite")
            promise(len(part.keys()) == n, "there is a key for each row")
            for name in COLUMNS:
                promise(part.column(name).shape == (n,), f"{name} has a value for each row")
            promise(bool((np.diff(row) > 0).all()), "row increases")
            promise(part.digest().shape == part.content().shape == (n, 16), "there are digests for each row")
            promise(part.content_hash().shape == (n,), "there is a hash for each row")
            promise(len(list(part.skipped())) == m, "there is a reason for each skipped sample")
    except StoreError:
        return "error"
    finally:
        PATH.unlink()
    return "columns"


def rebuilt(data: bytes, max_size: int, seed: int) -> bytes:
    """A mutation of ``data``, or as a rule of a sound part by HDF5 itself, which opens no file that does not add up.

    HDF5 is not let loose on ``data`` here: writing to a hostile file is more than it survives.
    """
    draws = random.Random(seed)  # noqa: S311
    if draws.random() < 0.3:
        return atheris.Mutate(data, max_size)
    stream = io.BytesIO(draws.choice(SEEDS))
    with contextlib.suppress(*IMPOSSIBLE), h5py.File(stream, "r+") as file:
        for _ in range(draws.choice([1, 1, 2, 4])):
            draws.choice([_chunk, _chunk, _attribute, _dataset])(file, draws)
    return stream.getvalue()[:max_size]


def _names(file: h5py.File) -> list[str]:
    return [*(name for name in file if name != "skipped"), *(f"skipped/{name}" for name in file["skipped"])]


def _chunk(file: h5py.File, draws: random.Random) -> None:
    """Other bytes in the first chunk of a dataset, with the right checksum as a rule."""
    dataset = file[draws.choice(_names(file))]
    offset = (0,) * dataset.ndim
    _, stored = dataset.id.read_direct_chunk(offset)
    content = atheris.Mutate(bytes(stored[:-4]), len(stored) + 64)
    packed = content if draws.random() < 0.5 else zlib.compress(content)
    checksum = min(_checksums(packed)) if draws.random() < 0.9 else draws.getrandbits(32)
    mask = 0 if draws.random() < 0.9 else draws.getrandbits(3)
    dataset.id.write_direct_chunk(offset, packed + checksum.to_bytes(4, "little"), mask)


def _attribute(file: h5py.File, draws: random.Random) -> None:
    group = file["skipped"] if draws.random() < 0.3 else file
    name = draws.choice([*group.attrs])
    values: list[object] = [
        0,
        -1,
        draws.getrandbits(8),
        2**63 - 1,
        0.5,
        "text",
        b"\xff",
        [1, 2],
        np.float16(3),
        "[1]",
        "{}",
    ]
    group.attrs[name] = draws.choice(values)


def _dataset(file: h5py.File, draws: random.Random) -> None:
    """Another dataset in the place of one: of another type, shape, layout or filter."""
    name = draws.choice(_names(file))
    old = file[name]
    shape = draws.choice([old.shape, (old.shape[0] + 1, *old.shape[1:]), old.shape[:1], (2**40, *old.shape[1:]), ()])
    kind = draws.choice([old.dtype, "f2", "f8", "u1", "u8", "i4", "S3", h5py.string_dtype(), h5py.ref_dtype, "c8", "?"])
    options = draws.choice([{}, {"compression": "gzip"}, {"shuffle": True}, {"fletcher32": True}, {"scaleoffset": 0}])
    del file[name]
    file.create_dataset(name, shape, kind, chunks=True if options and shape else None, **(options if shape else {}))


if __name__ == "__main__":
    promise({check(seed) for seed in SEEDS} == {"columns"}, "sound parts are read")
    atheris.Setup(arguments(SEEDS), check, custom_mutator=rebuilt)
    atheris.Fuzz()
