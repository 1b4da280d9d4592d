"""What the executor tests run inside workers. Imported by name there, so it stands in a module of its own."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from sspruning.errors import ConfigError, ShardError
from sspruning.execution import worker

BUILT: list[str] = []


def refuse_to_start(owner, gpus):
    """Stands in for a worker that cannot start."""
    os._exit(1)


class FussyError(Exception):
    """Pickles, but cannot be unpickled: its two arguments are lost on the way."""

    def __init__(self, code, reason):
        super().__init__(f"{code}: {reason}")


class UnreadableError(Exception):
    """Unpickles with an error of a kind that nobody expects."""

    def __init__(self, number):
        super().__init__(int(number) + 1 if number != "again" else "again")
        self.args = ("seven",)


def load_fatally(counter):
    """Ends the process that unpickles it, the first time."""
    with Path(counter).open("a") as stream:
        stream.write("x")
    if len(Path(counter).read_text()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)


class FatalOnce:
    """A task with this in it kills the worker while it takes the task, before any of it is done."""

    def __init__(self, counter):
        self.counter = counter

    def __reduce__(self):
        return load_fatally, (self.counter,)


class Job:
    """Does what the payload says; knows how often it was built."""

    def __init__(self, *, name="job", log=None):
        self.name = name
        BUILT.append(name)
        if log is not None:
            with Path(log).open("a") as stream:
                stream.write(f"{os.getpid()} {name}\n")

    def __call__(self, payload):
        do = payload["do"]
        return getattr(self, do)(payload)

    def square(self, payload):
        return payload["x"] ** 2

    def who(self, payload):
        return [os.getpid(), self.name]

    def raise_value_error(self, payload):
        raise ValueError("a plain mistake")

    def raise_shard_error(self, payload):
        raise ShardError("a.tar", 512, "cut off")

    def raise_config_error(self, payload):
        raise ConfigError("no such key")

    def raise_timeout_error(self, payload):
        raise TimeoutError("the file server did not answer")

    def raise_fussy(self, payload):
        raise FussyError(4, "four")

    def raise_unreadable(self, payload):
        raise UnreadableError("6")

    def leave(self, payload):
        sys.exit(3)

    def count_then_raise(self, payload):
        self._count(payload)
        raise ValueError("counted")

    def die(self, payload):
        self._count(payload)
        os.kill(os.getpid(), signal.SIGKILL)

    def die_once(self, payload):
        if self._count(payload) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return "survived"

    def die_with_a_child_that_lives_on(self, payload):
        if self._count(payload) == 1:
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
            Path(payload["child"]).write_text(str(child.pid))
            os.kill(os.getpid(), signal.SIGKILL)
        return "survived"

    def fail_transiently(self, payload):
        if self._count(payload) <= payload["times"]:
            raise ShardError("a.tar", 0, "cannot be read") from OSError(errno.EIO, "the disk gives no answer")
        return "in the end"

    def hand_back_what_cannot_travel(self, payload):
        return lambda: None

    def hearing(self, payload):
        masked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        return [signal.getsignal(signal.SIGINT) == signal.SIG_IGN, sorted(masked)]

    def sleep(self, payload):
        time.sleep(payload["seconds"])
        return "awake"

    def tell_pid_and_sleep(self, payload):
        Path(payload["file"]).write_text(str(os.getpid()))
        time.sleep(payload["seconds"])

    def environment(self, payload):
        time.sleep(payload.get("seconds", 0))
        return [os.environ.get(name) for name in payload["names"]]

    def owner(self, payload):
        found = worker.owner()
        return [found.host, found.pid]

    def tell_pid_and_sleep_once(self, payload):
        if self._count(payload) == 1:
            self.tell_pid_and_sleep(payload)
        return "survived"

    def threads(self, payload):
        return [os.environ.get("OMP_NUM_THREADS"), os.environ.get("OPENBLAS_NUM_THREADS")]

    @staticmethod
    def _count(payload):
        path = Path(payload["counter"])
        with path.open("a") as stream:
            stream.write("x")
        return len(path.read_text())
