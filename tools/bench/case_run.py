"""A whole ``sspruning run`` as a command, against the forward passes of the same images alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench.bound import ForwardOnly, prepared_images, resolved
from bench.context import Context, interleave, seconds
from bench.memory import RSS_NOTE, run_watched
from bench.rows import Row, alone, compared
from sspruning.config import load_config
from sspruning.storage.artifacts import SelectionFile
from sspruning.storage.store import Store

__all__ = ["measure"]

CONFIG = "configs/quickstart.yaml"
KEEP = 0.7
WATCHED = 3


def _overrides(context: Context, folder: Path) -> list[str]:
    spec = context.encoder
    settings = [
        f"corpus.input={context.pattern}",
        f"select.keep_fraction={KEEP}",
        f"paths.run_dir={folder / 'run'}",
        f"paths.output={folder / 'pruned'}",
    ]
    if spec.checkpoint is not None:
        settings += [
            f"encoder.model={spec.model}", f"encoder.checkpoint={spec.checkpoint}",
            f"encoder.image_size={spec.image_size}",
        ]  # fmt: skip
    return [*settings, "cluster.n_clusters=null"] if context.smoke else settings


def _command(context: Context, folder: Path) -> list[str]:
    command = [sys.executable, "-m", "sspruning", "run", CONFIG, "--workers", str(context.workers)]
    for text in _overrides(context, folder):
        command += ["--set", text]
    return command


def measure(context: Context) -> list[Row]:
    def ours() -> float:
        command = _command(context, context.folder("run"))

        def work() -> None:
            done = subprocess.run(command, cwd=context.repository, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-4000:]}")

        return seconds(work)

    # Runs by themselves for memory: watching takes time, so they are not among the timed ones.
    peaks = []
    for _ in range(min(WATCHED, context.repeats)):
        folder = context.folder("run")
        peaks.append(run_watched(_command(context, folder), context.repository))
    worst = max(peaks, key=lambda peak: peak.pss)
    store = Store(folder / "run" / "store")
    kept = SelectionFile.open(folder / "run" / "selection.parquet").selection.n_kept
    config = load_config(context.repository / CONFIG, _overrides(context, folder))
    spec = resolved(config.encoder.spec(), store.path)
    images = prepared_images(context, context.corpus, spec, "run-images")
    count = store.n_rows
    with ForwardOnly(spec, images, context.workers, 1) as forward:
        forward.seconds()
        times = interleave(context.repeats, {"ours": ours, "forward": forward.seconds}, warm_up=False)
    what = f"sspruning run, {count} images to {kept}, {context.workers} workers"
    return [
        compared(
            "run", f"{what}: wall", "s", times["ours"], f"s, forward-only, {forward.name}", times["forward"],
            target="ratio <= 1.8", note=f"whole process, start-up included; {spec.dtype} both",
        ),
        alone(
            "run", f"{what}: peak PSS of the process tree", "GB", [peak.pss / 1e9 for peak in peaks],
            target="value < 1.5", note=f"runs by themselves; worst: {worst.described}",
        ),
        alone("run", f"{what}: peak sum of RSS", "GB", [peak.rss / 1e9 for peak in peaks], note=RSS_NOTE),
    ]  # fmt: skip
