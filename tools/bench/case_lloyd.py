"""One k-means round over everything, against FAISS searching the same rows once: same store, groups and workers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.case_memory import DIM, synthetic
from bench.context import Context, interleave, seconds
from bench.rows import Row, compared
from sspruning.clusterers.faiss_kmeans import import_faiss
from sspruning.config import ClusterConfig
from sspruning.execution import Executor, StageSpec, Task, make_executor
from sspruning.progress import SilentProgress
from sspruning.records import JSONValue, Prototypes
from sspruning.stages.cluster import choose_sample, read_sample
from sspruning.stages.full_rounds import clear_rounds, full_rounds
from sspruning.stages.round_worker import BLOCK_ROWS
from sspruning.storage.artifacts import load_prototypes, save_prototypes
from sspruning.storage.store import Store

__all__ = ["PlainSearch", "measure"]

PARTS, ROWS, K = 40, 25_000, 1000
PARTS_EACH = 3  # of a task of the plain search: as many as a group of the rounds has


class PlainSearch:
    """Searches the nearest centroid of every row of a few parts by FAISS alone, and forgets it."""

    def __init__(self, *, store: str, prototypes: str) -> None:
        faiss = import_faiss()
        self._store = Store(store)
        self._index = faiss.IndexFlatIP(self._store.dim)
        self._index.add(load_prototypes(Path(prototypes)).centroids)

    def __call__(self, payload: dict[str, JSONValue]) -> JSONValue:
        """Rows that were searched."""
        count = 0
        for number in payload["parts"]:
            record = self._store.records()[number]
            with self._store.open_part(record) as part:
                for start in range(0, record.n_rows, BLOCK_ROWS):
                    rows = part.embedding(start, start + BLOCK_ROWS).astype(np.float32)
                    count += len(self._index.search(rows, 1)[1])
        return count


def _search(store: Store, prototypes: Path, executor: Executor) -> None:
    spec = StageSpec("bench.case_lloyd:PlainSearch", {"store": str(store.path), "prototypes": str(prototypes)})
    numbers = range(len(store.records()))
    tasks = (
        Task(str(first), {"parts": list(numbers[first : first + PARTS_EACH])})
        for first in range(0, len(numbers), PARTS_EACH)
    )
    found: Sequence[JSONValue] = [outcome.value for outcome in executor.run(spec, tasks)]
    if sum(found) != store.n_rows:
        raise RuntimeError(f"{sum(found)} of {store.n_rows} rows were searched")


def measure(context: Context) -> list[Row]:
    parts, rows, k = (4, 500, 10) if context.smoke else (PARTS, ROWS, K)
    folder = context.folder("lloyd")
    store = Store.create(folder / "store", {"dim": DIM, "encoder": {"encoder": "synthetic"}})
    synthetic(store, parts, rows, k)
    drawn = read_sample(store, choose_sample(store, k, 0), SilentProgress())
    start = Prototypes(drawn, spherical=True, objective=np.zeros(1), sample_size=k, fingerprint="0" * 64)
    save_prototypes(folder / "prototypes.h5", start)
    executor = make_executor("local", context.workers)
    work, config = folder / "rounds", ClusterConfig(full_rounds=1, device="cpu")

    def one_round() -> float:
        taken = seconds(lambda: full_rounds(store, start, config, work, executor, SilentProgress()))
        clear_rounds(work)
        return taken

    def one_search() -> float:
        return seconds(lambda: _search(store, folder / "prototypes.h5", executor))

    try:
        times = interleave(context.repeats, {"round": one_round, "search": one_search})
    finally:
        executor.close()
    return [
        compared(
            "lloyd", f"k-means round over {parts * rows} x {DIM} float16, k={k}, {context.workers} workers", "s",
            times["round"], "s, faiss IndexFlatIP.search of the same rows, k=1", times["search"],
            target="ratio <= 1.3", note="both read the store; the round repairs near-ties, adds up and writes sums",
        )
    ]  # fmt: skip
