"""Let calls of the commit protocol fail, or be the last, now and then; for ``soak.py``, which puts this on the path.

Python imports this module by its name when it starts, so the command line and its workers are both concerned. SOAK_ROOT
names the folder whose files count, SOAK_RATE the share of calls that fail, SOAK_SEED what the dice begin with, and
SOAK_LOG a file outside that folder that gets a line for each call that failed.
"""

from __future__ import annotations

import errno
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

KILL = -1
FAULTS = (errno.EIO, errno.EIO, errno.ENOSPC, errno.EINTR, errno.EROFS, KILL)
CALLS = ("open", "write", "fsync", "replace", "link")


def _faulty(name: str, root: str, rate: float, dice: random.Random) -> Callable[..., Any]:
    real, ours = getattr(os, name), _descriptors

    def call(*args: Any, **kwargs: Any) -> Any:
        path = ours.get(args[0], "") if name in {"write", "fsync"} else _absolute(args[0])
        writes = name != "open" or bool(args[1] & (os.O_WRONLY | os.O_RDWR))
        if writes and path.startswith(root) and dice.random() < rate:
            fault = dice.choice(FAULTS)
            _note(fault)
            if fault == KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(fault, os.strerror(fault))
        done = real(*args, **kwargs)
        if name == "open" and writes:
            ours[done] = path
        return done

    return call


def _forgetting(real: Callable[[int], None]) -> Callable[[int], None]:
    def close(descriptor: int) -> None:
        _descriptors.pop(descriptor, None)  # its number may be a pipe's next
        real(descriptor)

    return close


def _note(fault: int) -> None:
    with Path(os.environ["SOAK_LOG"]).open("a") as log:  # not one of the calls that may fail
        log.write(f"{'kill' if fault == KILL else errno.errorcode[fault]}\n")


def _absolute(path: Any) -> str:
    return os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - a link is where it stands


_descriptors: dict[int, str] = {}

if os.environ.get("SOAK_ROOT"):
    _dice = random.Random(f"{os.environ['SOAK_SEED']} {os.getpid()}")  # noqa: S311 - faults, no secrets
    os.close = _forgetting(os.close)
    for _name in CALLS:
        setattr(os, _name, _faulty(_name, os.environ["SOAK_ROOT"], float(os.environ["SOAK_RATE"]), _dice))
