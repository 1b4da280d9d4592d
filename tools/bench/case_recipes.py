"""Time and memory of every recipe on synthetic scores: half of 100,000 rows kept, process start included."""

from __future__ import annotations

import sys

from bench.case_memory import DIM, synthetic
from bench.context import Context
from bench.memory import TreeMemory, run_watched
from bench.rows import Row, alone
from sspruning.recipes import RECIPES
from sspruning.storage.store import Store

__all__ = ["measure", "measure_recipes"]

REPEATS = 3
K = 1000
SELECT = """
import sys
import sspruning
from sspruning.config import load_config
if __name__ == "__main__":
    store, k, *recipe = sys.argv[1:]
    chosen = [f"select.recipe={recipe[0]}"] if recipe else []
    settings = [f"cluster.n_clusters={k}", "execution.executor=inline", *chosen, "select.keep_fraction=0.5"]
    sspruning.select(store, config=load_config(None, settings))
"""


def measure(context: Context) -> list[Row]:
    return measure_recipes(context, "recipes", parts=4, rows=25_000)


def measure_recipes(context: Context, case: str, *, parts: int, rows: int) -> list[Row]:
    """Rows of every recipe, the prototypes and scores being there; one process each."""
    k, repeats = K, min(REPEATS, context.repeats)
    if context.smoke:
        parts, rows, k, repeats = 2, 1000, 20, 1
    folder = context.folder(case)
    program = folder / "select_job.py"
    program.write_text(SELECT, encoding="utf-8")
    path = folder / "store"
    synthetic(Store.create(path, {"dim": DIM, "encoder": {"encoder": "synthetic"}}), parts, rows, k)
    command = [sys.executable, str(program), str(path), str(k)]
    run_watched(command, context.repository)  # prototypes and scores

    def once(name: str) -> TreeMemory:
        (path / "selection.parquet").unlink()
        return run_watched([*command, name], context.repository)

    found = []
    for name in sorted(RECIPES):
        peaks = [once(name) for _ in range(repeats)]
        what = f"select --recipe {name}, half of {parts * rows} x {DIM}, k={k}, one process"
        found += [
            alone(case, f"{what}: wall time", "s", [peak.seconds for peak in peaks]),
            alone(case, f"{what}: peak PSS", "GB", [peak.pss / 1e9 for peak in peaks], target="value < 4"),
        ]
    return found
