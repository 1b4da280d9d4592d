"""Store to prototypes: the sample follows from the keys alone, and so do the prototypes."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from sspruning.clusterers import Clustering
from sspruning.config import ClusterConfig
from sspruning.errors import DataError, UsageError
from sspruning.stages import cluster as module
from sspruning.stages.cluster import choose_k, choose_sample, cluster, seeded

synthetic = runpy.run_path(str(Path(__file__).with_name("synthetic_store.py")))
make_store, keys_of, planted, split = (synthetic[name] for name in ("make_store", "keys_of", "planted", "split"))

N = 300
KEYS, ROWS = keys_of(N), planted(N)
SMALL = ClusterConfig(n_clusters=5, points_per_centroid=12, niter=4)


@pytest.fixture
def seen(monkeypatch):
    """What the clusterer was given, instead of clustering."""
    calls = []

    def record(sample, settings):
        calls.append((sample.copy(), settings))
        return Clustering(sample[: settings.k].copy(), np.zeros(settings.niter), {"device": "cpu"})

    monkeypatch.setattr(module.CLUSTERERS, "resolve", lambda name: record)
    return calls


def layouts(tmp_path):
    """The same samples in one shard, in several, in reverse, shuffled, under other names, with an empty shard."""
    order = np.random.default_rng(5).permutation(N)
    shuffled = [KEYS[i] for i in order], ROWS[order]
    several = split(KEYS, ROWS, [1, 99, 150, 50])
    yield make_store(tmp_path / "one", split(KEYS, ROWS, [N]))
    yield make_store(tmp_path / "several", several)
    yield make_store(tmp_path / "reversed", {f"z{9 - i}": shard for i, shard in enumerate(several.values())})
    yield make_store(tmp_path / "shuffled", split(*shuffled, [120, 0, 180]))


def test_the_sample_is_the_rows_with_the_smallest_seeded_hashes(tmp_path, seen):
    store = make_store(tmp_path / "store", split(KEYS, ROWS, [100, 200]))
    cluster(store, SMALL)
    hashes = np.concatenate([hashes for _, hashes in store.key_hashes()])
    expected = ROWS[np.argsort(seeded(hashes, SMALL.seed))[:60]]
    (sample, settings), *_ = seen
    assert sample.dtype == np.float32
    np.testing.assert_array_equal(sample, expected.astype(np.float32))
    assert (settings.k, settings.niter, settings.seed) == (5, 4, 0)


@pytest.mark.parametrize("size", [1, 3, 10, 60])
def test_a_sample_that_is_much_smaller_than_the_store_is_the_smallest_hashes_of_all_shards(tmp_path, size):
    store = make_store(tmp_path, split(keys_of(60), planted(60), [2, 7, 0, 1, 20, 30]))
    hashes = [seeded(own, 5) for _, own in store.key_hashes()]
    found = choose_sample(store, size, 5)
    assert found.hashes.tolist() == sorted(np.concatenate(hashes).tolist())[:size]
    assert [hashes[part][row] for part, row in zip(found.part, found.row, strict=True)] == found.hashes.tolist()


def test_the_sample_does_not_depend_on_order_or_names_of_shards(tmp_path, seen):
    for store in layouts(tmp_path):
        cluster(store, SMALL)
    assert len(seen) == 4
    assert len({sample.tobytes() for sample, _ in seen}) == 1


def test_prototypes_do_not_depend_on_order_or_names_of_shards(tmp_path):
    pytest.importorskip("faiss")
    made = [cluster(store, SMALL) for store in layouts(tmp_path)]
    assert len({prototypes.centroids.tobytes() + prototypes.objective.tobytes() for prototypes in made}) == 1


def test_rows_are_read_in_pieces_without_a_change(tmp_path, seen, monkeypatch):
    store = make_store(tmp_path / "store", split(KEYS, ROWS, [100, 200]))
    cluster(store, SMALL)
    monkeypatch.setattr(module, "READ_ROWS", 7)
    cluster(store, SMALL)
    assert seen[0][0].tobytes() == seen[1][0].tobytes()


def test_a_small_store_is_its_own_sample(tmp_path, seen):
    store = make_store(tmp_path / "store", split(KEYS[:40], ROWS[:40], [40]))
    prototypes = cluster(store, SMALL)
    assert prototypes.sample_size == 40
    assert sorted(map(bytes, seen[0][0])) == sorted(map(bytes, ROWS[:40].astype(np.float32)))


def test_another_seed_draws_another_sample_of_the_same_size(tmp_path, seen):
    store = make_store(tmp_path / "store", split(KEYS, ROWS, [N]))
    for seed in (0, 1):
        cluster(store, SMALL.model_copy(update={"seed": seed}))
    first, second = (set(map(bytes, sample)) for sample, _ in seen)
    assert len(first) == len(second) == 60
    assert 3 <= len(first & second) <= 25  # 12 are expected of independent draws


@pytest.mark.parametrize("name", ["faiss_kmeans", "numpy_kmeans"])
@pytest.mark.parametrize("spherical", [True, False])
def test_prototypes_say_how_they_came_about(tmp_path, name, spherical):
    if name == "faiss_kmeans":
        pytest.importorskip("faiss")
    store = make_store(tmp_path / "store", split(KEYS, ROWS, [100, 200]))
    config = SMALL.model_copy(update={"name": name, "spherical": spherical})
    prototypes = cluster(store, config, mark="abc")
    assert prototypes.centroids.shape == (5, 16)
    assert (prototypes.k, prototypes.sample_size, prototypes.spherical, prototypes.fingerprint) == (
        5,
        60,
        spherical,
        "abc",
    )
    assert len(prototypes.objective) == 4
    assert prototypes.info["k_reason"].startswith("k = 5 as asked for")
    assert (prototypes.info["n_embedded"], prototypes.info["seed"]) == (N, 0)


@pytest.mark.parametrize(
    ("n", "k"),
    [
        (1, 1),
        (31, 1),
        (63, 1),
        (64, 2),
        (500, 15),
        (512, 16),
        (2000, 45),
        (10_000, 100),
        (1_281_167, 1132),
        (10**10, 50_000),
    ],
)
def test_k_is_near_the_square_root_with_enough_samples_for_each(n, k):
    found, reason = choose_k(n, None)
    assert found == k
    assert f"k = {k}" in reason


def test_the_rules_for_k_hold_for_every_size():
    for n in (*range(1, 3000), 10**6, 10**12):
        k, _ = choose_k(n, None)
        assert 1 <= k <= min(n, 50_000)
        assert n / k >= 32 or k == 1


def test_an_asked_for_k_is_taken_with_a_warning_if_clusters_get_small():
    assert choose_k(3200, 100) == (100, "k = 100 as asked for")
    k, reason = choose_k(3199, 100)
    assert k == 100
    assert "warning" in reason
    assert choose_k(5, 5)[0] == 5


def test_more_prototypes_than_samples_are_refused(tmp_path):
    with pytest.raises(UsageError, match="101 prototypes for 100 samples; ask for at most 3"):
        choose_k(100, 101)
    store = make_store(tmp_path / "store", split(KEYS[:4], ROWS[:4], [4]))
    with pytest.raises(UsageError, match="5 prototypes for 4 samples"):
        cluster(store, SMALL)


@pytest.mark.parametrize("name", ["faiss_kmeans", "numpy_kmeans"])
def test_as_many_prototypes_as_samples_are_possible(tmp_path, name):
    if name == "faiss_kmeans":
        pytest.importorskip("faiss")
    store = make_store(tmp_path / "store", split(KEYS[:5], ROWS[:5], [2, 3]))
    prototypes = cluster(store, SMALL.model_copy(update={"name": name}))
    np.testing.assert_allclose(np.linalg.norm(prototypes.centroids.astype(np.float64), axis=1), 1, atol=1e-6)


def test_an_empty_store_says_that_there_is_nothing_to_cluster(tmp_path):
    store = make_store(tmp_path / "store", {"s": ([], np.empty((0, 16), np.float16))})
    with pytest.raises(DataError, match="nothing to cluster"):
        cluster(store, SMALL)


def test_seeded_hashes_are_uniform_and_independent_for_each_seed():
    keys = np.arange(20_000, dtype=np.uint64)
    first, second = seeded(keys, 0), seeded(keys, 1)
    assert len(set(first.tolist())) == 20_000
    bits = np.unpackbits(first.view(np.uint8).reshape(-1, 8), axis=1)
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 0.02
    assert abs(np.corrcoef(first.astype(np.float64), second.astype(np.float64))[0, 1]) < 0.03
    np.testing.assert_array_equal(seeded(keys[::-1], 0), first[::-1])
