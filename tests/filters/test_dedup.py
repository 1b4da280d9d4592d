"""Of samples that look alike one stays: against the plainest dense greedy, and on planted duplicates."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import candidates_of, planted

from sspruning.errors import UsageError
from sspruning.filters import dedup_share, greedy
from sspruning.filters.dedup import dedup
from sspruning.filters.dedup_share import _whole_clusters

SURVIVORS = ("hard", "easy", "random", "first")
SEEDS = st.integers(0, 2**32 - 1)


def unit(candidates):
    rows = candidates.vectors[np.arange(len(candidates))].astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def order_of(candidates, survivor):
    key = {"hard": -candidates.score, "easy": candidates.score, "random": 0 * candidates.score}.get(survivor)
    rows = range(len(candidates))
    return list(rows) if key is None else sorted(rows, key=lambda row: (key[row], candidates.tie[row]))


def dense_greedy(candidates, threshold, survivor="hard", *, exact=True):
    """(n,) row that each row goes for, -1 for those that stay: one look at all that stays for each row in turn."""
    cosine = unit(candidates) @ unit(candidates).T
    first, second = candidates.cluster, candidates.second_cluster
    twin, kept = np.full(len(candidates), -1), []
    for row in order_of(candidates, survivor):
        before = np.array(kept, np.int64)
        equal = before[exact & (candidates.content[before] == candidates.content[row])]
        meet = np.zeros(len(before), bool)
        for one in (first, second):
            for other in (first, second):
                meet |= one[before] == other[row]
        near = before[meet & (cosine[before, row] > threshold)]
        if len(equal) or len(near):
            twin[row] = equal[0] if len(equal) else near[0]
        else:
            kept.append(row)
    return twin


def corpus(seed, **options):
    """Clusters with near copies, of which every third has an image with the bytes of its original."""
    options = {"sizes": (60, 40, 20, 5), "copies": 40, "d": 12, "outliers": 5} | options
    made = planted(seed, **options)
    content = made.candidates.content.copy()
    copies = np.flatnonzero(made.copy_of >= 0)[::3]
    content[copies] = content[made.copy_of[copies]]
    return made, replace(made.candidates, content=content)


@contextmanager
def portions(**sizes):
    """The greedy choice works in such portions: PAIRS, CHUNK, KEPT_BLOCK."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in sizes.items():
            patch.setattr(greedy, name, value)
        yield


def pair_at(cosine, d=8, extra=0):
    """Rows of two at this cosine, and ``extra`` rows at right angles to both."""
    rows = np.eye(d)[: 2 + extra]
    rows[1] = cosine * rows[0] + np.sqrt(1 - cosine**2) * rows[1]
    return rows


def one_cluster(rows, **options):
    return candidates_of(rows, np.ones((1, rows.shape[1])), **options)


def test_a_copy_above_the_threshold_goes_and_its_original_or_the_other_way_round():
    made = planted(1, copies=60, cosine=0.99, spread=0.5)
    gone = dedup(made.candidates, threshold=0.95)
    copies = np.flatnonzero(made.copy_of >= 0)
    assert (gone.drop[copies] | gone.drop[made.copy_of[copies]]).all()
    assert not dedup(made.candidates, threshold=0.995).drop[copies].any()


def test_the_ends_of_a_chain_stay():
    angles = np.array([0.0, 0.3, 0.6])
    chain = one_cluster(np.stack([np.cos(angles), np.sin(angles)], axis=1), score=[3, 2, 1])
    gone = dedup(chain, threshold=0.9)
    assert gone.drop.tolist() == [False, True, False]
    assert gone.twin.tolist() == [-1, 0, -1]


@pytest.mark.parametrize("shared", ["first is the other's second", "second is shared", "none is shared"])
def test_duplicates_on_both_sides_of_a_border_are_found_where_two_nearest_clusters_meet(shared):
    first, second = {
        "first is the other's second": ([0, 1], [1, 2]),
        "second is shared": ([0, 1], [2, 2]),
        "none is shared": ([0, 1], [2, 3]),
    }[shared]
    pair = replace(
        one_cluster(pair_at(0.99)), cluster=np.array(first, np.int32), second_cluster=np.array(second, np.int32)
    )
    assert dedup(pair, threshold=0.95).drop.sum() == (shared != "none is shared")


