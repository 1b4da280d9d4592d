"""Places where work runs. A stage says what to build in a worker and hands out tasks; an executor runs them.

An executor never chooses a chunk border and never looks into a task: results cannot depend on how many workers ran.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

from sspruning.records import JSONValue
from sspruning.registry import Registry

__all__ = ["EXECUTORS", "Executor", "Outcome", "StageSpec", "Task", "make_executor"]


@dataclass(frozen=True, slots=True)
class StageSpec:
    """What to build in a worker, once: ``target`` is ``"module:callable"``, called with ``kwargs``.

    It returns a callable that takes a task's payload and returns a small JSON-able value.
    """

    target: str
    kwargs: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Task:
    """One piece of work: small, picklable, no arrays, no handles."""

    id: str
    payload: dict[str, JSONValue]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one task."""

    task_id: str
    kind: Literal["ok", "error", "crash", "timeout"]
    value: JSONValue = None
    error: BaseException | None = None
    """For `error`: what the worker raised, never retried. For `crash` and `timeout`: what is known."""
    attempts: int = 1


class Executor(Protocol):
    """Runs tasks somewhere."""

    workers: int

    def run(self, spec: StageSpec, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """Exactly one `Outcome` for each task, in any order; never raises for one bad task."""

    def close(self) -> None:
        """Stop the workers; running tasks are dropped."""


EXECUTORS: Registry[type[Executor]] = Registry(
    "executor",
    {
        "inline": "sspruning.execution.inline:InlineExecutor",
        "local": "sspruning.execution.processes:ProcessExecutor",
        "ray": "sspruning.execution.ray_cluster:RayExecutor",
    },
)


def make_executor(
    name: str,
    workers: int | None,
    timeout_s: float | None = None,
    *,
    gpus_per_worker: float | None = 0,
    address: str | None = None,
) -> Executor:
    """An executor of the table, ready to run tasks; close it when done.

    Args:
        name: of the table.
        workers: how many work side by side; None only for an executor that can tell by itself (ray).
        timeout_s: seconds after which a task is given up; None for no limit.
        gpus_per_worker: GPUs that a worker has for itself; None for 1 where there are any; 0 to leave that to the task.
        address: of the cluster, for an executor that has one.

    Raises:
        UsageError: no such executor.
        MachineError: a package that it needs is not installed.
    """
    build = EXECUTORS.resolve(name)
    return build(workers=workers, timeout_s=timeout_s, gpus_per_worker=gpus_per_worker, address=address)  # ty: ignore[unknown-argument]
