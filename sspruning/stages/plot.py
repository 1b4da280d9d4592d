"""A selection to one figure for a paper or a slide: the charts of the report, as matplotlib draws them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sspruning.errors import UsageError
from sspruning.progress import Progress, SilentProgress
from sspruning.reporting.charts import cut_edges, size_groups
from sspruning.reporting.cluster_map import principal_plane
from sspruning.stages.place import Place
from sspruning.stages.report_numbers import Numbers, choice_of, count_clusters, count_selection
from sspruning.storage.atomic import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["KINDS", "plot"]

FORMATS = ("svg", "pdf", "png")
KEPT, DROPPED, INK, MUTED = "#c2410c", "#cfcac5", "#1c1917", "#57534e"
STYLE: Any = {
    "svg.hashsalt": "sspruning",
    "svg.fonttype": "path",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.dpi": 150,
}


def plot(path: Path, kind: str, output: Path, progress: Progress | None = None) -> Path:
    """Path of the figure that now stands at ``output``.

    Args:
        path: run folder, store, or a ``selection.parquet`` beside its store.
        kind: hist, clusters, map or sweep.
        output: ends in .svg, .pdf or .png.
        progress: told of the pass over the selection.

    Raises:
        UsageError: an unknown kind or format, no selection, or a sweep over sets that are not nested.
        StoreError: artefacts that do not belong together.
    """
    progress = progress or SilentProgress()
    if kind not in KINDS:
        raise UsageError(f"unknown figure {kind!r}; known: {', '.join(KINDS)}")
    form = output.suffix.lower().lstrip(".")
    if form not in FORMATS:
        raise UsageError(f"{output}: figures are written as .svg, .pdf or .png")
    place = Place.of(path)
    if place.file is None or place.file.selection.n_embedded == 0:
        raise UsageError(f"{path}: nothing is selected here; run `sspruning select` first")
    choice = choice_of(place.file.selection)
    with progress.stage("count", place.file.selection.n_embedded, "samples") as ticker:
        numbers = count_selection(place.file, choice, count_clusters(place.file), ticker)
    _save(place, numbers, KINDS[kind], output, form)
    return output


def _save(
    place: Place, numbers: Numbers, draw: Callable[[Figure, Place, Numbers], None], output: Path, form: str
) -> None:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(7, 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure, place, numbers)
        buffer = io.BytesIO()
        undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form)
        figure.savefig(buffer, format=form, metadata=undated)
    write_bytes(output, buffer.getvalue())


def _histogram(figure: Figure, place: Place, numbers: Numbers) -> None:
    del place
    counts = numbers.counts
    own, edges = counts.stops.own, counts.edges
    members, kept = counts.by_score.sum(axis=1), counts.by_score[:, : own + 1].sum(axis=1)
    axes = figure.add_subplot()
    width = 0.88 * np.diff(edges)
    axes.bar(edges[:-1], members, width, align="edge", color=DROPPED, label="dropped")
    axes.bar(edges[:-1], kept, width, align="edge", color=KEPT, label="kept")
    edge = cut_edges(counts.finely)[own][0]
    if edge >= 0:
        axes.axvline(edges[0] + (edges[-1] - edges[0]) * edge / len(counts.finely), color=INK, linewidth=1.2)
    axes.margins(x=0.01)
    axes.set(xlabel="score, larger = harder", ylabel="images", title=_title(numbers))
    axes.legend(frameon=False)


def _title(numbers: Numbers) -> str:
    stops, n = numbers.counts.stops, int(numbers.counts.by_score.sum())
    return f"{int(stops.counts[stops.own]):,} of {n:,} images kept"


def _clusters(figure: Figure, place: Place, numbers: Numbers) -> None:
    del place
    table, each = size_groups(numbers.counts.by_cluster)
    members, kept = table.sum(axis=1), table[:, : numbers.counts.stops.own + 1].sum(axis=1)
    axes, at = figure.add_subplot(), np.arange(len(table))
    axes.bar(at, members, 1.0, color=DROPPED, label="dropped")
    axes.bar(at, kept, 1.0, color=KEPT, label="kept")
    before, after = numbers.curves.balance_before, float(numbers.curves.balance[numbers.counts.stops.own])
    among = "" if each == 1 else f", {each} to a bar"
    axes.margins(x=0.01)
    axes.set(xlabel=f"clusters, the largest first{among}", ylabel="images", xticks=[])
    axes.set_title(f"balance {before:.2f} before, {after:.2f} after")
    axes.legend(frameon=False)


def _map(figure: Figure, place: Place, numbers: Numbers) -> None:
    if place.prototypes is None or place.prototypes.k != len(numbers.counts.by_cluster):
        raise UsageError("the prototypes of this selection are not here any more; run `sspruning select` again")
    members, kept = numbers.counts.members(), numbers.counts.kept()
    places, share = principal_plane(place.prototypes.centroids, members)
    some = np.flatnonzero(members)[np.argsort(-members[members > 0], kind="stable")]
    axes = figure.add_subplot()
    sizes = 6000.0 * members[some] / members.sum()
    shown = axes.scatter(
        places[some, 0],
        places[some, 1],
        s=sizes,
        c=100 * kept[some] / members[some],
        cmap="Oranges",
        vmin=0,
        vmax=100,
        edgecolors=INK,
        linewidths=0.3,
    )
    axes.set(xticks=[], yticks=[], aspect="equal")
    figure.suptitle(f"prototypes in two principal components: {100 * share:.0f} % of their spread", fontsize=10)
    figure.colorbar(shown, ax=axes, label="kept, per cent")


def _sweep(figure: Figure, place: Place, numbers: Numbers) -> None:
    if place.file is None or not choice_of(place.file.selection).nested:
        raise UsageError(
            "other fractions cannot be read off this selection (not nested, or without ranks); "
            "`sspruning sweep` makes them"
        )
    stops, curves = numbers.counts.stops, numbers.curves
    wanted = (
        ("balance of clusters", curves.balance),
        ("share kept of the hardest 1 %", curves.tail_kept),
        ("mean score of the kept", curves.mean_score),
        ("clusters left empty", curves.empty),
    )
    for index, (name, values) in enumerate(wanted, start=1):
        axes = figure.add_subplot(2, 2, index)
        axes.plot(100 * stops.fractions, values, color=INK, linewidth=1.4)
        axes.plot(100 * stops.fractions[stops.own], values[stops.own], "o", color=KEPT)
        axes.set_title(name)
        if not values.any():
            axes.set_ylim(-0.05, 1)
        if index > 2:
            axes.set_xlabel("kept, per cent")


KINDS: dict[str, Callable[[Any, Place, Numbers], None]] = {
    "hist": _histogram,
    "clusters": _clusters,
    "map": _map,
    "sweep": _sweep,
}
"""What can be drawn, by name."""
