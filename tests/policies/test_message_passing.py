"""Message passing: the order of the plainest implementation, diversity among the hard, and what is at the edges."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import candidates_of, planted

from sspruning.errors import UsageError
from sspruning.policies import message_passing as module
from sspruning.policies.keep_hardest import keep_hardest
from sspruning.policies.message_passing import message_passing, nearest_neighbors
from sspruning.records import Vectors


def plain_neighbors(candidates, count):
    """For each sample its (neighbour, distance), nearest first, by comparing it with everyone."""
    rows = candidates.vectors[slice(None)].astype(np.float64)
    found = []
    for i in range(len(rows)):
        near = [
            (np.sqrt(np.sum((rows[i] - rows[j]) ** 2)), candidates.tie[j], j)
            for j in range(len(rows))
            if j != i and candidates.cluster[j] in {candidates.cluster[i], candidates.second_cluster[i]}
        ]
        found.append([(j, distance) for distance, _, j in sorted(near)[:count]])
    return found


def plain_ranks(candidates, count, gamma, beta):
    """The definition, with an argmax over everyone for each pick."""
    n = len(candidates)
    hardest_first = sorted(range(n), key=lambda i: (candidates.score[i], candidates.tie[i]), reverse=True)
    aside, rest = hardest_first[: round(beta * n)], np.array(sorted(hardest_first[round(beta * n) :]), np.int64)
    part = candidates.take(rest)
    score = part.score.astype(np.float64)
    spread = score.max() - score.min()
    first = (score - score.min()) / spread if spread > 0 else np.ones(len(rest))
    neighbors = plain_neighbors(part, count)
    value = first.copy()
    for i, near in enumerate(neighbors):
        for j, distance in near:
            value[i] += np.exp(-distance) * first[j]
    left, order = set(range(len(rest))), []
    while left:
        best = min(left, key=lambda i: (-value[i], part.tie[i]))
        left.remove(best)
        order.append(rest[best])
        for j, distance in neighbors[best]:
            value[j] -= np.exp(-gamma * distance) * max(value[best], 0.0)
    ranks = np.empty(n, np.int64)
    ranks[[*order, *reversed(aside)]] = np.arange(n)
    return ranks


def shuffled(candidates, seed):
    """The same samples listed in another order, and that order."""
    order = np.random.default_rng(seed).permutation(len(candidates))
    return candidates.take(order), order


def mean_gap(candidates, kept):
    """Mean cosine distance of all samples to the nearest kept one."""
    rows = candidates.vectors[slice(None)].astype(np.float64)
    return (1 - rows @ rows[kept].T).min(axis=1).mean()


@pytest.mark.parametrize("gamma", [0.0, 0.1, 1.0])
@pytest.mark.parametrize(("neighbors", "beta"), [(1, 0.0), (5, 0.0), (5, 0.2), (60, 0.1)])
def test_the_order_is_that_of_the_plainest_implementation(neighbors, gamma, beta):
    candidates = planted(seed=neighbors, sizes=(60, 40, 20, 8), copies=20, cosine=0.999, outliers=5).candidates
    ranks = message_passing(candidates, neighbors=neighbors, gamma=gamma, beta=beta)
    np.testing.assert_array_equal(ranks, plain_ranks(candidates, neighbors, gamma, beta))


@given(st.integers(0, 2**32 - 1), st.integers(0, 24), st.integers(1, 4), st.integers(1, 7), st.sampled_from([0, 0.3]))
@settings(max_examples=60)
def test_small_corpora_with_copies_and_equal_scores_follow_the_plainest_implementation(seed, n, k, neighbors, beta):
    rng = np.random.default_rng(seed)
    rows = rng.integers(-1, 2, (n, 3)) + 0.0  # copies, zero rows and equal distances
    candidates = candidates_of(rows, rng.standard_normal((k, 3)), seed=seed, score=rng.integers(0, 3, n))
    ranks = message_passing(candidates, neighbors=neighbors, beta=beta)
    assert sorted(ranks.tolist()) == list(range(n))
    if n:
        np.testing.assert_array_equal(ranks, plain_ranks(candidates, neighbors, 0.1, beta))


@pytest.mark.parametrize(("queries", "tile"), [(5, 31), (64, 1000)])
def test_blocks_change_nothing(monkeypatch, queries, tile):
    candidates = planted(copies=40, cosine=0.999, outliers=5).candidates
    expected, distance = nearest_neighbors(candidates, 6)
    monkeypatch.setattr(module, "QUERY_ROWS", queries)
    monkeypatch.setattr(module, "TILE_ROWS", tile)
    found, again = nearest_neighbors(candidates, 6)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(again, distance)


def test_distances_are_those_of_the_direct_subtraction_to_the_last_bit():
    candidates = planted(d=64, copies=40, cosine=0.9999).candidates
    found, distance = nearest_neighbors(candidates, 5)
    rows = candidates.vectors[slice(None)].astype(np.float64)
    direct = np.sqrt(np.sum((rows[:, None] - rows[found]) ** 2, axis=2))
    assert distance.tobytes() == direct.tobytes()


def test_the_order_of_rows_changes_nothing():
    candidates = planted(copies=30, cosine=0.999, outliers=5).candidates
    ranks = message_passing(candidates)
    other, order = shuffled(candidates, 1)
    np.testing.assert_array_equal(message_passing(other), ranks[order])


def test_the_number_kept_changes_nothing():
    candidates = planted().candidates
    ranks = message_passing(candidates)
    np.testing.assert_array_equal(message_passing(replace(candidates, count=10)), ranks)


def test_hard_samples_go_first_but_not_all_of_a_hard_clump():
    """Scores are random, but for a hard clump of near copies: hard-first keeps all of it, this keeps a part."""
    found = planted(sizes=(200, 100, 50), copies=60, cosine=0.9)
    clump = np.arange(60)
    rows = found.candidates.vectors[slice(None)]
    rows[clump] = rows[0] + 0.002 * np.random.default_rng(1).standard_normal((60, rows.shape[1]))
    score = np.random.default_rng(0).random(len(rows)).astype(np.float32)
    score[clump] += 0.8
    candidates = candidates_of(rows, found.candidates.centroids, score=score)
    kept, hard = message_passing(candidates) < 120, keep_hardest(candidates) < 120
    assert hard[clump].sum() > 50
    assert 1 <= kept[clump].sum() <= hard[clump].sum() / 2
    assert score[kept].mean() > score.mean()
    assert mean_gap(candidates, kept) < 0.9 * mean_gap(candidates, hard)


def test_a_lone_hard_sample_yields_to_one_that_stands_among_hard_ones():
    """Forward: three samples that are hard together reach higher values than one that is as hard, far from all."""
    rows = np.array([[1, 0, 0], [1, 0.01, 0], [1, 0, 0.01], [0, 1, 0], [0, 0.9, 0.4], [0, 0.4, 0.9]])
    score = [0.9, 0.9, 0.9, 0.9, 0.0, 0.1]
    ranks = message_passing(candidates_of(rows, np.eye(3), score=score), neighbors=2)
    assert np.argmin(ranks) in {0, 1, 2}
    assert ranks[3] == 1  # the other two have lost to the first


def test_the_hardest_share_comes_last_the_least_hard_first_and_is_no_ones_neighbour():
    candidates = planted(outliers=10).candidates
    n, ranks = len(candidates), message_passing(candidates, beta=0.1)
    aside = np.lexsort((candidates.tie, candidates.score))[n - round(0.1 * n) :]
    np.testing.assert_array_equal(np.argsort(ranks)[n - len(aside) :], aside)
    rest = np.setdiff1d(np.arange(n), aside)
    np.testing.assert_array_equal(ranks[rest], message_passing(candidates.take(rest)))


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("k", [1, 3])
def test_fewer_samples_than_neighbours_are_ranked(n, k):
    rows = np.random.default_rng(n).standard_normal((n, 4))
    candidates = candidates_of(rows, np.random.default_rng(9).standard_normal((k, 4)))
    ranks = message_passing(candidates, neighbors=50)
    np.testing.assert_array_equal(ranks, plain_ranks(candidates, 50, 0.1, 0.0))


@pytest.mark.parametrize("score", [None, np.arange(40)])
def test_identical_embeddings_are_ranked(score):
    candidates = candidates_of(np.ones((40, 4)), np.ones((3, 4)), score=score)
    ranks = message_passing(candidates, beta=0.1)
    np.testing.assert_array_equal(ranks, plain_ranks(candidates, 5, 0.1, 0.1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neighbors": 0}, "neighbors must be at least 1; got 0"),
        ({"gamma": -0.1}, "gamma must be a finite number of at least 0; got -0.1"),
        ({"gamma": float("inf")}, "gamma must be a finite number"),
        ({"gamma": float("nan")}, "gamma must be a finite number"),
        ({"beta": 1.0}, r"beta must be in \[0, 1\); got 1.0"),
        ({"beta": -0.5}, r"beta must be in \[0, 1\)"),
    ],
)
def test_an_option_out_of_its_range_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        message_passing(planted(sizes=(5, 5)).candidates, **options)


def test_candidates_without_embeddings_are_refused():
    with pytest.raises(UsageError, match="reads embeddings"):
        message_passing(replace(planted(sizes=(5, 5)).candidates, vectors=None))


def test_a_memory_map_gives_the_same(tmp_path):
    candidates = planted().candidates
    path = tmp_path / "rows.npy"
    np.save(path, candidates.vectors[slice(None)].astype(np.float16))
    mapped = replace(candidates, vectors=Vectors(np.load(path, mmap_mode="r")))
    np.testing.assert_array_equal(message_passing(mapped), message_passing(candidates))
