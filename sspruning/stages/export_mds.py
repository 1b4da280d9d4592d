"""Pruned samples as MosaicML streaming (MDS) shards, written by that library itself."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from sspruning.errors import DataError, MachineError, StoreError, UsageError
from sspruning.progress import Ticker
from sspruning.stages.export_samples import ExportRequest, SamplesReport, claim_folder, save_record
from sspruning.storage.atomic import read_json
from sspruning.storage.pruned import PrunedFolder

__all__ = ["KEY_COLUMN", "mds"]

KEY_COLUMN = "__key__"
OFFSET_CAP = 1 << 32
"""MDS keeps offsets in 32 bits."""
ROOM_BYTES = 1 << 16
"""More than the header of a shard and the sizes of a sample take."""


def mds(request: ExportRequest, *, size_limit: int = 1 << 26) -> SamplesReport:
    """MDS shards for ``streaming.StreamingDataset(local=OUT)``: a column of bytes for each suffix, and the key.

    The column ``__key__`` is text. A member that a sample lacks is empty bytes; the report says where that is so. Equal
    pruned shards and one version of the library give equal bytes, with sha1 digests in ``index.json``. The folder
    appears under its name when it is whole; a second export finds it there and does nothing.

    Args:
        request: what, and where to.
        size_limit: bytes of a shard; more where a single sample has more.

    Raises:
        UsageError: a size that does not fit, or a folder that holds something else.
        DataError: a sample of 4 GiB or more, which MDS cannot hold.
        MachineError: the package is missing, no space, or no permission.
    """
    if not ROOM_BYTES < size_limit < OFFSET_CAP:
        raise UsageError(f"mds with size_limit {size_limit}; expected more than {ROOM_BYTES} bytes and less than 4 GiB")
    pruned = request.pruned()
    record, stands = claim_folder(request.output, pruned, form="mds", size_limit=size_limit)
    output = request.output.absolute()
    if stands:
        _refuse_incomplete(output)
        return _report(request, pruned, _columns(pruned), 0)
    columns = _columns(pruned)
    unfinished = output.with_name(f".{output.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        with request.progress.stage("export", pruned.n_samples, "samples") as ticker:
            _write(pruned, unfinished, columns, size_limit, ticker)
        save_record(unfinished, record)
        _sync(unfinished)
        os.replace(unfinished, output)  # noqa: PTH105 - an empty folder may stand there
        _sync(output.parent)
    except OSError as error:
        raise MachineError(
            f"{output}: cannot be written ({error.strerror}); free some space, or name another"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return _report(request, pruned, columns, len(_files(output)))


class _Columns:
    """Suffixes of all samples, how many samples have each, and the bytes of the largest sample."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.largest = 0


def _columns(pruned: PrunedFolder) -> _Columns:
    """What headers alone tell.

    Raises:
        DataError: a sample that is too large.
    """
    found = _Columns()
    for number, shard in enumerate(pruned.shards):
        for _, sample in pruned.samples(number):
            members = sample.members
            found.counts.update(member.suffix for member in members)
            size = sum(member.size for member in members)
            if size + ROOM_BYTES >= OFFSET_CAP:
                raise DataError(
                    f"{shard.path}: the sample {sample.key!r} has {size:,} bytes; MDS holds less than 4 GiB"
                )
            found.largest = max(found.largest, size)
    return found


def _write(pruned: PrunedFolder, folder: Path, columns: _Columns, size_limit: int, ticker: Ticker) -> None:
    writer_class = _writer()
    suffixes = sorted(columns.counts)
    room = ROOM_BYTES + 64 * len(suffixes)
    with writer_class(
        columns={KEY_COLUMN: "str", **dict.fromkeys(suffixes, "bytes")},
        out=str(folder),
        hashes=["sha1"],
        size_limit=min(max(size_limit, columns.largest + room), OFFSET_CAP - 1),  # else an empty shard comes before it
    ) as writer:
        for number in range(len(pruned.shards)):
            for reader, sample in pruned.samples(number):
                row: dict[str, str | bytes] = dict.fromkeys(suffixes, b"")
                row.update((member.suffix, reader.read(member.start, member.size)) for member in sample.members)
                row[KEY_COLUMN] = sample.key
                writer.write(row)
                ticker.tick()


def _writer() -> Any:
    """The library's own writer.

    Raises:
        MachineError: it is not installed.
    """
    try:
        from streaming import MDSWriter
    except ImportError as error:
        raise MachineError(
            f"the form mds needs the package mosaicml-streaming ({error}); pip install mosaicml-streaming"
        ) from error
    return MDSWriter


def _sync(folder: Path) -> None:
    """Make the files of a folder, and their names, durable; some shared file systems refuse the latter."""
    for path in [*(path for path in folder.iterdir() if path.suffix in {".mds", ".json"}), folder]:
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _refuse_incomplete(output: Path) -> None:
    """Refuse a folder in which shards are missing that its index names."""
    index = cast("dict", read_json(output / "index.json"))
    for shard in index["shards"]:
        path = output / shard["raw_data"]["basename"]
        if not path.is_file() or path.stat().st_size != shard["raw_data"]["bytes"]:
            raise StoreError(f"{path}: missing, or not as index.json says; delete the folder and export again")


def _files(output: Path) -> Sequence[Path]:
    return [path for path in output.iterdir() if path.is_file()]


def _report(request: ExportRequest, pruned: PrunedFolder, columns: _Columns, written: int) -> SamplesReport:
    files = _files(request.output)
    notes = [
        f"{pruned.n_samples - count:,} samples without .{suffix} have it empty"
        for suffix, count in sorted(columns.counts.items())
        if count < pruned.n_samples
    ]
    return SamplesReport(
        form="mds",
        path=str(request.output),
        n_rows=pruned.n_samples,
        n_files=len(files),
        n_written=written,
        size=sum(path.stat().st_size for path in files),
        notes=notes,
    )
