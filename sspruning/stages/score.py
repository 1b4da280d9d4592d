"""Prototypes to scores: assign every sample to its prototypes, then measure how hard it is. One column file a shard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np

from sspruning.clusterers.faiss_kmeans import NearestPrototypes
from sspruning.config import ScoreConfig
from sspruning.errors import MachineError, SSPruningError
from sspruning.execution import Executor, StageSpec, Task
from sspruning.fingerprint import fingerprint, short
from sspruning.metrics import METRICS
from sspruning.metrics.distances import pair_distance
from sspruning.progress import Progress, SilentProgress
from sspruning.records import F32, I64, JSONValue, Prototypes, Scores, ScoringChunk
from sspruning.stages.cluster import seeded
from sspruning.stages.import_scores import IMPORTED, import_scores, table_column, table_identity
from sspruning.storage.artifacts import ASSIGNMENT_DTYPE, load_column, load_prototypes, save_column, score_path
from sspruning.storage.store import CommitRecord, Store

__all__ = ["AssignWorker", "assignment_path", "check_metric", "score"]

ASSIGN_ROWS = 8192
WORKER = "sspruning.stages.score:AssignWorker"


def check_metric(config: ScoreConfig) -> None:
    """Refuse a metric that no table has, or an import without its file, before hours of work are spent.

    Raises:
        UsageError: says which metrics are known, or which file or column is missing.
    """
    METRICS.check(config.metric, also=[IMPORTED])
    if config.metric == IMPORTED:
        table_column(config)


def _decisive(config: ScoreConfig) -> dict[str, JSONValue]:
    """What of the section decides the scores: for imported ones the content of the table instead of its place."""
    if config.metric == IMPORTED:
        return {"metric": IMPORTED, "distance": config.distance, **table_identity(config)}
    return {name: value for name, value in config.as_json().items() if name not in {"table", "column"}}


def _mark(record: CommitRecord, prototypes: Prototypes, distance: str) -> str:
    """What an assignment of one part depends on."""
    return fingerprint({"part": record.fingerprint, "prototypes": prototypes.fingerprint, "distance": distance})


def assignment_path(folder: Path, record: CommitRecord, prototypes: Prototypes, distance: str) -> Path:
    """File with the assignment of one part; its name says what it was made from."""
    return folder / f"{record.shard_id}.{short(_mark(record, prototypes, distance))}.npy"


class AssignWorker:
    """Built once in each worker: finds the two nearest prototypes of every row of a part."""

    def __init__(self, *, store: str, prototypes: str, folder: str, distance: str, device: str, mark: str) -> None:
        """Load the prototypes and build the search index; ``mark`` tells one set of inputs from another."""
        del mark
        self._store = Store(store)
        self._records = {record.shard_id: record for record in self._store.records()}
        self._prototypes = load_prototypes(Path(prototypes))
        self._folder = Path(folder)
        self._distance = distance
        self._search = NearestPrototypes(self._prototypes.centroids, cosine=distance == "cosine", device=device)

    def __call__(self, payload: dict[str, JSONValue]) -> JSONValue:
        """Rows assigned in the part of the shard that the payload names."""
        record = self._records[str(payload["shard_id"])]
        centroids, cosine = self._prototypes.centroids, self._distance == "cosine"
        rows: Any = np.empty(record.n_rows, ASSIGNMENT_DTYPE)
        with self._store.open_part(record) as part:
            for start in range(0, record.n_rows, ASSIGN_ROWS):
                chunk = part.embedding(start, start + ASSIGN_ROWS)
                first, second = self._search.search(chunk)
                out = rows[start : start + ASSIGN_ROWS]
                out["label"], out["second_label"] = first, second
                out["distance"] = pair_distance(chunk, centroids, first, cosine=cosine)
                out["second_distance"] = pair_distance(chunk, centroids, second, cosine=cosine)
                angle = out["distance"] if cosine else pair_distance(chunk, centroids, first, cosine=True)
                out["cosine_distance"] = angle
        save_column(assignment_path(self._folder, record, self._prototypes, self._distance), rows)
        return record.n_rows


def _assign(
    store: Store,
    prototypes: Prototypes,
    prototypes_path: Path,
    folder: Path,
    distance: str,
    executor: Executor,
    progress: Progress,
    device: str,
) -> None:
    """Make the assignment of every part that has none."""
    missing = [
        record for record in store.records() if not assignment_path(folder, record, prototypes, distance).exists()
    ]
    kwargs: dict[str, object] = {
        "store": str(store.path),
        "prototypes": str(prototypes_path),
        "folder": str(folder),
        "distance": distance,
        "device": device,
        "mark": fingerprint(
            [prototypes.fingerprint, store.content_fingerprint()]
        ),  # other inputs, another worker object
    }
    tasks = (Task(record.shard_id, {"shard_id": record.shard_id}) for record in missing)
    with progress.stage("assign", sum(record.n_rows for record in missing), "samples") as ticker:
        for outcome in executor.run(StageSpec(WORKER, kwargs), tasks):
            if outcome.kind != "ok":
                if isinstance(outcome.error, SSPruningError):
                    raise outcome.error
                raise MachineError(f"assigning {outcome.task_id}: {outcome.kind}: {outcome.error!r}")
            ticker.tick(int(cast("int", outcome.value)))


def _assignments(
    store: Store, prototypes: Prototypes, folder: Path, distance: str
) -> Iterator[tuple[CommitRecord, np.ndarray]]:
    for record in store.records():
        path = assignment_path(folder, record, prototypes, distance)
        yield record, load_column(path, record.n_rows, ASSIGNMENT_DTYPE)


def _cluster_sizes(store: Store, prototypes: Prototypes, folder: Path, distance: str) -> I64:
    sizes = np.zeros(prototypes.k, np.int64)
    for _, rows in _assignments(store, prototypes, folder, distance):
        sizes += np.bincount(rows["label"], minlength=prototypes.k)
    return sizes


def score(
    store: Store,
    prototypes: Prototypes,
    prototypes_path: Path,
    scores_dir: Path,
    config: ScoreConfig,
    executor: Executor,
    progress: Progress | None = None,
    *,
    device: str = "auto",
) -> Scores:
    """`Scores` of every embedded sample, larger = harder, as one column file a shard.

    Labels come from FAISS with near-ties settled in float64, distances from direct subtraction in float64, so neither
    the number of workers nor their threads can change a bit.

    Args:
        store: where the embeddings are.
        prototypes: what to measure against.
        prototypes_path: where workers load them from.
        scores_dir: folder for assignments and scores; finished files in it are used again.
        config: metric, or table of imported scores, and geometry.
        executor: where assignments run.
        progress: told after each part.
        device: where FAISS searches: auto, cpu or gpu; changes no bit of the scores.

    Raises:
        UsageError: unknown metric, or an import that names no usable file or column.
        DataError: imported scores that are incomplete, repeated or not finite.

    Cost:
        one FAISS search of all rows; a few bytes of memory for each row of one part; see `import_scores` for imports.
    """
    progress = progress or SilentProgress()
    check_metric(config)
    decisive = _decisive(config)
    assigned = scores_dir / "assignment"
    _assign(store, prototypes, prototypes_path, assigned, config.distance, executor, progress, device)
    sizes = _cluster_sizes(store, prototypes, assigned, config.distance)
    mark = fingerprint(
        {
            "content": store.content_fingerprint(),
            "prototypes": prototypes.fingerprint,
            "score": decisive,
            "sizes": fingerprint(sizes.tolist()),
        }
    )
    folder = scores_dir / f"{config.metric}.{short(mark)}"
    if config.metric == IMPORTED:
        import_scores(store, config, folder, progress)
    summary = _measure(store, prototypes, assigned, folder, sizes, config)
    return Scores(str(folder), str(assigned), store.n_rows, sizes, mark, config.metric, summary)


def _values(store: Store, record: CommitRecord, rows: np.ndarray, sizes: I64, config: ScoreConfig) -> F32:
    """(n,) scores of one part by the metric of the table, from its assignment."""
    with store.open_part(record) as part:
        tie = seeded(part.column("key_hash"), config.seed)
    chunk = ScoringChunk(
        label=rows["label"],
        distance=rows["distance"],
        second_label=rows["second_label"],
        second_distance=rows["second_distance"],
        cluster_size=sizes[rows["label"]],
        tie=tie,
    )
    return METRICS.resolve(config.metric)(chunk)


def _measure(
    store: Store, prototypes: Prototypes, assigned: Path, folder: Path, sizes: I64, config: ScoreConfig
) -> dict[str, float]:
    """Make the score column of every part that has none; returns min, mean and max, and the mean distance."""
    low, high, total, distance_total = np.inf, -np.inf, 0.0, 0.0
    for record, rows in _assignments(store, prototypes, assigned, config.distance):
        path = score_path(folder, record.shard_id)
        if config.metric == IMPORTED or path.exists():
            values = load_column(path, record.n_rows, np.dtype("<f4"))
        else:
            values = _values(store, record, rows, sizes, config).astype("<f4", copy=False)
            save_column(path, values)
        if len(values):
            low, high = min(low, float(values.min())), max(high, float(values.max()))
        total += float(values.sum(dtype=np.float64))
        distance_total += float(rows["distance"].sum(dtype=np.float64))
    each = max(store.n_rows, 1)
    return {"min": low, "mean": total / each, "max": high, "mean_distance": distance_total / each}
