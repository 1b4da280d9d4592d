import numpy as np
import pytest

from sspruning.clusterers import KMeansSettings
from sspruning.clusterers.numpy_kmeans import numpy_kmeans


def settings(**changes):
    return KMeansSettings(**{"k": 2, "niter": 10, "spherical": False, "init": "k-means++", "seed": 0, **changes})


def test_two_planted_pairs_are_found_exactly():
    rows = np.array([[0, 0], [0, 2], [10, 0], [10, 2]], np.float32)
    found = numpy_kmeans(rows, settings())
    assert sorted(found.centroids.tolist()) == [[0, 1], [10, 1]]
    assert found.objective[-1] == 4.0


def test_spherical_prototypes_are_normalised_means_of_their_members():
    angles = np.array([0.0, 0.2, 3.0, 3.2])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    found = numpy_kmeans(rows, settings(spherical=True))
    expected = [[np.cos(a), np.sin(a)] for a in (0.1, 3.1)]
    np.testing.assert_allclose(sorted(found.centroids.tolist()), sorted(expected), atol=1e-6)
    assert found.objective[-1] == pytest.approx(4 * np.cos(0.1))


def test_an_empty_cluster_is_given_the_farthest_point():
    rows = np.array([[0.0, 0.0]] * 10 + [[100.0, 0.0]], np.float32)
    found = numpy_kmeans(rows, settings(init="random", seed=1))
    assert sorted(found.centroids[:, 0].tolist()) == [0.0, 100.0]
