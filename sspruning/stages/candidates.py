"""A scored store as columns: what filters and policies look at."""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sspruning.config import Config
from sspruning.errors import MachineError
from sspruning.records import Candidates, Prototypes, Scores, Vectors
from sspruning.stages.cluster import seeded
from sspruning.storage.artifacts import ASSIGNMENT_DTYPE, load_column, score_path
from sspruning.storage.store import Store

__all__ = ["Scored", "gather", "scratch_vectors"]

READ_ROWS = 65536


@dataclass(frozen=True, slots=True)
class Scored:
    """A store with its prototypes, assignments and scores."""

    store: Store
    prototypes: Prototypes
    scores: Scores
    assignments: dict[str, Path]
    """File with the prototype of each row, by shard."""
    config: Config
    """What they were made by; its section `select` says what to choose."""


@contextmanager
def scratch_vectors(store: Store, folder: Path) -> Generator[Vectors]:
    """`Vectors` of all embeddings in store order, mapped from a file without a name in ``folder``.

    The file is gone when the block ends or the process dies. Disk: 2 d bytes a sample; memory: what the system caches.

    Raises:
        MachineError: no space for it.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            for record in store.records():
                with store.open_part(record) as part:
                    for start in range(0, record.n_rows, READ_ROWS):
                        part.embedding(start, start + READ_ROWS).tofile(file)
            file.flush()
        except OSError as error:
            size = store.n_rows * store.dim * 2 / 1e9
            raise MachineError(f"{folder}: no room for {size:.1f} GB of embeddings while choosing ({error})") from error
        shape = (store.n_rows, store.dim)
        rows = np.memmap(file, np.float16, "r", shape=shape) if store.n_rows else np.empty(shape, np.float16)
        yield Vectors(rows)


def gather(scored: Scored, count: int, vectors: Vectors | None, *, images: bool) -> Candidates:
    """`Candidates` of all embedded samples in store order: about 40 bytes a sample, and ``vectors`` as they are.

    Args:
        scored: the store and its scores.
        count: samples that will be kept.
        vectors: embeddings for those who ask for them.
        images: also read what is known of the images: content hashes and defects.
    """
    store, config = scored.store, scored.config.select
    n = store.n_rows
    score, distance = np.empty(n, np.float32), np.empty(n, np.float32)
    cluster, second, tie = np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.uint64)
    content, defects = (np.empty(n, np.uint64), np.empty(n, np.uint8)) if images else (None, None)
    at = 0
    for record in store.records():
        rows = slice(at, at + record.n_rows)
        at += record.n_rows
        score[rows] = load_column(
            score_path(Path(scored.scores.folder), record.shard_id), record.n_rows, np.dtype("<f4")
        )
        assigned = load_column(scored.assignments[record.shard_id], record.n_rows, ASSIGNMENT_DTYPE)
        cluster[rows], second[rows] = assigned["label"], assigned["second_label"]
        distance[rows] = assigned["cosine_distance"]
        with store.open_part(record) as part:
            tie[rows] = seeded(part.column("key_hash"), config.seed)
            if content is not None and defects is not None:
                content[rows], defects[rows] = part.content_hash(), part.column("defects")
    return Candidates(
        score=score,
        cluster=cluster,
        second_cluster=second,
        distance=distance,
        tie=tie,
        centroids=scored.prototypes.centroids,
        count=count,
        balance=config.balance,
        floor=config.floor,
        vectors=vectors,
        content=content,
        defects=defects,
    )
