"""A selection to one HTML file that shows people what was kept and what was dropped, and answers other fractions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from sspruning.errors import UsageError
from sspruning.progress import Progress, SilentProgress
from sspruning.records import Prototypes
from sspruning.reporting.cluster_map import principal_plane, spread_out
from sspruning.reporting.contents import (
    Choice,
    ClusterRow,
    Contents,
    CopyGroup,
    Counts,
    Galleries,
    MapCluster,
    Picture,
)
from sspruning.reporting.page import render, without_times
from sspruning.reporting.text_bars import text_bars
from sspruning.stages.place import Place
from sspruning.stages.report_alternatives import other_choices
from sspruning.stages.report_images import read_pictures
from sspruning.stages.report_numbers import Numbers, choice_of, count_clusters, count_selection
from sspruning.stages.report_run import (
    find_output,
    make_command,
    make_facts,
    make_ledger,
    not_embedded,
    read_config,
    read_stages,
    some_skipped,
    whole_command,
)
from sspruning.stages.report_samples import Shown, choose_clusters, choose_samples
from sspruning.storage.artifacts import SelectionFile
from sspruning.storage.atomic import write_bytes

__all__ = ["ReportFile", "report"]

MAP_CLUSTERS = 600
MAP_PICTURES = 48
NO_RANKS = (
    "This selection is of so many images that they were chosen without ranks: images in the order of keeping and at "
    "the cut are not shown, and for other fractions select again with --keep-fraction."
)
TIMES_BYTES = 1 << 16  # by which two pages that differ in times alone may differ in size


@dataclass(frozen=True, slots=True)
class ReportFile:
    """A report that was written."""

    path: Path
    size: int
    """Bytes."""
    n_pictures: int
    notes: list[str]
    """What is missing from it, and why."""
    bars: list[str]
    """Its histogram as lines for a terminal; none without a selection."""


def report(
    path: str | Path,
    output: str | Path | None = None,
    *,
    pruned: str | Path | None = None,
    progress: Progress | None = None,
) -> ReportFile:
    """`ReportFile` of the page that now stands at ``output``: one file, without anything to load.

    A page that stands there and differs in times alone is left alone.

    Args:
        path: run folder, store, or a ``selection.parquet`` beside its store.
        output: where it goes; None: ``report.html`` beside the selection.
        pruned: folder or URL with the pruned shards of this selection; None looks where the settings say.
        progress: told of both passes.

    Raises:
        UsageError: the output is a folder.
        StoreError: no store, a damaged artefact, or artefacts that do not belong together.

    Cost:
        about ten passes over the selection, one shard in memory at a time, and some 700 images. Memory grows by 800
        bytes a prototype, and by 8 bytes for each duplicate; not with the number of samples.
    """
    progress, path = progress or SilentProgress(), Path(path)
    place = Place.of(path)
    target = place.workspace.root / _usual_name(path) if output is None else Path(output)
    if target.is_dir():
        raise UsageError(f"{target}: is a folder; name a file, such as {target / 'report.html'}")
    contents, n_pictures = gather(path, place, pruned, progress)
    page = render(contents).encode("utf-8", "backslashreplace")
    if not _stands(target, page):
        write_bytes(target, page)
    bars = text_bars(contents.counts) if contents.counts is not None else []
    return ReportFile(target, target.stat().st_size, n_pictures, list(contents.notes), bars)


def _stands(target: Path, page: bytes) -> bool:
    """True if the file holds this page already, but for times."""
    try:
        if abs(target.stat().st_size - len(page)) > TIMES_BYTES:
            return False
        return without_times(target.read_text(encoding="utf-8")) == without_times(page.decode())
    except (OSError, UnicodeDecodeError):
        return False


def _usual_name(path: Path) -> str:
    """report.html, and for one of several selections its own name: report-0.5.html for selection-0.5.parquet."""
    return (
        "report.html"
        if path.is_dir()
        else f"{path.name.removesuffix('.parquet').replace('selection', 'report', 1)}.html"
    )


def gather(path: Path, place: Place, pruned: str | Path | None, progress: Progress) -> tuple[Contents, int]:
    """`Contents` of a report, and the number of pictures in it."""
    selection = place.file.selection if place.file else None
    output = find_output(pruned, place.workspace, selection) if selection else None
    base = Contents(
        name=place.workspace.root.resolve().name,
        ledger=make_ledger(place.store, {}, selection.n_kept if selection else 0, output),
        skipped=some_skipped(place.store),
        facts=make_facts(place.store, place.prototypes, selection),
        whole_command=whole_command(place.workspace),
        config=read_config(place.workspace),
        stages=read_stages(place.workspace),
        notes=not_embedded(place.store),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    if place.file is None or selection is None:
        return base, 0
    choice = choice_of(selection)
    base = replace(base, choice=choice, command=make_command(path, choice, place.workspace))
    if not choice.ranked:
        base = replace(base, notes=[*base.notes, NO_RANKS])
    if selection.n_embedded == 0:
        return base, 0
    with progress.stage("count", selection.n_embedded, "samples") as ticker:
        numbers = count_selection(place.file, choice, count_clusters(place.file), ticker)
    base = replace(base, ledger=replace(base.ledger, dropped=numbers.reasons))
    return _with_samples(base, place, place.file, choice, numbers, progress)


def _with_samples(
    base: Contents, place: Place, file: SelectionFile, choice: Choice, numbers: Numbers, progress: Progress
) -> tuple[Contents, int]:
    """``base`` with numbers, pictures and other choices."""
    counts, store = numbers.counts, place.store
    chosen = choose_clusters(counts)
    on_map, share, framed = _map(counts, place.prototypes)
    wanted = {**dict.fromkeys((on_map[index].cluster for index in framed), ""), **chosen}
    shown, n_groups = choose_samples(store, file, wanted, numbers.twins)
    rows = set(shown.rows([on_map[index].cluster for index in framed], chosen))
    with progress.stage("pictures", len(rows), "images") as ticker:
        pictures, missing = read_pictures(store, file, rows, ticker)
    for index in framed:
        nearest = shown.clusters[on_map[index].cluster].nearest.rows
        on_map[index] = replace(on_map[index], picture=pictures[nearest[0]] if nearest else None)
    found = replace(
        base,
        counts=counts,
        curves=numbers.curves,
        galleries=_galleries(shown, pictures),
        rows=_rows(counts, chosen, shown, pictures),
        clusters=on_map,
        map_share=share,
        copies=_copies(shown, pictures),
        n_copy_groups=n_groups,
        alternatives=other_choices(place.workspace, store, file, choice, place.prototypes, counts.members()),
        notes=base.notes + [_missing(count, len(rows), why) for why, count in sorted(missing.items())],
    )
    return found, len(rows) - sum(missing.values())


def _missing(count: int, all_of_them: int, why: str) -> str:
    return f"{count:,} of {all_of_them:,} pictures are missing: {why}."


def _map(counts: Counts, prototypes: Prototypes | None) -> tuple[list[MapCluster], float, list[int]]:
    """The largest clusters on a map, the share of the spread that it shows, and those with room for a picture."""
    if prototypes is None or prototypes.k != len(counts.by_cluster):
        return [], 0.0, []
    members = counts.members()
    places, share = principal_plane(prototypes.centroids, members)
    order = np.argsort(-members, kind="stable")
    largest = [cluster for cluster in order.tolist() if members[cluster] > 0][:MAP_CLUSTERS]
    found = [MapCluster(cluster=one, x=float(places[one, 0]), y=float(places[one, 1])) for one in largest]
    return found, share, spread_out(found, members[largest].tolist(), MAP_PICTURES)


def _galleries(shown: Shown, pictures: Mapping[int, Picture]) -> Galleries:
    def of(rows: Iterable[int]) -> list[Picture]:
        return [pictures[row] for row in rows]

    return Galleries(
        order=of(shown.order),
        typical=of(shown.typical),
        unusual=of(shown.unusual),
        last_kept=of(shown.last_kept),
        first_dropped=of(shown.first_dropped),
    )


def _rows(counts: Counts, chosen: Mapping[int, str], shown: Shown, pictures: Mapping[int, Picture]) -> list[ClusterRow]:
    members, kept = counts.members(), counts.kept()
    found = []
    for cluster, why in chosen.items():
        one = shown.clusters[cluster]
        found.append(
            ClusterRow(
                cluster=cluster,
                members=int(members[cluster]),
                kept=int(kept[cluster]),
                why=why,
                nearest=[pictures[row] for row in one.nearest.rows],
                cut=[pictures[row] for row in one.at_cut],
                farthest=[pictures[row] for row in one.outermost],
            )
        )
    return found


def _copies(shown: Shown, pictures: Mapping[int, Picture]) -> list[CopyGroup]:
    return [
        CopyGroup(
            stands=pictures.get(group.stands), copies=[pictures[row] for row in group.copies], n_copies=group.n_copies
        )
        for group in shown.copies
    ]
