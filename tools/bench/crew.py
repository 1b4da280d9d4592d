"""Processes that do prepared work and nothing else: the "each alone, with all cores" side of a comparison."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

__all__ = ["Crew"]

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Crew:
    """``processes`` processes that stay warm between calls of `run` and cost nothing while they wait.

    Args:
        processes: how many.
        threads: of each process's libraries.
        target: ``module:callable``; called once in each process with ``kwargs``, it returns ``step(item) -> int``.
        kwargs: what it is called with.
    """

    def __init__(self, processes: int, threads: int, target: str, **kwargs: object) -> None:
        context = multiprocessing.get_context("spawn")
        self._counter = context.Value("q", 0)
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, self._counter, threads, target, kwargs))
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        for pipe in self._pipes:
            _answer(pipe)

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in self._pipes:
            pipe.close()  # a worker that waits sees the end of its pipe and leaves
        for process in self._processes:
            process.join(timeout=10)
            if process.is_alive():
                process.kill()

    def run(self, items: Sequence[Any]) -> tuple[float, int]:
        """Seconds until all ``items`` were done, each by whoever was free, and the sum of what the steps returned."""
        self._counter.value = 0
        start = time.perf_counter()
        for pipe in self._pipes:
            pipe.send(list(items))
        total = sum(_answer(pipe) for pipe in self._pipes)
        return time.perf_counter() - start, total


def _answer(pipe: Connection) -> int:
    try:
        kind, value = pipe.recv()
    except EOFError as error:
        raise RuntimeError("a benchmark process was killed") from error
    if kind == "error":
        raise RuntimeError(f"a benchmark process failed:\n{value}")
    return value


def _serve(pipe: Connection, counter: Any, threads: int, target: str, kwargs: dict[str, object]) -> None:
    """Life of one process: build the step, then do items until the pipe ends."""
    for variable in _THREADS:
        os.environ[variable] = str(threads)
    try:
        module, _, name = target.partition(":")
        step = getattr(importlib.import_module(module), name)(**kwargs)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
        pipe.send(("ready", 0))
        while True:
            items, done = pipe.recv(), 0
            while True:
                with counter.get_lock():
                    index = counter.value
                    counter.value += 1
                if index >= len(items):
                    break
                done += step(items[index])
            pipe.send(("done", done))
    except EOFError:
        return
    except Exception:  # noqa: BLE001 - whatever went wrong is for the parent to raise
        pipe.send(("error", traceback.format_exc()))
