"""The Ray executor: workers are actors, on one machine or many, with the same promises as worker processes have.

Ray places actors and says when one has died. It repeats nothing: attempts, time limits and blame are counted here.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from sspruning.errors import MachineError
from sspruning.execution import Outcome, StageSpec, Task
from sspruning.execution.jobs import Job, next_job
from sspruning.execution.ray_session import RaySession, require_ray
from sspruning.execution.worker import ONE_THREAD, TRIES, Owner, answer, serve

__all__ = ["RayExecutor", "SSPruningWorker"]

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
STOP_WITHIN_S = 10.0
SAY_AFTER_S = 15.0  # that a worker waits for room in the cluster
GIVE_UP_AFTER_S = 120.0  # if not one has found any
SHOWN_CHARS = 300


class SSPruningWorker:
    """What stands in an actor, under a name that `ps` and `ray status` show: a worker like any other."""

    def __init__(self, owner: Owner, folder: str, path: list[str]) -> None:
        """Become a worker.

        Args:
            owner: the driver.
            folder: its current folder, which relative paths start from.
            path: where it finds modules.
        """
        os.environ.update(ONE_THREAD)  # nothing has imported numpy or torch yet
        sys.path += [entry for entry in path if entry not in sys.path]
        serve(owner)
        self._problem = ""
        try:
            os.chdir(folder)
        except OSError as error:
            self._problem = (
                f"{socket.gethostname()}: {folder}: {error.strerror}; every machine of the cluster must see the folder "
                "that a run is started from (start it from / if all its paths are absolute)"
            )

    def begin(self) -> tuple[int, float, str]:
        """This process, as number and time of its start; and what keeps it from working, if anything."""
        return os.getpid(), psutil.Process().create_time(), self._problem

    def answer(self, question: bytes) -> bytes:
        """See `sspruning.execution.worker.answer`."""
        return answer(question)


class _Actor:
    """One actor as the driver sees it, and what it is doing."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self.job: Job | None = None
        self.ready = False
        """It has started."""
        self.since = time.monotonic()
        """When it began with its job, or with its life."""
        self.awaited: Any = handle.begin.remote()
        """What is to be heard of it next; None of an idle one."""
        self._process: psutil.Process | None = None

    def note_begin(self, pid: int, created: float) -> None:
        """It has started, as this process."""
        self.ready, self.awaited = True, None
        with suppress(psutil.Error):
            found = psutil.Process(pid)
            if abs(found.create_time() - created) < 0.1:  # else it is another machine's number
                self._process = found

    def is_gone(self) -> bool:
        """True if it is known to be dead; of another machine's, only the next job tells, which pays a try for it."""
        return self._process is not None and not self._process.is_running()

    def give(self, job: Job) -> None:
        """Hand out a job."""
        self.job, self.since = job, time.monotonic()
        self.awaited = self._handle.answer.remote(job.question)

    def note_answer(self) -> None:
        """It is idle again."""
        self.job = self.awaited = None

    def kill(self, ray: Any) -> psutil.Process | None:
        """End it; returns the process where it is one of this machine."""
        with suppress(Exception):  # a cluster that is gone has no actors
            ray.kill(self._handle)
        with suppress(psutil.Error):
            if self._process is not None:
                self._process.kill()
        return self._process