@pytest.mark.parametrize(("survivor", "stays"), [("hard", 2), ("easy", 1), ("random", 3), ("first", 0)])
def test_the_survivor_is_the_one_asked_for(survivor, stays):
    alike = one_cluster(np.ones((4, 5)), score=[2, 1, 3, 2])
    alike = replace(alike, tie=np.array([7, 6, 8, 5], np.uint64))
    gone = dedup(alike, threshold=0.9, survivor=survivor)
    assert np.flatnonzero(~gone.drop).tolist() == [stays]
    assert set(gone.twin.tolist()) == {-1, stays}


@given(SEEDS, st.floats(0.2, 0.999), st.sampled_from(SURVIVORS), st.booleans())
@settings(max_examples=40)
def test_the_outcome_is_that_of_the_dense_greedy(seed, threshold, survivor, exact):
    _, candidates = corpus(seed, spread=0.6)
    twin = dense_greedy(candidates, threshold, survivor, exact=exact)
    gone = dedup(candidates, threshold=threshold, survivor=survivor, exact=exact)
    np.testing.assert_array_equal(gone.twin, twin)
    np.testing.assert_array_equal(gone.drop, twin >= 0)


def test_two_thousand_samples_give_the_dense_greedy():
    _, candidates = corpus(5, sizes=(600, 400, 200, 100, 100), copies=590, d=32, spread=0.8, outliers=10)
    assert len(candidates) == 2000
    for threshold in (0.4, 0.9):
        np.testing.assert_array_equal(dedup(candidates, threshold=threshold).twin, dense_greedy(candidates, threshold))


@given(SEEDS, st.integers(0, 300), st.integers(5, 60), st.integers(1, 30), st.sampled_from([0.5, 0.7, 0.95]))
@settings(max_examples=20)
def test_portions_of_any_size_give_the_same(seed, pairs, chunk, block, threshold):
    _, candidates = corpus(seed, spread=0.6, sizes=(40, 20, 10))
    whole = dedup(candidates, threshold=threshold).twin
    with portions(PAIRS=pairs, CHUNK=chunk, KEPT_BLOCK=block):
        np.testing.assert_array_equal(dedup(candidates, threshold=threshold).twin, whole)


@pytest.mark.parametrize("pairs", [0, 2**21])
@pytest.mark.parametrize("cosine", [0.5, 0.95, 0.9999])
def test_what_float32_cannot_tell_from_the_threshold_is_decided_exactly(cosine, pairs):
    rows = np.random.default_rng(3).standard_normal((2, 384))
    rows[1] -= rows[0] * (rows[0] @ rows[1]) / (rows[0] @ rows[0])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[1] = cosine * rows[0] + np.sqrt(1 - cosine**2) * rows[1]
    pair = one_cluster(rows)
    exactly = float(unit(pair)[0] @ unit(pair)[1])
    with portions(PAIRS=pairs):
        assert dedup(pair, threshold=exactly - 1e-10).drop.sum() == 1
        assert dedup(pair, threshold=exactly + 1e-10).drop.sum() == 0


def test_a_thousand_cosines_at_the_threshold_give_the_dense_greedy_in_portions_of_any_size():
    """Pairs at cosines that differ by less than float32 resolves, on both sides of the threshold."""
    made = planted(8, sizes=(150, 50), d=64, spread=0.9, copies=200, cosine=0.9)
    threshold = float(
        np.median(np.sum(unit(made.candidates) * unit(made.candidates)[made.copy_of], axis=1)[made.copy_of >= 0])
    )
    twin = dense_greedy(made.candidates, threshold)
    for pairs in (0, 100, 2**21):
        with portions(PAIRS=pairs):
            np.testing.assert_array_equal(dedup(made.candidates, threshold=threshold).twin, twin)


