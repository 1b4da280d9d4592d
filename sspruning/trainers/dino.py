"""DINOv2 and DINOv3: their reader for ImageNet-22k, which finds images by byte ranges in any tars.

It takes ``entries.npy`` for its list of images and maps ``CLASS_ID.tar`` for each. A range runs from the header block
of an image, which is skipped, to the end of its padding. With one class for each shard, the reader takes any shards.
Source: ``dinov2/data/datasets/image_net_22k.py``; DINOv3 has the same.
"""

from __future__ import annotations

import io
import mmap
from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from sspruning.errors import DataError
from sspruning.records import Output, OutputSample, OutputShard
from sspruning.trainers import Files
from sspruning.trainers.shards import folder_of, image_suffixes, key_of, quoted

__all__ = ["DINO", "Dino"]

EXTRA = ".sspruning"
ENTRIES, CLASS_IDS = f"{EXTRA}/entries.npy", f"{EXTRA}/class-ids.npy"
BLOCK = 512
LIMIT = 1 << 32
"""Offsets are 4-byte numbers."""
NAME_CHARACTERS = 100
"""Names are cut to this; the reader never looks at them, and every row takes the room of the longest."""
SUFFIX_CHARACTERS = 32
"""A member with a longer suffix is no image."""
GZIP = b"\x1f\x8b"


class Dino:
    """The training code of DINOv2 and DINOv3."""

    title = "DINOv2, DINOv3"
    packages = ("dinov2.data", "torchvision")
    install = "pip install --no-deps dinov2, or put the repository on PYTHONPATH"
    needs = (ENTRIES, CLASS_IDS)
    remark = "for DINOv3 the script is dinov3/train/train.py; the dataset is written the same"

    def shard_files(self, shard: OutputShard, samples: Sequence[OutputSample]) -> Files:
        """A working file, removed when the output stands: start, end, suffix and name of each member in the shard."""
        if shard.size < LIMIT:
            yield _piece_of(shard), [_npy(_members(samples))]

    def files(self, output: Output) -> Files:
        """``entries.npy`` and ``class-ids.npy``, joined from the working files; none where an offset does not fit.

        Memory: the members of one shard.
        """
        if _too_large(output):
            return
        yield ENTRIES, _joined(output)
        yield CLASS_IDS, [_npy(np.array([_stem(shard) for shard in output.shards]))]

    def obstacles(self, output: Output) -> list[str]:
        """Shards of 4 GiB and more, and folders that its dataset string cannot name."""
        found = []
        if large := _too_large(output):
            found.append(
                f"{', '.join(large[:3])}{' and more' if len(large) > 3 else ''}: 4 GiB or larger, where its "
                "offsets end; write with a smaller --samples-per-shard"
            )
        if bare := image_suffixes(output).get(""):
            found.append(
                f"{bare:,} of {output.n_samples:,} samples have no image under {', '.join(output.image_key)}, so its "
                "list leaves them out"
            )
        if set(":=") & set(folder_of(output)):
            found.append(
                f"{folder_of(output)}: its dataset string cannot hold : or =; rename the folder, or link to it"
            )
        return found

    def command(self, output: Output) -> str:
        """DINOv2's training script, with this dataset in place of the configured one."""
        dataset = quoted(f"train.dataset_path={_dataset(output)}")
        return f"python dinov2/run/train/train.py --config-file CONFIG.yaml --output-dir OUTPUT {dataset}"

    def read(self, output: Output) -> Iterator[str]:
        """Keys of the images that DINOv2's own dataset decodes."""
        dataset = import_module("dinov2.data.loaders").make_dataset(dataset_str=_dataset(output))
        for index, entry in enumerate(_entries(output)):
            dataset[index]
            yield _key(entry)

    def read_by_rule(self, output: Output) -> Iterator[str]:
        """Keys of the images that decode by the rule of its dataset: slice, skip a block, decode."""
        from PIL import Image

        for class_id, entries in groupby(_entries(output), key=lambda entry: str(entry["class_id"])):
            with (
                Path(output.folder, f"{class_id}.tar").open("rb") as stream,
                mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            ):
                for entry in entries:
                    data = mapped[int(entry["start_offset"]) : int(entry["end_offset"])][BLOCK:]
                    if data.startswith(GZIP):
                        raise DataError(f"{entry['filename']!r} begins as gzip does, which the reader refuses")
                    with Image.open(io.BytesIO(data)) as image:
                        image.convert("RGB")
                    yield _key(entry)


