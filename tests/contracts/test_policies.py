"""Every policy of the table ranks each sample once, the same whatever the order in which samples are listed."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import candidates_of

from sspruning.errors import UsageError
from sspruning.metrics.distances import unit_rows
from sspruning.policies import COUNT_MATTERS, NEEDS_VECTORS, POLICIES, PRUNED_REASON
from sspruning.records import Vectors

NAMES = sorted(POLICIES)
FLOORS = ("proportional", "uniform")
OPTIONS = {
    "hard": {},
    "easy": {},
    "random": {},
    "stratified-random": {},
    "moderate": {},
    "ccs": {"beta": 0.0, "strata": 50},
    "density": {"temperature": 0.1},
    "coverage": {"niter": 10, "hardness": 0.0},
    "hierarchical": {"levels": 2, "resamples": 10, "leaf": "random"},
    "d2": {"neighbors": 5, "gamma": 0.1, "beta": 0.0},
}


def drawn(seed, n=None, *, values=None, balance=0.5, floor="proportional"):
    """Few different scores (``values``), unequal and empty clusters, copies among the embeddings, distinct ties."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 70)) if n is None else n
    values = int(rng.integers(1, 12)) if values is None else values
    axes = unit_rows(rng.standard_normal((int(rng.integers(1, 9)), 8)))
    rows = axes[np.minimum(rng.geometric(0.4, n) - 1, len(axes) - 1)] + 0.3 * rng.standard_normal((n, 8))
    copies = n // 5
    rows[n - copies :] = rows[:copies]
    found = candidates_of(
        rows,
        axes,
        seed=seed,
        count=int(rng.integers(0, n + 1)),
        balance=balance,
        floor=floor,
        score=rng.integers(0, values, n) / 4 - 1,
    )
    return found.take(rng.permutation(n))


def ranked(name, given_):
    return POLICIES.resolve(name)(given_)


def bytes_of(given_):
    columns = [getattr(given_, field.name) for field in fields(given_)]
    return [column.tobytes() for column in columns if isinstance(column, np.ndarray)] + [given_.vectors[:].tobytes()]


@pytest.mark.parametrize("name", NAMES)
@given(st.integers(0, 2**32 - 1), st.integers(0, 10), st.sampled_from(FLOORS))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_ranks_are_a_permutation_that_follows_the_samples_not_their_order(name, seed, tenths, floor):
    given_ = drawn(seed, balance=tenths / 10, floor=floor)
    ranks = ranked(name, given_)
    assert ranks.dtype == np.int64
    assert sorted(ranks.tolist()) == list(range(len(given_)))
    order = np.random.default_rng(seed).permutation(len(given_))
    np.testing.assert_array_equal(ranked(name, given_.take(order)), ranks[order])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_ranks_are_the_same_each_time_and_the_input_is_left_alone(name, balance):
    given_ = drawn(7, 200, balance=balance)
    before = bytes_of(given_)
    assert ranked(name, given_).tobytes() == ranked(name, given_).tobytes()
    assert bytes_of(given_) == before


@pytest.mark.parametrize("name", NAMES)
def test_another_seed_settles_ties_in_another_way(name):
    given_ = drawn(7, 200, values=1)
    other = replace(given_, tie=np.random.default_rng(99).permutation(given_.tie))
    assert ranked(name, given_).tolist() != ranked(name, other).tolist()


@pytest.mark.parametrize("name", NAMES)
def test_equal_tie_breaks_still_give_a_permutation(name):
    given_ = replace(drawn(3, 60, values=1), tie=np.zeros(60, np.uint64))
    assert sorted(ranked(name, given_).tolist()) == list(range(60))


@pytest.mark.parametrize("name", NAMES)
def test_sixty_equal_embeddings_are_a_permutation_too(name):
    given_ = drawn(3, 60)
    same = replace(given_, vectors=Vectors(np.repeat(given_.vectors[:1].astype(np.float16), 60, axis=0)))
    assert sorted(ranked(name, same).tolist()) == list(range(60))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [0, 1])
def test_no_sample_and_one_sample_are_ranked(name, n):
    assert ranked(name, drawn(1, n)).tolist() == list(range(n))


@pytest.mark.parametrize("name", sorted(set(POLICIES) - COUNT_MATTERS))
def test_a_smaller_number_keeps_a_subset_because_ranks_do_not_depend_on_the_number(name):
    given_ = drawn(5, 150)
    of_each = {ranked(name, replace(given_, count=count)).tobytes() for count in (0, 1, 40, 149, 150)}
    assert len(of_each) == 1


@pytest.mark.parametrize("name", sorted(COUNT_MATTERS))
def test_policies_whose_ranks_depend_on_the_number_rank_everything_for_every_number(name):
    given_ = drawn(5, 150, balance=0.0)
    of_each = [ranked(name, replace(given_, count=count)) for count in (0, 1, 40, 100, 149, 150)]
    assert all(sorted(ranks.tolist()) == list(range(150)) for ranks in of_each)
    assert len({ranks.tobytes() for ranks in of_each}) > 1


@pytest.mark.parametrize("name", sorted(set(POLICIES) - NEEDS_VECTORS))
def test_policies_that_do_not_ask_for_embeddings_do_without(name):
    given_ = drawn(11, 100)
    bare = replace(given_, vectors=None, content=None, defects=None)
    np.testing.assert_array_equal(ranked(name, bare), ranked(name, given_))


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_known_with_its_default(name):
    assert POLICIES.options(name) == OPTIONS[name]
    POLICIES.check_options(name, OPTIONS[name])


def test_the_lists_beside_the_table_name_its_entries():
    assert set(PRUNED_REASON) == set(POLICIES)
    assert set(POLICIES) >= NEEDS_VECTORS | COUNT_MATTERS
    assert all(reason.startswith("pruned_") for reason in PRUNED_REASON.values())


def test_an_unknown_policy_is_refused_with_the_nearest_name():
    with pytest.raises(UsageError, match=r"unknown policy 'hrad'\. Did you mean 'hard'\? Known: ccs, coverage, d2, "):
        POLICIES.resolve("hrad")
