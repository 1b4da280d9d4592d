"""Random within clusters, in proportion to their size: exact bounds for every number kept, and no bias against any."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sspruning.policies import Candidates
from sspruning.policies.stratified_random import stratified_random


def candidates(sizes, seed=0):
    """Clusters of these sizes, rows shuffled, with ties like those of a seed: uniform 64-bit numbers."""
    rng = np.random.default_rng(seed)
    cluster = rng.permutation(np.repeat(np.arange(len(sizes), dtype=np.int32), sizes))
    n = len(cluster)
    return Candidates(
        score=rng.random(n).astype(np.float32),
        cluster=cluster,
        second_cluster=cluster,
        distance=np.zeros(n, np.float32),
        tie=rng.integers(0, 2**64, n, np.uint64),
        centroids=np.eye(len(sizes), dtype=np.float32),
        count=n,
    )


def kept_of_each(given_, ranks, count, k):
    return np.bincount(given_.cluster[ranks < count], minlength=k)


@given(st.lists(st.sampled_from([0, 1, 1, 1, 2, 3, 7, 20]), min_size=1, max_size=9), st.integers(0, 1000))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_for_every_number_kept_each_cluster_is_within_one_sample_of_one_common_share(sizes, seed):
    """A share t with kept - 1 < t * size < kept + 1 for all clusters at once, in exact fractions."""
    given_ = candidates(sizes, seed)
    ranks = stratified_random(given_)
    n, k = len(given_), len(sizes)
    for count in range(n + 1):
        kept = kept_of_each(given_, ranks, count, k).tolist()
        assert sum(kept) == count
        pairs = [(held, size) for held, size in zip(kept, sizes, strict=True) if size]
        least = max((Fraction(held - 1, size) for held, size in pairs), default=Fraction(0))
        most = min((Fraction(held + 1, size) for held, size in pairs), default=Fraction(1))
        assert least < most
        for held, size in pairs:
            assert abs(held - Fraction(count * size, n)) <= 1 + Fraction(size * (k - 1), n)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 1000))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_each_cluster_keeps_those_that_a_random_choice_would_keep_first(sizes, seed):
    given_ = candidates(sizes, seed)
    order = np.argsort(stratified_random(given_))
    for cluster in range(len(sizes)):
        ties = given_.tie[order][given_.cluster[order] == cluster]
        assert (np.diff(ties.astype(object)) > 0).all()


def test_equal_clusters_are_served_in_rounds():
    given_ = candidates([5] * 8)
    taken = given_.cluster[np.argsort(stratified_random(given_))].reshape(5, 8)
    assert [sorted(taken_now) for taken_now in taken.tolist()] == [list(range(8))] * 5


def test_one_large_cluster_and_many_single_samples_are_kept_in_proportion():
    """Where seats go by Jefferson's rule, the 1000 of the large cluster come before every single one."""
    given_ = candidates([1000] + [1] * 1000)
    ranks = stratified_random(given_)
    for count in (200, 500, 1000, 1600):
        assert abs(kept_of_each(given_, ranks, count, 1001)[0] - count / 2) <= 2


@pytest.mark.parametrize("count", [100, 700])
def test_small_clusters_are_neither_starved_nor_favoured(count):
    sizes = np.random.default_rng(1).permutation([1] * 100 + [2] * 100 + [3] * 100 + [40] * 10)
    held = np.zeros(3)
    for seed in range(100):
        given_ = candidates(sizes, seed)
        kept = kept_of_each(given_, stratified_random(given_), count, len(sizes))
        held += [kept[sizes == size].sum() for size in (1, 2, 3)]
    np.testing.assert_allclose(held / 100 / [100, 200, 300], count / 1000, rtol=0.06)


def test_which_clusters_are_rounded_up_depends_on_the_seed():
    first, other = (candidates([1] * 20, seed=3) for _ in range(2))
    other = replace(other, tie=np.random.default_rng(9).integers(0, 2**64, 20, np.uint64))
    assert stratified_random(first).tolist() != stratified_random(other).tolist()


def test_scores_and_floors_play_no_part():
    given_ = candidates([30, 20, 1])
    other = replace(given_, score=-given_.score, distance=given_.score, balance=1.0, floor="uniform", count=3)
    np.testing.assert_array_equal(stratified_random(given_), stratified_random(other))
