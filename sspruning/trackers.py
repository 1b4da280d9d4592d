"""Progress for monitoring: a text file for Prometheus, scalars for TensorBoard, a run of Weights & Biases."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sspruning.errors import MachineError, UsageError
from sspruning.progress import Progress, Ticker, peak_bytes

__all__ = ["Prometheus", "StageState", "TensorBoard", "TrackedProgress", "Tracker", "WeightsAndBiases", "tracked"]


@dataclass(slots=True)
class StageState:
    """How far a stage is."""

    name: str
    unit: str
    total: int | None
    done: int = 0
    seconds: float = 0.0
    """Since its start."""
    per_second: float = 0.0
    """Mean since its start."""
    peak_bytes: int | None = None
    """The most memory that this process has held so far, workers not counted."""


class Tracker(Protocol):
    """Something outside that is told how far a run is."""

    every_s: float
    """Seconds between two reports of a stage at least; its start and its end are always reported."""

    def tell(self, stage: StageState) -> None:
        """Take the state of a stage."""
        ...

    def close(self, *, finished: bool) -> None:
        """Take the end of the run; ``finished`` is False if an error or a signal ended it."""
        ...


_STAGE_METRICS: dict[str, tuple[str, Callable[[StageState], float | None]]] = {
    "sspruning_stage_done": ("Units of the stage that are done.", lambda stage: stage.done),
    "sspruning_stage_total": ("Units of the stage, where known.", lambda stage: stage.total),
    "sspruning_stage_per_second": ("Mean units per second since the stage began.", lambda stage: stage.per_second),
    "sspruning_stage_seconds": ("Seconds that the stage has taken.", lambda stage: stage.seconds),
}


class Prometheus:
    """A text file that node_exporter's textfile collector picks up; replaced whole, at most once a second.

    Metrics, all gauges: `sspruning_stage_done`, `_total`, `_per_second` and `_seconds` with the labels `run`, `stage`
    and `unit`; `sspruning_peak_bytes`, `sspruning_run_active` and `sspruning_run_finished` with `run`, the file's name
    without ``.prom``, which keeps apart runs that share a folder. A run that is neither active nor finished has failed;
    one that was killed stays active, and the age of its file (`node_textfile_mtime_seconds`) tells.
    """

    every_s = 1.0

    def __init__(self, path: Path) -> None:
        """Write the file for the first time.

        Raises:
            UsageError: its name does not end in ``.prom``.
            MachineError: it cannot be written.
        """
        if path.suffix != ".prom":
            raise UsageError(f"paths.prometheus: {path}: node_exporter only reads files whose names end in .prom")
        self._path = path
        self._stages: dict[str, StageState] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write(active=True, finished=False)
        except OSError as error:
            raise MachineError(
                f"paths.prometheus: {path}: cannot be written ({error.strerror}); name another file"
            ) from error

    def tell(self, stage: StageState) -> None:
        """Write the file with the new state of the stage."""
        self._stages[stage.name] = stage
        self._write(active=True, finished=False)

    def close(self, *, finished: bool) -> None:
        """Write the file for the last time."""
        self._write(active=False, finished=finished)

    def _write(self, *, active: bool, finished: bool) -> None:
        text = _exposition(self._path.stem, list(self._stages.values()), active=active, finished=finished)
        fresh = self._path.with_name(f".{self._path.name}.unfinished")
        fresh.write_text(text, encoding="utf-8", newline="\n")
        os.replace(fresh, self._path)  # noqa: PTH105 - over what stands there, on every system


def _exposition(run: str, stages: list[StageState], *, active: bool, finished: bool) -> str:
    """Prometheus' text format, version 0.0.4."""
    peaks = [stage.peak_bytes for stage in stages if stage.peak_bytes is not None]
    lines = []
    for name, (meaning, value_of) in _STAGE_METRICS.items():
        lines += [f"# HELP {name} {meaning}", f"# TYPE {name} gauge"]
        for stage in stages:
            value = value_of(stage)
            if value is not None:
                lines.append(f"{name}{_labels(run=run, stage=stage.name, unit=stage.unit)} {value!r}")
    for name, meaning, value in (
        ("sspruning_peak_bytes", "Most memory that the main process has held.", max(peaks, default=None)),
        ("sspruning_run_active", "1 while the run works.", int(active)),
        ("sspruning_run_finished", "1 when the run has ended without an error.", int(finished)),
    ):
        if value is not None:
            lines += [f"# HELP {name} {meaning}", f"# TYPE {name} gauge", f"{name}{_labels(run=run)} {value!r}"]
    return "\n".join(lines) + "\n"


def _labels(**labels: str) -> str:
    escaped = {
        name: value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for name, value in labels.items()
    }
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped.items()) + "}"


def _scalars(stage: StageState) -> dict[str, float]:
    """What TensorBoard and Weights & Biases draw of a stage, by name."""
    found: dict[str, float] = {f"{stage.name}/done": stage.done, f"{stage.name}/per_second": stage.per_second}
    if stage.peak_bytes is not None:
        found[f"{stage.name}/peak_bytes"] = stage.peak_bytes
    return found


