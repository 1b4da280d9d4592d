"""Every clusterer of the table finds prototypes of the promised shape, from every point, the same each time."""

import numpy as np
import pytest

from sspruning.clusterers import CLUSTERERS, KMeansSettings

INITS = ("afk-mc2", "k-means++", "random")

pytestmark = pytest.mark.parametrize("name", sorted(CLUSTERERS))


def settings(**changes):
    return KMeansSettings(
        **{"k": 5, "niter": 8, "spherical": True, "init": "afk-mc2", "seed": 3, "device": "cpu", **changes}
    )


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def blobs(m=300, d=12, groups=5, spread=0.15, seed=0):
    rng = np.random.default_rng(seed)
    centres = unit(rng.normal(size=(groups, d)))
    return unit(centres[np.arange(m) % groups] + spread * rng.normal(size=(m, d)))


@pytest.mark.parametrize("spherical", [True, False])
@pytest.mark.parametrize("k", [1, 2, 5, 16])
def test_there_are_k_finite_centroids_of_the_samples_dimension(name, k, spherical):
    found = CLUSTERERS.resolve(name)(blobs(), settings(k=k, spherical=spherical))
    assert found.centroids.shape == (k, 12)
    assert found.centroids.dtype == np.float32
    assert np.isfinite(found.centroids).all()


@pytest.mark.parametrize("m", [5, 6, 300])
@pytest.mark.parametrize("init", INITS)
def test_spherical_centroids_have_length_one_even_if_the_rows_do_not_quite(name, init, m):
    rows = blobs(m) * np.float32(0.99)
    found = CLUSTERERS.resolve(name)(rows, settings(init=init))
    np.testing.assert_allclose(np.linalg.norm(found.centroids.astype(np.float64), axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("spherical", [True, False])
def test_the_objective_gets_no_worse_from_one_iteration_to_the_next_and_beats_prototypes_that_never_moved(
    name, spherical, init
):
    found = CLUSTERERS.resolve(name)(blobs(), settings(k=7, spherical=spherical, init=init))
    assert found.objective.shape == (8,)
    assert found.objective.dtype == np.float64
    better = 1 if spherical else -1
    gain = np.diff(found.objective) * better
    assert (gain >= -1e-4 * np.abs(found.objective[1:])).all()
    points, some = blobs().astype(np.float64), blobs()[:7].astype(np.float64)
    if spherical:
        unmoved = (points @ some.T).max(axis=1).sum()
    else:
        unmoved = ((points[:, None] - some[None]) ** 2).sum(axis=2).min(axis=1).sum()
    assert better * found.objective[-1] > better * unmoved


@pytest.mark.parametrize("spherical", [True, False])
def test_the_last_objective_is_that_of_the_sample(name, spherical):
    rows = blobs(spread=0.02)
    found = CLUSTERERS.resolve(name)(rows.copy(), settings(spherical=spherical, niter=15, init="k-means++"))
    points, centroids = rows.astype(np.float64), found.centroids.astype(np.float64)
    if spherical:
        expected = (points @ centroids.T).max(axis=1).sum()
    else:
        expected = ((points[:, None] - centroids[None]) ** 2).sum(axis=2).min(axis=1).sum()
    assert found.objective[-1] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("init", INITS)
def test_the_same_seed_gives_the_same_bytes_and_another_one_another_start(name, init):
    def run(seed):
        found = CLUSTERERS.resolve(name)(blobs(spread=0.6), settings(k=9, niter=3, init=init, seed=seed))
        return found.centroids.tobytes() + found.objective.tobytes()

    assert run(3) == run(3)
    assert run(3) != run(4)


def test_every_point_is_used(name):
    """With one prototype, it is the mean: of all 2,000 points, far more than FAISS's own 256 a centroid."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(2000, 6)).astype(np.float32) + np.arange(2000, dtype=np.float32)[:, None] / 1000
    found = CLUSTERERS.resolve(name)(rows.copy(), settings(k=1, spherical=False, niter=2))
    np.testing.assert_allclose(found.centroids[0], rows.mean(axis=0, dtype=np.float64), rtol=1e-5)


def test_as_many_prototypes_as_points_are_those_points(name):
    rows = blobs(m=6)
    found = CLUSTERERS.resolve(name)(rows.copy(), settings(k=6, init="random"))
    nearest = (rows.astype(np.float64) @ found.centroids.T.astype(np.float64)).max(axis=1)
    np.testing.assert_allclose(nearest, 1, atol=1e-6)
    np.testing.assert_allclose(found.objective, np.full(8, 6.0), rtol=1e-6)


def test_repeated_points_do_no_harm(name):
    rows = np.repeat(blobs(m=3), 20, axis=0)
    found = CLUSTERERS.resolve(name)(rows.copy(), settings(k=5, init="random"))
    assert np.isfinite(found.centroids).all()
    np.testing.assert_allclose(np.linalg.norm(found.centroids.astype(np.float64), axis=1), 1, atol=1e-6)


def test_people_are_told_where_it_ran_and_what_had_to_be_split(name):
    info = CLUSTERERS.resolve(name)(blobs(), settings()).info
    assert info["device"] == "cpu"
    assert info["split_clusters"] >= 0
