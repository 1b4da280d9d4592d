"""Rules found by counting keep exactly what the policies rank first, whatever the pieces that samples come in."""

import inspect
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sspruning.policies import POLICIES, RULES, radix
from sspruning.policies.balance import first_seats, order_by, place_in_group
from sspruning.policies.radix import Piece, Stream, score_codes
from sspruning.records import Candidates

NAMES = sorted(RULES)
ALL_SCORES = [-1.5, -0.0, 0.0, 1e-30, 0.25, 0.5, np.nextafter(np.float32(0.5), np.float32(1)), 3e38]


def candidates(score, cluster, tie, *, count, balance, floor):
    score, cluster = np.asarray(score, np.float32), np.asarray(cluster, np.int32)
    return Candidates(
        score=score, cluster=cluster, second_cluster=cluster, distance=score, tie=np.asarray(tie, np.uint64),
        centroids=np.empty((0, 0), np.float32), count=count, balance=balance, floor=floor,
    )  # fmt: skip


def stream_of(given_, sizes):
    """The same samples in pieces of the given sizes; a column that is not asked for is not there."""
    borders = np.cumsum([0, *sizes])
    empty = {"score": np.empty(0, np.float32), "cluster": np.empty(0, np.int32), "tie": np.empty(0, np.uint64)}

    def read(columns):
        for start, stop in zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True):
            held = {name: getattr(given_, name)[start:stop] if name in columns else empty[name] for name in empty}
            yield Piece(start, stop - start, **held)

    return Stream(
        read=read, n=len(given_), sizes=np.bincount(given_.cluster, minlength=301), low=float(given_.score.min()),
        high=float(given_.score.max()), count=given_.count, balance=given_.balance, floor=given_.floor,
    )  # fmt: skip


def kept_by_rule(name, given_, sizes, **options):
    stream = stream_of(given_, sizes)
    rule = RULES.resolve(name)(stream, **options)
    return np.concatenate([rule(piece) for piece in stream.read(rule.needs)])


def cut(n, places):
    """Sizes of pieces, some of them empty, that are n in all."""
    borders = sorted(min(place, n) for place in places)
    return np.diff([0, *borders, n]).tolist()


@st.composite
def cases(draw):
    n = draw(st.integers(1, 40))
    few = st.sampled_from(draw(st.lists(st.sampled_from(ALL_SCORES), min_size=1, max_size=5)))
    ties = st.sampled_from([0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1)

    def column(values):
        return draw(st.lists(values, min_size=n, max_size=n))

    found = candidates(
        column(few), column(st.sampled_from([0, 0, 0, 1, 2, 4, 9])), column(ties), count=draw(st.integers(1, n)),
        balance=draw(st.sampled_from([0.0, 0.28, 0.5, 1.0])), floor=draw(st.sampled_from(["proportional", "uniform"])),
    )  # fmt: skip
    return found, cut(n, draw(st.lists(st.integers(0, n), max_size=3)))


@pytest.mark.parametrize("name", NAMES)
@given(case=cases(), gathered=st.sampled_from([0, 7, 1 << 21]))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_rule_keeps_what_the_policy_ranks_first(name, case, gathered):
    given_, sizes = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(radix, "GATHERED", gathered)
        patch.setattr(radix, "COUNTERS", 64)
        kept = kept_by_rule(name, given_, sizes)
    np.testing.assert_array_equal(kept, POLICIES.resolve(name)(given_) < given_.count)


@given(case=cases(), beta=st.sampled_from([0.0, 0.1, 0.5, 0.99]), strata=st.sampled_from([1, 2, 50]))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_options_decide_the_same_with_and_without_ranks(case, beta, strata):
    given_, sizes = case
    options = {"beta": beta, "strata": strata}
    ranks = POLICIES.resolve("ccs")(given_, **options)
    np.testing.assert_array_equal(kept_by_rule("ccs", given_, sizes, **options), ranks < given_.count)


@pytest.mark.parametrize("name", NAMES)
def test_samples_by_the_ten_thousand_are_parted_at_the_exact_border(name, monkeypatch):
    """Scores of a few thousand values, skewed clusters; digits of a few bits and little that is gathered."""
    monkeypatch.setattr(radix, "GATHERED", 500)
    monkeypatch.setattr(radix, "COUNTERS", 4096)
    rng = np.random.default_rng(3)
    n = 30_000
    score = (rng.beta(2, 5, n) * 3000).astype(np.int64) / np.float32(4000)
    cluster, tie = np.minimum(rng.zipf(1.3, n), 300), rng.integers(0, 2**64, n, np.uint64)
    for count in (1, 21_000, n):
        given_ = candidates(score, cluster, tie, count=count, balance=0.5, floor="proportional")
        kept = kept_by_rule(name, given_, cut(n, range(0, n, 9_999)))
        assert kept.sum() == count
        np.testing.assert_array_equal(kept, POLICIES.resolve(name)(given_) < count)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=6).filter(any), st.sampled_from(["proportional", "uniform"]))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_seats_that_are_counted_are_those_that_are_listed(sizes, floor):
    cluster = np.repeat(np.arange(len(sizes)), sizes)
    seat = place_in_group(cluster) + 1.0
    if floor == "proportional":
        seat /= np.array(sizes)[cluster]
    listed = cluster[np.lexsort((cluster, seat))]
    for seats in range(0, len(cluster) + 1, 1 + len(cluster) // 8):
        expected = np.bincount(listed[:seats], minlength=len(sizes))
        granted = first_seats(np.array(sizes), seats, uniform=floor == "uniform")
        assert granted.tolist() == expected.tolist()


def test_codes_are_in_the_order_of_the_scores():
    values = np.array([-3e38, -1.0, -1e-40, -0.0, 0.0, 1e-40, 1.0, 3e38], np.float32)
    codes = score_codes(values)
    assert (np.diff(codes.astype(np.int64)) >= 0).all()
    assert codes[3] == codes[4]
    assert len(set(codes.tolist())) == len(values) - 1
    assert order_by(values, np.arange(8)).tolist() == np.lexsort((np.arange(8), codes)).tolist()


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_takes_the_options_of_its_policy(name):
    known = inspect.signature(RULES.resolve(name)).parameters
    assert {option: known[option].default for option in list(known)[1:]} == POLICIES.options(name)


def test_passes_are_few_and_only_the_last_one_of_an_order_of_scores_reads_ties(monkeypatch):
    monkeypatch.setattr(radix, "GATHERED", 1000)
    rng = np.random.default_rng(0)
    n = 100_000
    given_ = candidates(
        0.5 + rng.random(n) / 2, np.zeros(n), rng.permutation(n), count=n // 3, balance=0.0, floor="uniform"
    )
    stream, asked = stream_of(given_, [n]), []
    RULES.resolve("hard")(replace(stream, read=lambda columns: asked.append(columns) or stream.read(columns)))
    assert asked == [frozenset({"score"}), frozenset({"score", "tie"})]
