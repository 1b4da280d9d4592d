"""Every filter of the table names samples, whatever their order, and leaves its input and somebody over."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import planted

from sspruning.errors import UsageError
from sspruning.filters import FILTERS, NEEDS_VECTORS

VARIANTS = [
    *((name, {}) for name in sorted(FILTERS)),
    ("dedup", {"threshold": 0.97}),
    ("dedup", {"threshold": 0.8, "survivor": "easy", "exact": False}),
    ("dedup", {"share": 0.5, "survivor": "random"}),
    ("outliers", {"quantile": 0.9}),
    ("outliers", {"quantile": 0.9, "by": "density", "neighbors": 3}),
    ("defects", {"blank": False, "warned": False}),
]
IDS = [" ".join([name, *(f"{key}={value}" for key, value in options.items())]) for name, options in VARIANTS]
every_variant = pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)


def candidates(seed, **options):
    """Copies, outliers, equal images, defects and equal scores; some ties in everything but ``tie``."""
    options = {"sizes": (60, 40, 20), "d": 12, "copies": 25, "outliers": 5} | options
    made = planted(seed, **options).candidates
    rng = np.random.default_rng(seed)
    n = len(made)
    return replace(
        made,
        score=np.round(made.score, 2),
        content=rng.integers(0, max(1, n), n).astype(np.uint64),
        defects=(rng.integers(0, 8, n) * (rng.random(n) < 0.2)).astype(np.uint8),
        count=n // 4,
    )


def no_sample(n):
    return candidates(1).take(np.arange(n))


def held(given_):
    """Bytes of every column."""
    columns = {field.name: getattr(given_, field.name) for field in fields(given_)}
    columns["vectors"] = given_.vectors[np.arange(len(given_))]
    return {name: column.tobytes() for name, column in columns.items() if isinstance(column, np.ndarray)}


@every_variant
@given(st.integers(0, 2**32 - 1))
@settings(max_examples=15)
def test_what_goes_follows_the_samples_not_their_order(name, options, seed):
    given_ = candidates(seed)
    gone = FILTERS.resolve(name)(given_, **options)
    order = np.random.default_rng(seed).permutation(len(given_))
    moved = FILTERS.resolve(name)(given_.take(order), **options)
    np.testing.assert_array_equal(moved.drop, gone.drop[order])
    assert moved.reason == gone.reason
    if gone.twin is not None:
        place = np.append(np.argsort(order), -1)
        np.testing.assert_array_equal(moved.twin, place[gone.twin[order]])


@every_variant
def test_one_bool_a_sample_a_reason_and_somebody_left(name, options):
    given_ = candidates(7)
    gone = FILTERS.resolve(name)(given_, **options)
    assert gone.drop.shape == (len(given_),)
    assert gone.drop.dtype == np.bool_
    assert gone.drop.any()
    assert not gone.drop.all()
    assert gone.reason.isidentifier()


@every_variant
def test_the_twin_of_what_goes_stays_and_what_stays_has_none(name, options):
    given_ = candidates(7)
    gone = FILTERS.resolve(name)(given_, **options)
    assert (gone.twin is None) == (name != "dedup")
    if gone.twin is not None:
        assert gone.twin.dtype == np.int64
        assert (gone.twin[~gone.drop] == -1).all()
        assert (gone.twin[gone.drop] >= 0).all()
        assert not gone.drop[gone.twin[gone.drop]].any()


@every_variant
def test_it_says_the_same_each_time_and_leaves_its_input_alone(name, options):
    given_ = candidates(8)
    before = held(given_)
    first, second = (FILTERS.resolve(name)(given_, **options) for _ in range(2))
    assert first.drop.tobytes() == second.drop.tobytes()
    assert (first.twin is None) == (second.twin is None)
    if first.twin is not None:
        assert first.twin.tobytes() == second.twin.tobytes()
    assert held(given_) == before


@every_variant
@pytest.mark.parametrize("n", [0, 1])
def test_of_no_sample_and_of_one_sound_sample_nothing_goes(name, options, n):
    given_ = replace(no_sample(n), defects=np.zeros(n, np.uint8), count=n)
    assert FILTERS.resolve(name)(given_, **options).drop.tolist() == [False] * n


@every_variant
def test_only_the_filters_that_say_so_read_embeddings(name, options):
    if name in NEEDS_VECTORS:
        return
    given_ = candidates(9)
    bare = FILTERS.resolve(name)(replace(given_, vectors=None), **options)
    np.testing.assert_array_equal(bare.drop, FILTERS.resolve(name)(given_, **options).drop)


@every_variant
def test_options_are_listed_explained_and_of_the_type_of_their_default(name, options):
    known = FILTERS.options(name)
    FILTERS.check_options(name, options)
    FILTERS.check_options(name, known)
    explained = FILTERS.resolve(name).__doc__ or ""
    assert [option for option in known if f"{option}: " not in explained] == []
    with pytest.raises(UsageError, match=f"filter '{name}' has no option 'no_such'"):
        FILTERS.check_options(name, {"no_such": 1})


def test_every_filter_is_tried():
    assert {name for name, _ in VARIANTS} == set(FILTERS)
    assert set(FILTERS) >= NEEDS_VECTORS
