"""The cluster floor, against a brute force that builds the kept set of every size on its own."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sspruning.policies import Candidates
from sspruning.policies.balance import balanced_ranks, order_by, place_in_group
from sspruning.policies.keep_easiest import keep_easiest
from sspruning.policies.keep_hardest import keep_hardest

FLOORS = ("proportional", "uniform")


def candidates(score, cluster, *, balance, floor="proportional", tie=None):
    n = len(score)
    tie = np.random.default_rng(n).permutation(n) if tie is None else tie
    return Candidates(
        score=np.asarray(score, np.float32),
        cluster=np.asarray(cluster, np.int32),
        second_cluster=np.asarray(cluster, np.int32),
        distance=np.asarray(score, np.float32),
        tie=np.asarray(tie, np.uint64),
        centroids=np.empty((0, 0), np.float32),
        count=n,
        balance=float(balance),
        floor=floor,
    )


def quota(size, n, groups, count, balance, floor):
    """What a cluster is granted when ``count`` samples are kept, in exact fractions."""
    if floor == "proportional":
        return int(balance * count * size / n)
    return min(size, int(balance * count / groups))


def apportioned(sizes, seats, floor):
    """Seats of each cluster, dealt one by one: to the largest size / (seats + 1), or to the one with fewest."""
    dealt = dict.fromkeys(sizes, 0)
    for _ in range(seats):
        open_to = [c for c in sorted(sizes) if dealt[c] < sizes[c]]
        if floor == "proportional":
            winner = max(open_to, key=lambda c: (Fraction(sizes[c], dealt[c] + 1), -c))
        else:
            winner = min(open_to, key=lambda c: (dealt[c], c))
        dealt[winner] += 1
    return dealt


def brute_force(order, cluster, count, balance, floor):
    """The kept set: each cluster's best up to its seats, then the best of all."""
    sizes = {c: cluster.count(c) for c in set(cluster)}
    seats = -int(-balance * count // 1)
    dealt = apportioned(sizes, seats, floor)
    kept = set()
    for c, number in dealt.items():
        kept |= set([i for i in order if cluster[i] == c][:number])
    for i in order:
        if len(kept) == count:
            break
        kept.add(i)
    return kept


cases = {
    "columns": st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from([0, 0, 0, 0, 1, 1, 2, 5, 9])), min_size=1, max_size=28
    ),
    "twentieths": st.integers(0, 20),
    "floor": st.sampled_from(FLOORS),
    "hard": st.booleans(),
}


def ranked(columns, twentieths, floor, hard):
    score, cluster = [c[0] for c in columns], [c[1] for c in columns]
    given_ = candidates(score, cluster, balance=twentieths / 20, floor=floor)
    sign = -1 if hard else 1
    order = sorted(range(len(score)), key=lambda i: (sign * score[i], int(given_.tie[i])))
    ranks = (keep_hardest if hard else keep_easiest)(given_)
    return order, cluster, ranks


@given(**cases)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_each_number_of_samples_keeps_the_set_of_the_brute_force(columns, twentieths, floor, hard):
    order, cluster, ranks = ranked(columns, twentieths, floor, hard)
    for count in range(len(order) + 1):
        kept = set(np.flatnonzero(ranks < count).tolist())
        assert kept == brute_force(order, cluster, count, Fraction(twentieths, 20), floor)


@given(**cases)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_each_cluster_keeps_its_floor_and_its_best_for_every_number_of_samples(columns, twentieths, floor, hard):
    order, cluster, ranks = ranked(columns, twentieths, floor, hard)
    n, before = len(order), set()
    for count in range(n + 1):
        kept = set(np.flatnonzero(ranks < count).tolist())
        assert len(kept) == count
        assert before <= kept
        before = kept
        for c in set(cluster):
            members = [i for i in order if cluster[i] == c]
            held = [i for i in members if i in kept]
            granted = quota(len(members), n, len(set(cluster)), count, Fraction(twentieths, 20), floor)
            assert len(held) >= granted
            assert held == members[: len(held)]