def test_equal_images_are_duplicates_whatever_their_embeddings_and_clusters():
    lone = candidates_of(np.eye(6), np.eye(6), score=[3, 5, 1, 4, 2, 6])
    lone = replace(lone, content=np.array([9, 2**64 - 1, 9, 2**64 - 1, 9, 7], np.uint64))
    gone = dedup(lone)
    assert gone.twin.tolist() == [-1, -1, 0, 1, 0, -1]
    assert gone.reason == "duplicate"
    assert dedup(lone, threshold=0.5).twin.tolist() == gone.twin.tolist()
    assert not dedup(lone, threshold=0.5, exact=False).drop.any()


def test_a_sample_stands_in_for_equal_images_even_if_another_is_near():
    rows = np.repeat(pair_at(0.99), (1, 2), axis=0)
    trio = replace(one_cluster(rows, score=[1, 3, 2]), content=np.array([5, 6, 6], np.uint64))
    assert dedup(trio, threshold=0.95).twin.tolist() == [1, -1, 1]
    first_goes = replace(trio, score=np.array([3, 2, 1], np.float32))
    assert dedup(first_goes, threshold=0.95).twin.tolist() == [-1, 0, 0]


@given(SEEDS, st.floats(0.02, 0.98), st.sampled_from(SURVIVORS), st.booleans())
@settings(max_examples=40)
def test_a_share_leaves_exactly_that_many(seed, share, survivor, exact):
    _, candidates = corpus(seed, outliers=0)
    candidates = replace(candidates, count=20)
    gone = dedup(candidates, share=share, survivor=survivor, exact=exact)
    assert (~gone.drop).sum() == max(round(share * len(candidates)), 20)
    stand_ins = gone.twin[gone.drop]
    assert not gone.drop[stand_ins].any()
    met = sum(
        one[gone.drop] == other[stand_ins]
        for one in (candidates.cluster, candidates.second_cluster)
        for other in (candidates.cluster, candidates.second_cluster)
    )
    assert (met > 0).all()


def test_a_share_drops_what_is_most_alike():
    cosines = [0.9, 0.99, 0.95, 0.999, 0.8, 0.97]
    pairs = np.zeros((12, 12))
    for place, cosine in enumerate(cosines):
        pairs[2 * place : 2 * place + 2, 2 * place : 2 * place + 2] = pair_at(cosine, 2)
    candidates = one_cluster(pairs, score=-np.arange(12), count=1)
    for fewer, lost in enumerate([[3], [3, 1], [3, 1, 5], [3, 1, 5, 2], [3, 1, 5, 2, 0]], start=1):
        gone = dedup(candidates, share=(12 - fewer) / 12)
        assert np.flatnonzero(gone.drop).tolist() == sorted(2 * place + 1 for place in lost)


def test_what_goes_too_many_is_put_back_by_tie_where_it_is_equally_alike():
    alike = one_cluster(np.ones((40, 6)), score=np.arange(40), count=1)
    gone = dedup(alike, share=0.5)
    by_tie = [row for row in np.argsort(alike.tie).tolist() if row != 39]
    assert set(np.flatnonzero(~gone.drop).tolist()) == {39, *by_tie[:19]}


def test_equal_images_are_put_back_last_but_the_share_holds():
    _, candidates = corpus(2, outliers=0)
    equal = dedup(candidates).drop
    n = len(candidates)
    gone = dedup(replace(candidates, count=1), share=(n - equal.sum() - 10) / n)
    assert gone.drop[equal].all()
    assert gone.drop.sum() == equal.sum() + 10
    few = dedup(replace(candidates, count=1), share=(n - 5) / n)
    assert few.drop.sum() == 5
    assert equal[few.drop].all()


def test_a_share_never_leaves_fewer_than_will_be_kept():
    _, candidates = corpus(4)
    for share in (0.0, 0.1):
        assert (~dedup(replace(candidates, count=120), share=share).drop).sum() == 120
    assert not dedup(replace(candidates, count=len(candidates)), share=0.1).drop.any()


