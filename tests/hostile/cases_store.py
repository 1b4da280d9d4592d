"""Hostile stores: cases 71 to 86, and our own from 104 on. What was changed is made again or refused, never used."""

import hashlib
import io
import json
import os
import shutil
import zlib
from dataclasses import dataclass

import h5py
import numpy as np
from hostile.harness import Case, shard_of

from sspruning.storage.hdf5_safe import _checksums

__all__ = ["CASES", "DAMAGED_NOTES", "REWRITE", "Named", "Redone", "Unused"]

SHARD = "b"


@dataclass(frozen=True)
class Redone:
    """The next embedding makes the part again, and the store is what it was."""

    letter = "OK"


@dataclass(frozen=True)
class Named:
    """Whoever reads the file refuses it by name; exit code 3. Deleted and made again, the store is what it was."""

    message: str
    files: str = f"parts/{SHARD}.*.h5"
    """Which they are, as a pattern."""
    letter = "E"


@dataclass(frozen=True)
class Unused:
    """It changes nothing."""

    letter = "OK"


def part_of(folder, shard=SHARD):
    """The part of a shard."""
    (path,) = (folder / "store" / "parts").glob(f"{shard}.*.h5")
    return path


def record_of(folder, shard=SHARD):
    return folder / "store" / "parts" / f"{shard}.json"


def cut(folder):
    os.truncate(part_of(folder), part_of(folder).stat().st_size - 1)


def flipped(name):
    """A builder that flips a bit in the stored bytes of a dataset."""

    def build(folder):
        path = part_of(folder)
        with h5py.File(path) as file:
            place = file[name].id.get_chunk_info(0).byte_offset
        content = bytearray(path.read_bytes())
        content[place + 1] ^= 4
        path.write_bytes(content)

    return build


def swapped(folder):
    one, other = part_of(folder, "a"), part_of(folder, "b")
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def record_says(**changes):
    def build(folder):
        path = record_of(folder)
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return build


def forged(edit, **record):
    """A builder of a part that went through ``edit``, and of a commit record that vouches for it."""

    def build(folder):
        path = part_of(folder)
        with h5py.File(path, "r+") as file:
            edit(file)
        content = path.read_bytes()
        facts = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        record_says(**facts, **record)(folder)

    return build


def replace(name, **new):
    """An edit that puts another dataset in the place of one."""

    def edit(file):
        old = file[name][()]
        del file[name]
        file.create_dataset(name, **({"data": old} | new if "shape" not in new else new))

    return edit


def external(file):
    folder = os.path.dirname(file.filename)  # noqa: PTH120
    with open(os.path.join(folder, "secret.txt"), "wb") as stream:  # noqa: PTH118, PTH123
        stream.write(b"secret" * 1000)
    shape = file["embedding"].shape
    replace("embedding", shape=shape, dtype="<f2", external=[("secret.txt", 0, 2 * shape[0] * shape[1])])(file)


def linked(target):
    def edit(file):
        file.move("embedding", "moved")
        file["embedding"] = target

    return edit


def virtual(file):
    shape = file["embedding"].shape
    layout = h5py.VirtualLayout(shape=shape, dtype="<f2")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "embedding", shape=shape)
    del file["embedding"]
    file.create_virtual_dataset("embedding", layout)


def endless(file):
    """Every column claims 2^50 rows, none of which was ever written."""
    for name in [name for name, item in file.items() if isinstance(item, h5py.Dataset)]:
        shape = (2**50, *file[name].shape[1:])
        replace(name, shape=shape, dtype=file[name].dtype, chunks=(1024, *shape[1:]))(file)
    file.attrs["n_rows"] = file.attrs["n_samples"] = 2**50


def bomb(file):
    """A chunk of keys that inflates to 64 MB."""
    packed = zlib.compress(bytes(64 << 20), 1)
    packed += min(_checksums(packed)).to_bytes(4, "little")
    file["key"].id.write_direct_chunk((0,), packed)


def unchecked(file):
    """A chunk of keys that leaves its checksum out."""
    dataset = file["key"]
    width = dataset.dtype.itemsize
    keys = np.array([b"x", b"y"], f"S{width}")
    shuffled = keys.view(np.uint8).reshape(len(keys), width).T.tobytes()
    dataset.id.write_direct_chunk((0,), zlib.compress(shuffled), filter_mask=0b100)


def foreign_filter(file):
    """A filter that only a plugin could undo, so HDF5 would look for one to load."""
    data, shape = file["embedding"][()], file["embedding"].shape
    del file["embedding"]
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk(shape)
    properties.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
    h5py.h5d.create(file.id, b"embedding", h5py.h5t.IEEE_F16LE, h5py.h5s.create_simple(shape), properties)
    file["embedding"].id.write_direct_chunk((0, 0), data.tobytes())


def not_finite(file):
    values = file["embedding"][()]
    values[0, 0] = np.nan
    replace("embedding", data=values)(file)


def copied(name, target):
    """A builder that writes something over a file of the store."""
    return lambda folder: (folder / "store" / name).write_bytes(target) and None


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch MARKER",)


