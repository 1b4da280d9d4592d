"""Density-based pruning: budgets against brute force and a general solver, selections against a plain version."""

import itertools
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import candidates_of, planted
from scipy.optimize import minimize

from sspruning.errors import UsageError
from sspruning.metrics.distances import unit_rows
from sspruning.policies.density import closest_budgets, density

quarters = st.integers(-40, 200).map(lambda value: value / 4)
problems = st.lists(st.tuples(quarters, st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=12)


def problem(entries, part):
    """(target, low, high, total) with a total between the sums of the bounds."""
    target = np.array([entry[0] for entry in entries], np.float64)
    low = np.array([entry[1] for entry in entries])
    high = low + np.array([entry[2] for entry in entries])
    return target, low, high, int(low.sum() + part * (high.sum() - low.sum()) // 16)


def cost(budget, target):
    return sum((Fraction(int(x)) - Fraction(t)) ** 2 for x, t in zip(budget, target, strict=True))


def one_by_one(target, low, high, total):
    """Optimal whole numbers: from the lower bounds, each further unit where it costs least (the costs only rise)."""
    budget = low.copy()
    for _ in range(total - int(low.sum())):
        budget[min(np.flatnonzero(budget < high), key=lambda j: (budget[j] - target[j], j))] += 1
    return budget


@given(problems, st.integers(0, 16))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_budgets_are_within_bounds_sum_exactly_and_cost_as_little_as_any(entries, part):
    target, low, high, total = problem(entries, part)
    budget = closest_budgets(target, low, high, total)
    assert budget.dtype == np.int64
    assert budget.sum() == total
    assert ((low <= budget) & (budget <= high)).all()
    assert cost(budget, target) == cost(one_by_one(target, low, high, total), target)


@given(st.lists(st.tuples(quarters, st.integers(0, 1), st.integers(0, 5)), min_size=1, max_size=4), st.integers(0, 16))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_no_other_whole_numbers_come_closer(entries, part):
    target, low, high, total = problem(entries, part)
    every = itertools.product(*(range(a, b + 1) for a, b in zip(low, high, strict=True)))
    best = min(cost(budget, target) for budget in every if sum(budget) == total)
    assert cost(closest_budgets(target, low, high, total), target) == best


@pytest.mark.parametrize("seed", range(4))
def test_a_general_solver_finds_the_same_up_to_the_rounding(seed):
    rng = np.random.default_rng(seed)
    high = rng.integers(1, 60, 12)
    low = np.minimum(rng.integers(0, 4, 12), high - 1)
    total = int(high.sum() * 0.6)
    target = total * rng.dirichlet(np.full(12, 0.7))
    solved = minimize(
        lambda x: 0.5 * ((x - target) ** 2).sum(),
        np.full(12, total / 12),
        jac=lambda x: x - target,
        bounds=list(zip(low, high, strict=True)),
        constraints={"type": "eq", "fun": lambda x: x.sum() - total, "jac": lambda _: np.ones(12)},
        method="SLSQP",
        options={"maxiter": 500},
    )
    assert solved.success
    assert np.abs(closest_budgets(target, low, high, total) - solved.x).max() < 1


@given(st.integers(0, 10_000), st.sampled_from([1e-3, 1.0, 1e6]), st.floats(0, 1))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_many_clusters_and_extreme_targets_sum_exactly(seed, scale, part):
    rng = np.random.default_rng(seed)
    high = rng.zipf(1.5, 300).clip(1, 10_000)
    low = np.minimum(1, high - 1)
    total = int(low.sum() + part * (high.sum() - low.sum()))
    target = scale * rng.dirichlet(np.full(300, 0.1)) * total
    budget = closest_budgets(target, low, high, total)
    assert budget.sum() == total
    assert ((low <= budget) & (budget <= high)).all()


def plain(given_, temperature):
    """The kept set, by loops over clusters and all pairs of prototypes."""
    rows = unit_rows(given_.vectors[:])
    labels = sorted(set(given_.cluster.tolist()))
    unit = unit_rows(given_.centroids)[labels]
    members = [np.flatnonzero(given_.cluster == label) for label in labels]
    inner = np.array([(1 - rows[m] @ c).mean() for m, c in zip(members, unit, strict=True)])
    between = 1 - unit @ unit.T
    outer = np.array([np.sort(np.delete(line, j))[:20].mean() for j, line in enumerate(between)])
    share = np.exp(inner * outer / temperature)
    share /= share.sum()
    n, k, count = len(given_), len(labels), given_.count
    sizes = np.array([len(m) for m in members])
    equal = count * sizes / n if given_.floor == "proportional" else np.full(k, count / k)
    low = np.minimum(np.maximum(1, np.floor(given_.balance * equal)), sizes - 1).astype(int)
    budget = one_by_one(count * share, low, sizes, count)
    hardest = [sorted(m, key=lambda i: (-given_.score[i], given_.tie[i])) for m in members]
    return {int(i) for order, b in zip(hardest, budget, strict=True) for i in order[:b]}


@pytest.mark.parametrize("temperature", [0.5, 0.1, 0.01])
@pytest.mark.parametrize(("balance", "floor"), [(0.0, "proportional"), (0.5, "proportional"), (0.7, "uniform")])
def test_the_selection_is_that_of_the_plain_version(temperature, balance, floor):
    sizes = np.random.default_rng(5).integers(2, 60, 30)
    found = planted(3, sizes, spread=0.9, outliers=40, count=450, balance=balance, floor=floor).candidates
    ranks = density(found, temperature=temperature)
    assert set(np.flatnonzero(ranks < 450).tolist()) == plain(found, temperature)


def test_more_prototypes_than_are_compared_at_once_change_nothing():
    found = planted(1, (3,) * 600, d=24, spread=0.5, count=900).candidates
    assert set(np.flatnonzero(density(found) < 900).tolist()) == plain(found, 0.1)


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_how_many_prototypes_are_compared_at_once_changes_no_rank(rows, monkeypatch):
    found = planted(2, (5,) * 100, spread=0.5, count=200).candidates
    expected = density(found, temperature=0.01)
    monkeypatch.setattr("sspruning.policies.density.BLOCK_ROWS", rows)
    np.testing.assert_array_equal(density(found, temperature=0.01), expected)


@pytest.mark.parametrize("count", [150, 200, 350])
def test_kept_and_dropped_samples_are_ranked_from_the_hardest(count):
    found = planted(count=count, outliers=30).candidates
    score = found.score[np.argsort(density(found))]
    assert (np.diff(score[:count]) <= 0).all()
    assert (np.diff(score[count:]) <= 0).all()


def four_clusters(count, **options):
    """200 samples each: wide and dense clusters, each in a crowd of two or alone."""
    rng = np.random.default_rng(0)
    axes = unit_rows(np.eye(16)[[0, 0, 4, 8]] + 0.8 * np.eye(16)[[1, 2, 5, 9]])
    spread = np.repeat([0.6, 0.15, 0.6, 0.15], 200)[:, None]
    rows = np.repeat(axes, 200, axis=0) + spread * unit_rows(rng.standard_normal((800, 16)))
    return candidates_of(rows, axes, count=count, **options)


def held(found, **options):
    return np.bincount(found.cluster[density(found, **options) < found.count], minlength=len(found.centroids))


def test_wide_clusters_keep_more_than_dense_ones_and_isolated_more_than_crowded_ones():
    crowded_wide, crowded_dense, lone_wide, lone_dense = held(four_clusters(400), temperature=0.05)
    assert lone_wide > crowded_wide > lone_dense > crowded_dense


def test_a_low_temperature_is_sharp_and_a_high_one_gives_equal_numbers():
    found = four_clusters(200)
    assert held(found, temperature=1000.0).tolist() == [50] * 4
    assert held(found, temperature=0.001).tolist() == [1, 1, 197, 1]


def test_a_floor_holds_where_the_density_would_leave_one():
    assert held(four_clusters(200, balance=0.5), temperature=0.001).tolist() == [25, 25, 125, 25]


def test_prototypes_without_samples_do_not_count():
    found = four_clusters(300)
    more = np.concatenate([found.centroids, -found.centroids])
    np.testing.assert_array_equal(density(replace(found, centroids=more)), density(found))


def test_samples_alone_in_their_cluster_and_fewer_places_than_clusters_are_served_exactly():
    rng = np.random.default_rng(0)
    axes = rng.standard_normal((30, 16))
    for count in range(32):
        found = candidates_of(np.concatenate([axes, axes[:1] + 0.1, axes[:1] - 0.1]), axes, count=count)
        kept = np.bincount(found.cluster[density(found) < count], minlength=30)
        assert kept.sum() == count


def test_a_sample_alone_in_its_cluster_is_no_exception_to_the_density():
    found = planted(sizes=(40, 30, 1), count=20).candidates
    found = replace(found, distance=np.where(found.cluster == 2, np.float32(0), found.distance))
    assert held(found, temperature=1e-4)[2] == 0


def test_where_places_are_fewer_than_clusters_the_granted_floors_still_hold():
    rng = np.random.default_rng(0)
    axes = unit_rows(rng.standard_normal((41, 64)))
    rows = np.repeat(axes, [60] + [2] * 40, axis=0)
    rows[60:] += 0.5 * unit_rows(rng.standard_normal((80, 64)))
    found = candidates_of(rows, axes, count=30, balance=1.0)
    assert held(found, temperature=0.001)[0] == 30 * 60 // 140


def test_one_cluster_keeps_its_hardest():
    found = planted(sizes=(40,), count=15).candidates
    assert sorted(found.score[density(found) < 15]) == sorted(found.score)[-15:]


def test_all_samples_can_be_kept():
    found = planted(sizes=(7, 5, 1)).candidates
    assert np.argsort(density(found)).tolist() == np.lexsort((found.tie, -found.score)).tolist()


def test_prototypes_that_are_near_copies_of_one_another_are_told_apart_exactly():
    """At a spread of 1e-4 most cosines of prototypes are among four values in float32."""
    rng = np.random.default_rng(2)
    axes = unit_rows(unit_rows(rng.standard_normal((1, 16))) + 1e-4 * rng.standard_normal((60, 16)))
    found = candidates_of(np.repeat(axes, 8, axis=0), axes, count=240, score=rng.random(480))
    found = replace(found, cluster=np.repeat(np.arange(60, dtype=np.int32), 8), distance=np.full(480, 1, np.float32))
    unit = unit_rows(found.centroids)
    outer = np.sort(0.5 * ((unit[:, None] - unit) ** 2).sum(2), axis=1)[:, 1:21].mean(1)
    share = np.exp(outer / 2e-8)
    expected = one_by_one(240 * share / share.sum(), np.full(60, 1), np.full(60, 8), 240)
    assert held(found, temperature=2e-8).tolist() == expected.tolist()
    assert len(set(expected.tolist())) > 4


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_above_zero_is_refused(temperature):
    with pytest.raises(UsageError, match="policy 'density': temperature must be above 0; got"):
        density(planted(sizes=(3,)).candidates, temperature=temperature)