class RayExecutor:
    """Runs tasks in actors of a Ray cluster, kept alive between calls of `run`.

    A task whose actor dies is tried three times, alone blamed for it, and then reported as `crash`; a new actor takes
    the place of the dead one. Where the cluster has room for fewer actors than asked for, those that fit do the work.
    """

    def __init__(
        self,
        *,
        workers: int | None,
        timeout_s: float | None = None,
        gpus_per_worker: float | None = 0,
        address: str | None = None,
    ) -> None:
        """Prepare; Ray is started, or connected to, with the first tasks.

        Args:
            workers: actors, at least 1; None for as many as the cluster has cores or GPUs for.
            timeout_s: seconds after which a task's actor is killed; None for no limit.
            gpus_per_worker: GPUs that Ray reserves for each; None for 1 where the cluster has any, else 0.
            address: HOST:PORT of a head; auto, local or None: see `RaySession`.

        Raises:
            MachineError: the package ray is not installed.
        """
        require_ray()
        self._asked = workers
        self._timeout_s = timeout_s
        self._gpus = gpus_per_worker
        self._address = address
        self._session: RaySession | None = None
        self._crew: list[_Actor] = []
        self._closed = self._told = False
        self._failed_starts = 0  # since one succeeded

    @property
    def workers(self) -> int:
        """Actors that work side by side; connects, if only the cluster can tell.

        Raises:
            MachineError: see `run`.
        """
        if self._asked is None:
            resources = self._connected().ray.cluster_resources()
            cores, gpus = int(resources.get("CPU", 1)), resources.get("GPU", 0)
            self._asked = max(1, min(cores, int(gpus / self._gpus)) if self._gpus else cores)
        return self._asked

    def _connected(self) -> RaySession:
        if self._closed:
            raise MachineError("the workers could not be started: the executor is closed")
        if self._session is None:
            self._session = RaySession(self._address, self._asked)
            if self._gpus is None:
                self._gpus = 1 if self._session.ray.cluster_resources().get("GPU", 0) >= 1 else 0
        return self._session

    def run(self, spec: StageSpec, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """One `Outcome` for each task, as they finish.

        Raises:
            MachineError: no cluster, no room in it for a single actor, or the cluster was lost on the way.
        """
        fresh, waiting, found = iter(tasks), deque[Job](), list[Outcome]()
        self._drop(self._busy())  # an earlier run was left in the middle
        try:
            while True:
                while len(waiting) + len(self._busy()) < self.workers:
                    job = next_job(spec, fresh, found)
                    if job is None:
                        break
                    waiting.append(job)
                self._drop([actor for actor in self._crew if not actor.job and actor.is_gone()])
                self._hire(len(waiting) + len(self._busy()))
                self._hand_out(waiting)
                yield from found
                found.clear()
                if not waiting and not self._busy():
                    return
                self._hear(waiting, found)
                self._look_after(found)
        finally:
            self._drop(self._busy())

    def _busy(self) -> list[_Actor]:
        return [actor for actor in self._crew if actor.job]

    def _hire(self, wanted: int) -> None:
        """See to it that there are so many actors, or as many as are allowed."""
        if len(self._crew) >= min(wanted, self.workers):
            return
        ray = self._connected().ray
        worker = ray.remote(SSPruningWorker).options(
            num_cpus=1, num_gpus=self._gpus, max_restarts=0, max_task_retries=0, max_concurrency=1
        )
        while len(self._crew) < min(wanted, self.workers):
            self._crew.append(_Actor(worker.remote(Owner.here(), str(Path.cwd()), sys.path)))

    def _hand_out(self, waiting: deque[Job]) -> None:
        """Give waiting jobs to actors that have nothing to do."""
        for actor in self._crew:
            if waiting and actor.ready and not actor.job:
                actor.give(waiting.popleft())

    def _hear(self, waiting: deque[Job], found: list[Outcome]) -> None:
        """Wait a moment for an actor to say something, and take what there is to hear."""
        session = self._connected()
        speakers = {actor.awaited: actor for actor in self._crew if actor.awaited is not None}
        until = LOOK_EVERY_S
        if self._timeout_s is not None:
            first = min((actor.since for actor in self._busy()), default=time.monotonic())
            until = min(until, max(0.0, first + self._timeout_s - time.monotonic()))
        session.ray.wait(list(speakers), num_returns=1, timeout=until)
        for reference in session.ray.wait(list(speakers), num_returns=len(speakers), timeout=0)[0]:
            actor = speakers[reference]
            try:
                said = session.ray.get(reference)
            except session.ray.exceptions.RayError as error:
                self._mourn(actor, error, waiting, found)
                continue
            if actor.job is not None:
                found.append(actor.job.answered(said))
                actor.note_answer()
                continue
            pid, created, problem = said
            if problem:
                raise MachineError(problem)
            actor.note_begin(pid, created)
            self._failed_starts = 0

    def _mourn(self, actor: _Actor, error: Exception, waiting: deque[Job], found: list[Outcome]) -> None:
        """An actor died: its job is begun again, or has killed its last one."""
        self._drop([actor])
        self._connected().check(now=True)
        if actor.job is not None:
            actor.job.died(f"in the Ray cluster: {_told(error)}", waiting, found)
            return
        self._failed_starts += 1
        if self._failed_starts >= TRIES:
            raise MachineError(
                f"the workers could not be started: {self._failed_starts} ended before they were ready: {_told(error)}"
            )

    def _look_after(self, found: list[Outcome]) -> None:
        """Give up what takes too long: a task, a cluster without an answer or without room."""
        self._connected().check()
        now = time.monotonic()
        for actor in list(self._crew):
            if actor.job and self._timeout_s is not None and now - actor.since > self._timeout_s:
                found.append(actor.job.late(self._timeout_s))
                self._drop([actor])
        ready = sum(actor.ready for actor in self._crew)
        waited = max((now - actor.since for actor in self._crew if not actor.ready), default=0.0)
        if waited > GIVE_UP_AFTER_S and not ready:
            raise MachineError(f"no worker could be started within {GIVE_UP_AFTER_S:.0f} s: {self._room()}")
        if waited > SAY_AFTER_S and ready and not self._told:
            log.warning("%d of %d workers run: %s", ready, len(self._crew), self._room())
            self._told = True

    def _room(self) -> str:
        """What an actor needs, and what the cluster has."""
        ray = self._connected().ray
        free, all_of = ray.available_resources(), ray.cluster_resources()
        needs = f"each needs 1 core{f' and {self._gpus:g} GPU' if self._gpus else ''}"
        has = ", ".join(f"{free.get(kind, 0):g} of {all_of.get(kind, 0):g} {kind}s" for kind in ("CPU", "GPU"))
        return f"{needs}, and the cluster has {has} free; lower --workers, or wait until others are done"

    def _drop(self, actors: list[_Actor]) -> None:
        """End actors and forget them; waits for the death of those on this machine, within a bounded time."""
        if self._session is None:
            return
        for actor in actors:
            self._crew.remove(actor)
        ended = [actor.kill(self._session.ray) for actor in actors]
        psutil.wait_procs([process for process in ended if process is not None], timeout=STOP_WITHIN_S)

    def close(self) -> None:
        """Stop all actors now, and Ray if it was started for them."""
        self._drop(list(self._crew))
        if self._session is not None:
            self._session.close()
        self._session, self._closed = None, True


def _told(error: Exception) -> str:
    """What Ray says of a death, without its advice."""
    text = str(error).strip()
    if "exit detail: " in text:
        told = text.rpartition("exit detail: ")[2].partition(" Some common causes")[0]
    else:
        told = text.splitlines()[-1 if "actor" in text.lower() else 0]
    return told[:SHOWN_CHARS]
