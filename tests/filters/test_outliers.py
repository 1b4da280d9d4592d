"""What lies far out goes: planted outliers, a clump that only distance sees, and the plainest dense density."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import candidates_of, planted

from sspruning.errors import UsageError
from sspruning.filters import outliers as module
from sspruning.filters.outliers import outliers

WAYS = ("distance", "density")


def unit(candidates):
    rows = candidates.vectors[np.arange(len(candidates))].astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def dense_isolation(candidates, neighbors):
    """(n,) mean cosine distance to the nearest members of two clusters, one row after another."""
    distance = 1 - unit(candidates) @ unit(candidates).T
    found = np.full(len(candidates), 2.0)
    for row in range(len(candidates)):
        around = np.isin(candidates.cluster, [candidates.cluster[row], candidates.second_cluster[row]])
        around[row] = False
        if around.any():
            found[row] = np.sort(distance[row, around])[:neighbors].mean()
    return found


def farthest(values, tie, count):
    return sorted(sorted(range(len(values)), key=lambda row: (-values[row], tie[row]))[:count])


@pytest.mark.parametrize("by", WAYS)
@pytest.mark.parametrize("seed", range(3))
def test_nearly_all_of_one_percent_of_outliers_go(by, seed):
    made = planted(seed, sizes=(800, 600, 400, 180), d=32, spread=0.5, outliers=20)
    gone = outliers(made.candidates, quantile=0.99, by=by)
    assert gone.drop.sum() == 20
    assert gone.drop[made.outlier].sum() >= 19
    assert gone.reason == "outlier"
    assert gone.twin is None


def test_a_tight_clump_far_from_its_prototype_is_seen_by_distance_and_spared_by_density():
    made = planted(5, sizes=(600, 380), d=32, spread=0.5)
    rng = np.random.default_rng(0)
    clump = rng.standard_normal(32) + 0.1 * rng.standard_normal((20, 32))
    clump /= np.linalg.norm(clump, axis=1, keepdims=True)
    both = candidates_of(np.concatenate([unit(made.candidates), clump]), made.candidates.centroids)
    junk = np.arange(len(both)) >= 980
    assert outliers(both, quantile=0.98, by="distance").drop[junk].all()
    assert not outliers(both, quantile=0.98, by="density").drop[junk].any()


def test_copies_are_no_outliers():
    made = planted(2, sizes=(500, 300), d=24, spread=0.5, copies=150, outliers=8)
    copies = np.flatnonzero(made.copy_of >= 0)
    for by in WAYS:
        drop = outliers(made.candidates, quantile=1 - 8 / 958, by=by).drop
        assert drop.sum() == 8
        assert not drop[copies].any()
    density = dense_isolation(made.candidates, 5)
    assert np.median(density[copies]) < np.median(density[(made.copy_of < 0) & ~made.outlier])


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.sampled_from([0.5, 0.9, 0.97, 0.99]))
@settings(max_examples=30)
def test_density_is_that_of_the_dense_search(seed, neighbors, quantile):
    made = planted(seed, sizes=(60, 30, 10, 3), d=10, spread=0.7, copies=20, outliers=5)
    gone = outliers(made.candidates, quantile=quantile, by="density", neighbors=neighbors)
    count = round((1 - quantile) * len(gone.drop))
    isolation = dense_isolation(made.candidates, neighbors)
    assert np.flatnonzero(gone.drop).tolist() == farthest(isolation, made.candidates.tie, count)


@pytest.mark.parametrize("by", WAYS)
@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.95, 0.99, 0.999, 1.0])
def test_exactly_the_asked_number_goes(by, quantile):
    candidates = planted(3, sizes=(100, 53)).candidates
    assert outliers(candidates, quantile=quantile, by=by).drop.sum() == round((1 - quantile) * 153)


def test_the_farthest_from_their_prototype_go_and_ties_go_by_tie():
    candidates = planted(4, sizes=(30, 20)).candidates
    level = replace(candidates, distance=np.round(candidates.distance, 2))
    assert np.flatnonzero(outliers(level, quantile=0.8).drop).tolist() == farthest(level.distance, level.tie, 10)


@pytest.mark.parametrize("by", WAYS)
def test_identical_vectors_go_by_tie(by):
    alike = candidates_of(np.ones((50, 6)), np.ones((1, 6)))
    gone = outliers(alike, quantile=0.9, by=by).drop
    assert set(np.flatnonzero(gone).tolist()) == set(np.argsort(alike.tie)[:5].tolist())


@pytest.mark.parametrize(("queries", "members"), [(3, 200), (17, 5), (64, 30)])
def test_portions_of_any_size_give_the_same(monkeypatch, queries, members):
    made = planted(9, sizes=(60, 40, 20), d=48, spread=0.8, copies=30)
    whole = [outliers(made.candidates, quantile=share, by="density").drop for share in (0.5, 0.9)]
    monkeypatch.setattr(module, "QUERIES", queries)
    monkeypatch.setattr(module, "MEMBERS", members)
    for share, drop in zip((0.5, 0.9), whole, strict=True):
        np.testing.assert_array_equal(outliers(made.candidates, quantile=share, by="density").drop, drop)


def test_densities_that_float32_cannot_tell_apart_are_decided_exactly():
    """Pairs at a cosine of 0.9, give or take what the rounding to float16 does to it: a hundred thousandth."""
    rng = np.random.default_rng(1)
    base, off = rng.standard_normal((2, 150, 384))
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    off -= np.sum(off * base, axis=1, keepdims=True) * base
    off /= np.linalg.norm(off, axis=1, keepdims=True)
    pairs = candidates_of(np.concatenate([base, 0.9 * base + np.sqrt(1 - 0.81) * off]), np.ones((1, 384)))
    isolation = dense_isolation(pairs, 1)
    assert np.diff(np.sort(isolation)[::2]).min() < 1e-8
    for count in range(5, 300, 36):
        found = outliers(pairs, quantile=1 - count / 300, by="density", neighbors=1).drop
        assert np.flatnonzero(found).tolist() == farthest(isolation, pairs.tie, count)


def test_a_sample_without_neighbours_is_the_most_isolated():
    candidates = planted(1, sizes=(30, 20), d=8).candidates
    lone = replace(
        candidates,
        cluster=np.where(np.arange(50) == 7, 3, candidates.cluster).astype(np.int32),
        second_cluster=np.where(np.arange(50) == 7, 4, candidates.second_cluster).astype(np.int32),
    )
    assert np.flatnonzero(outliers(lone, quantile=0.98, by="density").drop).tolist() == [7]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantile": 0.0}, r"quantile must lie in \(0, 1\]; got 0\.0"),
        ({"quantile": 1.5}, r"quantile must lie in \(0, 1\]; got 1\.5"),
        ({"by": "size"}, "by must be distance or density; got 'size'"),
        ({"neighbors": 0}, "neighbors must be at least 1; got 0"),
        ({"quantile": 0.001}, r"quantile 0\.001 leaves none of 50 samples"),
    ],
)
def test_options_outside_their_range_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        outliers(planted(1, sizes=(30, 20)).candidates, **options)


def test_only_density_needs_vectors():
    bare = replace(planted(1, sizes=(100, 50)).candidates, vectors=None)
    assert outliers(bare).drop.sum() == 2
    with pytest.raises(UsageError, match="'outliers' compares embeddings"):
        outliers(bare, by="density")
