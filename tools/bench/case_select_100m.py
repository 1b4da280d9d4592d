"""Select alone on a hundred million scores: time of choosing and of writing, and the peak of the process tree."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from bench.case_scale import watched_select
from bench.context import Context
from bench.memory import TreeMemory
from bench.rows import Row, alone
from sspruning.config import Config, load_config
from sspruning.execution.inline import InlineExecutor
from sspruning.records import Prototypes, ShardRef
from sspruning.stages.current_prototypes import prototypes_mark
from sspruning.stages.score import assignment_path, score
from sspruning.stages.streamed import STREAM_ABOVE
from sspruning.stages.workspace import Workspace
from sspruning.storage.artifacts import ASSIGNMENT_DTYPE, save_column, save_prototypes
from sspruning.storage.parts import PartData
from sspruning.storage.store import Store

__all__ = ["measure"]

DIM = 8
PART_ROWS = 250_000
REPEATS = 3


def _commit(store: Store, number: int, rows: int, random: np.random.Generator) -> ShardRef:
    """One part; its key hashes are drawn, which no stage can tell from those of its keys."""
    ordinal = np.arange(rows)
    values = random.standard_normal((rows, DIM), dtype=np.float32)
    norm = np.linalg.norm(values, axis=1)
    part = PartData(
        embedding=(values / norm[:, None]).astype(np.float16),
        norm=norm,
        key=[f"{number:05d}/{row:08d}" for row in range(rows)],
        key_hash=random.integers(0, 1 << 64, rows, np.uint64),
        row=ordinal.astype(np.uint32),
        block_start=(ordinal * 4096).astype(np.uint64),
        block_end=((ordinal + 1) * 4096).astype(np.uint64),
        digest=np.zeros((rows, 16), np.uint8),
        image_start=(ordinal * 4096 + 512).astype(np.uint64),
        image_size=np.full(rows, 3000, np.uint32),
        content=np.zeros((rows, 16), np.uint8),
        defects=np.zeros(rows, np.uint8),
        skipped_row=np.empty(0, np.uint32),
        skipped_key=[],
        skipped_reason=[],
        attributes={"shard_id": f"synthetic-{number:05d}", "normalized": 1},
    )
    shard = ShardRef(f"synthetic-{number:05d}", f"/nowhere/synthetic-{number:05d}.tar", rows * 4096 + 1024, 0)
    store.commit(shard, hashlib.sha256(shard.shard_id.encode()).hexdigest(), part, {})
    return shard


def scored_store(path: Path, parts: int, rows: int, k: int) -> None:
    """A store with prototypes, drawn assignments and their scores: clusters of unequal size and spread."""
    random = np.random.default_rng(0)
    store = Store.create(path, {"dim": DIM, "encoder": {"encoder": "synthetic"}})
    store.set_shards(tuple(_commit(store, number, rows, random) for number in range(parts)))
    store.write_manifest()
    config = load_config(None, [f"cluster.n_clusters={k}"], base=Config())
    workspace = Workspace.of(path)
    centroids = random.standard_normal((k, DIM)).astype(np.float32)
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    mark = prototypes_mark(store, config.cluster)
    prototypes = Prototypes(centroids, spherical=True, objective=np.zeros(1), sample_size=1, fingerprint=mark)
    save_prototypes(workspace.prototypes, prototypes)
    middle = random.uniform(0.2, 0.6, k)
    for record in store.records():
        found: Any = np.zeros(rows, ASSIGNMENT_DTYPE)
        label = (k * random.random(rows) ** 1.5).astype(np.int32)
        found["label"], found["second_label"] = label, (label + 1) % k
        distance = (middle[label] * random.gamma(40.0, 1 / 40.0, rows)).astype(np.float32)
        found["distance"], found["second_distance"], found["cosine_distance"] = distance, 2 * distance, distance
        save_column(assignment_path(workspace.scores / "assignment", record, prototypes, "cosine"), found)
    score(store, prototypes, workspace.prototypes, workspace.scores, config.score, InlineExecutor())


def measure(context: Context) -> list[Row]:
    parts, rows, k = (4, 500, 10) if context.smoke else (400, PART_ROWS, 1000)
    return measure_select(context, "select_100m", parts, rows, k)


def measure_select(context: Context, case: str, parts: int, rows: int, k: int) -> list[Row]:
    """Rows of select, the prototypes and scores being there; process start and writing included."""
    path = context.folder(case) / "store"
    scored_store(path, parts, rows, k)
    workspace = Workspace.of(path)
    settings = [f"cluster.n_clusters={k}", "select.keep_fraction=0.7"]
    above = min(STREAM_ABOVE, parts * rows - 1)

    def once() -> tuple[TreeMemory, dict[str, float]]:
        workspace.selection.unlink(missing_ok=True)
        return watched_select(context, path, settings, above)

    found = [once() for _ in range(min(REPEATS, context.repeats))]
    what = f"select hard 0.7 of {parts * rows} scores, k={k}"
    size = workspace.selection.stat().st_size / 1e9
    shutil.rmtree(path.parent)  # 13 GB
    worst = max((peak for peak, _ in found), key=lambda peak: peak.pss)
    return [
        alone(
            case, f"{what}: wall time", "s", [peak.seconds for peak, _ in found], target="value <= 120",
            note=f"selection.parquet of {size:.2f} GB with keys; process start included",
        ),
        alone(case, f"{what}: choosing", "s", [stages["choose"] for _, stages in found]),
        alone(case, f"{what}: writing selection.parquet", "s", [stages["select"] for _, stages in found]),
        alone(
            case, f"{what}: peak PSS of the process tree", "GB", [peak.pss / 1e9 for peak, _ in found],
            target="value < 2", note=f"worst repeat: {worst.described}",
        ),
    ]  # fmt: skip
