"""A URL where pruned shards go: objects in a bucket, and a folder here that mirrors all of them but the shards.

The objects decide. The mirror spares requests: it is good as long as nobody else has written there, which a token in
`WRITING`, or the manifest of a finished output, tells; else its content is fetched again. An object is visible when it
is whole and not before, so the order of commits is that of a folder: shard, index files, record, and at last the
manifest.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from sspruning.errors import MachineError, StoreError
from sspruning.storage import remote
from sspruning.storage.atomic import read_json, write_bytes, write_stream
from sspruning.storage.lock import LOCK, alone_in
from sspruning.storage.output_place import MANIFEST, WORKING
from sspruning.storage.pruned import META

__all__ = ["RemotePlace", "try_out"]

WRITING = f"{META}/writing.json"
WORK = f"{META}/work/"
REQUESTS = 16  # at a time, for small files
PIECE_BYTES = 8 << 20


class RemotePlace:
    """A URL below which shards are written, and its mirror.

    Args:
        url: without a slash at its end.
        folder: of the mirror; made when it is needed.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self._sizes: dict[str, int] = {}

    def __str__(self) -> str:
        return self.url

    def lies_in(self, folder: str) -> bool:
        """True if the URL goes on behind a slash."""
        return f"{self.url}/".startswith(folder.rstrip("/") + "/")

    @contextmanager
    def opened(self) -> Generator[str]:
        """One listing; the mirror is alone in its folder and up to date.

        Raises:
            MachineError: the store does not answer, or another run has the mirror.
        """
        with alone_in(self.folder):
            self._list()
            yield self._bring_up_to_date()

    def is_begun(self) -> bool:
        """True if an object of sspruning is there."""
        return any(name.startswith(f"{META}/") for name in self._sizes)

    def is_untidy(self) -> bool:
        """True if there are records or working files of unfinished work."""
        return any(name == WRITING or name.startswith(WORKING) for name in self._sizes)

    def size(self, name: str) -> int | None:
        """As it was listed or written last."""
        return self._sizes.get(name)

    def tars(self) -> set[str]:
        """As they were listed last."""
        return {name for name in self._sizes if name.endswith(".tar") and "/" not in name}

    def source(self, name: str) -> str:
        """The URL."""
        return f"{self.url}/{name}"

    def begin(self) -> None:
        """Put a token there that no other run has, and remove shards that were not uploaded."""
        for path in self.folder.glob("*.tar"):
            path.unlink()
        token = _token()
        remote.put_bytes(self.source(WRITING), token)
        write_bytes(self.folder / WRITING, token)

    def publish(self, names: Iterable[str]) -> None:
        """Upload files; shards do not stay here, whatever becomes of their upload."""
        for name in names:
            path = self.folder / name
            try:
                remote.put_file(path, self.source(name))
                self._sizes[name] = path.stat().st_size
            finally:
                if name.endswith(".tar"):
                    path.unlink(missing_ok=True)

    def finish(self) -> None:
        """Upload the manifest.

        Raises:
            MachineError: another run has begun to write here in the meantime.
        """
        if self._there(WRITING) != self._own(WRITING):
            raise MachineError(
                f"{self.url}: another run has begun to write here; stop it or wait for it, then run the same command "
                "again"
            )
        self.publish([MANIFEST])

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects, and their files in the mirror."""
        names = list(names)
        self._remove_objects(names)
        for name in names:
            (self.folder / name).unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove records and working files that are there; the mirror keeps its own, for a repair needs no others.

        Cost:
            one listing, and one request for each file.
        """
        self._list()
        self._drop_what_is_gone()
        shutil.rmtree(self.folder / WORK, ignore_errors=True)
        (self.folder / WRITING).unlink(missing_ok=True)
        left = [name for name in self._sizes if name.startswith(WORKING)]
        self._remove_objects([*left, WRITING])

    def clear(self) -> None:
        """Remove all objects of sspruning but shards and index files, and the mirror's content."""
        self._remove_objects([name for name in self._sizes if name.startswith(f"{META}/")])
        self._empty()

    def _list(self) -> None:
        self._sizes = {name: size for name, size in remote.names(self.url).items() if ".." not in name.split("/")}

    def _there(self, name: str) -> bytes | None:
        """A small object; None if there is none."""
        try:
            return remote.get_bytes(self.source(name))
        except FileNotFoundError:
            return None

    def _own(self, name: str) -> bytes | None:
        """A file of the mirror; None if there is none."""
        try:
            return (self.folder / name).read_bytes()
        except OSError:
            return None

    def _remove_objects(self, names: Iterable[str]) -> None:
        there = [name for name in names if name in self._sizes]
        _at_once(lambda name: remote.remove(self.source(name)), there)
        for name in there:
            del self._sizes[name]

    def _bring_up_to_date(self) -> str:
        """Make the mirror what the objects are; says if another run has written them."""
        manifest, token = (self._there(name) if name in self._sizes else None for name in (MANIFEST, WRITING))
        note = ""
        if (self._own(MANIFEST), self._own(WRITING)) != (manifest, token):
            self._empty()
            note = "" if token is None else self._begun_elsewhere(token)
        self._fetch(name for name in self._sizes if name.startswith(f"{META}/"))
        self._fetch(set(_named_in(self.folder)))
        self._drop_what_is_gone()
        return note

    def _begun_elsewhere(self, token: bytes) -> str:
        who = "another run"
        with suppress(ValueError, KeyError, TypeError):
            facts = json.loads(token)
            who = f"a run on {facts['host']}, since {facts['since']}"
        return f"{self.url}: {who}, has begun to write here; its shards are gone on with. If it still runs, stop it"

    def _fetch(self, names: Iterable[str]) -> None:
        """Get objects that the mirror lacks or has with another size."""
        wanted = [name for name in names if name in self._sizes and not self._has(name)]
        _at_once(lambda name: write_stream(self.folder / name, self._pieces(name)), wanted)

    def _drop_what_is_gone(self) -> None:
        """Remove files of the mirror whose objects are gone or have another size; working files aside."""
        for path in self._files():
            name = path.relative_to(self.folder).as_posix()
            if not name.startswith(WORKING) and not self._has(name):
                path.unlink()

    def _has(self, name: str) -> bool:
        try:
            return (self.folder / name).stat().st_size == self._sizes[name]
        except (OSError, KeyError):
            return False

    def _pieces(self, name: str) -> Iterator[bytes]:
        size = self._sizes[name]
        for start in range(0, size, PIECE_BYTES):
            yield remote.read_range(self.source(name), start, min(PIECE_BYTES, size - start))

    def _files(self) -> Iterator[Path]:
        return (path for path in self.folder.rglob("*") if path.is_file() and path.name != LOCK)

    def _empty(self) -> None:
        for path in self._files():
            path.unlink()


def try_out(url: str) -> None:
    """Make sure, where nothing stands below ``url`` yet, that objects can be written there and removed again.

    Raises:
        UsageError: no such bucket, or a URL that nothing can be written to.
        MachineError: no permission, or no answer.
    """
    if not remote.names(url):
        remote.put_bytes(f"{url}/{WRITING}", _token())
        remote.remove(f"{url}/{WRITING}")


def _token() -> bytes:
    """What no other run puts there, with words for people."""
    who = {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    return json.dumps({**who, "mark": secrets.token_hex(16)}, sort_keys=True).encode() + b"\n"


def _named_in(folder: Path) -> Iterator[str]:
    """Index files that the manifest or a record in a mirror names."""
    for path in [folder / MANIFEST, *(folder / WORKING).glob("*.json")]:
        with suppress(StoreError, KeyError, TypeError):
            yield from map(str, cast("dict[str, Any]", read_json(path))["files"])


def _at_once(call: Callable[[str], object], names: list[str]) -> None:
    """Do the same for many small files, several at a time."""
    if names:
        with ThreadPoolExecutor(min(REQUESTS, len(names))) as pool:
            for _ in pool.map(call, names):
                pass
