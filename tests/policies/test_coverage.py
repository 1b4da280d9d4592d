"""One sample for each region: budgets, the plainest k-means, what is near to what is kept, copies, large clusters."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import candidates_of, planted

from sspruning.errors import UsageError
from sspruning.metrics.distances import unit_rows
from sspruning.policies import coverage as module
from sspruning.policies.coverage import coverage
from sspruning.policies.keep_hardest import keep_hardest
from sspruning.policies.keep_random import keep_random


def kept_by(policy, candidates, count, **options):
    """(n,) bool: which samples stay when ``count`` do."""
    ranks = policy(replace(candidates, count=count), **options)
    assert sorted(ranks.tolist()) == list(range(len(candidates)))
    return ranks < count


def mean_gap(candidates, kept):
    """Mean cosine distance of all samples to the nearest kept one."""
    rows = unit_rows(candidates.vectors[slice(None)])
    return (1 - rows @ rows[kept].T).min(axis=1).mean()


def plain_representatives(rows, count, niter):
    """Spherical k-means with centroids, in float64, of rows in order of tie; then the nearest to each centroid."""
    rows = unit_rows(rows)
    draws = np.random.default_rng(0).random(count)
    seeds = [0]
    for draw in draws[1:]:
        near = (1 - rows @ rows[seeds].T).min(axis=1).clip(0)
        seeds.append(int(np.searchsorted(np.cumsum(near), draw * near.sum(), side="right")))
    labels = (rows @ rows[seeds].T).argmax(axis=1)
    for _ in range(niter):
        centroids = np.array([unit_rows(rows[labels == one].sum(axis=0)[None])[0] for one in np.unique(labels)])
        labels = (rows @ centroids.T).argmax(axis=1)
    picks = []
    for one in np.unique(labels):
        members = np.flatnonzero(labels == one)
        to_centre = rows[members] @ rows[members].sum(axis=0)
        picks.append(int(members[np.argmax(np.round(to_centre, 9))]))
    while len(picks) < count:
        near = (rows @ rows[picks].T).max(axis=1)
        near[picks] = 2
        picks.append(int(near.argmin()))
    return picks


@pytest.mark.parametrize("niter", [1, 10])
@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.5, 0.8])
def test_representatives_are_those_of_the_plainest_k_means(fraction, niter):
    candidates = planted(sizes=(250, 120, 60, 20), d=24, outliers=10).candidates
    count = round(fraction * len(candidates))
    kept = kept_by(coverage, candidates, count, niter=niter)
    for cluster in range(4):
        rows = np.flatnonzero(candidates.cluster == cluster)
        rows = rows[np.argsort(candidates.tie[rows])]
        budget = int(kept[rows].sum())
        expected = plain_representatives(candidates.vectors[rows], budget, niter) if budget else []
        assert sorted(rows[expected].tolist()) == np.flatnonzero(kept & (candidates.cluster == cluster)).tolist()


@given(st.integers(0, 2**32 - 1), st.integers(0, 100))
@settings(max_examples=50)
def test_each_cluster_keeps_its_share_to_within_one(seed, percent):
    rng = np.random.default_rng(seed)
    candidates = planted(seed=seed, sizes=rng.integers(1, 40, rng.integers(1, 12)).tolist(), d=6).candidates
    n, count = len(candidates), round(percent / 100 * len(candidates))
    kept = kept_by(coverage, candidates, count)
    sizes = np.bincount(candidates.cluster)
    assert (np.abs(np.bincount(candidates.cluster[kept], minlength=len(sizes)) - sizes * count / n) < 1).all()


@pytest.mark.parametrize("group", [1024, 64])
@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_samples_are_nearer_to_what_is_kept_than_for_random_and_for_hard(monkeypatch, fraction, group):
    monkeypatch.setattr(module, "GROUP", group)
    monkeypatch.setattr(module, "FEW", group // 32)
    candidates = planted(sizes=(500, 250, 120, 60), d=8, spread=0.5, copies=200, cosine=0.98, outliers=5).candidates
    count = round(fraction * len(candidates))
    kept = [kept_by(policy, candidates, count) for policy in (coverage, keep_random, keep_hardest)]
    gap, *others = [mean_gap(candidates, some) for some in kept]
    assert gap < (0.8 if group == 1024 else 0.9) * min(others)


def with_a_clump(size, others):
    """One cluster: ``size`` samples so close together that one would do, and ``others`` around."""
    rng = np.random.default_rng(0)
    center = np.eye(12)[0]
    rows = center + 0.5 * unit_rows(rng.standard_normal((size + others, 12)))
    rows[:size] = rows[0] + 0.003 * rng.standard_normal((size, 12))
    return candidates_of(rows, center[None]), np.arange(size + others) < size


@pytest.mark.parametrize("group", [1024, 64])
def test_a_redundant_clump_loses_most(monkeypatch, group):
    monkeypatch.setattr(module, "GROUP", group)
    monkeypatch.setattr(module, "FEW", group // 32)
    candidates, clump = with_a_clump(200, 300)
    kept = kept_by(coverage, candidates, 250)
    assert 1 <= kept[clump].sum() < 0.1 * 200
    assert kept[~clump].mean() > 0.7


@pytest.mark.parametrize("count", [40, 55, 150])
def test_of_copies_one_stays_before_a_second_does(count):
    """40 different samples, four times each."""
    rows = np.tile(np.random.default_rng(0).standard_normal((40, 8)), (4, 1))
    candidates = candidates_of(rows, rows[:1])
    kept = kept_by(coverage, candidates, count)
    assert kept.sum() == count
    assert kept.reshape(4, 40).any(axis=0).all()


def test_a_pair_is_stood_for_by_the_one_with_the_smaller_tie():
    rows = np.repeat(np.eye(6), 2, axis=0) + 0.01 * np.random.default_rng(0).standard_normal((12, 6))
    candidates = candidates_of(rows, np.ones((1, 6)))
    kept = kept_by(coverage, candidates, 6)
    np.testing.assert_array_equal(kept.reshape(6, 2).argmax(axis=1), candidates.tie.reshape(6, 2).argmin(axis=1))


@pytest.mark.parametrize(("hardness", "expected"), [(0.0, 100), (0.5, 150), (1.0, 200)])
def test_hardness_gives_clusters_of_hard_samples_more(hardness, expected):
    """600 samples score half of the mean of all, 300 twice as much: weights 600 * 0.5^hardness and 300 * 2^hardness."""
    rng = np.random.default_rng(0)
    source = np.repeat([0, 1], [600, 300])
    score = np.where(source == 0, 0.2, 0.8)
    rows = np.eye(8)[source] + 0.3 * unit_rows(rng.standard_normal((900, 8)))
    candidates = candidates_of(rows, np.eye(8)[:2], score=score)
    kept = kept_by(coverage, candidates, 300, hardness=hardness)
    assert abs(kept[source == 1].sum() - expected) <= 1


@pytest.mark.parametrize("score", [np.zeros(60), np.linspace(-3, -1, 60), np.r_[np.zeros(59), 1e6]])
def test_any_scores_will_do_for_hardness(score):
    candidates = planted(sizes=(30, 20, 10)).candidates
    kept = kept_by(coverage, replace(candidates, score=score.astype(np.float32)), 30, hardness=1.0)
    assert kept.sum() == 30
    if (score == 0).all():
        np.testing.assert_array_equal(kept, kept_by(coverage, candidates, 30))


def test_negative_scores_count_from_the_lowest():
    candidates = planted(sizes=(200, 200)).candidates
    score = np.where(candidates.cluster == 0, -1.0, -2.0) - np.random.default_rng(0).random(400)
    kept = kept_by(coverage, replace(candidates, score=score.astype(np.float32)), 200, hardness=1.0)
    assert kept[candidates.cluster == 0].sum() == pytest.approx(150, abs=5)  # 1.5 against 0.5 above the lowest


def test_groups_that_came_out_empty_are_made_up_for_by_the_farthest_one_after_another(monkeypatch):
    monkeypatch.setattr(module, "_lloyd", lambda similarity, k, niter: np.zeros(len(similarity), np.int64))
    candidates = planted(sizes=(60,), copies=20, cosine=0.999).candidates
    rows = unit_rows(candidates.vectors[slice(None)])
    first = int((rows @ rows.sum(axis=0)).argmax())
    expected = [first]
    for _ in range(11):
        expected.append(int((rows @ rows[expected].T).max(axis=1).argmin()))
    assert np.flatnonzero(kept_by(coverage, candidates, 12)).tolist() == sorted(expected)


def test_the_first_ranks_take_from_all_clusters_by_their_size():
    candidates = planted(sizes=(400, 200, 100, 20), d=32, spread=0.1).candidates
    ranks = coverage(replace(candidates, count=360))
    for count in (9, 100, 360, 600):
        share = np.bincount(candidates.cluster) * count / 720
        assert (np.abs(np.bincount(candidates.cluster[ranks < count], minlength=4) - share) <= 1).all()


@pytest.mark.parametrize("group", [1024, 64])
@pytest.mark.parametrize("hardness", [0.0, 1.0])
def test_the_order_of_rows_changes_nothing(monkeypatch, group, hardness):
    monkeypatch.setattr(module, "GROUP", group)
    candidates = replace(planted(copies=40, outliers=5).candidates, count=150)
    order = np.random.default_rng(1).permutation(len(candidates))
    ranks = coverage(candidates, hardness=hardness)
    np.testing.assert_array_equal(coverage(candidates.take(order), hardness=hardness), ranks[order])


def test_cosines_are_exact_whatever_the_order_of_addition():
    rows = planted(d=384).candidates.vectors[slice(None)]
    order = np.random.default_rng(0).permutation(384)
    assert module._similarity(rows[:, order]).tobytes() == module._similarity(rows).tobytes()
    np.testing.assert_array_equal(module._similarity(rows[:37]), module._similarity(rows)[:37, :37])


def test_blocks_of_a_large_cluster_change_nothing(monkeypatch):
    monkeypatch.setattr(module, "GROUP", 32)
    candidates = replace(planted(sizes=(400,)).candidates, count=200)
    expected = coverage(candidates)
    monkeypatch.setattr(module, "BLOCK", 7)
    np.testing.assert_array_equal(coverage(candidates), expected)


def test_a_large_cluster_with_few_to_keep_is_seen_through_a_random_sample(monkeypatch):
    monkeypatch.setattr(module, "GROUP", 128)
    monkeypatch.setattr(module, "FEW", 8)
    candidates = planted(sizes=(1000,)).candidates
    kept = kept_by(coverage, candidates, 8)
    assert np.argsort(np.argsort(candidates.tie))[kept].max() < 128
    assert mean_gap(candidates, kept) < mean_gap(candidates, kept_by(keep_random, candidates, 8))


@pytest.mark.parametrize("group", [1024, 16])
@pytest.mark.parametrize("count", [0, 1, 30, 59, 60, 99])
def test_identical_embeddings_are_ranked(monkeypatch, count, group):
    monkeypatch.setattr(module, "GROUP", group)
    candidates = candidates_of(np.ones((60, 4)), np.ones((3, 4)))
    assert kept_by(coverage, candidates, count).sum() == min(count, 60)


@pytest.mark.parametrize("count", [1, 7, 20])
def test_opposite_and_zero_embeddings_are_ranked(count):
    rows = np.concatenate([np.eye(4), -np.eye(4), np.zeros((4, 4)), np.eye(4), -np.eye(4)])
    assert kept_by(coverage, candidates_of(rows, np.ones((1, 4))), count).sum() == count


@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize("k", [1, 5])
def test_few_samples_are_ranked(n, k):
    rng = np.random.default_rng(n)
    candidates = candidates_of(rng.standard_normal((n, 4)), rng.standard_normal((k, 4)))
    for count in range(n + 1):
        assert kept_by(coverage, candidates, count).sum() == count


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"niter": 0}, "niter must be at least 1; got 0"),
        ({"hardness": -0.1}, r"hardness must be in \[0, 1\]; got -0.1"),
        ({"hardness": 1.5}, "hardness must be in"),
        ({"hardness": float("nan")}, "hardness must be in"),
    ],
)
def test_an_option_out_of_its_range_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        coverage(planted(sizes=(5, 5)).candidates, **options)


def test_candidates_without_embeddings_are_refused():
    with pytest.raises(UsageError, match="reads embeddings"):
        coverage(replace(planted(sizes=(5, 5)).candidates, vectors=None))