def pickled_assignments(folder):
    stream = io.BytesIO()
    np.save(stream, np.array([Evil()], dtype=object), allow_pickle=True)
    for path in (folder / "store" / "scores" / "assignment").glob("*.npy"):
        path.write_bytes(stream.getvalue())


def prototypes(edit):
    def build(folder):
        with h5py.File(folder / "store" / "prototypes.h5", "r+") as file:
            edit(file)

    return build


def linked_prototypes(file):
    del file["centroids"]
    file["centroids"] = h5py.ExternalLink("parts/elsewhere.h5", "centroids")


def unknown_part(folder):
    shutil.copy(part_of(folder), part_of(folder).with_name("z.0123456789abcdef.h5"))
    (folder / "store" / "parts" / "z.json").write_text("{}")


REWRITE = Case(
    8, "flip in a payload after it was embedded", lambda folder: shard_of(), Named("not the ones that were embedded")
)

ELSEWHERE = b'[{"shard_id":"../../a","path":"x","size":1,"mtime_ns":1}]'
NOTES = {
    "store.json": [b"", b"[]", b'{"format":"sspruning-store","format_version":2}', b"[" * 100_000, b"\xff"],
    "corpus.json": [b"", b"{}", b"[1]", b'[{"shard_id":"a"}]', ELSEWHERE],
    "quarantine/a.json": [b"", b"[]", b"{}"],
}
DAMAGED_NOTES = [
    Case(110, f"{name} that says {content[:20]!r}", copied(name, content), Named("", name))
    for name, contents in NOTES.items()
    for content in contents
]

CASES = [
    Case(71, "part cut", cut, Redone()),
    Case(72, "embeddings flipped", flipped("embedding"), Named("embedding is damaged")),
    Case(72, "keys flipped", flipped("key"), Named("key is damaged")),
    Case(73, "part swapped with another's", swapped, Named("was made from another shard", "parts/[ab].*.h5")),
    Case(74, "part that no one knows", unknown_part, Unused()),
    Case(75, "record without its part", lambda folder: part_of(folder).unlink(), Redone()),
    Case(76, "part without its record", lambda folder: record_of(folder).unlink(), Redone()),
    Case(77, "record of other settings", record_says(fingerprint="0" * 64), Redone()),
    Case(77, "record that points elsewhere", record_says(shard_id="../../a"), Redone()),
    Case(78, "external storage", forged(external), Named("not stored in this file")),
    Case(79, "external link", forged(linked(h5py.ExternalLink("a.h5", "/embedding"))), Named("a link to elsewhere")),
    Case(79, "soft link", forged(linked(h5py.SoftLink("/moved"))), Named("a link to elsewhere")),
    Case(80, "virtual dataset", forged(virtual), Named("not stored in this file")),
    Case(81, "2^50 rows", forged(endless, n_rows=2**50, n_samples=2**50), Named("they are not in the file")),
    Case(82, "bomb of keys", forged(bomb), Named("a chunk does not have its length")),
    Case(82, "bomb of embeddings", forged(replace("embedding", compression="gzip")), Named("is stored in filters")),
    Case(83, "filter of a plugin", forged(foreign_filter), Named("is stored in filters [32015]")),
    Case(83, "lossy filter", forged(replace("row", scaleoffset=0)), Named("is stored in filters [6]")),
    Case(83, "chunk without its checksum", forged(unchecked), Named("leaves out its checksum")),
    Case(
        84,
        "keys of variable length",
        forged(replace("key", data=["x", "y"], dtype=h5py.string_dtype())),
        Named("key has"),
    ),
    Case(84, "keys that are references", forged(replace("key", shape=(2,), dtype=h5py.ref_dtype)), Named("key has")),
    Case(
        85, "other dimensions", forged(replace("embedding", data=np.ones((2, 4), "<f2"))), Named("embedding has shape")
    ),
    Case(85, "embeddings in float32", forged(replace("embedding", data=np.ones((2, 192), "<f4"))), Named("float32")),
    Case(85, "embeddings that are not finite", forged(not_finite), Named("not finite")),
    Case(
        86,
        "rows that do not increase",
        forged(replace("row", data=np.array([1, 0], "<u4"))),
        Named("row does not increase"),
    ),
    Case(86, "keys twice", forged(lambda file: file["key"].__setitem__(1, file["key"][0])), Named("holds a key twice")),
    Case(104, "selection cut", lambda folder: os.truncate(folder / "store/selection.parquet", 3000), Unused()),
    Case(105, "prototypes that lie elsewhere", prototypes(linked_prototypes), Unused()),
    Case(
        105,
        "prototypes that are not finite",
        prototypes(lambda file: file["centroids"].__setitem__((0, 0), np.nan)),
        Unused(),
    ),
    Case(106, "assignments that are pickles", pickled_assignments, Unused()),
    Case(107, "prototypes that are no HDF5", copied("prototypes.h5", b"\x89HDF\r\n\x1a\n" + bytes(200)), Unused()),
]
