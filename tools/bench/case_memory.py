"""Memory of cluster + score + select on a million synthetic rows: the peak of the whole process tree."""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

import numpy as np

from bench.context import Context
from bench.memory import RSS_NOTE, TreeMemory, run_watched
from bench.rows import Row, alone
from sspruning.records import ShardRef
from sspruning.stages.inspect import key_hash
from sspruning.storage.parts import PartData
from sspruning.storage.store import Store

__all__ = ["measure", "synthetic"]

DIM = 384
REPEATS = 3  # minutes each, and the peak hardly moves
SELECT = """
import sys
import sspruning
from sspruning.config import load_config
if __name__ == "__main__":
    store, k, workers = sys.argv[1:]
    config = load_config(None, [f"cluster.n_clusters={k}", f"execution.workers={workers}"])
    print(sspruning.select(store, config=config).selection)
"""


def synthetic(store: Store, parts: int, rows: int, centres: int) -> None:
    """Commit ``parts`` parts of ``rows`` unit vectors around ``centres`` random directions."""
    random = np.random.default_rng(0)
    middles = random.standard_normal((centres, DIM), dtype=np.float32)
    shards = []
    for number in range(parts):
        values = middles[random.integers(0, centres, rows)] + random.standard_normal((rows, DIM), dtype=np.float32)
        norm = np.linalg.norm(values, axis=1)
        keys = [f"{number:06d}/{row:08d}" for row in range(rows)]
        ordinal = np.arange(rows)
        part = PartData(
            embedding=(values / norm[:, None]).astype(np.float16),
            norm=norm,
            key=keys,
            key_hash=np.array([key_hash(key) for key in keys], np.uint64),
            row=ordinal.astype(np.uint32),
            block_start=(ordinal * 4096).astype(np.uint64),
            block_end=((ordinal + 1) * 4096).astype(np.uint64),
            digest=random.integers(0, 256, (rows, 16), np.uint8),
            image_start=(ordinal * 4096 + 512).astype(np.uint64),
            image_size=np.full(rows, 3000, np.uint32),
            content=random.integers(0, 256, (rows, 16), np.uint8),
            defects=np.zeros(rows, np.uint8),
            skipped_row=np.empty(0, np.uint32),
            skipped_key=[],
            skipped_reason=[],
            attributes={"shard_id": f"synthetic-{number:06d}", "normalized": 1},
        )
        shard = ShardRef(f"synthetic-{number:06d}", f"/nowhere/synthetic-{number:06d}.tar", rows * 4096 + 1024, 0)
        store.commit(shard, hashlib.sha256(shard.shard_id.encode()).hexdigest(), part, {})
        shards.append(shard)
    store.set_shards(tuple(shards))
    store.write_manifest()


def measure(context: Context) -> list[Row]:
    parts, rows, k = (4, 500, 10) if context.smoke else (40, 25_000, 1000)
    program = context.folder("memory") / "select_job.py"
    program.write_text(SELECT, encoding="utf-8")
    path = context.temp / "memory" / "store"
    synthetic(Store.create(path, {"dim": DIM, "encoder": {"encoder": "synthetic"}}), parts, rows, k)
    peaks = [_once(context, program, path, k) for _ in range(min(REPEATS, context.repeats))]
    worst = max(peaks, key=lambda peak: peak.pss)
    what = f"cluster+score+select, {parts * rows} x {DIM} float16, k={k}, {context.workers} local workers"
    return [
        alone(
            "memory", f"{what}: peak PSS of the process tree", "GB", [peak.pss / 1e9 for peak in peaks],
            target="value < 2.5", note=f"worst repeat: {worst.described}",
        ),
        alone("memory", f"{what}: peak sum of RSS", "GB", [peak.rss / 1e9 for peak in peaks], note=RSS_NOTE),
        alone("memory", f"{what}: wall time", "s", [peak.seconds for peak in peaks]),
    ]  # fmt: skip


def _once(context: Context, program: Path, store: Path, k: int) -> TreeMemory:
    """Peaks of one whole computation."""
    for made in ("prototypes.h5", "selection.parquet", "config.yaml"):
        (store / made).unlink(missing_ok=True)
    shutil.rmtree(store / "scores", ignore_errors=True)
    return run_watched([sys.executable, str(program), str(store), str(k), str(context.workers)], context.repository)
