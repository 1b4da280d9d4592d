"""Charts as inline SVG: bars of kept and dropped samples, curves over the fraction kept. Labels beside them are HTML.

The drawing is stretched to the width of the page, so text stays outside of it, at places given in per cent. The script
of the page moves what depends on the slider; what it needs stands in ``data-`` attributes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from sspruning.records import F64, I64
from sspruning.reporting.svg import Scale, element, ticks

__all__ = ["HEIGHT", "WIDTH", "Chart", "Label", "bars", "curve", "cut_edges", "size_groups"]

WIDTH, HEIGHT = 1000, 200  # of the drawing, in its own units
HEADROOM = 1.04
GAP = 0.12  # between bars, of the width of one
MOST_BARS = 240
CLEAR = 0.5  # a cut is shown if it explains at least this share of the smaller side


@dataclass(frozen=True, slots=True)
class Label:
    """A tick mark's text and where it stands, in per cent of the drawing."""

    at: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A drawing and the labels of its axes."""

    svg: Markup
    x: list[Label]
    y: list[Label]
    """Places are counted from the top."""


def bars(table: I64, own: int, *, name: str, title: str, x: list[Label]) -> Chart:
    """A bar for each row of a table of counts; its kept part, in the accent colour, grows from the baseline.

    Args:
        table: (b, s + 1) samples by the first stop that keeps them.
        own: stop to draw.
        name: id of the drawing; the script finds it by that.
        title: what it shows, for people who do not see it.
        x: labels of the horizontal axis.
    """
    members, kept = table.sum(axis=1), table[:, : own + 1].sum(axis=1)
    top = max(float(members.max(initial=0)) * HEADROOM, 1.0)
    scale, step = Scale(0, top, HEIGHT, 0), WIDTH / max(len(table), 1)
    drawn = []
    for place, (total, stays) in enumerate(zip(members.tolist(), kept.tolist(), strict=True)):
        left, width = (place + GAP / 2) * step, step * (1 - GAP)
        for kind, count in (("all", total), ("kept", stays)):
            y = scale(count)
            drawn.append(element("rect", x=left, y=y, width=width, height=HEIGHT - y, class_=kind))
    grid = [tick for tick in ticks(0, top, 4) if tick == int(tick)]
    lines = [element("path", d=f"M0 {scale(tick):.2f}H{WIDTH}", class_="grid") for tick in grid]
    svg = _drawing(name, title, [*lines, *drawn], per_sample=HEIGHT / top)
    return Chart(svg=svg, x=x, y=[Label(100 * scale(tick) / HEIGHT, short_count(tick)) for tick in grid])


def _drawing(name: str, title: str, parts: Sequence[Markup], *, per_sample: float = 0.0) -> Markup:
    return element(
        "svg",
        element("title", title, id=f"{name}-title"),
        *parts,
        id=name,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        aria_labelledby=f"{name}-title",
        data_unit=f"{per_sample:.6g}",
    )


def short_count(value: float) -> str:
    """A count for an axis: 800, 1,200, 45k, 3M."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= unit:
            return f"{value / (1e3 if name == 'k' else unit):g}{name}"
    return f"{value:,.0f}"


def curve(values: F64, fractions: F64, own: int, *, name: str, title: str, low: float, high: float) -> Chart:
    """A line over the fraction kept, with a mark for this selection and a dot that the slider moves.

    Args:
        values: (s,) at each stop.
        fractions: (s,) ascending.
        own: stop that is marked.
        name: id of the drawing.
        title: what it shows, for people who do not see it.
        low: value at the bottom.
        high: value at the top.
    """
    x, y = Scale(0, 1, 0, WIDTH), Scale(low, high, HEIGHT - 8, 8)
    points = [(x(f), y(v)) for f, v in zip(fractions.tolist(), values.tolist(), strict=True)]
    at = points[own]
    parts = [
        element("path", d=f"M0 {HEIGHT}H{WIDTH}", class_="grid"),
        element("path", d=f"M{at[0]:.2f} 0V{HEIGHT}", class_="own"),
        element("polyline", points=" ".join(f"{a:.2f},{b:.2f}" for a, b in points), class_="line"),
        element("path", d=f"M{at[0]:.2f} {at[1]:.2f}h0", class_="dot"),
    ]
    labels = [Label(100 * f, f"{100 * f:.0f} %") for f in (0.0, 0.5, 1.0)]
    return Chart(svg=_drawing(name, title, parts), x=labels, y=[])


def size_groups(by_cluster: I64) -> tuple[I64, int]:
    """Rows of a table of clusters from the largest cluster to the smallest; neighbours are added up if there are many.

    Returns:
        The table, and how many clusters stand in a row of it.
    """
    order = np.argsort(-by_cluster.sum(axis=1), kind="stable")
    each = max(1, math.ceil(len(order) / MOST_BARS))
    starts = np.arange(0, len(order), each)
    ordered = by_cluster[order]
    return (np.add.reduceat(ordered, starts, axis=0) if len(order) else ordered), each


def cut_edges(by_score: I64) -> list[tuple[int, float, str]]:
    """Where the scores of kept and dropped samples part, for each stop.

    Returns:
        For each of the s stops the bin edge, the share of the kept samples on its kept side, and that side; edge -1
        where no edge parts them well, as for policies that do not go by the score alone.
    """
    found = []
    kept, members = np.zeros(len(by_score), np.int64), by_score.sum(axis=1)
    for stop in range(by_score.shape[1] - 1):
        kept += by_score[:, stop]
        dropped = members - kept
        n_kept, n_dropped = int(kept.sum()), int(dropped.sum())
        kept_left = np.concatenate([[0], np.cumsum(kept)])
        dropped_left = np.concatenate([[0], np.cumsum(dropped)])
        wrong_right = kept_left + (n_dropped - dropped_left)  # if kept were all that lies to the right
        wrong_left = (n_kept - kept_left) + dropped_left
        side, wrong = ("right", wrong_right) if wrong_right.min() <= wrong_left.min() else ("left", wrong_left)
        edge = int(np.argmin(wrong))
        inside = n_kept - int(kept_left[edge]) if side == "right" else int(kept_left[edge])
        clear = 0 < edge < len(by_score) and wrong[edge] <= (1 - CLEAR) * min(n_kept, n_dropped)
        found.append((edge if clear else -1, inside / max(n_kept, 1), side))
    return found
