"""Folders of images to shards: every file byte for byte, keys from relative paths."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sspruning.errors import UsageError
from sspruning.progress import Progress, SilentProgress
from sspruning.storage.atomic import sweep, write_bytes, write_stream
from sspruning.storage.tar_scan import BLOCK, archive_end

__all__ = ["IMAGE_SUFFIXES", "SIDECAR_SUFFIXES", "PackReport", "pack", "packed_images"]

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
SIDECAR_SUFFIXES = ("txt", "json", "cls")
READ_BYTES = 4 << 20
UNFINISHED = ".sspruning-unfinished"  # stands beside the shards until all are there


@dataclass(slots=True)
class PackReport:
    """What was packed."""

    shards: list[str] = field(default_factory=list)
    n_samples: int = 0
    n_files: int = 0
    renamed: int = 0
    """Samples whose key is not simply their relative path without the suffix."""
    left_out: int = 0
    """Files that are neither an image nor stand beside one with the same name."""


@dataclass(slots=True)
class _Sample:
    key: str
    files: list[tuple[str, Path]]


def _listed(source: Path) -> tuple[Path, list[Path]]:
    """Base folder and all files, sorted by name; from a folder, or from a text file with one path a line."""
    if source.is_dir():
        found = [Path(folder) / name for folder, _, names in os.walk(source) for name in names]
        return source, sorted(path for path in found if path.is_file())
    if not source.is_file():
        raise UsageError(f"{source}: no such folder or list file")
    lines = [line.strip() for line in source.read_text(encoding="utf-8").splitlines()]
    paths = [Path(line) if Path(line).is_absolute() else source.parent / line for line in lines if line]
    for path in paths:
        if not path.is_file():
            raise UsageError(f"{source}: {path} is not a file; the list must hold one image path a line")
    parents = [str(path.absolute().parent) for path in paths]
    return Path(os.path.commonpath(parents)) if parents else source.parent, [path.absolute() for path in paths]


def _key(path: Path, base: Path) -> str:
    """Key of a file: its relative path without the suffix, dots and private names made safe for webdataset."""
    relative = path.relative_to(base if path.is_relative_to(base) else base.absolute())
    folders = [
        part.strip("_") or "_" if part.startswith("__") and part.endswith("__") else part
        for part in relative.parts[:-1]
    ]
    stem = relative.name[: -len(relative.suffix)] if relative.suffix else relative.name
    stem = stem.replace(".", "_").strip() or "_"
    if stem.startswith("__") and stem.endswith("__"):
        stem = stem.strip("_") or "_"
    return "/".join([*folders, stem])


def _samples(base: Path, paths: Sequence[Path], report: PackReport) -> list[_Sample]:
    """Samples in key order: an image with the text, JSON and class files of the same name."""
    images: dict[str, list[Path]] = {}
    others: dict[str, list[Path]] = {}
    for path in paths:
        suffix = path.suffix.lower().lstrip(".")
        group = images if suffix in IMAGE_SUFFIXES else others if suffix in SIDECAR_SUFFIXES else None
        if group is None or path.name.startswith("."):
            report.left_out += 1
            continue
        group.setdefault(_key(path, base), []).append(path)
    samples: dict[str, _Sample] = {}
    for key, own in images.items():
        sidecars = others.pop(key, [])
        for path in own:
            suffix = path.suffix.lower().lstrip(".")
            unique = key if len(own) == 1 else f"{key}_{suffix}"
            if unique in samples:
                first = samples[unique].files[0][1]
                raise UsageError(f"{path} and {first} would both get the key {unique!r}; rename one of them")
            plain = str(path.relative_to(base).with_suffix("")) if path.is_relative_to(base) else ""
            report.renamed += unique != plain
            files = [(suffix, path), *((side.suffix.lower().lstrip("."), side) for side in sidecars)]
            _refuse_unusable(unique, files)
            samples[unique] = _Sample(unique, files)
    report.left_out += sum(map(len, others.values()))
    return [samples[key] for key in sorted(samples)]


def _refuse_unusable(key: str, files: Sequence[tuple[str, Path]]) -> None:
    """Refuse a sample that no reader of the shard could take: two members of one name, or a name that is not UTF-8."""
    places: dict[str, Path] = {}
    for suffix, path in files:
        if suffix in places:
            raise UsageError(f"{path} and {places[suffix]} would both become {key}.{suffix}; rename one of them")
        places[suffix] = path
    try:
        key.encode()
    except UnicodeEncodeError:
        shown = str(files[0][1]).encode("utf-8", "backslashreplace").decode()
        raise UsageError(f"{shown}: the name is not UTF-8, which keys must be; rename the file or its folder") from None


def packed_images(source: Path) -> dict[str, Path]:
    """Image of each sample, by the key that packing ``source`` gives it.

    Raises:
        UsageError: as `pack`.
    """
    base, paths = _listed(source)
    return {sample.key: sample.files[0][1] for sample in _samples(base, paths, PackReport())}


def _tar_pieces(samples: Sequence[_Sample]) -> Iterator[bytes]:
    """An archive of the samples: fixed owner and time, so equal files give equal bytes."""
    size = 0
    for sample in samples:
        for suffix, path in sample.files:
            header = tarfile.TarInfo(f"{sample.key}.{suffix}")
            header.size = path.stat().st_size
            header.mode = 0o644
            block = header.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
            yield block
            read = 0
            with path.open("rb") as stream:
                while piece := stream.read(READ_BYTES):
                    read += len(piece)
                    yield piece
            if read != header.size:
                raise UsageError(f"{path}: its size changed while it was read; run `sspruning pack` again")
            padding = bytes(-read % BLOCK)
            yield padding
            size += len(block) + read + len(padding)
    yield archive_end(size)


def pack(
    source: Path,
    output: Path,
    *,
    samples_per_shard: int = 10_000,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> PackReport:
    """`PackReport` of shards that now stand in ``output`` as shard-000000.tar, shard-000001.tar, ...

    What a killed run has left there is made again.

    Args:
        source: folder, read with its subfolders, or a text file with one image path a line.
        output: folder for the shards.
        samples_per_shard: upper bound; shards are balanced.
        overwrite: replace shards that stand there.
        progress: told after each shard.

    Raises:
        UsageError: no image, two files for one key, or an output that would harm something.
    """
    progress = progress or SilentProgress()
    report = PackReport()
    base, paths = _listed(source)
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output}: a file stands there; name a folder")
    if source.is_dir() and output.resolve() == source.resolve():
        raise UsageError(f"{output}: the output folder is the input folder; name another folder")
    old = sorted(output.glob("shard-*.tar")) if output.exists() else []
    begun = output / UNFINISHED
    if old and not overwrite and not begun.exists():
        raise UsageError(f"{output}: {len(old)} shards stand there already; name another folder, or give --overwrite")
    samples = _samples(base, paths, report)
    if not samples:
        raise UsageError(f"{source}: no images found ({', '.join(IMAGE_SUFFIXES)}); {report.left_out} other files")
    sweep(output)
    write_bytes(begun, b"")
    for path in old:
        path.unlink()
    count = -(-len(samples) // samples_per_shard)
    with progress.stage("pack", len(samples), "samples") as ticker:
        for number in range(count):
            own = samples[number * len(samples) // count : (number + 1) * len(samples) // count]
            name = f"shard-{number:06d}.tar"
            write_stream(output / name, _tar_pieces(own))
            report.shards.append(name)
            report.n_samples += len(own)
            report.n_files += sum(len(sample.files) for sample in own)
            ticker.tick(len(own))
    begun.unlink()
    return report
