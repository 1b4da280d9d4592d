"""Where pruned shards go: a folder, or a URL, which has a small folder on this machine for everything but the shards.

Either way every file comes about in a folder, so what makes and reads small files knows a folder and nothing else.
Which shards there are, and what becomes visible when, is asked of the place.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Protocol

from sspruning.errors import UsageError
from sspruning.storage.lock import LOCK
from sspruning.storage.pruned import META
from sspruning.storage.remote import check_writable
from sspruning.storage.urls import check_url, is_url

__all__ = [
    "MANIFEST",
    "WORKING",
    "WORK_FOLDERS",
    "LocalPlace",
    "OutputPlace",
    "fetched",
    "local_only",
    "place_at",
    "place_of",
]

MANIFEST = f"{META}/manifest.json"
WORK_FOLDERS = ("work", "shards")  # below META, while shards are written
ONE_SLASH = re.compile(r"[a-z][a-z0-9+.-]+:/(?!/)")
WORKING = f"{META}/shards/"  # gone when the output is finished


class OutputPlace(Protocol):
    """Where pruned shards go; ``str`` of it is what people call it."""

    @property
    def folder(self) -> Path:
        """Where files are made, and where all but the shards can be read."""
        ...

    def lies_in(self, folder: str) -> bool:
        """True if the place is this folder or URL, or lies in it."""
        ...

    def opened(self) -> AbstractContextManager[str]:
        """A block in which the place can be asked and changed; what people should know of it first, or nothing."""
        ...

    def is_begun(self) -> bool:
        """True if sspruning has begun to write here."""
        ...

    def is_untidy(self) -> bool:
        """True if a run that was killed when all else was done has left something beside the manifest."""
        ...

    def size(self, name: str) -> int | None:
        """Bytes of a shard; None if there is none."""
        ...

    def tars(self) -> set[str]:
        """Names of all files that end in .tar."""
        ...

    def source(self, name: str) -> str:
        """Path or URL that a shard is read by."""
        ...

    def begin(self) -> None:
        """Say that shards are going to be written here."""
        ...

    def publish(self, names: Iterable[str]) -> None:
        """Make files that were made in `folder` part of the output, one after the other, in this order."""
        ...

    def finish(self) -> None:
        """Make the manifest part of the output, which makes the output count."""
        ...

    def remove(self, names: Iterable[str]) -> None:
        """Remove files of the output, and folders inside it that are empty then."""
        ...

    def tidy(self) -> None:
        """Remove what is of no use when the output is finished."""
        ...

    def clear(self) -> None:
        """Remove everything of sspruning that is no shard and no index file."""
        ...


class LocalPlace:
    """A folder of this machine: what stands there is part of the output."""

    def __init__(self, folder: Path) -> None:
        """Nothing is looked at yet."""
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    def lies_in(self, folder: str) -> bool:
        """True if links lead there, too."""
        return not is_url(folder) and self.folder.resolve().is_relative_to(Path(folder).resolve())

    def opened(self) -> AbstractContextManager[str]:
        """Nothing has to be done."""
        return nullcontext("")

    def is_begun(self) -> bool:
        """True if there is a folder of sspruning."""
        return (self.folder / META).exists()

    def is_untidy(self) -> bool:
        """True if there are folders of unfinished work, a lock or temporary files."""
        names = [path.name for path in (self.folder / META).iterdir()]
        return any(name in {*WORK_FOLDERS, LOCK} or ".tmp." in name for name in names)

    def size(self, name: str) -> int | None:
        """By one look at the file."""
        try:
            return (self.folder / name).stat().st_size
        except OSError:
            return None

    def tars(self) -> set[str]:
        """By one look at the folder."""
        return {path.name for path in self.folder.glob("*.tar")}

    def source(self, name: str) -> str:
        """The path."""
        return str(self.folder / name)

    def begin(self) -> None:
        """The folder of sspruning, which there is by now, says so."""

    def publish(self, names: Iterable[str]) -> None:
        """They are part of it already."""

    def finish(self) -> None:
        """It is part of it already."""

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, and folders that are empty then."""
        for name in names:
            path = self.folder / name
            path.unlink(missing_ok=True)
            for folder in path.parents:
                if folder == self.folder or not folder.is_relative_to(self.folder):
                    break
                with suppress(OSError):
                    folder.rmdir()

    def tidy(self) -> None:
        """Remove the folders of unfinished work."""
        for name in WORK_FOLDERS:
            shutil.rmtree(self.folder / META / name, ignore_errors=True)

    def clear(self) -> None:
        """Remove the folder of sspruning."""
        shutil.rmtree(self.folder / META, ignore_errors=True)


def place_of(output: str | Path, beside: Path) -> OutputPlace:
    """The place ``output``; a URL gets its folder below ``beside``, under a name that it alone has.

    Raises:
        UsageError: nothing can be written under such a URL, or it has lost a slash, as it does in a `Path`.
    """
    url = str(output).rstrip("/")
    if _was_url(url):
        raise UsageError(f"{url}: a URL that has lost a slash; give it as text, not as a Path, with :// in it")
    if not is_url(url):
        return LocalPlace(Path(output))
    check_writable(url)
    mark = hashlib.blake2b(url.encode(), digest_size=8).hexdigest()
    return place_at(url, beside / "outputs" / f"{re.sub(r'[^0-9A-Za-z.-]+', '_', url)[-80:]}.{mark}")


def place_at(output: str, folder: Path) -> OutputPlace:
    """The place ``output``; a URL has its folder at ``folder``.

    Raises:
        UsageError: a URL that may not be used.
    """
    if not is_url(output):
        return LocalPlace(Path(output))
    check_url(output)
    from sspruning.storage.remote_place import RemotePlace

    return RemotePlace(output.rstrip("/"), folder)


def local_only(path: str | Path, what: str) -> Path:
    """``path`` for what knows local files alone, as ``what`` says in words.

    Raises:
        UsageError: a URL.
    """
    if is_url(str(path)) or _was_url(str(path)):
        raise UsageError(
            f"{path}: {what} local folders; copy it here first. Pruned shards by URL are for write, select, run and "
            "verify"
        )
    return Path(path)


def _was_url(path: str) -> bool:
    return ONE_SLASH.match(path) is not None and is_url(path.replace(":/", "://", 1))


@contextmanager
def fetched(output: str | Path) -> Generator[OutputPlace]:
    """The place ``output``, opened to be read; of a URL, everything but the shards is here until the block ends."""
    if not is_url(str(output)):
        yield LocalPlace(Path(output))
        return
    with tempfile.TemporaryDirectory(prefix="sspruning-") as folder:
        place = place_at(str(output), Path(folder))
        with place.opened():
            yield place
