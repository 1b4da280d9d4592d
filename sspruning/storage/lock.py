"""One run at a time in a folder: a file that says who works there, left behind by nobody who is dead.

The lock spares people the waste and the puzzlement of two runs in one place. Integrity does not rest on it, for locks
fail on some shared file systems: files have their content's fingerprint in name or record, and are replaced whole.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import psutil

from sspruning.errors import MachineError, StoreError
from sspruning.records import JSONValue
from sspruning.storage.atomic import create_once, read_json

__all__ = ["LOCK", "alone_in"]

LOCK = ".sspruning.lock"
TRIES = 3
CLOCK_SLACK_S = 2.0
_held: set[Path] = set()


@contextmanager
def alone_in(folder: Path) -> Generator[None]:
    """Hold the folder's lock inside the block; a folder that this process holds already is left as it is.

    Args:
        folder: made if missing.

    Raises:
        MachineError: a live run of this host, or a run of another host, has it; says which, and what to do.
    """
    path = folder.resolve() / LOCK
    if path in _held:
        yield
        return
    mine = _owner()
    _take(path, mine)
    _held.add(path)
    try:
        yield
    finally:
        _held.discard(path)
        if _read(path) == mine:
            with suppress(OSError):
                path.unlink()


def _owner() -> dict[str, JSONValue]:
    """What a lock says of this process."""
    return {
        "host": socket.gethostname(),
        "boot": _boot(),
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "mark": secrets.token_hex(8),
    }


def _boot() -> str:
    """What differs after each start of the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return str(round(psutil.boot_time()))


def _take(path: Path, mine: dict[str, JSONValue]) -> None:
    content = json.dumps(mine, sort_keys=True).encode() + b"\n"
    for _ in range(TRIES):
        if create_once(path, content):
            return
        holder = _read(path)
        if holder is None:
            continue  # it was given back, or is damaged, which `_clear` has seen to
        if not _is_gone(holder):
            raise MachineError(_busy(path, holder))
        _clear(path, holder)
    raise MachineError(f"{path}: other runs take this lock again and again; wait until they are done")


def _read(path: Path) -> dict[str, JSONValue] | None:
    """What a lock says; None if there is none. A damaged one, which no run has written whole, is removed."""
    try:
        found = read_json(path)
    except StoreError:
        with suppress(OSError):
            path.unlink()
        return None
    return found if isinstance(found, dict) else {}


def _is_gone(holder: dict[str, JSONValue]) -> bool:
    """True if the process that a lock names is known to have ended: on this host, before or since it was started."""
    if holder.get("host") != socket.gethostname():
        return False
    if holder.get("boot") != _boot():
        return True
    try:
        process = psutil.Process(int(cast("int", holder["pid"])))
        same = abs(process.create_time() - float(cast("float", holder["started"]))) < CLOCK_SLACK_S
        return not same or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False


def _clear(path: Path, holder: dict[str, JSONValue]) -> None:
    """Remove a lock, unless another run has put its own there in the meantime."""
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    with suppress(FileNotFoundError):
        os.rename(path, aside)  # noqa: PTH104 - fault tests watch the os calls
        if _read(aside) != holder:
            with suppress(OSError):
                os.link(aside, path)
        aside.unlink()


def _busy(path: Path, holder: dict[str, JSONValue]) -> str:
    who = f"process {holder.get('pid')} on {holder.get('host')}, since {holder.get('since')}"
    if holder.get("host") == socket.gethostname():
        return f"{path.parent}: another run works here ({who}); wait until it is done, or stop it"
    return (
        f"{path.parent}: a run on another host works here ({who}), and whether it is alive cannot be seen from here; "
        f"wait until it is done, or, if you know that it is dead, delete {path}"
    )
