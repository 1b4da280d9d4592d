"""The local executor: worker processes, each on a pipe of its own, so that the death of one harms no other."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from sspruning.errors import MachineError
from sspruning.execution import Outcome, StageSpec, Task
from sspruning.execution.worker import TRIES, answer

__all__ = ["ProcessExecutor"]

LOOK_EVERY_S = 1.0  # for deaths that no pipe tells of, because a child of the worker still holds it
STOP_WITHIN_S = 10.0
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
STARTED = b""


def _start_worker(parent: int) -> None:
    """Prepare a fresh worker: no signal from the terminal, death with the parent, one thread for each library.

    One thread a worker keeps the cores busy without oversubscription, and makes every sum's order independent of how
    many workers there are.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    for variable in THREAD_VARIABLES:
        os.environ[variable] = "1"
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no orphans after a kill -9 of the driver
        if os.getppid() != parent:
            os._exit(1)


def _serve(connection: Connection, prepare: Callable[[int], None], parent: int) -> None:
    """Life of a worker: answer what comes through the pipe until the driver closes it."""
    prepare(parent)
    try:
        connection.send_bytes(STARTED)
        while True:
            connection.send_bytes(answer(connection.recv_bytes()))
    except (EOFError, OSError):
        return


@contextmanager
def _undisturbed() -> Generator[None]:
    """Signals that stop a run wait until the block is done; a process that starts in it does not hear Ctrl-C.

    Otherwise a stop in the wrong moment would lose sight of a worker, or make one that is starting print a traceback.
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


@dataclass(slots=True)
class _Job:
    """A task on its way, and how many times it was begun."""

    task: Task
    attempt: int = 1


class _Worker:
    """One worker process, its pipe, and what it is doing."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        resource_tracker.ensure_running()  # it unblocks signals when it starts, so it comes first
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(theirs, _start_worker, os.getpid()))
        self.job: _Job | None = None
        self.started = False
        self.since = 0.0
        """When it began with the job."""
        with _undisturbed():
            self.process.start()
        theirs.close()

    def give(self, question: bytes, job: _Job) -> None:
        """Hand out a job."""
        self.job, self.since = job, time.monotonic()
        self.connection.send_bytes(question)

    def kill(self) -> None:
        """End it; nothing that it left half done has a final name."""
        self.connection.close()
        self.process.kill()


def _stop(workers: list[_Worker]) -> None:
    """End workers and wait for their death, within a bounded time."""
    for worker in workers:
        worker.kill()
    end = time.monotonic() + STOP_WITHIN_S
    while workers:
        workers.pop().process.join(max(0.0, end - time.monotonic()))


