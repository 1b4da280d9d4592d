"""Ten million rows against one million: cluster, score and select; time a row without clustering, and peak memory."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from bench.case_memory import DIM, synthetic
from bench.context import Context
from bench.memory import TreeMemory, run_watched
from bench.rows import Row, alone, compared
from sspruning.stages.report_run import read_stages
from sspruning.stages.workspace import Workspace
from sspruning.storage.store import Store

__all__ = ["measure", "watched_select"]

PART_ROWS = 25_000
SAMPLED_EACH = 1000  # rows for each prototype: a million in all
CONSTANT = ("sample", "cluster")  # stages whose work is that of the sampled rows, however many there are
SELECT = """
import sys
from pathlib import Path
import sspruning
from sspruning.config import load_config
from sspruning.progress import SilentProgress
from sspruning.stages import streamed
if __name__ == "__main__":
    store, above, *settings = sys.argv[1:]
    if above:
        streamed.STREAM_ABOVE = int(above)
    sspruning.select(store, config=load_config(None, settings), progress=SilentProgress(Path(store) / "events.jsonl"))
"""


def watched_select(
    context: Context, store: Path, settings: list[str], above: int | None = None
) -> tuple[TreeMemory, dict[str, float]]:
    """Peaks of one `select` in a process of its own, and its seconds by stage; ``rest`` is what no stage tells of.

    Args:
        context: number of workers.
        store: what to select from.
        settings: besides the workers.
        above: number of samples from which on no ranks are made, if not the usual one.
    """
    workspace = Workspace.of(store)
    workspace.events.unlink(missing_ok=True)
    program = store.with_name("select_job.py")
    program.write_text(SELECT, encoding="utf-8")
    own = [f"execution.workers={context.workers}", *settings]
    peak = run_watched(
        [sys.executable, str(program), str(store), "" if above is None else str(above), *own], context.repository
    )
    stages = {stage.stage: stage.seconds for stage in read_stages(workspace)}
    return peak, {**stages, "rest": peak.seconds - sum(stages.values())}


def measure(context: Context) -> list[Row]:
    few, many, rows, k = (2, 20, 500, 10) if context.smoke else (40, 400, PART_ROWS, 1000)
    return measure_scale(context, few, many, rows, k)


def measure_scale(context: Context, few: int, many: int, rows: int, k: int) -> list[Row]:
    """Rows for stores of ``few`` and ``many`` parts, each made, measured and removed before the next."""
    small, large = (_once(context, parts, rows, k) for parts in (few, many))
    what = f"cluster+score+select hard 0.7, {many * rows} x {DIM} float16, k={k}, {context.workers} local workers"
    each = [1e6 * _linear(stages) / (parts * rows) for (_, stages), parts in ((small, few), (large, many))]
    taken = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in large[1].items())
    baseline = f"us a row, {few * rows} rows"
    return [
        alone(
            "scale", f"{what}: peak PSS of the process tree", "GB", [large[0].pss / 1e9], target="value < 3",
            note=f"{large[0].described}; {few * rows} rows: {small[0].pss / 1e9:.2f} GB",
        ),
        alone("scale", f"{what}: wall time", "s", [large[0].seconds], note=taken),
        compared(
            "scale", "all but the clustering of the sample, a row", "us", [each[1]], baseline, [each[0]],
            target="ratio <= 1.15", note="wall time without the stages sample and cluster; process start included",
        ),
    ]  # fmt: skip


def _once(context: Context, parts: int, rows: int, k: int) -> tuple[TreeMemory, dict[str, float]]:
    """Peaks and stages of one whole computation."""
    path = context.folder("scale") / "store"
    synthetic(Store.create(path, {"dim": DIM, "encoder": {"encoder": "synthetic"}}), parts, rows, k)
    sampled = f"cluster.points_per_centroid={SAMPLED_EACH}"
    found = watched_select(context, path, [f"cluster.n_clusters={k}", sampled, "select.keep_fraction=0.7"])
    shutil.rmtree(path.parent)  # 9 GB
    return found


def _linear(stages: dict[str, float]) -> float:
    """Seconds of what has to do with every row."""
    return sum(seconds for stage, seconds in stages.items() if stage not in CONSTANT)
