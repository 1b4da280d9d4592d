"""A report's contents to one HTML file that needs nothing else: no network, no other file, no script from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from sspruning.records import F64, JSONValue
from sspruning.reporting import words
from sspruning.reporting.charts import Chart, Label, bars, curve, cut_edges, size_groups
from sspruning.reporting.cluster_map import LEVELS, draw_map
from sspruning.reporting.contents import Contents, Counts, Curves, Stops
from sspruning.reporting.svg import ticks

__all__ = ["json_text", "render", "without_times"]

CLUSTERS_LISTED = 240
TIMES = ("<!-- times -->", "<!-- /times -->")  # what stands between them varies from run to run
_ESCAPED = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def render(contents: Contents) -> str:
    """The whole page as text; equal contents give equal text.

    What varies between runs on equal data, the time that stages took and when the report was made, stands apart between
    two comments; see `without_times`.
    """
    script = _file("page.js")
    mark = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    context: dict[str, Any] = {
        "c": contents,
        "css": Markup(_file("page.css")),  # noqa: S704 - a file of this package
        "script": Markup(script),  # noqa: S704 - a file of this package
        "script_hash": Markup(mark),  # noqa: S704 - base64
        "words": words,
        "levels": len(LEVELS),
        "data": Markup(json_text(_data(contents))),  # noqa: S704 - escaped for a script element by json_text
        "charts": _charts(contents),
        "movable": _is_movable(contents),
        "share": _share,
    }
    return _environment().get_template("page.html.j2").render(context)


def without_times(page: str) -> str:
    """A page without the part that varies from run to run."""
    before, _, rest = page.partition(TIMES[0])
    return before + rest.partition(TIMES[1])[2]


@cache
def _file(name: str) -> str:
    return (files("sspruning.reporting") / name).read_text(encoding="utf-8")


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_file),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        n=lambda value: f"{value:,}",
        many=words.number_of,
        pct=words.percent,
        key=lambda text: words.visible(words.cut(text, 96)),
        short=lambda text: words.visible(words.cut(text, 40)),
        caption=lambda text: words.visible(text, joiners=True),
        lines=lambda text: "\n".join(words.visible(line) for line in text.splitlines()),
        fixed=words.fixed,
        size=words.size,
    )
    return environment


def json_text(value: JSONValue) -> str:
    """``value`` as JSON that may stand inside a script element: no markup can begin or end in it."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return "".join(_ESCAPED.get(character, character) for character in text)


def _is_movable(contents: Contents) -> bool:
    """True if the slider has somewhere to go."""
    return contents.counts is not None and len(np.unique(contents.counts.stops.counts)) > 1


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _data(contents: Contents) -> dict[str, JSONValue]:
    """What the script needs to answer the slider: numbers, and words made of numbers."""
    counts, curves = contents.counts, contents.curves
    if counts is None or curves is None:
        return {}
    stops = counts.stops
    edges = [(edge, words.percent(share), side) for edge, share, side in cut_edges(counts.finely)]
    on_map = counts.by_cluster[[one.cluster for one in contents.clusters]]
    in_rows = counts.by_cluster[[one.cluster for one in contents.rows]]
    return {
        "n": contents.ledger.n_embedded,
        "samples": contents.ledger.n_samples,
        "policy": list(contents.ledger.dropped.values())[-1] if contents.ledger.dropped else 0,
        "own": stops.own,
        "movable": _is_movable(contents),
        "counts": stops.counts.tolist(),
        "fractions": [repr(fraction) for fraction in stops.fractions.tolist()],
        "labels": [words.percent(float(f)) for f in stops.fractions],
        "tables": {
            "scores": counts.by_score.tolist(),
            "sizes": size_groups(counts.by_cluster)[0].tolist(),
            "map": on_map.tolist(),
            "rows": in_rows.tolist(),
        },
        "edges": [list(edge) for edge in edges],
        "borders": [words.fixed(float(edge)) for edge in _borders(counts)],
        "levels": list(LEVELS),
        "curves": _curve_words(curves),
    }


def _curve_words(curves: Curves) -> dict[str, JSONValue]:
    return {
        "balance": [f"{value:.2f}" for value in curves.balance],
        "tail": [words.percent(float(value), 0) for value in curves.tail_kept],
        "mean": [words.fixed(float(value)) for value in curves.mean_score],
        "empty": [f"{value:,}" for value in curves.empty],
        "fewest": [f"{value:,}" for value in curves.fewest],
    }


