"""Progress: silent in the library, a bar on a terminal, a line a minute elsewhere, events.jsonl where asked for."""

from __future__ import annotations

import json
import sys
import time
import unicodedata
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Protocol

from sspruning.errors import MachineError

__all__ = ["ConsoleProgress", "Progress", "SilentProgress", "Ticker", "duration", "escaped", "peak_bytes"]

LINE_EVERY_S = 60.0


class Ticker(Protocol):
    """Counts what is done of one stage."""

    def tick(self, count: int = 1) -> None:
        """``count`` more units are done."""
        ...


class Progress(Protocol):
    """Where a stage tells how far it is."""

    def stage(self, name: str, total: int | None, unit: str) -> AbstractContextManager[Ticker]:
        """A context manager around the work of one stage; yields its `Ticker`."""
        ...

    def note(self, text: str) -> None:
        """Tell people something they should know."""
        ...

    def event(self, kind: str, **facts: object) -> None:
        """Tell machines something, as one line of ``events.jsonl``."""
        ...


class _Count:
    def __init__(self) -> None:
        self.done = 0

    def tick(self, count: int = 1) -> None:
        self.done += count


def peak_bytes() -> int | None:
    """The most memory that this process has held so far, workers not counted; None where that is not told."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class SilentProgress:
    """Tells nobody, except ``events.jsonl`` if a path is given."""

    def __init__(self, events: Path | None = None) -> None:
        """Append events to the file ``events``."""
        self._events = events

    @contextmanager
    def stage(self, name: str, total: int | None, unit: str) -> Generator[Ticker]:
        """Time the stage and record it as an event."""
        started, counter = time.monotonic(), self._counter(name, total, unit)
        self.event("start", stage=name, total=total, unit=unit)
        ended = "interrupted"
        try:
            yield counter
            ended = "end"
        finally:
            seconds = time.monotonic() - started
            self._finish(counter, name, unit, seconds)
            rate = counter.done / seconds if seconds > 0 else 0.0
            self.event(
                ended,
                stage=name,
                done=counter.done,
                seconds=round(seconds, 3),
                per_second=round(rate, 1),
                peak_bytes=peak_bytes(),
            )

    def _counter(self, name: str, total: int | None, unit: str) -> _Count:
        del name, total, unit
        return _Count()

    def _finish(self, counter: _Count, name: str, unit: str, seconds: float) -> None:
        pass

    def note(self, text: str) -> None:
        """Record the note as an event."""
        self.event("note", text=text)

    def event(self, kind: str, **facts: object) -> None:
        """Append one JSON line.

        Raises:
            MachineError: the disk does not take it.
        """
        if self._events is None:
            return
        text = json.dumps({"time": round(time.time(), 3), "event": kind, **facts}, default=str)
        plain = json.loads(text, parse_constant=lambda _: None)  # NaN and infinity are no JSON
        try:
            self._events.parent.mkdir(parents=True, exist_ok=True)
            with self._events.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(plain) + "\n")
        except OSError as error:
            raise MachineError(
                f"{self._events}: the log cannot be written ({error.strerror or error}); free some space or move it "
                "away, then run the same command again, it goes on from here"
            ) from error


class _LineCount(_Count):
    """A line a minute, for logs of batch jobs."""

    def __init__(self, name: str, total: int | None, unit: str, stream: IO[str]) -> None:
        super().__init__()
        self.name, self.total, self.unit, self.stream = name, total, unit, stream
        self.started = self.said = time.monotonic()

    def tick(self, count: int = 1) -> None:
        super().tick(count)
        now = time.monotonic()
        if now - self.said >= LINE_EVERY_S:
            self.said = now
            rate = self.done / (now - self.started)
            of = f" of {self.total:,}" if self.total else ""
            left = f", {duration((self.total - self.done) / rate)} left" if self.total and rate > 0 else ""
            self.stream.write(f"{self.name}: {self.done:,}{of} {self.unit}, {rate:,.0f}/s{left}\n")
            self.stream.flush()


class _BarCount(_Count):
    """A bar with rate and time left, for terminals."""

    def __init__(self, name: str, total: int | None, unit: str) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description:>10}"),
            BarColumn(bar_width=32),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} " + unit if total else "{task.completed:,.0f} " + unit),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        self.bar = Bar(*columns, console=Console(stderr=True), transient=True, refresh_per_second=5)
        self.task = self.bar.add_task(name, total=total, rate="")
        self.started = time.monotonic()
        self.bar.start()

    def tick(self, count: int = 1) -> None:
        super().tick(count)
        rate = self.done / max(time.monotonic() - self.started, 1e-9)
        self.bar.update(self.task, completed=self.done, rate=f"{rate:,.0f}/s")


class ConsoleProgress(SilentProgress):
    """For people: a bar on a terminal, a line a minute elsewhere; both on standard error."""

    def __init__(self, events: Path | None = None, *, stream: IO[str] | None = None, quiet: bool = False) -> None:
        """Write to ``stream`` (standard error); ``quiet`` leaves only notes that warn."""
        super().__init__(events)
        self._stream = sys.stderr if stream is None else stream
        self._quiet = quiet

    def _counter(self, name: str, total: int | None, unit: str) -> _Count:
        if self._quiet:
            return _Count()
        if self._stream.isatty():
            return _BarCount(name, total, unit)
        return _LineCount(name, total, unit, self._stream)

    def _finish(self, counter: _Count, name: str, unit: str, seconds: float) -> None:
        if isinstance(counter, _BarCount):
            counter.bar.stop()
        if not self._quiet and counter.done:
            rate = counter.done / max(seconds, 1e-9)
            self._stream.write(f"{name}: {counter.done:,} {unit} in {duration(seconds)} ({rate:,.0f}/s)\n")

    def note(self, text: str) -> None:
        """Print the note and record it."""
        super().note(text)
        if not self._quiet or text.startswith("warning"):
            self._stream.write(escaped(text) + "\n")


UNSHOWN = frozenset(["Cc", "Cf", "Cs", "Zl", "Zp"])  # control, bidirectional and other format characters, line ends


def escaped(text: str) -> str:
    """``text`` as a terminal may show it: what would move the cursor, colour, reverse or hide the rest is written out.

    Keys, suffixes and file names come from the corpus, and end up in messages. Line breaks stay.
    """
    if text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if character != "\n" and unicodedata.category(character) in UNSHOWN
        else character
        for character in text
    )


def duration(seconds: float) -> str:
    """A time for people: 12 s, 3 min 20 s, 5 h 02 min."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