class ProcessExecutor:
    """Runs tasks in ``workers`` processes of this machine, kept alive between calls of `run`.

    A task whose worker dies is tried three times, alone blamed for it, and then reported as `crash`; another worker
    takes the place of the dead one. A worker gets a task when it is done with the one before.
    """

    def __init__(self, *, workers: int, timeout_s: float | None = None) -> None:
        """Prepare; processes start with the first tasks.

        Args:
            workers: processes, at least 1.
            timeout_s: seconds after which a task's worker is killed; None for no limit.
        """
        self.workers = workers
        self._timeout_s = timeout_s
        self._crew: list[_Worker] = []
        self._closed = False
        self._failed_starts = 0  # since one succeeded
        weakref.finalize(self, _stop, self._crew)  # before the interpreter, at its end, waits for every child

    def run(self, spec: StageSpec, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """One `Outcome` for each task, as they finish."""
        fresh, again, found = iter(tasks), deque[_Job](), list[Outcome]()
        self._drop(self._busy())  # an earlier run was left in the middle
        try:
            while True:
                while len(self._busy()) < self.workers:
                    job = again.popleft() if again else next((_Job(task) for task in fresh), None)
                    if job is None:
                        break
                    self._hand_out(spec, job, again, found)
                yield from found
                found.clear()
                busy = self._busy()
                if not busy:
                    return
                for worker in self._heard_of(busy):
                    self._hear(worker, again, found)
        finally:
            self._drop(self._busy())

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._crew if worker.job]

    def _idle(self) -> _Worker:
        """A worker without a job; a new one if there is none."""
        for worker in [worker for worker in self._crew if not worker.job]:
            if not worker.connection.poll():
                return worker
            self._drop([worker])  # it says nothing on its own, so this is its end
        if self._closed:
            raise MachineError("the worker processes could not be started: the executor is closed")
        if self._failed_starts >= TRIES:
            raise MachineError(
                f"the worker processes could not be started: {self._failed_starts} ended before they were ready; "
                "look at what they printed above (out of memory?)"
            )
        try:
            self._crew.append(_Worker())
        except OSError as error:
            raise MachineError(f"the worker processes could not be started: {error}") from error
        return self._crew[-1]

    def _hand_out(self, spec: StageSpec, job: _Job, again: deque[_Job], found: list[Outcome]) -> None:
        """Give a job to a worker."""
        try:
            question = pickle.dumps((spec, job.task))
        except Exception as error:  # noqa: BLE001 - whatever keeps it from being handed out is its outcome
            found.append(Outcome(job.task.id, "error", error=error, attempts=job.attempt))
            return
        worker = self._idle()
        try:
            worker.give(question, job)
        except OSError:  # it died between two jobs, or before its first
            self._drop([worker])
            self._failed_starts += not worker.started
            again.appendleft(job)

    def _heard_of(self, busy: list[_Worker]) -> list[_Worker]:
        """Workers of which there is something to hear: an answer, their death, or that their time is up."""
        until = LOOK_EVERY_S
        if self._timeout_s is not None:
            first = min((worker.since for worker in busy if worker.started), default=time.monotonic())
            until = min(until, max(0.0, first + self._timeout_s - time.monotonic()))
        ready = set(wait([worker.connection for worker in busy], until))
        return [worker for worker in busy if worker.connection in ready or self._is_over(worker)]

    def _is_over(self, worker: _Worker) -> bool:
        """True if a worker that says nothing will not do so any more."""
        return worker.process.exitcode is not None or self._is_late(worker)

    def _is_late(self, worker: _Worker) -> bool:
        return worker.started and self._timeout_s is not None and time.monotonic() - worker.since > self._timeout_s

    def _hear(self, worker: _Worker, again: deque[_Job], found: list[Outcome]) -> None:
        """Take what there is to hear of a busy worker: an outcome, or a job to begin again."""
        job = worker.job
        if job is None:
            return
        try:
            message = worker.connection.recv_bytes() if worker.connection.poll() else None
        except (EOFError, OSError):
            self._mourn(worker, job, again, found)
            return
        if message is None and worker.process.exitcode is not None:
            self._mourn(worker, job, again, found)
        elif message is None:
            error = TimeoutError(f"no result within {self._timeout_s} s")
            found.append(Outcome(job.task.id, "timeout", error=error, attempts=job.attempt))
            self._drop([worker])
        elif message == STARTED:
            worker.started, worker.since, self._failed_starts = True, time.monotonic(), 0
        else:
            worker.job = None
            found.append(_outcome(message, job))

    def _mourn(self, worker: _Worker, job: _Job, again: deque[_Job], found: list[Outcome]) -> None:
        """A worker died: its job is begun again, or has killed its last one."""
        self._drop([worker])
        if not worker.started:
            self._failed_starts += 1
            again.append(job)
        elif job.attempt < TRIES:
            again.append(_Job(job.task, job.attempt + 1))
        else:
            error = ChildProcessError(f"the worker process ended {_ending(worker.process.exitcode)}")
            found.append(Outcome(job.task.id, "crash", error=error, attempts=job.attempt))

    def _drop(self, workers: list[_Worker]) -> None:
        """End workers and forget them."""
        for worker in workers:
            self._crew.remove(worker)
        _stop(list(workers))

    def close(self) -> None:
        """Stop all workers now."""
        self._closed = True
        _stop(self._crew)


def _ending(code: int | None) -> str:
    """How a process ended, in words."""
    if code is not None and code < 0:
        return f"by signal {signal.Signals(-code).name}"
    return f"with exit code {code}"


def _outcome(message: bytes, job: _Job) -> Outcome:
    """What a worker said of its job."""
    try:
        value, error, trace = pickle.loads(message)  # noqa: S301 - comes from our own worker
    except Exception as failure:  # noqa: BLE001 - whatever an exception of somebody else's does when it is unpickled
        return Outcome(job.task.id, "error", error=failure, attempts=job.attempt)
    if error is None:
        return Outcome(job.task.id, "ok", value, attempts=job.attempt)
    error.add_note(f"in a worker process:\n{trace}")
    return Outcome(job.task.id, "error", error=error, attempts=job.attempt)
