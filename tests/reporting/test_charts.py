"""Charts draw the numbers that they are given: heights, cuts, colours, places."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sspruning.reporting.charts import HEIGHT, MOST_BARS, bars, curve, cut_edges, short_count, size_groups
from sspruning.reporting.cluster_map import (
    MAP_HEIGHT,
    MAP_WIDTH,
    draw_map,
    level,
    principal_plane,
    spread_out,
)
from sspruning.reporting.contents import MapCluster, Picture
from sspruning.reporting.svg import Scale, element, ticks


def heights(svg, kind):
    return [float(h) for h in re.findall(rf'height="([\d.]+)" class="{kind}"', str(svg))]


def test_bars_are_as_high_as_their_counts():
    table = np.array([[10, 0, 10], [0, 5, 0], [0, 0, 0]])
    chart = bars(table, 0, name="x", title="t", x=[])
    unit = float(re.search(r'data-unit="([\d.e+-]+)"', str(chart.svg))[1])
    assert np.allclose(np.array(heights(chart.svg, "all")) / unit, [20, 5, 0], atol=0.01)
    assert np.allclose(np.array(heights(chart.svg, "kept")) / unit, [10, 0, 0], atol=0.01)
    assert max(heights(chart.svg, "all")) <= HEIGHT


def test_the_cut_lies_where_kept_and_dropped_part():
    by_score = np.array([[0, 0, 9], [0, 9, 1], [9, 0, 0]])  # bin 2 is kept first, bin 1 by the second stop
    assert cut_edges(by_score) == [(2, 1.0, "right"), (1, 1.0, "right")]
    assert cut_edges(by_score[::-1]) == [(1, 1.0, "left"), (2, 1.0, "left")]


def test_no_cut_is_claimed_where_the_score_does_not_decide():
    assert cut_edges(np.full((6, 2), 5))[0][0] == -1
    assert cut_edges(np.array([[5, 0], [5, 0]]))[0][0] == -1  # everything is kept


def test_many_clusters_are_added_up_and_none_is_lost():
    table = np.random.default_rng(0).integers(0, 9, (1000, 3))
    grouped, each = size_groups(table)
    assert each == 5
    assert len(grouped) <= MOST_BARS
    assert grouped.sum() == table.sum()
    assert (np.diff(grouped.sum(axis=1)) <= 0).all()


def test_a_curve_has_a_point_for_each_stop():
    fractions = np.array([0.1, 0.5, 1.0])
    chart = curve(np.array([0.0, 0.5, 1.0]), fractions, 1, name="c", title="t", low=0, high=1)
    points = re.search(r'points="([^"]+)"', str(chart.svg))[1].split()
    assert [point.split(",")[0] for point in points] == ["100.00", "500.00", "1000.00"]


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 9))
def test_tick_marks_are_few_and_within_the_range(low, width, most):
    high = low + width
    found = ticks(low, high, most)
    slack = 1e-6 * max(abs(low), abs(high), width)
    assert len(found) <= most
    assert all(low - slack <= tick <= high + slack for tick in found)


def test_equal_values_stand_in_the_middle():
    assert Scale(3, 3, 0, 10)(3) == 5
    assert ticks(2.0, 2.0) == [2.0]
    assert [short_count(value) for value in (800, 1200, 45_000, 3e6)] == ["800", "1,200", "45k", "3M"]


def test_text_in_a_drawing_is_escaped():
    assert element("text", "<b>&", title='"<') == '<text title="&#34;&lt;">&lt;b&gt;&amp;</text>'


def test_the_map_shows_the_plane_of_the_largest_spread():
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(40, 2)) * [5, 2]
    turn = np.linalg.qr(rng.normal(size=(30, 30)))[0]
    centroids = (np.pad(plane, ((0, 0), (0, 28))) @ turn).astype(np.float32)
    for rows in (centroids, centroids[:20]):  # more rows than columns, and fewer
        places, share = principal_plane(rows, np.ones(len(rows), np.int64))
        apart = np.linalg.norm(rows[:, None] - rows[None], axis=2)
        assert share == pytest.approx(1, abs=1e-6)
        assert np.allclose(np.linalg.norm(places[:, None] - places[None], axis=2), apart, atol=1e-4)


@pytest.mark.parametrize("k", [0, 1, 2])
def test_few_prototypes_have_places_too(k):
    places, share = principal_plane(np.eye(3, dtype=np.float32)[:k], np.ones(k, np.int64))
    assert places.shape == (k, 2)
    assert share == pytest.approx(1)


def test_colours_go_by_fifths_and_nothing_has_its_own():
    assert [level(kept, 10) for kept in (0, 1, 2, 3, 5, 7, 9, 10)] == [0, 1, 1, 2, 3, 4, 5, 5]
    assert level(0, 0) == 0


def test_thumbnails_on_the_map_do_not_overlap_and_everything_is_inside():
    rng = np.random.default_rng(0)
    places = rng.normal(size=(200, 2))
    clusters = [MapCluster(cluster=i, x=x, y=y) for i, (x, y) in enumerate(places.tolist())]
    framed = spread_out(clusters, [1] * 200, 50)
    assert 10 < len(framed) <= 50
    picture = Picture(
        key="k", shard="s", row=0, rank=0, score=0, distance=0, cluster=0, reason="kept", kept=True, image="data:,"
    )
    for index in framed:
        clusters[index] = MapCluster(cluster=index, x=clusters[index].x, y=clusters[index].y, picture=picture)
    svg = str(draw_map(clusters, [1] * 200, [1] * 200))
    frames = np.array(re.findall(r'<rect x="([\d.]+)" y="([\d.]+)"', svg), float)
    assert len(frames) == len(framed)
    gaps = np.abs(frames[:, None] - frames[None]).max(axis=2) + 1e9 * np.eye(len(frames))
    assert gaps.min() >= 44
    circles = np.array(re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg), float)
    assert (circles >= 0).all()
    assert (circles <= [MAP_WIDTH, MAP_HEIGHT]).all()
