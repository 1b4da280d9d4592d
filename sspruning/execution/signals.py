"""Signals that stop a run, held back while something is done that must be done whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

__all__ = ["undisturbed"]


@contextmanager
def undisturbed() -> Generator[None]:
    """Signals that stop a run wait until the block is done; a process that starts in it does not hear Ctrl-C.

    Otherwise a stop in the wrong moment would lose sight of a worker, or make one that is starting print a traceback.
    Handlers that the block sets itself are gone after it.
    """
    came: list[int] = []
    before: dict[int, Any] = {}
    masks = hasattr(signal, "pthread_sigmask")
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if masks else set()
    try:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.signal(number, lambda number, _: came.append(number))
        yield
    finally:
        if masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for number in came:
            signal.raise_signal(number)
