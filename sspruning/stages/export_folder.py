"""Pruned samples as files in a folder: every member under the name it had, byte for byte."""

from __future__ import annotations

import errno
import os
import re
import secrets
import socket
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sspruning.errors import DataError, MachineError, UsageError
from sspruning.stages.export_samples import ExportRequest, SamplesReport, claim_folder, save_record
from sspruning.storage.atomic import sweep
from sspruning.storage.samples import Member, Sample, ShardReader

__all__ = ["folder", "relative_name", "wanted_members"]

CROWD = 100_000
"""Files in one folder from which on many tools, and people, have a hard time."""
COPY_BYTES = 4 << 20
_DRIVE = re.compile(r"[A-Za-z]:")
_NO_NAME = {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ}
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def folder(request: ExportRequest, *, members: str = "all", layout: str = "key") -> SamplesReport:
    """Every member of every sample as a file ``KEY.SUFFIX``, with the folders that a key has.

    A file appears whole or not at all. Those that stand there with the right number of bytes are left alone, so an
    interrupted export goes on, and a second one writes nothing. Files are not synced one by one: after a power cut,
    run the command again.

    Args:
        request: what, and where to.
        members: "all"; "image": the image alone; or suffixes such as "jpg;png": the first of these that a sample has.
        layout: "key": ``OUT/KEY.SUFFIX``. "shard": ``OUT/shard-000000/KEY.SUFFIX``, for very many keys without folders.

    Raises:
        UsageError: an option that is none of these, or a folder that holds something else.
        DataError: a key that would lead out of the folder, or that no file can be called by; names it.
        MachineError: no space, or no permission.
    """
    if layout not in {"key", "shard"}:
        raise UsageError(f"folder with layout {layout!r}; known: key, shard")
    pruned = request.pruned()
    wanted = wanted_members(members, pruned.image_key or request.image_key())
    record, _ = claim_folder(request.output, pruned, form="folder", members=";".join(wanted) or "all", layout=layout)
    save_record(request.output, record)
    files = _Files(request)
    n = bare = 0
    dotted: dict[bool, str] = {}
    with request.progress.stage("export", pruned.n_samples, "samples") as ticker:
        for number, shard in enumerate(pruned.shards):
            below = f"{Path(shard.path).stem}/" if layout == "shard" else ""
            for reader, sample in pruned.samples(number):
                _refuse_mixed(sample.key, dotted)
                chosen = _chosen(sample, wanted)
                for member in chosen:
                    files.put(f"{below}{relative_name(sample.key, member.suffix)}", reader, member)
                n, bare = n + bool(chosen), bare + (not chosen)
                ticker.tick()
    notes = [f"{bare:,} samples have no member {' or '.join(wanted)}, and no file"] if bare else []
    return SamplesReport(
        form="folder",
        path=str(request.output),
        n_rows=n,
        n_files=files.n,
        n_written=files.written,
        size=files.size,
        notes=[*notes, *files.notes()],
    )


def wanted_members(members: str, image_key: Sequence[str]) -> tuple[str, ...]:
    """Suffixes of which the first that a sample has is exported; none: all of its members are.

    Raises:
        UsageError: no suffix at all.
    """
    if members == "all":
        return ()
    given = image_key if members == "image" else [part.strip().lower().lstrip(".") for part in members.split(";")]
    if not any(given):
        raise UsageError(f"members {members!r}; known: all, image, or suffixes such as 'jpg;png'")
    return tuple(suffix for suffix in given if suffix)


def _refuse_mixed(key: str, seen: dict[bool, str]) -> None:
    """Refuse corpora in which ``./a`` and ``a`` could both be keys, as they would be one file."""
    seen.setdefault(key.startswith("./"), key)
    if len(seen) == 2:
        raise DataError(f"the keys {seen[False]!r} and {seen[True]!r} are written differently; export `mds` instead")


def _chosen(sample: Sample, wanted: Sequence[str]) -> list[Member]:
    if not wanted:
        return sample.members
    found = sample.find(wanted)
    return [] if found is None else [found]