def _stem(shard: OutputShard) -> str:
    return Path(shard.name).stem


def _piece_of(shard: OutputShard) -> str:
    return f"{EXTRA}/shards/{shard.name}.entries.npy"


def _too_large(output: Output) -> list[str]:
    return [shard.name for shard in output.shards if shard.size >= LIMIT]


def _dataset(output: Output) -> str:
    return f"ImageNet22k:root={folder_of(output)}:extra={folder_of(output)}/{EXTRA}"


def _members(samples: Sequence[OutputSample]) -> np.ndarray:
    """(members,) sample number, start of the header block, end of the padding, suffix, name."""
    rows = [
        (number, start - BLOCK, start - -size // BLOCK * BLOCK, suffix, f"{sample.key}.{suffix}"[:NAME_CHARACTERS])
        for number, sample in enumerate(samples)
        for suffix, start, size in sample.members
        if len(suffix) <= SUFFIX_CHARACTERS
    ]
    widths = [max([1, *(len(row[field]) for row in rows)]) for field in (3, 4)]
    kinds = [
        ("sample", "<u4"),
        ("start", "<u4"),
        ("end", "<u4"),
        ("suffix", f"<U{widths[0]}"),
        ("name", f"<U{widths[1]}"),
    ]
    return np.array(rows, kinds)


def _images(output: Output, shard: OutputShard) -> np.ndarray:
    """Rows of `_members` of the embedded images of a shard, one for each sample that has one."""
    members = np.load(Path(output.folder, _piece_of(shard)))
    rank = np.full(len(members), len(output.image_key))
    for place, suffix in reversed([*enumerate(output.image_key)]):
        rank[members["suffix"] == suffix] = place
    order = np.lexsort((rank, members["sample"]))
    first = np.diff(members["sample"][order], prepend=-1) > 0
    return members[order[first & (rank[order] < len(output.image_key))]]


def _joined(output: Output) -> Iterator[bytes]:
    """``entries.npy``, piece by piece: the longest name decides how wide all rows are, so names are read twice."""
    names = (_images(output, shard)["name"] for shard in output.shards)
    lengths = [(len(own), int(np.char.str_len(own).max(initial=1))) for own in names]
    stem_width = max(len(_stem(shard)) for shard in output.shards)
    kind = np.dtype(
        [
            ("class_index", "<u4"),
            ("class_id", f"<U{stem_width}"),
            ("start_offset", "<u4"),
            ("end_offset", "<u4"),
            ("filename", f"<U{max(longest for _, longest in lengths)}"),
        ]
    )
    yield _npy(np.empty(0, kind), rows=sum(count for count, _ in lengths))
    for number, shard in enumerate(output.shards):
        images = _images(output, shard)
        rows: Any = np.empty(len(images), kind)
        rows["class_index"], rows["class_id"] = number, _stem(shard)
        rows["start_offset"], rows["end_offset"], rows["filename"] = images["start"], images["end"], images["name"]
        yield rows.tobytes()


def _npy(array: np.ndarray, rows: int | None = None) -> bytes:
    """Bytes of a ``.npy`` file of the array; the header says ``rows`` where more of them follow."""
    buffer = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(array.dtype)
    shape = (len(array) if rows is None else rows,)
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + array.tobytes()


def _entries(output: Output) -> Iterator[Any]:
    """Rows of ``entries.npy`` that are of the output's shards: the first ones."""
    entries = np.load(Path(output.folder, ENTRIES), mmap_mode="r")
    yield from entries[: np.searchsorted(entries["class_index"], len(output.shards))]


def _key(entry: Any) -> str:
    """Key of the sample of an entry; nothing where the name may have been cut."""
    name = str(entry["filename"])
    return key_of(name) if len(name) < NAME_CHARACTERS else ""


DINO = Dino()
