"""One distance formula: right to the last digits of float32, and blind to the grouping of rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sspruning.metrics.distances import pair_distance, unit_rows

WIDE = np.longdouble
both_geometries = pytest.mark.parametrize("cosine", [True, False])


def reference(rows, centroids, labels, *, cosine):
    """The same distances by the textbook formulas, in the widest number type of the machine."""
    x, c = rows.astype(WIDE), centroids.astype(WIDE)[labels]
    if not cosine:
        return np.sqrt(((x - c) ** 2).sum(axis=1))
    return 1 - (x * c).sum(axis=1) / np.sqrt((x**2).sum(axis=1) * (c**2).sum(axis=1))


def planted(m=231, d=48, k=9, seed=0, kind=np.float16):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(m, d))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(kind), rng.normal(size=(k, d)).astype(np.float32), rng.integers(0, k, m).astype(np.int32)


@both_geometries
@pytest.mark.parametrize("d", [1, 2, 7, 48, 384, 2048])
@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_distances_equal_the_textbook_formulas(cosine, d, kind):
    rows, centroids, labels = planted(d=d, kind=kind)
    found = pair_distance(rows, centroids, labels, cosine=cosine)
    assert found.dtype == np.float32
    expected = reference(rows, centroids, labels, cosine=cosine)
    np.testing.assert_allclose(found.astype(WIDE), expected, rtol=6.1e-8, atol=1e-15)


def test_known_angles_have_their_known_distances():
    rows = np.array([[2, 0], [0, 3], [-1, 0], [1, 1]], np.float32)
    found = pair_distance(rows, np.array([[5, 0]], np.float32), np.zeros(4, np.int32), cosine=True)
    assert found.tolist() == pytest.approx([0, 1, 2, 1 - np.sqrt(0.5)], abs=1e-7)
    found = pair_distance(rows, np.array([[5, 0]], np.float32), np.zeros(4, np.int32), cosine=False)
    assert found.tolist() == pytest.approx([3, np.sqrt(34), 6, np.sqrt(17)])


@pytest.mark.skipif(np.finfo(WIDE).eps > 1e-18, reason="no number type wider than float64 here")
@pytest.mark.parametrize("step", [1e-3, 1e-5, 1e-7])
def test_near_points_lose_no_digits_as_they_do_in_the_expanded_form(step):
    rng = np.random.default_rng(1)
    centroids = rng.normal(size=(1, 64)).astype(np.float32)
    rows = (centroids + step * rng.normal(size=(50, 64))).astype(np.float32)
    labels = np.zeros(50, np.int32)
    x, c = unit_rows(rows).astype(WIDE), unit_rows(centroids)[labels].astype(WIDE)
    exact = 0.5 * ((x - c) ** 2).sum(axis=1)
    direct = pair_distance(rows, centroids, labels, cosine=True)
    np.testing.assert_allclose(direct.astype(WIDE), exact, rtol=1e-6)
    narrow, middle = unit_rows(rows).astype(np.float32), unit_rows(centroids)[labels].astype(np.float32)
    expanded = 1 - (narrow * middle).sum(axis=1)
    assert (np.abs(expanded - exact) / exact).max() > 1e-3


@both_geometries
def test_a_point_on_its_prototype_has_distance_zero(cosine):
    rows, _, _ = planted(kind=np.float32)
    found = pair_distance(rows, rows, np.arange(len(rows), dtype=np.int32), cosine=cosine)
    assert not found.any()


@both_geometries
@pytest.mark.parametrize("d", [3, 48, 384])
@pytest.mark.parametrize("size", [1, 7, 100])
def test_chunks_of_any_size_give_equal_bits(cosine, d, size):
    rows, centroids, labels = planted(d=d)
    whole = pair_distance(rows, centroids, labels, cosine=cosine)
    pieces = [
        pair_distance(rows[i : i + size], centroids, labels[i : i + size], cosine=cosine)
        for i in range(0, len(rows), size)
    ]
    assert np.concatenate(pieces).tobytes() == whole.tobytes()


@given(
    data=st.data(),
    m=st.integers(1, 30),
    d=st.integers(1, 40),
    k=st.integers(1, 5),
    cosine=st.booleans(),
)
@settings(max_examples=80, deadline=None, derandomize=True)
def test_order_memory_layout_and_grouping_of_any_rows_change_no_bit(data, m, d, k, cosine):
    finite = st.floats(-1000, 1000, width=16)
    rows = data.draw(hnp.arrays(np.float16, (m, d), elements=finite))
    centroids = data.draw(hnp.arrays(np.float32, (k, d), elements=st.floats(-1000, 1000, width=32)))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    labels, order, border = rng.integers(0, k, m).astype(np.int32), rng.permutation(m), int(rng.integers(0, m + 1))
    whole = pair_distance(rows, centroids, labels, cosine=cosine)
    assert np.isfinite(whole).all()
    assert (whole >= 0).all()
    shuffled = pair_distance(rows[order], centroids, labels[order], cosine=cosine)
    assert shuffled.tobytes() == whole[order].tobytes()
    assert pair_distance(np.asfortranarray(rows), centroids, labels, cosine=cosine).tobytes() == whole.tobytes()
    pieces = [
        pair_distance(rows[part], centroids, labels[part], cosine=cosine)
        for part in (slice(border), slice(border, None))
    ]
    assert np.concatenate(pieces).tobytes() == whole.tobytes()


def test_the_length_of_a_row_plays_no_part_in_cosine():
    rows, centroids, labels = planted(kind=np.float32)
    once = pair_distance(rows, centroids, labels, cosine=True)
    np.testing.assert_array_equal(
        pair_distance(rows * np.float32(4), centroids * np.float32(0.5), labels, cosine=True), once
    )


def test_unit_rows_have_length_one_and_zero_rows_stay():
    rows = np.array([[3, 4], [0, 0], [1e-20, 0]], np.float32)
    np.testing.assert_allclose(unit_rows(rows), [[0.6, 0.8], [0, 0], [1, 0]], atol=1e-15)
    assert unit_rows(rows).dtype == np.float64
