"""The executor without processes: one task after the other, here. For notebooks, debuggers and tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sspruning.execution import Outcome, StageSpec, Task
from sspruning.execution.worker import run_task

__all__ = ["InlineExecutor"]


class InlineExecutor:
    """Runs tasks in the calling process. A crash of a task is a crash of the caller."""

    def __init__(
        self,
        *,
        workers: int | None = 1,
        timeout_s: float | None = None,
        gpus_per_worker: float | None = 0,
        address: str | None = None,
    ) -> None:
        """Accept the common options; neither more workers nor a time limit exists here."""
        del workers, timeout_s, gpus_per_worker, address
        self.workers = 1

    def run(self, spec: StageSpec, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """One `Outcome` for each task, in order."""
        for task in tasks:
            try:
                value = run_task(spec, task)
            except Exception as error:  # noqa: BLE001 - whatever a task raises is its outcome
                yield Outcome(task.id, "error", error=error)
            else:
                yield Outcome(task.id, "ok", value)

    def close(self) -> None:
        """Nothing to stop."""
