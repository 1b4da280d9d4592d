"""The local executor: a pool of spawned processes that survives the death of any of them."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool

from pebble import ProcessExpired, ProcessPool

from sspruning.errors import MachineError, SSPruningError
from sspruning.execution import Outcome, StageSpec, Task
from sspruning.execution.worker import run_task_apart

__all__ = ["ProcessExecutor"]

TRIES = 3  # for crashes only; an error that a task raises itself would come again
LOOK_EVERY_S = 5.0  # a pool that breaks while it is handed a task may forget to tell; so it is asked now and then
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def _start_worker(parent: int) -> None:
    """Prepare a fresh worker: no signal from the terminal, death with the parent, one thread for each library.

    One thread a worker keeps the cores busy without oversubscription, and makes every sum's order independent of how
    many workers there are.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for variable in THREAD_VARIABLES:
        os.environ[variable] = "1"
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no orphans after a kill -9 of the driver
        if os.getppid() != parent:
            os._exit(1)


class ProcessExecutor:
    """Runs tasks in ``workers`` processes of this machine, kept alive between calls of `run`.

    A task whose worker dies is tried three times, alone blamed for it, and then reported as `crash`; the pool replaces
    the worker. At most two tasks a worker are handed out ahead.
    """

    def __init__(self, *, workers: int, timeout_s: float | None = None) -> None:
        """Prepare the pool; processes start with the first task.

        Args:
            workers: processes, at least 1.
            timeout_s: seconds after which a task's worker is killed; None for no limit.
        """
        self.workers = workers
        self._timeout_s = timeout_s
        self._pool = self._new_pool()
        self._closed = False
        self._breaks = 0  # pools lost since the last task that came to an end

    def _new_pool(self) -> ProcessPool:
        return ProcessPool(
            max_workers=self.workers,
            context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(os.getpid(),),
        )

    def run(self, spec: StageSpec, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """One `Outcome` for each task, as they finish."""
        waiting = iter(tasks)
        running: dict[Future, tuple[Task, int]] = {}
        exhausted = False
        try:
            while True:
                while not exhausted and len(running) < 2 * self.workers:
                    task = next(waiting, None)
                    if task is None:
                        exhausted = True
                        break
                    running[self._submit(spec, task)] = (task, 1)
                if not running:
                    return
                done, _ = wait(running, timeout=LOOK_EVERY_S, return_when=FIRST_COMPLETED)
                for future in done or self._forgotten(running):
                    task, attempt = running.pop(future)
                    outcome = _outcome(future, task, attempt)
                    if not isinstance(outcome.error, BrokenProcessPool):
                        self._breaks = 0
                    if outcome.kind == "crash" and attempt < TRIES:
                        running[self._submit(spec, task)] = (task, attempt + 1)
                    else:
                        yield outcome
        finally:
            for future in running:
                future.cancel()

    def _submit(self, spec: StageSpec, task: Task) -> Future:
        """Hand out a task, in a new pool if the old one broke: pebble gives up when a worker dies without a task."""
        while True:
            try:
                return self._pool.schedule(run_task_apart, args=(spec, task), timeout=self._timeout_s)
            except RuntimeError as error:
                self._breaks += 1
                if self._closed or self._breaks > TRIES:
                    raise MachineError(f"the worker processes could not be started: {error}") from error
                self._stop_pool()
                self._pool = self._new_pool()

    def _forgotten(self, running: dict[Future, tuple[Task, int]]) -> list[Future]:
        """Tasks that will never end because their pool broke without telling."""
        return [] if self._pool.active else list(running)

    def _stop_pool(self) -> None:
        self._pool.stop()
        self._pool.join(timeout=10)

    def close(self) -> None:
        """Stop all workers now."""
        self._closed = True
        self._stop_pool()


def _outcome(future: Future, task: Task, attempt: int) -> Outcome:
    """Outcome of a finished future, or of one whose pool broke."""
    if not future.done():
        return Outcome(task.id, "crash", error=BrokenProcessPool("the pool broke"), attempts=attempt)
    try:
        return Outcome(task.id, "ok", future.result(), attempts=attempt)
    except SSPruningError as error:
        return Outcome(task.id, "error", error=error, attempts=attempt)
    except (ProcessExpired, BrokenProcessPool) as error:
        return Outcome(task.id, "crash", error=error, attempts=attempt)
    except FutureTimeoutError as error:  # the pool's own has no cause; one that a task raised has its remote traceback
        return Outcome(task.id, "error" if error.__cause__ else "timeout", error=error, attempts=attempt)
    except Exception as error:  # noqa: BLE001 - whatever a task raises is its outcome
        return Outcome(task.id, "error", error=error, attempts=attempt)
