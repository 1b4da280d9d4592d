"""A histogram for terminals: a line for each range of scores, kept and dropped samples as two characters."""

from __future__ import annotations

import numpy as np

from sspruning.reporting.contents import Counts
from sspruning.reporting.words import fixed

__all__ = ["text_bars"]

KEPT, DROPPED = "#", "."


def text_bars(counts: Counts, *, rows: int = 12, width: int = 32) -> list[str]:
    """Lines such as ``0.20 to 0.30  ####......  1,200 kept of 3,000``, the smallest scores first.

    Args:
        counts: of a selection.
        rows: lines at most; neighbouring bins are added up.
        width: characters of the longest bar.
    """
    starts = np.unique(np.linspace(0, len(counts.by_score), min(rows, len(counts.by_score)) + 1).astype(int))
    table = np.add.reduceat(counts.by_score, starts[:-1], axis=0)
    members, kept = table.sum(axis=1), table[:, : counts.stops.own + 1].sum(axis=1)
    unit = width / max(int(members.max(initial=0)), 1)
    names = [f"{fixed(float(counts.edges[a]))} to {fixed(float(counts.edges[b]))}" for a, b in _pairs(starts)]
    room = max((len(name) for name in names), default=0)
    found = []
    for name, total, stays in zip(names, members.tolist(), kept.tolist(), strict=True):
        full, part = round(total * unit), round(stays * unit)
        bar = KEPT * part + DROPPED * (full - part)
        found.append(f"{name:>{room}}  {bar:<{width}}  {stays:,} kept of {total:,}")
    return found


def _pairs(starts: np.ndarray) -> list[tuple[int, int]]:
    return list(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True))
