"""The os calls of the commit protocol, counted and, at one of them, made to fail or to be the last.

Installed in a process that does the work of one verb. Only calls that concern files below one folder count, so that
what an interpreter does for itself neither counts nor fails.
"""

import errno
import os
import signal
import sys
from pathlib import Path

CALLS = ("open", "write", "fsync", "close", "replace", "rename", "link", "unlink", "mkdir", "rmdir")
ON_DESCRIPTORS = ("write", "fsync", "close")
KILL, TORN = "kill", "torn"
FREEING = ("close", "unlink", "rmdir")  # a full disk does not mind these


class Shim:
    """Counts the calls below ``root`` and applies ``fault`` to call number ``at``, counted from 1.

    Args:
        root: folder whose files count.
        at: number of the call; 0 for none.
        fault: ``kill``; ``torn``, a kill after half of the bytes are written; or the name of an errno.
        lasting: from that call on, every call that needs the disk fails in the same way; with EINTR every second one.
    """

    def __init__(self, root, at=0, fault=None, lasting=False):
        self.root = os.path.realpath(root)
        self.at, self.fault, self.lasting = at, fault, lasting
        self.calls = []
        """(call, path, target) of each call that counted; the target is that of a rename or a link."""
        self.elsewhere = set()
        """Files that were opened for writing past these calls."""
        self.open_files = {}
        self._spared = True
        self._real = {name: getattr(os, name) for name in CALLS}

    def install(self):
        """Put the shim between Python and the system, for the rest of this process."""
        for name in CALLS:
            setattr(os, name, self._watched(name))
        sys.addaudithook(self._audit)

    def _watched(self, name):
        def call(*args, **kwargs):
            place = self.open_files.get(args[0]) if name in ON_DESCRIPTORS else self._place(name, args, kwargs)
            if place is None:
                return self._real[name](*args, **kwargs)
            target = _path(args[1]) if name in {"replace", "rename", "link"} else None
            self.calls.append((name, place, target))
            if len(self.calls) == self.at or (self.lasting and 0 < self.at < len(self.calls)):
                self._strike(name, args)
            if name == "fsync":  # takes time, and a kill cannot show whether it was done
                return None
            try:
                done = self._real[name](*args, **kwargs)
            except OSError:
                self.calls[-1] = (f"{name} refused", place, target)
                raise
            if name == "open":
                self.open_files[done] = place
            elif name == "close":
                del self.open_files[args[0]]
            return done

        return call

    def _strike(self, name, args):
        if self.fault == TORN and name == "write":
            self._real["write"](args[0], memoryview(args[1])[: len(args[1]) // 2])
        if self.fault in (KILL, TORN):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.lasting and (name in FREEING or self._interrupted_before(name)):
            return
        if name == "close":
            self._real["close"](args[0])
            del self.open_files[args[0]]
        number = getattr(errno, self.fault)
        raise OSError(number, os.strerror(number))

    def _interrupted_before(self, name):
        """True for calls that a lasting EINTR spares: every second one, and those that the protocol does not repeat."""
        if self.fault != "EINTR":
            return False
        self._spared = not self._spared
        return self._spared or name in {"mkdir", "rename"}

    def _place(self, name, args, kwargs):
        """The path that a call concerns, if it counts: below the root, and not only to be read."""
        path = _path(args[0], kwargs.get("dir_fd"))
        if path != self.root and not path.startswith(self.root + os.sep):
            return None
        reads = name == "open" and not args[1] & (os.O_WRONLY | os.O_RDWR) and not Path(path).is_dir()
        return None if reads else path

    def _audit(self, event, args):
        if event == "open" and isinstance(args[0], str | bytes | os.PathLike) and set(args[1] or "") & set("wxa+"):
            path = _path(args[0])
            if path.startswith(self.root + os.sep):
                self.elsewhere.add(path)


def _path(path, folder=None):
    """Absolute path of what a call names, in the open folder that it may be relative to."""
    base = Path.cwd() if folder is None else Path(f"/proc/self/fd/{folder}").readlink()
    return os.path.abspath(base / os.fsdecode(path))  # noqa: PTH100 - a link is where it stands