class TensorBoard:
    """Scalars `STAGE/done`, `STAGE/per_second` and `STAGE/peak_bytes`, in a folder for each start of a run.

    The step is the number of units that are done.
    """

    every_s = 10.0

    def __init__(self, folder: Path) -> None:
        """Begin an event file in a new folder, named by date and time, below ``folder``.

        Raises:
            MachineError: tensorboard is not installed, or the folder cannot be written.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MachineError(f"paths.tensorboard: {error}; install it with: pip install tensorboard") from error
        try:
            self._writer = SummaryWriter(str(folder / time.strftime("%Y%m%d-%H%M%S")))
        except OSError as error:
            raise MachineError(
                f"paths.tensorboard: {folder}: cannot be written ({error.strerror}); name another folder"
            ) from error

    def tell(self, stage: StageState) -> None:
        """Add a point to each curve of the stage."""
        if stage.done:
            for name, value in _scalars(stage).items():
                self._writer.add_scalar(name, value, stage.done)

    def close(self, *, finished: bool) -> None:
        """Write what is left."""
        del finished
        self._writer.close()


class WeightsAndBiases:
    """A run of a project: the same curves as `TensorBoard`. ``WANDB_MODE`` and the like say where it goes."""

    every_s = 10.0

    def __init__(self, project: str) -> None:
        """Begin a run.

        Raises:
            MachineError: wandb is not installed, or cannot begin: no key, no network.
        """
        wandb: Any = None
        with suppress(ImportError):
            wandb = importlib.import_module("wandb")
        if not hasattr(wandb, "init"):  # a folder of logs called wandb can be imported as well
            raise MachineError("paths.wandb: the package is not installed; install it with: pip install wandb")
        try:
            self._run: Any = wandb.init(project=project)
        except (wandb.Error, OSError) as error:
            raise MachineError(
                f"paths.wandb: no run of the project {project!r} could begin ({error}); "
                "log in with `wandb login`, or set WANDB_MODE=offline"
            ) from error

    def tell(self, stage: StageState) -> None:
        """Add a point to each curve of the stage."""
        if stage.done:
            self._run.log(_scalars(stage))

    def close(self, *, finished: bool) -> None:
        """End the run, as failed if it did not finish."""
        self._run.finish(exit_code=0 if finished else 1)


class _Ticks:
    """Counts for the inner ticker, and tells the trackers now and then."""

    def __init__(self, inner: Ticker, state: StageState, trackers: list[Tracker], tell: Callable[..., None]) -> None:
        self._inner, self._state, self._tell = inner, state, tell
        self._started = time.monotonic()
        self._due = [(tracker, self._started + tracker.every_s) for tracker in trackers]
        self._next = min((due for _, due in self._due), default=float("inf"))

    def tick(self, count: int = 1) -> None:
        self._inner.tick(count)
        self._state.done += int(count)  # numpy's integers print otherwise
        now = time.monotonic()
        if now >= self._next:
            self.measure(now)
            for place, (tracker, due) in enumerate(self._due):
                if now >= due:
                    self._due[place] = (tracker, now + tracker.every_s)
                    self._tell(tracker, self._state)
            self._next = min(due for _, due in self._due)

    def measure(self, now: float) -> None:
        state = self._state
        state.seconds = now - self._started
        state.per_second = state.done / state.seconds if state.seconds > 0 else 0.0
        state.peak_bytes = peak_bytes()


class TrackedProgress:
    """Passes everything on to another progress, and tells trackers of each stage.

    A tracker that fails later on never stops the work: a note says so once, and the tracker is told again next time.
    """

    def __init__(self, inner: Progress, trackers: list[Tracker]) -> None:
        """Nothing is told yet."""
        self._inner, self._trackers = inner, trackers
        self._warned: set[int] = set()

    @contextmanager
    def stage(self, name: str, total: int | None, unit: str) -> Generator[Ticker]:
        """The stage of the inner progress; trackers hear of its start, now and then, and of its end."""
        with self._inner.stage(name, total, unit) as inner:
            state = StageState(name=name, unit=unit, total=total)
            ticks = _Ticks(inner, state, self._trackers, self._tell)
            self._tell_all(state)
            try:
                yield ticks
            finally:
                ticks.measure(time.monotonic())
                self._tell_all(state)

    def note(self, text: str) -> None:
        """Pass the note on."""
        self._inner.note(text)

    def event(self, kind: str, **facts: object) -> None:
        """Pass the event on."""
        self._inner.event(kind, **facts)

    def close(self, *, finished: bool) -> None:
        """Tell all trackers that the run has ended."""
        for tracker in self._trackers:
            self._guarded(tracker, lambda tracker=tracker: tracker.close(finished=finished))

    def _tell_all(self, state: StageState) -> None:
        for tracker in self._trackers:
            self._tell(tracker, state)

    def _tell(self, tracker: Tracker, state: StageState) -> None:
        self._guarded(tracker, lambda: tracker.tell(state))

    def _guarded(self, tracker: Tracker, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - a reading that is lost must not stop hours of work
            if id(tracker) not in self._warned:
                self._warned.add(id(tracker))
                self._inner.note(f"warning: {type(tracker).__name__} could not be told how far the run is ({error})")


@contextmanager
def tracked(
    progress: Progress,
    *,
    prometheus: str | Path | None = None,
    tensorboard: str | Path | None = None,
    wandb: str | None = None,
) -> Generator[Progress]:
    """A context manager around a whole run; yields a `Progress` that also tells what is asked for.

    Args:
        progress: gets everything, as before.
        prometheus: file for node_exporter's textfile collector, ``NAME.prom``.
        tensorboard: folder for TensorBoard's event files.
        wandb: project of Weights & Biases.

    Raises:
        UsageError: the file for Prometheus does not end in ``.prom``.
        MachineError: a library is missing, or a place cannot be written; before any work.
    """
    if not (prometheus or tensorboard or wandb):
        yield progress
        return
    trackers: list[Tracker] = []
    telling, finished = TrackedProgress(progress, trackers), False
    try:
        if tensorboard:
            trackers.append(TensorBoard(Path(tensorboard)))
        if wandb:
            trackers.append(WeightsAndBiases(wandb))
        if prometheus:
            trackers.append(Prometheus(Path(prometheus)))
        yield telling
        finished = True
    finally:
        telling.close(finished=finished)
