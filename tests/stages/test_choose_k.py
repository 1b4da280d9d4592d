"""Numbers of prototypes compared: planted groups are recognised, measures are exact, nothing is written."""

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sspruning.clusterers import Clustering
from sspruning.config import ClusterConfig
from sspruning.errors import DataError, UsageError
from sspruning.stages import choose_k as module
from sspruning.stages.choose_k import TriedK, adjusted_rand_index, gini, rank_correlation, sweep_k
from sspruning.stages.cluster import cluster

synthetic = runpy.run_path(str(Path(__file__).with_name("synthetic_store.py")))
make_store, keys_of, split = (synthetic[name] for name in ("make_store", "keys_of", "split"))

N = 1600
KEYS = keys_of(N)
CONFIG = ClusterConfig(niter=15)


def eight_groups(n=N, d=16, spread=0.03, seed=1):
    rng = np.random.default_rng(seed)
    rows = np.linalg.qr(rng.normal(size=(d, d)))[0][:8][np.arange(n) % 8] + spread * rng.normal(size=(n, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


ROWS = eight_groups()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("planted") / "store", split(KEYS, ROWS, [600, 0, 1000]))


@pytest.fixture(scope="module")
def swept(store):
    return sweep_k(store, [32, 4, 8, 8], CONFIG)


# the planted number


def test_the_planted_number_of_groups_is_the_most_stable_and_is_recommended(swept):
    assert [entry.k for entry in swept.tried] == [4, 8, 32]
    four, eight, many = swept.tried
    assert eight.stability == 1.0
    assert max(four.stability, many.stability) < 0.9
    assert swept.recommended == 8
    assert "k = 8" in swept.reason
    assert swept.warnings == ()


def test_a_start_that_merges_two_groups_does_not_hide_their_number(tmp_path):
    merged = make_store(tmp_path / "store", split(KEYS, eight_groups(seed=3), [N]))
    found = sweep_k(merged, [4, 8, 32], CONFIG)
    assert found.tried[1].stability < 0.9
    assert found.recommended == 8


def test_the_figures_are_those_of_a_dense_computation(store, swept):
    """With k = 8 both seeds find the groups, so that prototypes are the groups' means."""
    eight, rows = swept.tried[1], ROWS.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    means = np.stack([rows[np.arange(N) % 8 == group].sum(axis=0) for group in range(8)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    assert eight.mean_distance == pytest.approx((1 - (rows @ means.T).max(axis=1)).mean(), abs=1e-4)
    assert eight.size_gini == pytest.approx(0, abs=1e-12)
    assert eight.size_ratio == 1
    assert eight.small_share == 0
    assert eight.rows_each == 200
    assert eight.seed_agreement > 0.999
    assert swept.n_embedded == swept.n_evaluated == N


def test_agreement_with_the_next_k_is_given_for_all_but_the_largest(swept):
    four, eight, many = swept.tried
    assert -1 <= four.next_agreement < eight.next_agreement <= 1
    by_seed = np.sqrt(eight.seed_agreement * many.seed_agreement)
    assert eight.next_corrected == pytest.approx(min(1, eight.next_agreement / by_seed))
    assert many.next_agreement is None
    assert many.next_corrected is None


def test_distances_fall_and_never_decide(swept):
    distances = [entry.mean_distance for entry in swept.tried]
    assert distances == sorted(distances, reverse=True)
    assert swept.recommended != 32


def test_the_same_result_each_time_and_for_any_order_of_shards(tmp_path, store, swept):
    assert sweep_k(store, (4, 8, 32), CONFIG) == swept
    order = np.random.default_rng(1).permutation(N)
    other = make_store(tmp_path / "other", split([KEYS[i] for i in order], ROWS[order], [1000, 600]))
    assert sweep_k(other, [4, 8, 32], CONFIG) == swept


def test_nothing_is_written_to_the_store(store):
    def state():
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in store.path.rglob("*")}

    before = state()
    sweep_k(store, [4, 8], CONFIG)
    assert state() == before


# what the clusterer is given


@pytest.fixture
def seen(monkeypatch):
    """What the clusterer was given; it spoils its rows, as it may."""
    calls = []

    def record(sample, settings):
        calls.append((sample.copy(), settings))
        centroids = sample[: settings.k].copy()
        sample[:] = np.nan
        return Clustering(centroids, np.zeros(settings.niter), {"device": "cpu"})

    monkeypatch.setattr(module.CLUSTERERS, "resolve", lambda name: record)
    return calls


def test_each_k_is_clustered_from_two_seeds_on_the_rows_of_the_cluster_stage(store, seen):
    config = CONFIG.model_copy(update={"points_per_centroid": 12, "seed": 7})
    sweep_k(store, [50, 5], config)
    assert [(settings.k, settings.seed, len(sample)) for sample, settings in seen] == [
        (5, 7, 60),
        (5, 8, 60),
        (50, 7, 600),
        (50, 8, 600),
    ]
    swept, seen[:] = list(seen), []
    for k in (5, 50):
        cluster(store, config.model_copy(update={"n_clusters": k}))
    for (sample, _), (expected, _) in zip(swept[::2], seen, strict=True):
        np.testing.assert_array_equal(sample, expected)
    np.testing.assert_array_equal(swept[0][0], swept[1][0])


def test_the_largest_seed_has_a_second_one(store, seen):
    sweep_k(store, [2, 3], CONFIG.model_copy(update={"seed": 2**31 - 1}))
    assert [settings.seed for _, settings in seen] == [2**31 - 1, 0] * 2


def test_a_clusterer_that_spoils_its_rows_does_no_harm(store, seen):
    found = sweep_k(store, [5, 50], CONFIG)
    assert all(np.isfinite(entry.mean_distance) for entry in found.tried)


def test_a_part_of_the_rows_is_judged_where_there_are_many(store, swept, monkeypatch):
    monkeypatch.setattr(module, "EVALUATION_ROWS", 400)
    found = sweep_k(store, [4, 8, 32], CONFIG)
    assert (found.n_embedded, found.n_evaluated) == (N, 400)
    assert found.recommended == 8
    eight, whole = found.tried[1], swept.tried[1]
    assert eight.mean_distance == pytest.approx(whole.mean_distance, rel=0.05)
    assert eight.small_share == 0, "about 50 rows of each cluster were seen; that is about 200 of the store"
    assert eight.rows_each == 200


def test_blocks_of_rows_change_nothing(store, swept, monkeypatch):
    monkeypatch.setattr(module, "SEARCH_ROWS", 37)
    assert sweep_k(store, [4, 8, 32], CONFIG) == swept


# requests that cannot be served


@pytest.mark.parametrize(
    ("ks", "told"),
    [
        ([], "at least two numbers of prototypes; got none"),
        ([8], "at least two numbers of prototypes; got 8"),
        ([8, 8], "at least two numbers of prototypes; got 8, 8"),
        ([1, 8], "over 1 prototypes"),
        ([-3, 8], "over -3 prototypes"),
        ([8, 1601], "1601 prototypes for 1600 samples; ask for at most 50"),
    ],
)
def test_a_sweep_that_cannot_compare_is_refused(store, ks, told):
    with pytest.raises(UsageError, match=told):
        sweep_k(store, ks, CONFIG)


def test_an_empty_store_says_that_there_is_nothing_to_cluster(tmp_path):
    empty = make_store(tmp_path / "store", {"s": ([], np.empty((0, 16), np.float16))})
    with pytest.raises(DataError, match="nothing to cluster"):
        sweep_k(empty, [2, 3], CONFIG)


def test_as_many_prototypes_as_samples_are_possible_and_warned_of(tmp_path):
    small = make_store(tmp_path / "store", split(KEYS[:64], ROWS[:64], [64]))
    found = sweep_k(small, [2, 64], CONFIG)
    assert found.recommended == 2
    assert found.tried[1].small_share == 1
    assert any("k = 64: only 1.0 samples for each prototype" in warning for warning in found.warnings)


# the recommendation


def entry(k, **changes):
    plain = TriedK(
        k=k,
        mean_distance=1 / k,
        stability=0.5,
        seed_agreement=0.95,
        next_agreement=0.95,
        next_corrected=1.0,
        size_gini=0.1,
        size_ratio=1.5,
        small_share=0.0,
        rows_each=100_000 / k,
    )
    return replace(plain, **changes)


def last(k, **changes):
    return entry(k, next_agreement=None, next_corrected=None, **changes)


def test_on_a_plateau_what_depends_least_on_the_seed_wins():
    tried = [entry(100, seed_agreement=0.8), entry(300, stability=0.6), last(1000, stability=0.55)]
    chosen, reason = module._recommended(tried)
    assert chosen.k == 300
    assert reason.startswith("on the plateau k = 100, 300, 1000 (")
    assert "0.9 or more), another seed changes least at k = 300: adjusted Rand index of the clusters 0.60" in reason


def test_clusters_and_scores_count_alike_and_of_equals_the_smaller_k_wins():
    tried = [entry(100, stability=0.4, seed_agreement=0.8), entry(300, stability=0.3, seed_agreement=0.9), last(1000)]
    assert module._recommended([*tried[:2], last(1000, stability=0.2, seed_agreement=1.0)])[0].k == 100
    assert module._recommended(tried)[0].k == 1000


def test_a_k_off_the_plateau_is_not_recommended_however_stable_it_is():
    tried = [entry(10, next_corrected=0.5, seed_agreement=1.0, stability=1.0), entry(100), last(300)]
    chosen, reason = module._recommended(tried)
    assert chosen.k == 100
    assert reason.startswith("on the plateau k = 100, 300 (")


def test_without_a_plateau_the_reason_says_so():
    tried = [entry(100, next_corrected=0.7), entry(300, next_corrected=0.6, seed_agreement=0.6), last(1000)]
    chosen, reason = module._recommended(tried)
    assert chosen.k == 100
    assert reason.startswith("there is no plateau")
    assert "at most 0.70); among k = 100, 300, 1000, another seed changes least at k = 100" in reason


def test_a_plateau_of_clusters_that_are_too_small_is_none():
    tried = [entry(1000, next_corrected=0.6), entry(4000, next_corrected=0.97), last(5000)]
    chosen, reason = module._recommended(tried)
    assert chosen.k == 1000
    assert "at most 0.60); among k = 1000," in reason


def test_what_k_changes_is_measured_against_what_the_seed_changes():
    first, second = entry(100, seed_agreement=0.9), last(300, seed_agreement=0.64)
    assert module._compared(first, second, 0.72).next_corrected == pytest.approx(0.72 / (0.9 * 0.64) ** 0.5)
    assert module._compared(first, second, 0.8).next_corrected == 1.0
    chance = replace(second, seed_agreement=0.2)
    assert module._compared(first, chance, 0.4).next_corrected == 0.0
    assert module._compared(first, replace(second, seed_agreement=-0.3), 0.4).next_corrected == 0.0


def test_clusters_that_are_too_small_are_recommended_only_if_all_are():
    tried = [entry(1000, seed_agreement=0.5), last(5000, seed_agreement=1.0)]
    assert module._recommended(tried)[0].k == 1000
    tried = [entry(4000, seed_agreement=0.5), last(5000, seed_agreement=1.0)]
    assert module._recommended(tried)[0].k == 5000


def test_people_are_warned_of_what_the_recommendation_rests_on():
    tried = [entry(300), entry(1000, small_share=0.17, seed_agreement=0.81), last(5000)]
    told = module._warnings(tried, tried[1])
    assert [text.split(":")[0] for text in told] == ["k = 5000", "k = 1000", "k = 1000"]
    assert "only 20.0 samples" in told[0]
    assert "17% of the clusters have fewer than 32" in told[1]
    assert "rank correlation 0.81" in told[2]
    assert module._warnings(tried[:2], tried[0]) == [
        "k = 300 is the smallest that was tried; what lies beyond was not looked at"
    ]


# the measures


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([0, 0, 1, 1], [1, 1, 0, 0], 1.0),
        ([0, 0, 1, 2], [0, 0, 1, 1], 4 / 7),
        ([0, 0, 1, 1], [0, 1, 0, 1], -0.5),
        ([0, 0, 0, 0], [0, 1, 2, 3], 0.0),
        ([0, 0, 0], [2, 2, 2], 1.0),
        ([0, 1, 2], [2, 0, 1], 1.0),
        ([5], [0], 1.0),
    ],
)
def test_the_rand_index_has_its_known_values(first, second, expected):
    found = adjusted_rand_index(np.array(first, np.int32), np.array(second, np.int32))
    assert found == pytest.approx(expected)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), min_size=2, max_size=60))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_the_rand_index_counts_pairs(pairs):
    """By looking at every pair of rows: together in both, in the first, in the second."""
    first, second = np.array(pairs, np.int32).T
    above = np.triu_indices(len(first), 1)
    a, b = ((labels[:, None] == labels[None])[above] for labels in (first, second))
    by_chance, best = a.sum() * b.sum() / len(a), (a.sum() + b.sum()) / 2
    expected = 1.0 if best == by_chance else ((a & b).sum() - by_chance) / (best - by_chance)
    assert adjusted_rand_index(first, second) == pytest.approx(expected)
    assert adjusted_rand_index(second, first) == pytest.approx(expected)
    assert adjusted_rand_index(first, first) == 1


