"""The kept samples as a list of image paths, for trainers that read one: no second copy of anything."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import compress
from pathlib import Path

from sspruning.errors import DataError, UsageError
from sspruning.stages.export import Rows
from sspruning.stages.export_samples import ExportRequest, SamplesReport, export_record
from sspruning.stages.pack import IMAGE_SUFFIXES, packed_images
from sspruning.stages.pieces import refuse_existing, text_lines
from sspruning.storage.artifacts import SelectionFile
from sspruning.storage.atomic import write_stream
from sspruning.storage.samples import split_name

__all__ = ["filelist"]


def filelist(request: ExportRequest, *, root: str = "") -> SamplesReport:
    """The absolute path of the image of every kept sample, one a line, in store order; for ``.txt``.

    Args:
        request: pruned shards, a run, a store or a ``selection.parquet``.
        root: folder in which the images lie as files: the one that `sspruning pack` made the shards of, one that
            `sspruning export --to folder` made, or any other that holds ``KEY.SUFFIX`` for every kept key.

    Raises:
        UsageError: no root, or an output that cannot be used.
        DataError: an image is not there; names the first.
    """
    if not root:
        raise UsageError(
            "filelist needs --option root=DIR, the folder in which the images lie as files: the one that "
            "`sspruning pack` read, or one that `sspruning export --to folder` made"
        )
    place = Path(os.path.abspath(root))  # noqa: PTH100 - keep symbolic links
    if not place.is_dir():
        raise UsageError(f"{root}: no such folder; root is where the images lie as files")
    refuse_existing(request.output, overwrite=request.overwrite)
    file = SelectionFile.open(request.selection)
    images = _Images(place, [*request.image_key(), *IMAGE_SUFFIXES])
    with request.progress.stage("export", None, "samples") as ticker:
        rows = Rows(file, request.output, ticker)
        rows.want_suffix(".txt")
        lines = list(_lines(rows, images))  # a missing image makes no file
        _, size = write_stream(request.output, lines)
    return SamplesReport(
        form="filelist", path=str(request.output), n_rows=rows.written, n_files=1, n_written=1, size=size
    )


def _lines(rows: Rows, images: _Images) -> Iterator[bytes]:
    for table, kept in rows.groups("key"):
        found = [images.find(key) for key in compress(table.column("key").to_pylist(), kept)]
        rows.written += len(found)
        if found:
            yield text_lines(found)


class _Images:
    """Images below a folder by the key of their sample."""

    def __init__(self, root: Path, suffixes: Sequence[str]) -> None:
        self._root = root
        self._suffixes = tuple(dict.fromkeys(suffixes))
        record = export_record(root)
        self._listed = _by_shard(root, self._suffixes) if record and record.get("layout") == "shard" else None
        self._direct = self._listed is None

    def find(self, key: str) -> str:
        """Path of the image.

        Raises:
            DataError: it is not there.
        """
        if self._direct:
            for suffix in self._suffixes:
                path = f"{self._root}/{key}.{suffix}"
                if os.path.isfile(path):  # noqa: PTH113 - a million times
                    return path
            if self._listed is None:  # names that packing changes: capitals, dots, two images of one name
                self._listed = {key: str(path) for key, path in packed_images(self._root).items()}
        found = (self._listed or {}).get(key)
        if found is None:
            shown = ", ".join(self._suffixes[:4])
            raise DataError(
                f"{self._root}: no image of the kept sample {key!r} (looked for {key}.{{{shown}, ...}}); "
                "is this the folder that the shards were made of?"
            )
        return found


def _by_shard(root: Path, suffixes: Sequence[str]) -> dict[str, str]:
    """Images of an export with a folder for each shard; of several that a sample has, the first in order."""
    found: dict[str, tuple[int, str]] = {}
    order = {suffix: number for number, suffix in enumerate(suffixes)}
    for folder, _, names in os.walk(root):
        below = Path(folder).relative_to(root).parts
        for name in names:
            named = split_name("/".join([*below[1:], name])) if below else None
            if named is None or named[1] not in order:
                continue
            entry = (order[named[1]], f"{folder}/{name}")
            found[named[0]] = min(found.get(named[0], entry), entry)
    return {key: path for key, (_, path) in found.items()}
