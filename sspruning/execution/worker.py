"""What runs inside a worker: build the stage's target once, then call it for every task."""

from __future__ import annotations

import errno
import importlib
import os
import pickle
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from sspruning.execution import StageSpec, Task
from sspruning.records import JSONValue

__all__ = ["ONE_THREAD", "TRIES", "Owner", "answer", "died_at", "owner", "run_task", "serve"]

TRIES = 3  # for what may go better the next time; an error of the data or of the request would come again
PAUSES_S = (0.1, 1.0)  # before the second and the third try: a file server that was restarted needs a moment
_TRANSIENT = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EINTR}

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""What a worker's environment says: keeps the cores busy without oversubscription, and makes every sum's order
independent of how many workers there are."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that hands out work. What a worker leaves for the one that takes its place carries this name."""

    host: str
    pid: int

    @classmethod
    def here(cls) -> Owner:
        """This process."""
        return cls(socket.gethostname(), os.getpid())


_owner: list[Owner] = []
_died_at: list[float | None] = [None]
_built: dict[str, Callable[[dict[str, JSONValue]], JSONValue]] = {}


def serve(whom: Owner) -> None:
    """Make this process a worker of ``whom``, for the rest of its life."""
    _owner[:] = [whom]


def owner() -> Owner | None:
    """Whose worker this process is, on whatever machine; None where a process does its own tasks (executor inline)."""
    return _owner[0] if _owner else None


def died_at() -> float | None:
    """Time of day at which the driver found the last worker with this task dead; None if there was none."""
    return _died_at[0]


def run_task(spec: StageSpec, task: Task) -> JSONValue:
    """Value of one task. What ``spec`` names is built at the first call and kept for the life of the process.

    A task that fails because a disk or a file server gave no answer is tried three times.
    """
    for pause in PAUSES_S:
        try:
            return _work_of(spec)(task.payload)
        except Exception as error:
            if not _is_transient(error):
                raise
            time.sleep(pause)
    return _work_of(spec)(task.payload)


def _work_of(spec: StageSpec) -> Callable[[dict[str, JSONValue]], JSONValue]:
    identity = repr(spec)
    if identity not in _built:
        module, _, attribute = spec.target.partition(":")
        build = getattr(importlib.import_module(module), attribute)
        _built[identity] = cast("Callable[[dict[str, JSONValue]], JSONValue]", build(**spec.kwargs))
    return _built[identity]


def _is_transient(error: BaseException | None) -> bool:
    """True if an error is, or was raised because of, one of a disk or a file server that may pass."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _TRANSIENT:
            return True
        error = error.__cause__
    return False


def answer(question: bytes) -> bytes:
    """Pickled (value, None, "") or (None, error, traceback) of a job's question, whatever the task does.

    An error that would not survive the way to the driver becomes a RuntimeError that says the same.
    """
    try:
        work, _died_at[0] = pickle.loads(question)  # noqa: S301 - comes from the driver, and nobody else can send
        spec, task = pickle.loads(work)  # noqa: S301
        return pickle.dumps((run_task(spec, task), None, ""))
    except BaseException as error:  # noqa: BLE001 - SystemExit and the like are outcomes of the task, too
        told = error if _can_travel(error) else RuntimeError(f"{type(error).__name__}: {error}")
        return pickle.dumps((None, told, traceback.format_exc()))


def _can_travel(error: BaseException) -> bool:
    """True if ``error`` is an ordinary exception that survives pickling."""
    try:
        return isinstance(error, Exception) and type(pickle.loads(pickle.dumps(error))) is type(error)  # noqa: S301
    except Exception:  # noqa: BLE001 - reduce methods of foreign exceptions may raise anything
        return False
