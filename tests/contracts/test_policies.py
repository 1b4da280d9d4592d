"""Every policy of the table ranks each sample once, the same whatever the order in which samples are listed."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sspruning.errors import UsageError
from sspruning.policies import POLICIES, PRUNED_REASON, Candidates

NAMES = sorted(POLICIES)
FLOORS = ("proportional", "uniform")


def candidates(seed, n=None, *, values=None, balance=0.5, floor="proportional"):
    """Scores with many repeats (``values`` different ones), unequal and missing clusters, distinct tie-breaks."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 80)) if n is None else n
    values = int(rng.integers(1, 12)) if values is None else values
    clusters = rng.choice(15, int(rng.integers(1, 9)), replace=False)
    return Candidates(
        score=rng.integers(0, values, n).astype(np.float32) / 4 - 1,
        cluster=np.sort(
            rng.choice(clusters, n) if seed % 2 else clusters[rng.integers(0, len(clusters), n) // 2]
        ).astype(np.int32),
        tie=rng.permutation(n).astype(np.uint64) * np.uint64(2**40 + 3),
        balance=balance,
        floor=floor,
    )


def permuted(given_, order):
    return replace(given_, score=given_.score[order], cluster=given_.cluster[order], tie=given_.tie[order])


@pytest.mark.parametrize("name", NAMES)
@given(st.integers(0, 2**32 - 1), st.integers(0, 10), st.sampled_from(FLOORS))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_ranks_are_a_permutation_that_follows_the_samples_not_their_order(name, seed, tenths, floor):
    given_ = candidates(seed, balance=tenths / 10, floor=floor)
    n = len(given_.score)
    ranks = POLICIES.resolve(name)(given_)
    assert ranks.dtype == np.int64
    assert sorted(ranks.tolist()) == list(range(n))
    order = np.random.default_rng(seed).permutation(n)
    np.testing.assert_array_equal(POLICIES.resolve(name)(permuted(given_, order)), ranks[order])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_ranks_are_the_same_each_time_and_the_input_is_left_alone(name, balance):
    given_ = candidates(7, 200, balance=balance)
    before = [column.tobytes() for column in (given_.score, given_.cluster, given_.tie)]
    first, second = (POLICIES.resolve(name)(given_).tobytes() for _ in range(2))
    assert first == second
    assert [column.tobytes() for column in (given_.score, given_.cluster, given_.tie)] == before


@pytest.mark.parametrize("name", NAMES)
def test_another_seed_settles_ties_in_another_way(name):
    given_ = candidates(7, 200, values=1)
    other = replace(given_, tie=np.random.default_rng(99).permutation(given_.tie))
    assert POLICIES.resolve(name)(given_).tolist() != POLICIES.resolve(name)(other).tolist()


@pytest.mark.parametrize("name", NAMES)
def test_equal_tie_breaks_still_give_a_permutation(name):
    given_ = candidates(3, 60, values=1)
    ranks = POLICIES.resolve(name)(replace(given_, tie=np.zeros(60, np.uint64)))
    assert sorted(ranks.tolist()) == list(range(60))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [0, 1])
def test_no_sample_and_one_sample_are_ranked(name, n):
    assert POLICIES.resolve(name)(candidates(1, n)).tolist() == list(range(n))


@pytest.mark.parametrize("name", NAMES)
def test_a_dropped_sample_has_a_reason(name):
    assert PRUNED_REASON[name].startswith("pruned_")


def test_an_unknown_policy_is_refused_with_the_nearest_name():
    with pytest.raises(UsageError, match=r"unknown policy 'hrad'\. Did you mean 'hard'\? Known: easy, hard, random\."):
        POLICIES.resolve("hrad")
