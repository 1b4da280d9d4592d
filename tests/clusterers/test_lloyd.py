"""Lloyd's two steps equal the plainest possible version of them."""

import numpy as np
import pytest

from sspruning.clusterers import lloyd as module
from sspruning.clusterers.lloyd import add_by_label, assign, move_to_means, split_clusters, total_cost


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def some(m=300, k=9, d=6, seed=0):
    rng = np.random.default_rng(seed)
    return unit(rng.normal(size=(m, d))), unit(rng.normal(size=(k, d)))


def squares(rows, centroids):
    return ((rows.astype(np.float64)[:, None] - centroids.astype(np.float64)[None]) ** 2).sum(axis=2)


@pytest.mark.parametrize("block", [1, 7, 16384])
@pytest.mark.parametrize("cosine", [True, False])
def test_rows_go_to_the_nearest_centroid(monkeypatch, cosine, block):
    monkeypatch.setattr(module, "BLOCK_ROWS", block)
    rows, centroids = some()
    found = assign(rows, centroids, cosine=cosine)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, squares(rows, centroids).argmin(axis=1))


def test_a_penalty_is_added_to_the_squared_distances():
    rows, centroids = some()
    penalty = np.random.default_rng(1).uniform(0, 2, len(centroids))
    found = assign(rows, centroids, cosine=False, penalty=penalty)
    np.testing.assert_array_equal(found, (squares(rows, centroids) + penalty).argmin(axis=1))
    assert (found != assign(rows, centroids, cosine=False)).any()


@pytest.mark.parametrize("block", [7, 16384])
def test_the_cost_is_the_sum_over_the_rows(monkeypatch, block):
    monkeypatch.setattr(module, "BLOCK_ROWS", block)
    rows, centroids = some()
    labels = np.random.default_rng(1).integers(0, 9, 300).astype(np.int32)
    at = np.arange(300)
    products = rows.astype(np.float64) @ centroids.T.astype(np.float64)
    assert total_cost(rows, centroids, labels, spherical=True) == pytest.approx(products[at, labels].sum())
    expected = squares(rows, centroids)[at, labels].sum()
    assert total_cost(rows, centroids, labels, spherical=False) == pytest.approx(expected)


@pytest.mark.parametrize("block", [1, 7, 16384])
@pytest.mark.parametrize("spherical", [True, False])
def test_centroids_move_to_the_means_of_their_rows_and_stay_where_they_have_none(monkeypatch, spherical, block):
    monkeypatch.setattr(module, "BLOCK_ROWS", block)
    rows, centroids = some()
    labels = np.random.default_rng(1).choice([0, 1, 3, 4, 7], 300).astype(np.int32)
    moved = move_to_means(rows, labels, centroids, spherical=spherical)
    for label in range(9):
        own = rows[labels == label].astype(np.float64)
        expected = own.mean(axis=0) if len(own) else centroids[label]
        if spherical:
            expected = expected / np.linalg.norm(expected)
        np.testing.assert_allclose(moved[label], expected, atol=1e-6)
    assert (moved[[2, 5, 6, 8]] == centroids[[2, 5, 6, 8]]).all()


def test_rows_that_cancel_out_leave_a_spherical_centroid_where_it_is():
    rows = np.array([[1, 0], [-1, 0]], np.float32)
    before = np.array([[0, 1]], np.float32)
    labels = np.zeros(2, np.int32)
    np.testing.assert_array_equal(move_to_means(rows, labels, before, spherical=True), before)
    np.testing.assert_array_equal(move_to_means(rows, labels, before, spherical=False), [[0, 0]])


@pytest.mark.parametrize("spherical", [True, False])
@pytest.mark.parametrize("d", [2, 256])
def test_a_split_cluster_is_shared_about_evenly_in_few_and_in_many_dimensions(d, spherical):
    rng = np.random.default_rng(2)
    rows = unit(np.eye(d)[np.arange(400) // 300] + 0.2 * rng.normal(size=(400, d)) / np.sqrt(d))
    centroids = np.concatenate([unit(np.eye(d)[:2]), np.zeros((1, d), np.float32)])
    labels = (np.arange(400) // 300).astype(np.int32)
    centroids = move_to_means(rows, labels, centroids, spherical=spherical)
    halved = split_clusters(rows, labels, centroids, np.array([0]), np.array([2]), rng, spherical=spherical)
    sizes = np.bincount(assign(rows, halved, cosine=spherical))
    assert sizes[1] == 100
    assert 110 <= sizes[0] <= 190
    assert sizes.sum() == 400
    if spherical:
        np.testing.assert_allclose(np.linalg.norm(halved, axis=1), 1, atol=1e-6)


def test_nothing_to_split_changes_nothing():
    rows, centroids = some()
    labels, none = np.zeros(300, np.int32), np.empty(0, np.int64)
    found = split_clusters(rows, labels, centroids, none, none, np.random.default_rng(0), spherical=True)
    np.testing.assert_array_equal(found, centroids)


def test_rows_are_added_to_the_sum_of_their_label():
    rng = np.random.default_rng(3)
    rows, labels = rng.normal(size=(200, 5)).astype(np.float16), rng.integers(0, 7, 200).astype(np.int32)
    sums, expected = np.ones((8, 6)), np.ones((8, 6))
    for start in (0, 150):  # in a view, as callers with more columns do
        add_by_label(sums[:, :5], rows[start : start + 150], labels[start : start + 150])
    np.add.at(expected[:, :5], labels, rows.astype(np.float64))
    np.testing.assert_array_equal(sums, expected)
    add_by_label(sums[:, :5], rows[:0], labels[:0])
    np.testing.assert_array_equal(sums, expected)
