"""How many of the kept samples would be others, had as many been chosen in another way: from files that are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from sspruning.metrics import METRICS
from sspruning.records import F32, I64, BoolArray, Prototypes, ScoringChunk
from sspruning.reporting.contents import Alternative, Choice
from sspruning.stages.advise import order_statistics
from sspruning.stages.report_numbers import groups_with_rows
from sspruning.stages.score import assignment_path
from sspruning.stages.workspace import Workspace
from sspruning.storage.artifacts import ASSIGNMENT_DTYPE, SelectionFile, load_column
from sspruning.storage.store import Store

__all__ = ["other_choices"]

BY_SCORE = {"hard", "easy"}
OTHER = {"prototype_distance": "prototype_margin", "prototype_margin": "prototype_distance"}


def other_choices(
    workspace: Workspace,
    store: Store,
    file: SelectionFile,
    choice: Choice,
    prototypes: Prototypes | None,
    members: I64,
) -> list[Alternative]:
    """`Alternative` choices that cost no more than a few passes over columns that are there; the mildest first.

    Compared are the same scores without a cluster floor, the other end of the scores, another metric of the same
    assignments, and a random sample. None of them looks at steps, so none is offered where steps took samples out.
    """
    n, n_kept = file.selection.n_embedded, file.selection.n_kept
    if n_kept in {0, n} or choice.n_survivors < n:
        return []
    found = []

    def scores() -> Iterator[F32]:
        return (group.column("score").to_numpy() for group in groups_with_rows(file, ["score"]))

    if choice.keep in BY_SCORE:
        hard = choice.keep == "hard"
        if choice.balance > 0:
            replaced = _replaced(file, scores, n_kept, hard=hard)
            found.append(Alternative(name="No cluster floor", meaning="the scores alone decide", replaced=replaced))
        columns = _columns(workspace, store, choice, prototypes, members)
        if columns is not None:
            meaning = f"the metric {OTHER[choice.metric]}, without a floor"
            replaced = _replaced(file, columns, n_kept, hard=hard)
            found.append(Alternative(name="Another score", meaning=meaning, replaced=replaced))
        end, name = ("smallest", "Easiest instead") if hard else ("largest", "Hardest instead")
        replaced = _replaced(file, scores, n_kept, hard=not hard)
        found.append(Alternative(name=name, meaning=f"the {end} scores, without a floor", replaced=replaced))
    by_chance = round(n_kept * (1 - n_kept / n))
    found.append(Alternative(name="Random instead", meaning="as many at random, on average", replaced=by_chance))
    return sorted(found, key=lambda one: one.replaced)


def _columns(
    workspace: Workspace, store: Store, choice: Choice, prototypes: Prototypes | None, members: I64
) -> Callable[[], Iterator[F32]] | None:
    """Scores of the other metric of the same assignments; None if there is none, or one of these is missing."""
    if prototypes is None or choice.metric not in OTHER:
        return None
    metric, distance = METRICS.resolve(OTHER[choice.metric]), str(choice.settings.get("distance"))
    folder = workspace.scores / "assignment"
    records = [record for record in store.records() if record.n_rows]
    paths = [assignment_path(folder, record, prototypes, distance) for record in records]
    if not all(path.exists() for path in paths):
        return None

    def columns() -> Iterator[F32]:
        for record, path in zip(records, paths, strict=True):
            yield metric(_chunk(path, record.n_rows, members))

    return columns


def _chunk(path: Path, rows: int, members: I64) -> ScoringChunk:
    """What a metric of distances sees of one shard."""
    assigned = load_column(path, rows, ASSIGNMENT_DTYPE)
    return ScoringChunk(
        label=assigned["label"],
        distance=assigned["distance"],
        second_label=assigned["second_label"],
        second_distance=assigned["second_distance"],
        cluster_size=members[assigned["label"]],
        tie=np.zeros(rows, np.uint64),  # for metrics that draw
    )


def _replaced(file: SelectionFile, columns: Callable[[], Iterator[F32]], count: int, *, hard: bool) -> int:
    """Kept samples that would not be among the ``count`` largest (or smallest) of other scores; ties count as kept."""
    n = file.selection.n_embedded
    place = n - count if hard else count - 1
    [border] = order_statistics(columns, ((place + 0.5) / n,))
    replaced = 0
    for group, values in zip(groups_with_rows(file, ["kept"]), columns(), strict=True):
        kept: BoolArray = group.column("kept").to_numpy()
        replaced += int((kept & (values < border if hard else values > border)).sum())
    return replaced
