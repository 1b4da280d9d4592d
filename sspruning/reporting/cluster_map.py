"""A map of the prototypes: their two principal components, each cluster sized by members, coloured by kept share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from sspruning.records import F32, F64, I64
from sspruning.reporting.contents import MapCluster, Picture
from sspruning.reporting.svg import element
from sspruning.reporting.words import percent

__all__ = ["LEVELS", "MAP_HEIGHT", "MAP_WIDTH", "draw_map", "level", "principal_plane", "spread_out"]

MAP_WIDTH, MAP_HEIGHT = 1000, 620
MARGIN = 52
STRETCH = 1.8
LEVELS = (0.0, 0.2, 0.4, 0.6, 0.8)  # kept shares above which the next colour begins; none at all has its own
INK = 0.10  # of the map's area that circles cover, before overlaps
SMALLEST, LARGEST = 3.0, 30.0  # radius
SMALLEST_SIDE, LARGEST_SIDE, RIM = 44, 92, 4  # of a thumbnail with its frame; larger where clusters are few
ALL_SIDES = 320  # sides of k thumbnails are this over the root of k


def principal_plane(centroids: F32, weights: I64) -> tuple[F64, float]:
    """(k, 2) places of prototypes in the plane in which they are most spread, and the share of the spread it shows.

    Args:
        centroids: (k, d) finite.
        weights: (k,) members of each; a large cluster counts as often.

    Cost:
        O(k d^2) or O(k^2 d), whichever is less.
    """
    k = len(centroids)
    weight = np.asarray(weights, np.float64)
    if k < 2 or weight.sum() == 0:
        return np.zeros((k, 2)), 1.0
    rows = np.asarray(centroids, np.float64)
    centred = rows - (weight @ rows) / weight.sum()
    scaled = centred * np.sqrt(weight)[:, None]
    if k < rows.shape[1]:
        values, vectors = np.linalg.eigh(scaled @ scaled.T)
        axes = scaled.T @ vectors[:, ::-1][:, :2]
        axes /= np.maximum(np.linalg.norm(axes, axis=0), 1e-300)
    else:
        values, vectors = np.linalg.eigh(scaled.T @ scaled)
        axes = vectors[:, ::-1][:, :2]
    values = np.maximum(values[::-1], 0)
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), range(axes.shape[1])] < 0, -1.0, 1.0)  # one sign for ever
    places = np.zeros((k, 2))
    places[:, : axes.shape[1]] = centred @ axes
    total = values.sum()
    return places, float(values[:2].sum() / total) if total > 0 else 1.0


def level(kept: int, members: int) -> int:
    """Colour of a kept share: 0 for none, then one for each fifth, up to `len(LEVELS)`."""
    share = kept / members if members else 0.0
    return sum(share > bound for bound in LEVELS)


def spread_out(clusters: Sequence[MapCluster], sizes: Sequence[int], most: int) -> list[int]:
    """Indices of clusters whose thumbnails have room beside each other, larger clusters first."""
    places, side = _places(clusters), _side(clusters) + 4
    taken: list[int] = []
    for index in sorted(range(len(clusters)), key=lambda i: (-sizes[i], i)):
        x, y = places[index]
        if all(abs(x - places[i][0]) > side or abs(y - places[i][1]) > side for i in taken):
            taken.append(index)
        if len(taken) == most:
            break
    return taken


def _side(clusters: Sequence[MapCluster]) -> float:
    return min(LARGEST_SIDE, max(SMALLEST_SIDE, ALL_SIDES / math.sqrt(max(len(clusters), 1))))


def _places(clusters: Sequence[MapCluster]) -> list[tuple[float, float]]:
    """Where each cluster stands on the drawing; one axis is stretched, by `STRETCH` at most, to fill it."""
    if not clusters:
        return []
    x, y = (np.array([getattr(one, axis) for one in clusters]) for axis in ("x", "y"))
    width, height = float(np.ptp(x)), float(np.ptp(y))
    fit = [(MAP_WIDTH - 2 * MARGIN) / width if width > 0 else np.inf]
    fit.append((MAP_HEIGHT - 2 * MARGIN) / height if height > 0 else np.inf)
    least = min(fit) if np.isfinite(min(fit)) else 0.0
    across, down = (min(one, STRETCH * least) for one in fit)
    left, top = (x.min() + x.max()) / 2, (y.min() + y.max()) / 2
    return [
        (MAP_WIDTH / 2 + across * (a - left), MAP_HEIGHT / 2 - down * (b - top))
        for a, b in zip(x.tolist(), y.tolist(), strict=True)
    ]


def draw_map(clusters: Sequence[MapCluster], members: Sequence[int], kept: Sequence[int]) -> Markup:
    """The map: a circle for each cluster, and thumbnails of what is nearest to some prototypes.

    Args:
        clusters: what to show; those with a picture get a thumbnail.
        members: of each.
        kept: of each, in this selection.
    """
    places, total = _places(clusters), max(sum(members), 1)
    unit = math.sqrt(INK * MAP_WIDTH * MAP_HEIGHT / math.pi / total)
    parts = []
    order = sorted(range(len(clusters)), key=lambda i: (clusters[i].picture is not None, -members[i], i))
    for index in order:
        (x, y), one = places[index], clusters[index]
        share = percent(kept[index] / members[index], 0) if members[index] else "nothing"
        title = element("title", f"Cluster {one.cluster}: {members[index]:,} images, {share} kept")
        colour = f"c l{level(kept[index], members[index])}"
        radius = min(LARGEST, max(SMALLEST, unit * math.sqrt(members[index])))
        shapes = [title]
        if one.picture is None or not one.picture.image:
            shapes.append(element("circle", cx=x, cy=y, r=radius))
        else:
            shapes += _framed(x, y, _side(clusters), one.picture)
        parts.append(element("g", *shapes, class_=colour, data_c=index))
    return element(
        "svg",
        element("title", f"Map of {len(clusters):,} clusters, coloured by the share that is kept", id="map-title"),
        *parts,
        id="map",
        viewBox=f"0 0 {MAP_WIDTH} {MAP_HEIGHT}",
        role="img",
        aria_labelledby="map-title",
    )


def _framed(x: float, y: float, side: float, picture: Picture) -> list[Markup]:
    """A thumbnail around (x, y), and under it a square whose rim is seen."""
    half, inner = side / 2, side / 2 - RIM
    rim = element("rect", x=x - half, y=y - half, width=side, height=side, rx=4)
    image = element(
        "image",
        href=picture.image,
        x=x - inner,
        y=y - inner,
        width=2 * inner,
        height=2 * inner,
        preserveAspectRatio="xMidYMid slice",
        class_="tiny" if picture.tiny else "photo",
    )
    return [rim, image]
