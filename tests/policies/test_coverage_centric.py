"""CCS, against the published allocation: cut the hardest, then give budgets from the smallest stratum up."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sspruning.errors import UsageError
from sspruning.policies import Candidates
from sspruning.policies.coverage_centric import coverage_centric


def candidates(score, *, seed=0, tie=None):
    n = len(score)
    return Candidates(
        score=np.asarray(score, np.float32),
        cluster=np.zeros(n, np.int32),
        second_cluster=np.zeros(n, np.int32),
        distance=np.zeros(n, np.float32),
        tie=np.asarray(np.random.default_rng(seed).permutation(n) if tie is None else tie, np.uint64),
        centroids=np.eye(1, dtype=np.float32),
        count=n,
        balance=0.5,
    )


def strata_of(score, rows, strata):
    """Rows of each stratum: [low + i * width, low + (i + 1) * width), the last closed, in exact fractions."""
    low, high = min(score[i] for i in rows), max(score[i] for i in rows)
    width = Fraction(high - low) / strata
    found = [[] for _ in range(strata)]
    for i in rows:
        found[min(int((score[i] - low) / width), strata - 1) if width else 0].append(i)
    return found


def budgets(sizes, count):
    """The published loop: strata from the smallest to the largest; each gets its even part of what remains, or all."""
    left, granted = count, [0] * len(sizes)
    order = sorted(range(len(sizes)), key=lambda i: sizes[i])
    for done, i in enumerate(order):
        granted[i] = min(sizes[i], left // (len(sizes) - done))
        left -= granted[i]
    return granted


def published(given_, score, count, cut, strata):
    """The kept set for ``count`` samples that are not more than the cut leaves."""
    tie = given_.tie.tolist()
    rows = sorted(range(len(score)), key=lambda i: (-score[i], tie[i]))[cut:]
    parted = strata_of(score, rows, strata)
    granted = budgets([len(part) for part in parted], count)
    return {i for part, b in zip(parted, granted, strict=True) for i in sorted(part, key=lambda i: tie[i])[:b]}


@given(
    st.lists(st.one_of(st.integers(0, 12), st.integers(9, 40)), min_size=1, max_size=40),
    st.integers(1, 12),
    st.integers(0, 9),
    st.integers(0, 100),
)
@settings(max_examples=120, deadline=None, derandomize=True)
def test_every_number_of_samples_gets_the_published_budgets(score, strata, tenths, seed):
    given_ = candidates(score, seed=seed)
    ranks = coverage_centric(given_, beta=tenths / 10, strata=strata)
    cut = len(score) * tenths // 10
    for count in range(len(score) - cut + 1):
        kept = set(np.flatnonzero(ranks < count).tolist())
        assert len(kept) == count
        assert kept == published(given_, score, count, cut, strata)


def test_what_an_incomplete_round_leaves_goes_to_the_largest_strata_and_of_equal_ones_to_the_harder():
    score = [0] * 2 + [5] * 4 + [10] * 4
    for count, expected in {3: [1, 1, 1], 4: [1, 1, 2], 5: [1, 2, 2], 8: [2, 3, 3], 9: [2, 3, 4]}.items():
        kept = coverage_centric(candidates(score), strata=3) < count
        assert [kept[:2].sum(), kept[2:6].sum(), kept[6:].sum()] == expected == budgets([2, 4, 4], count)


def test_samples_that_were_cut_come_last_and_the_hardest_very_last():
    score = [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]
    ranks = coverage_centric(candidates(score), beta=0.3)
    assert ranks[[5, 3, 1]].tolist() == [7, 8, 9]


def test_outliers_that_were_cut_do_not_stretch_the_strata():
    """With the outlier, all others share one stratum, and a random choice of them; without it, each has its own."""
    score = [*range(10), 1000]
    kept = coverage_centric(candidates(score), beta=0.1, strata=5) < 5
    assert [int(kept[a : a + 2].sum()) for a in range(0, 10, 2)] == [1] * 5
    uncut = coverage_centric(candidates(score), strata=5)
    assert uncut[10] == 1
    assert np.argsort(uncut[:10]).tolist() == np.argsort(candidates(score).tie[:10]).tolist()


@pytest.mark.parametrize(("beta", "cut"), [(0.29, 29), (0.3, 30), (0.07, 7), (0.999, 99), (1 - 1e-15, 99), (0, 0)])
def test_the_cut_is_the_whole_part_of_its_share_whatever_floating_point_says(beta, cut):
    """0.29 * 100 is 28.999999999999996 in float64; one sample stays in any case."""
    score = np.arange(100)
    ranks = coverage_centric(candidates(score), beta=beta)
    tail = 99 - np.arange(cut)
    assert ranks[tail].tolist() == tail.tolist()
    assert np.flatnonzero(ranks < 100 - cut).tolist() == list(range(100 - cut))


def test_one_value_of_the_score_is_one_stratum_in_random_order():
    given_ = candidates([0.3] * 20)
    assert coverage_centric(given_).tolist() == given_.tie.tolist()


def test_edges_of_strata_are_exact_where_a_quotient_is_not():
    """29 of [0, 100) begins stratum 29, though 29 / 100 * 100 is below 29 in float64."""
    score = [*range(100), 100]
    ranks = coverage_centric(candidates(score), strata=100)
    assert sorted(np.flatnonzero(ranks < 100).tolist())[:99] == list(range(99))


@pytest.mark.parametrize("beta", [-0.1, 1.0, 1.5, float("nan")])
def test_a_cut_of_everything_or_less_than_nothing_is_refused(beta):
    with pytest.raises(UsageError, match=r"policy 'ccs': beta is the share .* in \[0, 1\); got"):
        coverage_centric(candidates([1, 2]), beta=beta)


@pytest.mark.parametrize("strata", [0, -3])
def test_no_strata_are_refused(strata):
    with pytest.raises(UsageError, match=f"policy 'ccs': strata is the number .* at least 1; got {strata}"):
        coverage_centric(candidates([1, 2]), strata=strata)
