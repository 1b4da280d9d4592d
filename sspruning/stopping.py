"""Signals that stop a run: one exception, whatever the run is doing, and a bounded time until the process is gone."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager

from sspruning.errors import InterruptedRunError

__all__ = ["STOPPED", "Stopped", "asked_to_stop", "leave_at_once", "stoppable"]

STOP_WITHIN_S = 20.0  # stopping workers takes a moment; a stop that hangs is cut off
ASK_AGAIN_S = 1.0
STOPPED = "stopped; run the same command again, it goes on from here"
SIGNALS = (signal.SIGINT, signal.SIGTERM)
_deadline: list[float] = []  # when the process has to be gone; empty as long as nobody asked for it


class Stopped(KeyboardInterrupt):
    """A signal asks the run to stop.

    A kind of its own, for Python ends a program by the signal itself, not by its exit code, once some extension module
    has seen the plain one pass by.
    """


def asked_to_stop() -> bool:
    """True from a signal on, to the end of the block or of the process."""
    return bool(_deadline)


def leave_at_once() -> None:
    """Let SIGINT and SIGTERM end the process by the exit code of a stop, as long as there is nothing to tidy up."""
    for number in SIGNALS:
        signal.signal(number, _cut_off)


@contextmanager
def stoppable(*, last: bool) -> Generator[None]:
    """A block that SIGINT and SIGTERM end by `Stopped`.

    Args:
        last: the process ends after the block; so a stop that hangs later than here is cut off too, and further signals
            end the process at once.
    """
    before = {number: signal.signal(number, _stop) for number in SIGNALS}
    try:
        yield
    finally:
        if not last:
            for number, handler in before.items():
                signal.signal(number, handler)
            if _deadline:
                _set_timer(0)
                _deadline.clear()
        else:
            for number in SIGNALS:
                signal.signal(number, _cut_off if _deadline else signal.SIG_DFL)
            if _deadline and hasattr(signal, "setitimer"):
                signal.signal(signal.SIGALRM, _cut_off)
                _set_timer(max(1.0, _deadline[0] - time.monotonic()))


def _set_timer(seconds: float) -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds, seconds)


def _stop(_number: int, _frame: object) -> None:
    """Signal handler: end what is done, and see to it that it does end."""
    if not _deadline:
        _deadline.append(time.monotonic() + STOP_WITHIN_S)
        if hasattr(signal, "setitimer"):
            signal.signal(signal.SIGALRM, _look_again)
        _set_timer(ASK_AGAIN_S)
    raise Stopped


def _look_again(number: int, frame: object) -> None:
    """Signal handler: stop again what goes on as if nothing was; leave when time is up.

    Python drops what is raised while a destructor or a callback of the garbage collector runs, and a stop with it.
    """
    if time.monotonic() > _deadline[0]:
        _cut_off(number, frame)
    if sys.exception() is None:  # else the stop is on its way
        raise Stopped


def _cut_off(_number: int, _frame: object) -> None:
    """Signal handler: leave at once; workers die with this process, and the next run sweeps what they left."""
    os.write(2, f"sspruning: {STOPPED}\n".encode())
    os._exit(InterruptedRunError.exit_code)
