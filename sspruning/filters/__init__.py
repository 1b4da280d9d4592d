"""What goes before the choice? One pure function a filter: it names the samples that no policy shall see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sspruning.records import I64, BoolArray, Candidates
from sspruning.registry import Registry

__all__ = ["FILTERS", "NEEDS_VECTORS", "Dropped", "Filter"]


@dataclass(frozen=True, slots=True)
class Dropped:
    """What a filter takes out of n candidates."""

    drop: BoolArray
    """(n,) True: goes."""
    reason: str
    """What ``selection.parquet`` says of them; duplicates say ``duplicate_of:KEY`` instead."""
    twin: I64 | None = None
    """(n,) for duplicates: index of the sample that stays for it; -1 for samples that stay. Else None."""


class Filter(Protocol):
    """A filter. Options are keyword arguments with defaults."""

    def __call__(self, candidates: Candidates) -> Dropped:
        """`Dropped` of n candidates; it may leave everything, and never takes everything."""
        ...


FILTERS: Registry[Filter] = Registry(
    "filter",
    {
        "dedup": "sspruning.filters.dedup:dedup",
        "outliers": "sspruning.filters.outliers:outliers",
        "defects": "sspruning.filters.defects:defects",
    },
)

NEEDS_VECTORS: frozenset[str] = frozenset({"dedup", "outliers"})
"""Filters that read embeddings, not only scores and clusters."""
