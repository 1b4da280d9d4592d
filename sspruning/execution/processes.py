"""The local executor: worker processes, each on a pipe of its own, so that the death of one harms no other."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from sspruning.errors import MachineError
from sspruning.execution import Outcome, StageSpec, Task
from sspruning.execution.devices import gpus_of_slot, visible_gpus
from sspruning.execution.jobs import Job, next_job
from sspruning.execution.signals import undisturbed
from sspruning.execution.worker import ONE_THREAD, TRIES, Owner, answer, serve

__all__ = ["ProcessExecutor"]

LOOK_EVERY_S = 1.0  # for deaths that no pipe tells of, because a child of the worker still holds it
STOP_WITHIN_S = 10.0
STARTED = b""


def _start_worker(owner: Owner, gpus: tuple[str, ...]) -> None:
    """Prepare a fresh worker: no signal from the terminal, death with its owner, one thread for each library.

    Args:
        owner: the process that started it.
        gpus: those it may see; all if none are named.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.environ.update(ONE_THREAD)
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)  # nothing has asked CUDA for its devices yet
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no orphans after a kill -9 of the driver
        if os.getppid() != owner.pid:
            os._exit(1)


def _serve(
    connection: Connection, prepare: Callable[[Owner, tuple[str, ...]], None], owner: Owner, gpus: tuple[str, ...]
) -> None:
    """Life of a worker: answer what comes through the pipe until the driver closes it."""
    prepare(owner, gpus)
    serve(owner)
    try:
        connection.send_bytes(STARTED)
        while True:
            connection.send_bytes(answer(connection.recv_bytes()))
    except (EOFError, OSError):
        return


class _Worker:
    """One worker process, its pipe, and what it is doing."""

    def __init__(self, slot: int, gpus: tuple[str, ...]) -> None:
        """Start it.

        Args:
            slot: its number among the workers that live.
            gpus: those it may see; all if none are named.
        """
        context = multiprocessing.get_context("spawn")
        resource_tracker.ensure_running()  # it unblocks signals when it starts, so it comes first
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(theirs, _start_worker, Owner.here(), gpus))
        self.slot = slot
        self.job: Job | None = None
        self.started = False
        self.since = 0.0
        """When it began with the job."""
        with undisturbed():
            self.process.start()
        theirs.close()

    def give(self, job: Job) -> None:
        """Hand out a job."""
        self.job, self.since = job, time.monotonic()
        self.connection.send_bytes(job.question)

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

    def __init__(
        self,
        *,
        workers: int,
        timeout_s: float | None = None,
        gpus_per_worker: float | None = 0,
        address: str | None = None,
    ) -> None:
        """Prepare; processes start with the first tasks.

        Args:
            workers: processes, at least 1.
            timeout_s: seconds after which a task's worker is killed; None for no limit.
            gpus_per_worker: GPUs in sight that a worker gets for itself, in turns where there are too few; below 1,
                several share one. None for 1; 0 lets each see what this process sees.
            address: of no meaning here.
        """
        del address
        self.workers = workers
        self._gpus_per_worker = 1 if gpus_per_worker is None else gpus_per_worker
        self._gpus = visible_gpus() if self._gpus_per_worker else ()
        self._timeout_s = timeout_s
        self._crew: list[_Worker] = []
        self._closed = False
        self._failed_starts = 0  # since one succeeded
        weakref.finalize(self, _stop, self._crew)  # before the interpreter, at its end, waits for every child

    def run(self, spec: StageSpec, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """One `Outcome` for each task, as they finish."""
        fresh, again, found = iter(tasks), deque[Job](), list[Outcome]()
        self._drop(self._busy())  # an earlier run was left in the middle
        try:
            while True:
                while len(self._busy()) < self.workers:
                    job = again.popleft() if again else next_job(spec, fresh, found)
                    if job is None:
                        break
                    self._hand_out(job, again)
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
            slot = min(set(range(self.workers)) - {worker.slot for worker in self._crew})
            self._crew.append(_Worker(slot, gpus_of_slot(slot, self._gpus, self._gpus_per_worker)))
        except OSError as error:
            raise MachineError(f"the worker processes could not be started: {error}") from error
        return self._crew[-1]

    def _hand_out(self, job: Job, again: deque[Job]) -> None:
        """Give a job to a worker."""
        worker = self._idle()
        try:
            worker.give(job)
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

    def _hear(self, worker: _Worker, again: deque[Job], found: list[Outcome]) -> None:
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
            found.append(job.late(self._timeout_s))
            self._drop([worker])
        elif message == STARTED:
            worker.started, worker.since, self._failed_starts = True, time.monotonic(), 0
        else:
            worker.job = None
            found.append(job.answered(message))

    def _mourn(self, worker: _Worker, job: Job, again: deque[Job], found: list[Outcome]) -> None:
        """A worker died: its job is begun again, or has killed its last one."""
        self._drop([worker])
        if not worker.started:
            self._failed_starts += 1
            again.append(job)
        else:
            job.died(_ending(worker.process.exitcode), again, found)

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