def relative_name(key: str, suffix: str) -> str:
    """The file's path below the output: ``KEY.SUFFIX``, without the ``./`` that some tools put in front of all names.

    Raises:
        DataError: the path is absolute, leaves the folder, or means something else on another system.
    """
    name = f"{key.removeprefix('./')}.{suffix}"
    parts = name.split("/")
    if any(part in {"", ".", ".."} for part in parts) or "\\" in name or "\0" in name or _DRIVE.match(name):
        raise DataError(
            f"the key {key!r} (suffix {suffix!r}) is no plain relative path: nothing is written for it, or after it; "
            "export `mds`, which takes any key, or write the shards with other keys"
        )
    return name


class _Files:
    """Files below one folder: written under a temporary name, never through a symbolic link."""

    def __init__(self, request: ExportRequest) -> None:
        self.root = request.output
        self.n = self.written = self.size = 0
        self._progress = request.progress
        self._host = socket.gethostname().replace(".", "-")
        self._counts: Counter[str] = Counter()
        self._made = {""}
        sweep(self.root)

    def put(self, name: str, reader: ShardReader, member: Member) -> None:
        """Let the member stand under the relative path ``name``.

        Raises:
            DataError: a symbolic link, or something else that cannot be replaced, stands in its way.
            MachineError: no space, or no permission.
        """
        try:
            below = name.rpartition("/")[0]
            self._folder(below, name)
            path = self.root / name
            if not self._stands(path, member.size):
                self._write(path, reader, member)
                self.written += 1
        except OSError as error:
            raise self._explained(error, name) from error
        self.n += 1
        self.size += member.size
        self._count(below)

    def _folder(self, below: str, name: str) -> None:
        """Make the folder ``below`` the output; every step of it has to be a real folder."""
        if below in self._made:
            return
        parts = below.split("/")
        for depth in range(1, len(parts) + 1):
            step = "/".join(parts[:depth])
            if step in self._made:
                continue
            path = self.root / step
            try:
                path.mkdir()
            except FileExistsError:
                if not stat.S_ISDIR(path.lstat().st_mode):
                    raise DataError(
                        f"{path}: is no folder (a symbolic link, or a file), and {name!r} should go into it; "
                        "remove it, or name another output"
                    ) from None
            self._made.add(step)

    def _stands(self, path: Path, size: int) -> bool:
        """Whether the file is there, with its bytes."""
        try:
            found = path.lstat()
        except FileNotFoundError:
            return False
        if not stat.S_ISREG(found.st_mode):
            raise DataError(f"{path}: a folder or a symbolic link stands where the file of a sample should; remove it")
        return found.st_size == size

    def _write(self, path: Path, reader: ShardReader, member: Member) -> None:
        temporary = self.root / f".file.tmp.{self._host}.{os.getpid()}.{secrets.token_hex(4)}"
        end = member.start + member.size
        try:
            with temporary.open("xb") as stream:
                for at in range(member.start, end, COPY_BYTES):
                    stream.write(reader.read(at, min(COPY_BYTES, end - at)))
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _explained(self, error: OSError, name: str) -> Exception:
        if error.errno in _NO_NAME:
            return DataError(f"{name!r}: no file can be called so here ({error.strerror}); export `mds` instead")
        if error.errno in _NO_SPACE:
            return MachineError(f"{self.root}: no space left; free some and run the same command again, it goes on")
        return MachineError(f"{self.root / name}: cannot be written ({error.strerror}); check permissions")

    def _count(self, below: str) -> None:
        self._counts[below] += 1
        if self._counts[below] == CROWD:
            self._progress.note(f"warning: {self.root / below} holds {CROWD:,} files and more; {_CURE}")

    def notes(self) -> list[str]:
        """What people should know of the folders."""
        crowded = [(count, name) for name, count in self._counts.items() if count >= CROWD]
        return [f"{count:,} files in {self.root / name}; {_CURE}" for count, name in sorted(crowded)[-1:]]


_CURE = "--option layout=shard makes a folder for each shard"