def _charts(contents: Contents) -> dict[str, Any]:
    """The drawings of the page, by name; without numbers there are none."""
    counts, curves, choice = contents.counts, contents.curves, contents.choice
    if counts is None or curves is None or choice is None:
        return {"curves": []}
    found: dict[str, Any] = {"scores": _scores(counts), "curves": _curves(counts, curves)}
    table, each = size_groups(counts.by_cluster)
    found["each"] = each
    found["sizes"] = bars(table, counts.stops.own, name="sizes", title=_sizes_title(counts), x=[])
    found["largest"] = _largest(counts)
    found["some_stops"] = _some_stops(counts.stops)
    found["cut"] = _cut(counts)
    if contents.clusters:
        members, kept = counts.members(), counts.kept()
        shown = [one.cluster for one in contents.clusters]
        found["map"] = draw_map(contents.clusters, members[shown].tolist(), kept[shown].tolist())
    return found


def _borders(counts: Counts) -> F64:
    """Borders of the narrow bins."""
    return np.linspace(counts.edges[0], counts.edges[-1], len(counts.finely) + 1)


def _cut(counts: Counts) -> tuple[float, str, str, str] | None:
    """Where the cut lies, from 0 at the left to 1, its score, the share of the kept beside it, and on which side."""
    edge, inside, side = cut_edges(counts.finely)[counts.stops.own]
    if edge < 0:
        return None
    score = words.fixed(float(_borders(counts)[edge]))
    return edge / len(counts.finely), score, words.percent(inside), side


def _largest(counts: Counts) -> list[tuple[int, int, int]]:
    """Number, members and kept samples of the largest clusters."""
    members, kept = counts.members(), counts.kept()
    order = np.argsort(-members, kind="stable")[:CLUSTERS_LISTED]
    return [(int(one), int(members[one]), int(kept[one])) for one in order]


def _some_stops(stops: Stops) -> list[int]:
    """Stops at every tenth, and the selection's own."""
    tenths = np.isclose(np.rint(10 * stops.fractions), 10 * stops.fractions)
    return sorted({*np.flatnonzero(tenths).tolist(), stops.own})


def _scores(counts: Counts) -> Chart:
    low, high = float(counts.edges[0]), float(counts.edges[-1])
    labels = [Label(100 * (tick - low) / (high - low), f"{tick:g}") for tick in ticks(low, high, 7)]
    members, kept = int(counts.by_score.sum()), int(counts.stops.counts[counts.stops.own])
    title = (
        f"Histogram of {members:,} scores from {words.fixed(low)} to {words.fixed(high)}; {kept:,} samples are kept. "
        "The table below has the numbers."
    )
    return bars(counts.by_score, counts.stops.own, name="scores", title=title, x=labels)


def _sizes_title(counts: Counts) -> str:
    members = counts.members()
    return (
        f"Sizes of {len(members):,} clusters, the largest first: from {int(members.max(initial=0)):,} to "
        f"{int(members.min(initial=0)) if len(members) else 0:,} samples each, and how many of these are kept."
    )


def _curves(counts: Counts, curves: Curves) -> list[tuple[str, str, str, Chart]]:
    """Name, heading, meaning and drawing of each curve; none where only one fraction is known."""
    stops = counts.stops
    if len(np.unique(stops.counts)) < 2:
        return []
    mean, empty = curves.mean_score, curves.empty.astype(np.float64)
    room = 0.05 * max(float(np.ptp(mean)), 1e-12)
    wanted = (
        ("balance", "Balance", "1: all clusters keep as many", curves.balance, 0.0, 1.0),
        ("tail", "Hardest 1 %", "share that is kept", curves.tail_kept, 0.0, 1.0),
        ("mean", "Mean score", "of what is kept", mean, float(mean.min()) - room, float(mean.max()) + room),
        ("empty", "Empty clusters", "nothing of them kept", empty, 0.0, max(float(empty.max()), 1.0)),
    )
    found = []
    for name, heading, meaning, values, low, high in wanted:
        title = f"{heading} against the fraction kept"
        drawn = curve(values, stops.fractions, stops.own, name=f"curve-{name}", title=title, low=low, high=high)
        found.append((name, heading, meaning, drawn))
    return found