def test_where_nothing_is_alike_more_stay_than_the_share():
    lone = candidates_of(np.eye(30), np.ones((1, 30)), count=3)
    assert not dedup(lone, share=0.5).drop.any()
    apart = candidates_of(np.repeat(np.eye(30), 2, axis=0), np.ones((1, 30)), count=3)
    assert dedup(apart, share=0.1).drop.sum() == 30


def test_many_samples_are_judged_by_whole_clusters_and_the_share_is_exact(monkeypatch):
    made = planted(6, sizes=(60,) * 30, d=24, spread=0.6, copies=600, cosine=0.97)
    candidates = replace(made.candidates, count=1)
    whole = {share: dedup(candidates, share=share) for share in (0.6, 0.8)}
    monkeypatch.setattr(dedup_share, "SAMPLE_ROWS", 400)
    runs = []
    run = greedy.Greedy.run

    def counted(self, threshold):
        found = run(self, threshold)
        runs.append(len(found))
        return found

    monkeypatch.setattr(greedy.Greedy, "run", counted)
    for share, gone in whole.items():
        runs.clear()
        sampled = dedup(candidates, share=share)
        assert (~sampled.drop).sum() == (~gone.drop).sum() == round(share * len(candidates))
        assert (sampled.drop == gone.drop).mean() > 0.95
        assert runs[0] < 600
        assert runs.count(len(candidates)) <= 5


def test_the_sample_holds_whole_clusters_and_does_not_depend_on_the_order(monkeypatch):
    monkeypatch.setattr(dedup_share, "SAMPLE_ROWS", 50)
    _, candidates = corpus(3, sizes=(40,) * 10)
    rows = _whole_clusters(candidates)
    assert 50 <= len(rows) < 150
    drawn = np.unique(candidates.cluster[rows])
    np.testing.assert_array_equal(rows, np.flatnonzero(np.isin(candidates.cluster, drawn)))
    order = np.random.default_rng(0).permutation(len(candidates))
    np.testing.assert_array_equal(np.sort(order[_whole_clusters(candidates.take(order))]), rows)


@pytest.mark.parametrize("options", [{"threshold": 0.9}, {"share": 0.5}])
def test_identical_vectors_leave_one_or_the_share(options):
    alike = replace(one_cluster(np.ones((500, 6)), count=1), content=np.zeros(500, np.uint64))
    for exact in (True, False):
        assert (~dedup(alike, exact=exact, **options).drop).sum() == 1 if "threshold" in options else 250


def test_a_clique_is_compared_with_the_one_that_stays_only(monkeypatch):
    alike = one_cluster(np.ones((600, 6)))
    compared = []
    compare = greedy.Greedy._compare

    def counted(self, threshold, members, kept):
        compared.append(len(kept))
        return compare(self, threshold, members, kept)

    monkeypatch.setattr(greedy.Greedy, "_compare", counted)
    with portions(PAIRS=45):
        assert (~dedup(alike, threshold=0.9).drop).sum() == 1
    assert compared == [0] + [1] * 59


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0.9, "share": 0.5}, "a threshold or a share, not both"),
        ({"threshold": 1.0}, r"threshold must lie between 0 and 1, both excluded; got 1\.0"),
        ({"share": 1.0}, r"share must be at least 0 and below 1; got 1\.0"),
        ({"threshold": "0.9"}, r"threshold must lie between 0 and 1, both excluded; got '0\.9'"),
        ({"survivor": "best"}, "survivor must be one of hard, easy, random, first; got 'best'"),
    ],
)
def test_options_outside_their_range_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        dedup(one_cluster(np.eye(3)), **options)


def test_missing_columns_are_named():
    lone = one_cluster(np.eye(3))
    with pytest.raises(UsageError, match="hashes of images"):
        dedup(replace(lone, content=None))
    with pytest.raises(UsageError, match="without vectors"):
        dedup(replace(lone, vectors=None), threshold=0.9)
    assert not dedup(replace(lone, vectors=None)).drop.any()
    assert not dedup(replace(lone, content=None), threshold=0.9, exact=False).drop.any()
