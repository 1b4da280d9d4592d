"""A task on its way through an executor with workers, and what becomes of it."""

from __future__ import annotations

import pickle
from collections import deque
from dataclasses import dataclass, replace

from sspruning.execution import Outcome, StageSpec, Task
from sspruning.execution.worker import TRIES

__all__ = ["Job"]


@dataclass(frozen=True, slots=True)
class Job:
    """A task, and how many times it was begun."""

    task: Task
    attempt: int = 1

    def question(self, spec: StageSpec) -> bytes | Outcome:
        """What a worker is asked, for `answer`; the outcome if the task cannot travel."""
        try:
            return pickle.dumps((spec, self.task))
        except Exception as error:  # noqa: BLE001 - whatever keeps it from being handed out is its outcome
            return self._failed(error)

    def answered(self, message: bytes) -> Outcome:
        """What a worker said, in the words of `answer`."""
        try:
            value, error, trace = pickle.loads(message)  # noqa: S301 - comes from our own worker
        except Exception as failure:  # noqa: BLE001 - whatever an exception of somebody else's does when it is unpickled
            return self._failed(failure)
        if error is None:
            return Outcome(self.task.id, "ok", value, attempts=self.attempt)
        error.add_note(f"in a worker process:\n{trace}")
        return self._failed(error)

    def late(self, timeout_s: float | None) -> Outcome:
        """Outcome of a task whose time is up."""
        error = TimeoutError(f"no result within {timeout_s} s")
        return Outcome(self.task.id, "timeout", error=error, attempts=self.attempt)

    def died(self, how: str, again: deque[Job], found: list[Outcome]) -> None:
        """Its worker died of it: the task is to be begun again, or has killed its last worker."""
        if self.attempt < TRIES:
            again.append(replace(self, attempt=self.attempt + 1))
        else:
            error = ChildProcessError(f"the worker process ended {how}")
            found.append(Outcome(self.task.id, "crash", error=error, attempts=self.attempt))

    def _failed(self, error: BaseException) -> Outcome:
        return Outcome(self.task.id, "error", error=error, attempts=self.attempt)
