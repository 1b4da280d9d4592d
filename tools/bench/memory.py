"""Peak memory of a process and all its descendants, read from /proc while it runs."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["RSS_NOTE", "TreeMemory", "run_watched"]

EVERY_S = 0.05
RSS_NOTE = "not judged: counts a library that several processes share once for each of them"


@dataclass(slots=True)
class TreeMemory:
    """Peaks in bytes, and wall time in seconds, of a process tree."""

    pss: int = 0
    """Of all processes together, shared pages counted once, whether or not this program shares them too."""
    rss: int = 0
    """Of all processes together, shared pages counted for each."""
    largest_rss: int = 0
    """Of the one process that took most, by the kernel's own high-water mark."""
    processes: int = 0
    seconds: float = 0.0
    _marks: dict[int, int] = field(default_factory=dict)

    @property
    def bound(self) -> int:
        """No less than the true peak: every process's own high-water mark, summed as if all had come at once."""
        return sum(self._marks.values())

    @property
    def described(self) -> str:
        """What is not in the judged figure, for a note."""
        return (
            f"{self.processes} processes; RSS of the largest {self.largest_rss / 1e9:.2f} GB, "
            f"sum of every process's own peak RSS {self.bound / 1e9:.2f} GB; sampled every {EVERY_S * 1000:.0f} ms"
        )

    def sample(self, root: int) -> None:
        """Take the tree below process ``root`` into account as it is now."""
        rss = count = 0
        pss = _shared_with_us()
        for pid in _tree(root):
            with suppress(OSError):  # it may have ended since
                figures = _kilobytes(f"/proc/{pid}/smaps_rollup")
                pss, rss, count = pss + figures["Pss"], rss + figures["Rss"], count + 1
                self._marks[pid] = max(self._marks.get(pid, 0), _kilobytes(f"/proc/{pid}/status")["VmHWM"])
        pss = min(pss, rss)  # our part may hold pages that the tree does not have; no page of the tree is not in RSS
        self.pss, self.rss, self.processes = max(self.pss, pss), max(self.rss, rss), max(self.processes, count)
        self.largest_rss = max(self._marks.values(), default=0)


def run_watched(command: Sequence[str], folder: Path) -> TreeMemory:
    """Peaks of ``command`` run in ``folder``, with everything it starts.

    Raises:
        RuntimeError: the command failed; its output is the message.
    """
    if not Path("/proc/self/smaps_rollup").exists():
        raise RuntimeError("memory is read from /proc/PID/smaps_rollup, which this system does not have")
    found = TreeMemory()
    start = time.perf_counter()
    with (
        tempfile.TemporaryFile() as output,
        subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        ) as process,
    ):
        while process.poll() is None:
            found.sample(process.pid)
            with suppress(subprocess.TimeoutExpired):
                process.wait(EVERY_S)
        found.seconds = time.perf_counter() - start
        output.seek(0)
        text = output.read().decode(errors="replace")
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{text[-4000:]}")
    return found


def _tree(root: int) -> list[int]:
    """``root`` and its descendants."""
    children = defaultdict(list)
    for name in os.listdir("/proc"):  # noqa: PTH208 - hundreds of entries, twenty times a second
        if name.isdigit():
            with suppress(OSError):
                stat = Path(f"/proc/{name}/stat").read_text(encoding="utf-8", errors="replace")
                children[int(stat.rpartition(")")[2].split()[1])].append(int(name))
    found = [root]
    for pid in found:
        found.extend(children[pid])
    return found


def _kilobytes(path: str) -> defaultdict[str, int]:
    """Bytes of the ``Name:   123 kB`` lines of a file."""
    found: defaultdict[str, int] = defaultdict(int)
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, rest = line.partition(":")
        if rest.endswith(" kB"):
            found[name] += int(rest.split()[0]) * 1024
    return found


def _shared_with_us() -> int:
    """This program's part of pages that it shares, such as libraries: so much is missing in the watched tree's PSS."""
    own = _kilobytes("/proc/self/smaps_rollup")
    return own["Pss"] - own["Private_Clean"] - own["Private_Dirty"]
