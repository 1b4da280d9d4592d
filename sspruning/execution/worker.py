"""What runs inside a worker: build the stage's target once, then call it for every task."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Callable
from typing import cast

from sspruning.execution import StageSpec, Task
from sspruning.records import JSONValue

__all__ = ["run_task", "run_task_apart"]

_built: dict[str, Callable[[dict[str, JSONValue]], JSONValue]] = {}


def run_task(spec: StageSpec, task: Task) -> JSONValue:
    """Value of one task. What ``spec`` names is built at the first call and kept for the life of the process."""
    identity = repr(spec)
    if identity not in _built:
        module, _, attribute = spec.target.partition(":")
        build = getattr(importlib.import_module(module), attribute)
        _built[identity] = cast("Callable[[dict[str, JSONValue]], JSONValue]", build(**spec.kwargs))
    return _built[identity](task.payload)


def run_task_apart(spec: StageSpec, task: Task) -> JSONValue:
    """`run_task` in a process of its own: whatever it raises is an `Exception` that can travel to the driver.

    An exception that cannot be unpickled there would break the whole pool, and SystemExit would end the driver.
    """
    try:
        return run_task(spec, task)
    except BaseException as error:
        if _can_travel(error):
            raise
        raise RuntimeError(f"{type(error).__name__}: {error}") from error


def _can_travel(error: BaseException) -> bool:
    """True if ``error`` is an ordinary exception that survives pickling."""
    try:
        return isinstance(error, Exception) and type(pickle.loads(pickle.dumps(error))) is type(error)  # noqa: S301
    except Exception:  # noqa: BLE001 - reduce methods of foreign exceptions may raise anything
        return False
