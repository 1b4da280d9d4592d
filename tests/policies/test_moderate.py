"""The middle of the score order, against the window of quantiles that the paper slices out."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import planted

from sspruning.policies import Candidates
from sspruning.policies.moderate import moderate


def candidates(score, *, tie=None, balance=0.0):
    n = len(score)
    return Candidates(
        score=np.asarray(score, np.float32),
        cluster=np.arange(n, dtype=np.int32) % 3,
        second_cluster=np.zeros(n, np.int32),
        distance=np.zeros(n, np.float32),
        tie=np.asarray(np.arange(n) * 7 % 100 if tie is None else tie, np.uint64),
        centroids=np.eye(3, dtype=np.float32),
        count=n,
        balance=balance,
    )


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(0, 9))
def test_each_number_of_samples_keeps_the_window_around_the_median(score, tenths):
    given_ = candidates(score, balance=tenths / 10)
    order = sorted(range(len(score)), key=lambda i: (score[i], int(given_.tie[i]), i))
    ranks = moderate(given_)
    n = len(score)
    for count in range(1, n + 1):
        fraction = Fraction(count, n)
        start, end = n * (Fraction(1, 2) - fraction / 2), n * (Fraction(1, 2) + fraction / 2)
        assert sorted(np.flatnonzero(ranks < count).tolist()) == sorted(order[int(start) : int(end)])
        assert int(end) - int(start) == count


@pytest.mark.parametrize(
    ("n", "outwards"), [(1, [0]), (2, [0, 1]), (5, [2, 1, 3, 0, 4]), (6, [2, 3, 1, 4, 0, 5])], ids=str
)
def test_ranks_go_outwards_from_the_middle_and_to_the_easy_side_first(n, outwards):
    assert np.argsort(moderate(candidates(range(n)))).tolist() == outwards


def test_equal_scores_are_told_apart_by_the_tie():
    assert moderate(candidates([1, 1, 1], tie=[5, 90, 7])).tolist() == [1, 2, 0]


def test_outliers_and_the_most_typical_go_and_the_middle_stays():
    corpus = planted(sizes=(100, 100), outliers=20)
    kept = moderate(corpus.candidates) < 110
    score = corpus.candidates.score
    assert not kept[corpus.outlier].any()
    assert score[kept].min() > np.quantile(score, 0.24)
    assert score[kept].max() < np.quantile(score, 0.76)
