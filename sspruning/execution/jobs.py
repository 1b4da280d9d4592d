"""A task on its way through an executor with workers, and what becomes of it."""

from __future__ import annotations

import pickle
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

from sspruning.execution import Outcome, StageSpec, Task
from sspruning.execution.worker import TRIES

__all__ = ["Job", "next_job"]


@dataclass(frozen=True, slots=True)
class Job:
    """A task as a worker is asked to do it, and how many times it was begun."""

    task_id: str
    work: bytes
    """The pickled (spec, task)."""
    attempt: int = 1
    died_at: float | None = None
    """Time of day at which the worker of the attempt before was found dead."""

    @property
    def question(self) -> bytes:
        """What `sspruning.execution.worker.answer` is asked."""
        return pickle.dumps((self.work, self.died_at))

    def answered(self, message: bytes) -> Outcome:
        """What a worker said, in the words of `answer`."""
        try:
            value, error, trace = pickle.loads(message)  # noqa: S301 - comes from our own worker
        except Exception as failure:  # noqa: BLE001 - whatever an exception of somebody else's does when it is unpickled
            return Outcome(self.task_id, "error", error=failure, attempts=self.attempt)
        if error is None:
            return Outcome(self.task_id, "ok", value, attempts=self.attempt)
        error.add_note(f"in a worker process:\n{trace}")
        return Outcome(self.task_id, "error", error=error, attempts=self.attempt)

    def late(self, timeout_s: float | None) -> Outcome:
        """Outcome of a task whose time is up."""
        error = TimeoutError(f"no result within {timeout_s} s")
        return Outcome(self.task_id, "timeout", error=error, attempts=self.attempt)

    def died(self, how: str, again: deque[Job], found: list[Outcome]) -> None:
        """Its worker died of it: the task is to be begun again, or has killed its last worker."""
        if self.attempt < TRIES:
            again.append(replace(self, attempt=self.attempt + 1, died_at=time.time()))
        else:
            error = ChildProcessError(f"the worker process ended {how}")
            found.append(Outcome(self.task_id, "crash", error=error, attempts=self.attempt))


def next_job(spec: StageSpec, tasks: Iterator[Task], found: list[Outcome]) -> Job | None:
    """The next task as a job, None if there is none; those that cannot travel to a worker are found to be errors."""
    for task in tasks:
        try:
            return Job(task.id, pickle.dumps((spec, task)))
        except Exception as error:  # noqa: BLE001 - whatever keeps it from being handed out is its outcome
            found.append(Outcome(task.id, "error", error=error))
    return None