def test_unrelated_clusterings_agree_as_by_chance():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 1000, (2, 100_000)).astype(np.int32)
    assert abs(adjusted_rand_index(first, second)) < 0.01


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 2, 3], [10, 20, 900], 1.0),
        ([1, 2, 3], [3, 2, 1], -1.0),
        ([1, 2, 3, 4], [1, 3, 2, 4], 0.8),
        ([1, 1, 2], [1, 2, 3], 3**0.5 / 2),
        ([1, 1, 1], [1, 2, 3], 0.0),
        ([1, 1, 1], [2, 2, 2], 1.0),
    ],
)
def test_the_rank_correlation_has_its_known_values(first, second, expected):
    assert rank_correlation(np.array(first, np.float32), np.array(second, np.float32)) == pytest.approx(expected)


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=50))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_the_rank_correlation_is_that_of_mean_ranks(pairs):
    values = np.array(pairs, np.float64).T
    ranks = [(row[:, None] > row).sum(axis=1) + ((row[:, None] == row).sum(axis=1) + 1) / 2 for row in values]
    found = rank_correlation(*values)
    if all(np.ptp(rank) > 0 for rank in ranks):
        assert found == pytest.approx(np.corrcoef(ranks)[0, 1])
    assert -1 - 1e-12 <= found <= 1 + 1e-12


@pytest.mark.parametrize(("sizes", "expected"), [([4, 4, 4], 0), ([0, 0, 9], 2 / 3), ([3, 1, 2], 2 / 9), ([7], 0)])
def test_the_gini_coefficient_has_its_known_values(sizes, expected):
    assert gini(np.array(sizes)) == pytest.approx(expected, abs=1e-12)
