"""Choosing from more samples than ought to be held in memory: a scored store as a stream, read a shard at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sspruning.config import SelectConfig
from sspruning.policies import RULES
from sspruning.policies.radix import Piece, Rule, Stream
from sspruning.stages.ahead import ahead
from sspruning.stages.candidates import Scored
from sspruning.stages.cluster import seeded
from sspruning.storage.artifacts import ASSIGNMENT_DTYPE, load_column, score_path

__all__ = ["STREAM_ABOVE", "is_streamed", "make_rule", "stream_of"]

STREAM_ABOVE = 20_000_000
"""Samples that are chosen from in memory at most, at about 80 bytes each. A fixed number, so that what a selection says
does not depend on the machine."""


def is_streamed(config: SelectConfig, n: int) -> bool:
    """True if a selection of n samples is made by counting, without ranks: no steps, and a policy that can."""
    return n > STREAM_ABOVE and not config.steps and config.keep in RULES


def stream_of(scored: Scored, count: int) -> Stream:
    """`Stream` of a scored store, of which ``count`` samples will be kept."""
    config, summary = scored.config.select, scored.scores.summary

    def read(columns: frozenset[str]) -> Iterator[Piece]:
        return ahead(_pieces(scored, columns))

    return Stream(
        read=read,
        n=scored.store.n_rows,
        sizes=scored.scores.cluster_sizes,
        low=summary["min"],
        high=summary["max"],
        count=count,
        balance=config.balance,
        floor=config.floor,
    )


def make_rule(stream: Stream, config: SelectConfig) -> Rule:
    """`Rule` by which the section `select` keeps ``stream.count`` samples.

    Raises:
        StoreError: a column is missing or damaged.
        UsageError: an option out of its range.
    """
    return RULES.resolve(config.keep)(stream, **config.options)


def _pieces(scored: Scored, columns: frozenset[str]) -> Iterator[Piece]:
    at, seed = 0, scored.config.select.seed
    for record in scored.store.records():
        score, cluster, tie = np.empty(0, np.float32), np.empty(0, np.int32), np.empty(0, np.uint64)
        if "score" in columns:
            path = score_path(Path(scored.scores.folder), record.shard_id)
            score = load_column(path, record.n_rows, np.dtype("<f4"))
        if "cluster" in columns:
            assigned = load_column(scored.assignments[record.shard_id], record.n_rows, ASSIGNMENT_DTYPE)
            cluster = np.ascontiguousarray(assigned["label"])
        if "tie" in columns:
            with scored.store.open_part(record) as part:
                tie = seeded(part.column("key_hash"), seed)
        yield Piece(at, record.n_rows, score, cluster, tie)
        at += record.n_rows