def test_a_share_that_floating_point_makes_a_little_too_large_grants_no_extra_seat():
    """0.28 of 25 is 7.000000000000001 in float64, and an eighth seat would go to the second cluster."""
    given_ = candidates([1] * 30 + [0] * 10, [0] * 30 + [1] * 10, balance=0.28)
    kept = keep_hardest(given_) < 25
    assert (kept[:30].sum(), kept[30:].sum()) == (24, 1)


@given(columns=cases["columns"], floor=cases["floor"])
@settings(max_examples=50, deadline=None, derandomize=True)
def test_without_balance_the_order_is_the_plain_one(columns, floor):
    order, _, ranks = ranked(columns, 0, floor, True)
    assert np.argsort(ranks).tolist() == order


@given(columns=cases["columns"])
@settings(max_examples=80, deadline=None, derandomize=True)
def test_full_proportional_balance_keeps_nearly_the_same_share_of_each_cluster(columns):
    _, cluster, ranks = ranked(columns, 20, "proportional", True)
    n, cluster = len(columns), np.array(cluster)
    names, sizes = np.unique(cluster, return_counts=True)
    for count in range(n + 1):
        held = np.array([(cluster[ranks < count] == c).sum() for c in names])
        assert (np.abs(held - count * sizes / n) < max(1, len(names))).all()
        assert (held >= count * sizes // n).all()


def test_full_uniform_balance_takes_turns():
    cluster = [0] * 6 + [1] * 3 + [7]
    ranks = keep_hardest(candidates(range(10), cluster, balance=1, floor="uniform"))
    taken = np.array(cluster)[np.argsort(ranks)].tolist()
    assert taken == [0, 1, 7, 0, 1, 0, 1, 0, 0, 0]


def test_half_balance_keeps_a_cluster_of_easy_samples_from_vanishing():
    """90 hard and 10 easy samples: 20 kept of 100 would be hard ones only; the floor is half of 2."""
    score = [*np.linspace(0.5, 1, 90), *np.linspace(0, 0.1, 10)]
    cluster = [0] * 90 + [1] * 10
    kept = {b: keep_hardest(candidates(score, cluster, balance=b))[90:] < 20 for b in (0, 0.5, 1)}
    assert {b: int(flags.sum()) for b, flags in kept.items()} == {0: 0, 0.5: 1, 1: 2}
    assert kept[0.5].tolist() == [False] * 9 + [True]


def test_ties_in_a_score_are_settled_by_the_hash_then_by_position():
    order = order_by(np.array([1, 0, 1, 1], np.float32), np.array([5, 9, 3, 3], np.uint64))
    assert order.tolist() == [1, 2, 3, 0]


@given(st.lists(st.integers(0, 6), max_size=40))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_a_place_is_the_number_of_earlier_members(groups):
    expected = [groups[:at].count(group) for at, group in enumerate(groups)]
    assert place_in_group(np.array(groups, np.int64)).tolist() == expected


def test_minus_zero_and_zero_are_the_same_score():
    ranks = keep_hardest(candidates([0.0, -0.0, 0.0], [0, 0, 0], balance=0, tie=[2, 1, 0]))
    assert ranks.tolist() == [2, 1, 0]


@pytest.mark.parametrize("floor", FLOORS)
def test_a_hundred_thousand_samples_are_exact_and_granted_their_floors(floor):
    rng = np.random.default_rng(0)
    n = 100_000
    cluster = np.minimum(rng.zipf(1.4, n), 300)
    given_ = candidates(rng.random(n), cluster, balance=0.5, floor=floor, tie=rng.permutation(n))
    ranks = balanced_ranks(order_by(-given_.score, given_.tie), given_)
    names, inverse, sizes = np.unique(cluster, return_inverse=True, return_counts=True)
    for count in (1, 333, 50_000, 99_999):
        kept = ranks < count
        assert kept.sum() == count
        held = np.bincount(inverse[kept], minlength=len(names))
        each = (count * sizes) // (2 * n) if floor == "proportional" else count // (2 * len(names))
        assert (held >= np.minimum(sizes, each)).all()
