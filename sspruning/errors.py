"""The tree of errors. Every one carries the exit code that the command line ends with.

SSPruningError
├── UsageError            2   a request that cannot be served: wrong flag, wrong path, wrong combination
│   └── ConfigError       2   a configuration key or value
├── DataError             3   the data are not what they must be
│   ├── ShardError        3   a shard is damaged or breaks the webdataset rules; carries path and offset
│   ├── StoreError        3   a store, prototypes, scores or selection file is damaged or does not belong here
│   └── QuarantineError   3   the work is done except for shards that were put aside
├── InterruptedRunError   4   stopped by a signal; running the same command again goes on from there
└── MachineError          5   the machine lacks something: disk, memory, device, an optional package
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "DataError",
    "InterruptedRunError",
    "MachineError",
    "QuarantineError",
    "SSPruningError",
    "ShardError",
    "StoreError",
    "UsageError",
]


class SSPruningError(Exception):
    """Base of every error that sspruning raises on purpose."""

    exit_code = 1


class UsageError(SSPruningError):
    """The request cannot be served as it stands."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration key is unknown or a value is outside its range."""


class DataError(SSPruningError):
    """The data are not what they must be."""

    exit_code = 3


class ShardError(DataError):
    """A shard is damaged or breaks the webdataset rules.

    Args:
        path: the shard.
        offset: byte offset of the first thing that is wrong.
        problem: what is wrong, what was expected, what to do.
    """

    def __init__(self, path: str, offset: int, problem: str) -> None:
        super().__init__(f"{path}: at byte {offset}: {problem}")
        self.path = path
        self.offset = offset
        self.problem = problem

    def __reduce__(self) -> tuple[type[ShardError], tuple[str, int, str]]:
        """Keep all three parts when the error crosses a process boundary."""
        return type(self), (self.path, self.offset, self.problem)


class StoreError(DataError):
    """A store, prototypes, scores or selection file is damaged or does not belong here."""


class QuarantineError(DataError):
    """All work that could be done is done, but some shards were put aside."""


class InterruptedRunError(SSPruningError):
    """The run was stopped by a signal; the same command goes on from where it stopped."""

    exit_code = 4


class MachineError(SSPruningError):
    """The machine lacks something: disk space, memory, a device, an optional package."""

    exit_code = 5
