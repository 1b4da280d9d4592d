"""Who works in a folder: one run at a time, or the tasks of one job array side by side.

A lock is a file that says who holds it. A run that wants the folder for itself has `LOCK`; a task of an array has a
lock of its own name, and stands back from runs and from arrays of another size, as they do from it. A dead holder is in
nobody's way.

Locks spare people the waste and the puzzlement of two runs in one place. Integrity does not rest on them, for they fail
on some shared file systems: files have their content's fingerprint in name or record, and are replaced whole.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import psutil

from sspruning.errors import MachineError, StoreError
from sspruning.records import JSONValue
from sspruning.storage.atomic import create_once, read_json

__all__ = ["LOCK", "Holder", "alone_in", "holders", "task_lock"]

LOCK = ".sspruning.lock"
TRIES = 3
CLOCK_SLACK_S = 2.0
_TASK = re.compile(r"\.sspruning\.task-(\d+)-of-(\d+)\.lock")
_held: set[Path] = set()


def task_lock(task: tuple[int, int]) -> str:
    """Name of the lock of one task of an array: (number from 1, of how many)."""
    return ".sspruning.task-{}-of-{}.lock".format(*task)


@contextmanager
def alone_in(folder: Path, task: tuple[int, int] | None = None) -> Generator[None]:
    """Hold a lock of the folder inside the block; a folder that this process holds already is left as it is.

    Args:
        folder: made if missing.
        task: (number from 1, of how many) if this is a task of an array, which works beside the others of that array;
            None for a run that has to be alone.

    Raises:
        MachineError: a live run of this host, or a run of another host, is in the way; says which, and what to do.
    """
    place = folder.resolve()
    path = place / (LOCK if task is None else task_lock(task))
    if {path, place / LOCK} & _held:
        yield
        return
    mine = _owner()
    _refuse_rivals(place, task, mine)
    _take(path, mine)
    _held.add(path)
    try:
        _refuse_rivals(place, task, mine)  # again: one that came at the same time has seen this lock, or is seen here
        yield
    finally:
        _held.discard(path)
        if _read(path) == mine:
            with suppress(OSError):
                path.unlink()


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock of a folder."""

    path: Path
    task: tuple[int, int] | None
    who: str
    """Process, host and time in words, with the SLURM job if there is one."""
    alive: bool | None
    """None if it is on another host, where that cannot be seen from here."""


def holders(folder: Path) -> list[Holder]:
    """`Holder` of each lock of the folder, by task; nothing is changed."""
    found = []
    for path in folder.glob(".sspruning.*lock"):
        with suppress(StoreError, MachineError):
            content = read_json(path)
            told = content if isinstance(content, dict) else {}
            here = told.get("host") == socket.gethostname()
            found.append(Holder(path, _task_of(path), _who(told), not _is_gone(told) if here else None))
    return sorted(found, key=lambda holder: holder.task or (0, 0))


def _task_of(path: Path) -> tuple[int, int] | None:
    told = _TASK.fullmatch(path.name)
    return (int(told[1]), int(told[2])) if told else None


def _owner() -> dict[str, JSONValue]:
    """What a lock says of this process.

    The job and how often it was started again stand here for what they say of the process, as its number does; they are
    no settings, so they are read where the rest is.
    """
    mine: dict[str, JSONValue] = {
        "host": socket.gethostname(),
        "boot": _boot(),
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "mark": secrets.token_hex(8),
    }
    if job := os.environ.get("SLURM_JOB_ID"):
        mine["job"] = job
        restarts = os.environ.get("SLURM_RESTART_COUNT", "0")
        mine["restarts"] = int(restarts) if restarts.isdecimal() else 0
    return mine


def _boot() -> str:
    """What differs after each start of the machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return str(round(psutil.boot_time()))


def _refuse_rivals(place: Path, task: tuple[int, int] | None, mine: dict[str, JSONValue]) -> None:
    """Raise if somebody works here who must not be disturbed; locks of the dead are cleared away."""
    others = [path for path in place.glob(".sspruning.task-*.lock") if _is_rival(path, task)]
    for path in [place / LOCK, *others] if task else others:
        holder = _read(path) if path.exists() else None
        if holder is None:
            continue
        if not (_is_gone(holder) or _is_earlier_start(holder, mine)):
            raise MachineError(_busy(path, holder))
        _clear(path, holder)


def _is_rival(path: Path, task: tuple[int, int] | None) -> bool:
    """True if a task's lock is in the way: of a run that has to be alone any, of a task one of another array."""
    other = _task_of(path)
    return other is not None and (task is None or other[1] != task[1])


def _take(path: Path, mine: dict[str, JSONValue]) -> None:
    content = json.dumps(mine, sort_keys=True).encode() + b"\n"
    for _ in range(TRIES):
        if create_once(path, content):
            return
        holder = _read(path)
        if holder is None:
            continue  # it was given back, or is damaged, which `_clear` has seen to
        if not (_is_gone(holder) or _is_earlier_start(holder, mine)):
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


def _is_earlier_start(holder: dict[str, JSONValue], mine: dict[str, JSONValue]) -> bool:
    """True if a lock is of an earlier start of this very SLURM job, which SLURM has ended before it started this one.

    After the failure of a node the job runs on another host, from where nobody can see that the first is dead.
    """
    before, now = holder.get("restarts"), mine.get("restarts")
    same = holder.get("job") is not None and holder.get("job") == mine.get("job")
    return same and isinstance(before, int) and isinstance(now, int) and before < now


def _clear(path: Path, holder: dict[str, JSONValue]) -> None:
    """Remove a lock, unless another run has put its own there in the meantime."""
    aside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    with suppress(FileNotFoundError):
        os.rename(path, aside)  # noqa: PTH104 - fault tests watch the os calls
        if _read(aside) != holder:
            with suppress(OSError):
                os.link(aside, path)
        aside.unlink()


def _who(holder: dict[str, JSONValue]) -> str:
    job = f"SLURM job {holder['job']}, " if "job" in holder else ""
    return f"{job}process {holder.get('pid')} on {holder.get('host')}, since {holder.get('since')}"


def _busy(path: Path, holder: dict[str, JSONValue]) -> str:
    task = _task_of(path)
    run = "another run" if task is None else "task {} of {}".format(*task)
    if holder.get("host") == socket.gethostname():
        return f"{path.parent}: {run} works here ({_who(holder)}); wait until it is done, or stop it"
    run = "a run" if task is None else run
    return (
        f"{path.parent}: {run} on another host works here ({_who(holder)}), and whether it is alive cannot be seen "
        f"from here; wait until it is done, or, if you know that it is dead, delete {path}"
    )
