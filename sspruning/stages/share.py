"""Which shards one task of several embeds: said by flags, or by the variables of SLURM and torchrun.

Shards are dealt out by their place in the sorted list of the whole corpus, so a job may go on with any other number of
tasks: what is committed stays, and the new tasks share what is left. Tasks never talk to each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sspruning.errors import UsageError
from sspruning.storage.corpus import Corpus

__all__ = ["WHOLE", "Share", "share_of"]

OFF = "give --num-workers 1 to embed everything here, or --num-workers and --worker-index"


@dataclass(frozen=True, slots=True)
class Share:
    """Every ``count``-th shard of a corpus, from the one at ``index`` on."""

    index: int = 0
    count: int = 1
    source: str = ""
    """Who said so, in words; for messages."""

    def __post_init__(self) -> None:
        """Check that there is such a share.

        Raises:
            UsageError: there is none.
        """
        if self.count < 1:
            raise UsageError(f"number of workers {self.count}: at least 1 is needed")
        if not 0 <= self.index < self.count:
            raise UsageError(
                f"worker index {self.index}: of {self.count} workers the indices are 0 to {self.count - 1}"
            )

    @property
    def task(self) -> tuple[int, int] | None:
        """(number, of how many) for people, from 1; None if the share is everything."""
        return None if self.count == 1 else (self.index + 1, self.count)

    @property
    def events(self) -> str:
        """Name of the events file: tasks on several hosts cannot append to one."""
        return "events.jsonl" if self.task is None else "events.task-{}-of-{}.jsonl".format(*self.task)

    def of(self, corpus: Corpus) -> Corpus:
        """The shards of this share, in corpus order."""
        return corpus if self.count == 1 else Corpus(corpus.shards[self.index :: self.count])

    def describe(self, corpus: Corpus) -> str:
        """What is whose, such as "task 2 of 3 (SLURM array): 17 of 50 shards"."""
        source = f" ({self.source})" if self.source else ""
        n = len(self.of(corpus).shards)
        return f"task {self.index + 1} of {self.count}{source}: {n:,} of {len(corpus.shards):,} shards"


WHOLE = Share()


def share_of(environment: Mapping[str, str], num_workers: int | None = None, worker_index: int | None = None) -> Share:
    """The `Share` that flags ask for; without flags the one that a scheduler's variables name; else everything.

    Looked at in this order: ``SLURM_ARRAY_TASK_ID`` with ``_COUNT``, ``_MIN``, ``_MAX`` and ``_STEP``; ``RANK`` and
    ``WORLD_SIZE`` (torchrun); ``SLURM_PROCID`` and ``SLURM_STEP_NUM_TASKS``, which `srun` sets. ``SLURM_NTASKS`` says
    nothing: a batch script sees it too, and runs once.

    Args:
        environment: variables by name.
        num_workers: tasks that share the corpus; 1 turns sharing off whatever the environment says.
        worker_index: which of them this is, from 0.

    Raises:
        UsageError: one flag without the other, or variables that are none or contradict each other.
    """
    if num_workers is not None:
        if worker_index is None and num_workers > 1:
            raise UsageError("--num-workers without --worker-index: say which of them this is, from 0")
        return Share(worker_index or 0, num_workers)
    if worker_index is not None:
        raise UsageError("--worker-index without --num-workers: say how many there are")
    array = _array(environment)
    inner = _counted(environment, "RANK", "WORLD_SIZE", "torchrun") or _step(environment)
    if array.count > 1 and inner.count > 1:
        raise UsageError(
            f"the tasks of the SLURM array start {inner.count} processes each ({inner.source}), and which of them "
            f"takes what is not clear; start one process in each task, or {OFF}"
        )
    return inner if inner.count > 1 else array


def _array(environment: Mapping[str, str]) -> Share:
    """The share of a task of a SLURM job array."""
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return WHOLE
    if "SLURM_ARRAY_TASK_COUNT" not in environment:
        raise UsageError(f"SLURM_ARRAY_TASK_ID is set, SLURM_ARRAY_TASK_COUNT is not; {OFF}")
    task, count = (_number(environment, f"SLURM_ARRAY_TASK_{name}") for name in ("ID", "COUNT"))
    if count == 1:
        return WHOLE
    first = _number(environment, "SLURM_ARRAY_TASK_MIN", 0)
    step = _number(environment, "SLURM_ARRAY_TASK_STEP", 1)
    last = _number(environment, "SLURM_ARRAY_TASK_MAX", first + (count - 1) * step)
    index, rest = divmod(task - first, step) if step > 0 else (-1, 1)
    if rest or not 0 <= index < count or last != first + (count - 1) * step:
        raise UsageError(
            f"task {task} of a SLURM array from {first} to {last} in steps of {step} with {count} tasks: the numbers "
            "have gaps, so which shards are whose is not clear. Submit an array without gaps (what is done is not "
            f"done again), or {OFF}"
        )
    return Share(index, count, "SLURM array")


def _step(environment: Mapping[str, str]) -> Share:
    """The share of one of several processes that `srun` started."""
    if "SLURM_STEP_NUM_TASKS" not in environment:
        return WHOLE
    return _counted(environment, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "srun") or WHOLE


def _counted(environment: Mapping[str, str], rank: str, count: str, source: str) -> Share | None:
    """The share that two variables tell; None without them."""
    there = [name for name in (rank, count) if name in environment]
    if not there:
        return None
    if len(there) == 1:
        missing = count if there == [rank] else rank
        raise UsageError(f"{there[0]} is set, {missing} is not; {OFF}")
    index, of = _number(environment, rank), _number(environment, count)
    if not 0 <= index < of:
        raise UsageError(f"{rank}={index} and {count}={of} contradict each other; {OFF}")
    return Share(index, of, source) if of > 1 else WHOLE


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    """A variable that is a whole number."""
    text = environment.get(name, "" if default is None else str(default))
    try:
        return int(text)
    except ValueError as error:
        raise UsageError(f"{name}={text!r} is no whole number; {OFF}") from error
