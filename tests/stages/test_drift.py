"""What joins a store is compared with what its prototypes were made of: no change is called none, and a change one."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from sspruning.clusterers import KMeansSettings
from sspruning.clusterers.faiss_kmeans import faiss_kmeans
from sspruning.config import ScoreConfig
from sspruning.errors import StoreError, UsageError
from sspruning.execution.inline import InlineExecutor
from sspruning.metrics.distances import unit_rows
from sspruning.records import Prototypes
from sspruning.stages import drift as module
from sspruning.stages.drift import BINS, drift
from sspruning.stages.score import assignment_path, score
from sspruning.storage.artifacts import ASSIGNMENT_DTYPE, load_column, save_prototypes

pytest.importorskip("faiss")

synthetic = runpy.run_path(str(Path(__file__).with_name("synthetic_store.py")))
make_store, keys_of = synthetic["make_store"], synthetic["keys_of"]


class World:
    """Where samples come from: groups of unequal size around random directions, each as wide as ``spread``."""

    def __init__(self, seed, d=64, groups=12, spread=0.8):
        self.rng = np.random.default_rng(seed)
        self.centres = unit_rows(self.rng.normal(size=(groups + 1, d)))
        self.spread = spread

    def _around(self, centres):
        noise = self.rng.normal(size=centres.shape) / np.sqrt(centres.shape[1])
        scale = np.exp(0.3 * self.rng.normal(size=(len(centres), 1)))
        return unit_rows(centres + self.spread * scale * noise)

    def draw(self, n, only=None):
        groups = len(self.centres) - 1
        drawn = np.minimum(self.rng.geometric(0.2, n) - 1, groups - 1)
        return self._around(self.centres[drawn if only is None else only[drawn % len(only)]])

    def stranger(self, n):
        """Rows of a group that no other draw has."""
        return self._around(np.repeat(self.centres[-1:], n, axis=0))


class Bench:
    """A store of old and new shards, assigned to prototypes of the old ones."""

    def __init__(self, folder, old, new, k=40, distance="cosine", more=()):
        parts = {"old1": old[: len(old) // 3], "old2": old[len(old) // 3 :], "new1": new[:50], "new2": new[50:]}
        parts.update(more)
        rows = {name: part.astype(np.float16) for name, part in parts.items()}
        self.store = make_store(folder / "store", {name: (keys_of(len(r), name), r) for name, r in rows.items()})
        settings = KMeansSettings(k=k, niter=20, spherical=distance == "cosine", init="afk-mc2", seed=0, device="cpu")
        self.old = np.concatenate([rows["old1"], rows["old2"]])
        self.centroids = faiss_kmeans(self.old.astype(np.float32), settings).centroids
        prototypes = Prototypes(self.centroids, distance == "cosine", np.zeros(1), len(old), "p" * 64)
        save_prototypes(folder / "prototypes.h5", prototypes)
        config = ScoreConfig(distance=distance)
        found = score(self.store, prototypes, folder / "prototypes.h5", folder / "scores", config, InlineExecutor())
        self.assignments = {
            record.shard_id: assignment_path(Path(found.assignment_folder), record, prototypes, distance)
            for record in self.store.records()
        }

    def rows(self, *shards):
        """Assignments of some shards."""
        sizes = {record.shard_id: record.n_rows for record in self.store.records()}
        return np.concatenate([load_column(self.assignments[s], sizes[s], ASSIGNMENT_DTYPE) for s in shards])

    def drift(self, old=("old1", "old2")):
        return drift(self.store, self.assignments, set(old))


# the verdict


@pytest.mark.parametrize("n_new", [200, 2000])
@pytest.mark.parametrize("d", [16, 128])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_samples_of_the_same_distribution_fit(seed, d, n_new, tmp_path):
    world = World(seed, d)
    found = Bench(tmp_path, world.draw(1600), world.draw(n_new)).drift()
    assert found.verdict == "fits", found.reason
    assert 0.9 < found.ratio < 1.15


def test_samples_without_any_structure_fit_although_old_ones_lie_nearer(tmp_path):
    """K-means follows its own sample: plain distances would tell of a change that is none."""
    world = World(3, d=128, groups=1, spread=3.0)
    bench = Bench(tmp_path, world.draw(1600), world.draw(1000), k=50)
    old, new = (bench.rows(*names)["cosine_distance"] for names in (("old1", "old2"), ("new1", "new2")))
    at = np.sort(new)
    plain = np.searchsorted(np.sort(old), at) / len(old) - np.arange(len(new)) / len(new)
    found = bench.drift()
    assert plain.max() > 0.2
    assert found.farther < 0.05
    assert found.verdict == "fits"


@pytest.mark.parametrize("n_new", [200, 2000])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_new_cluster_of_a_fifth_of_the_new_samples_asks_for_another_clustering(seed, n_new, tmp_path):
    world = World(seed)
    new = np.concatenate([world.draw(n_new - n_new // 5), world.stranger(n_new // 5)])
    found = Bench(tmp_path, world.draw(1600), new).drift()
    assert found.verdict == "cluster again"
    assert "far from all prototypes" in found.reason
    assert 0.13 < found.farther < 0.25


def test_a_new_cluster_of_a_tenth_is_watched(tmp_path):
    world = World(4)
    new = np.concatenate([world.draw(1800), world.stranger(200)])
    assert Bench(tmp_path, world.draw(1600), new).drift().verdict == "watch"


def test_new_samples_of_few_of_the_old_groups_ask_for_another_clustering_by_their_shares(tmp_path):
    world = World(5)
    found = Bench(tmp_path, world.draw(1600), world.draw(500, only=np.array([4, 5]))).drift()
    assert found.verdict == "cluster again"
    assert "spread over the prototypes differently" in found.reason
    assert found.farther < 0.12
    assert found.share_change - found.share_change_by_chance > 0.5
    assert found.n_unvisited > 2 * found.n_unvisited_by_chance + 5


def test_few_samples_are_not_made_much_of(tmp_path):
    world = World(6)
    new = np.concatenate([world.draw(16), world.stranger(4)])
    found = Bench(tmp_path, world.draw(1600), new).drift()
    assert found.verdict == "fits"
    assert "20 new samples tell no difference below 42%" in found.reason


def test_a_few_samples_that_are_all_strange_are_seen(tmp_path):
    world = World(7)
    assert Bench(tmp_path, world.draw(1600), world.stranger(20)).drift().verdict == "cluster again"


# the numbers


def without(bench, cap):
    """Distance of each old sample to the mean of the others of its cluster, or to the second prototype if nearer."""
    rows, members = bench.rows("old1", "old2"), unit_rows(bench.old)
    centroids = unit_rows(bench.centroids)
    found = np.full(len(rows), np.inf)
    for i, label in enumerate(rows["label"]):
        others = members[(rows["label"] == label) & (np.arange(len(rows)) != i)]
        if len(others):
            found[i] = 1 - members[i] @ unit_rows(others.sum(axis=0)[None])[0]
        if cap:
            found[i] = min(found[i], 1 - members[i] @ centroids[rows["second_label"][i]])
    return found[np.isfinite(found)]


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_numbers_are_those_of_a_plain_computation(distance, tmp_path):
    world = World(8, d=16, groups=4)
    bench = Bench(tmp_path, world.draw(400), world.draw(150), k=30, distance=distance)
    found, new = bench.drift(), bench.rows("new1", "new2")
    old, old_rows = without(bench, cap=distance == "cosine"), bench.rows("old1", "old2")
    assert (found.n_old, found.n_new) == (400, 150)
    assert found.old_distance == pytest.approx(old.mean(), rel=0.01)  # prototypes are means only nearly
    assert found.new_distance == pytest.approx(new["cosine_distance"].mean(), rel=1e-6)
    assert found.ratio == found.new_distance / found.old_distance
    at = np.linspace(0, 1, BINS + 1)[1:] ** 2 * 2
    shares = [np.searchsorted(np.sort(values), at) / len(values) for values in (old, new["cosine_distance"])]
    assert found.ks == pytest.approx(np.abs(shares[0] - shares[1]).max(), abs=0.01)
    counts = np.array([np.bincount(rows["label"], minlength=30) for rows in (old_rows, new)])
    assert found.share_change == pytest.approx(0.5 * np.abs(counts[0] / 400 - counts[1] / 150).sum())
    assert found.n_unvisited == ((counts[0] > 0) & (counts[1] == 0)).sum()


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_each_old_distance_is_the_one_without_the_sample(distance, tmp_path):
    world = World(14, d=16, groups=4)
    bench = Bench(tmp_path, world.draw(400), world.draw(150), k=130, distance=distance)
    rows = bench.rows("old1", "old2")
    own = np.bincount(rows["label"])[rows["label"]]
    assert (own == 1).any()
    cosines = np.bincount(rows["label"], 1.0 - rows["cosine_distance"])
    found, sizes = module._left_out(rows, rows["cosine_distance"].astype(np.float64), own, cosines)
    np.testing.assert_array_equal(sizes, own if distance == "cosine" else own[own > 1])
    np.testing.assert_allclose(
        found, without(bench, cap=distance == "cosine"), rtol=0, atol=3e-4
    )  # rounding to float16


@pytest.mark.parametrize(("n_new", "k"), [(100, 50), (15, 50), (30, 300)])
def test_what_is_expected_by_chance_is_what_chance_brings_about(n_new, k, tmp_path):
    world = World(9)
    bench = Bench(tmp_path, world.draw(900), world.draw(n_new), k=k)
    found = bench.drift()
    label = bench.rows("old1", "old2", "new1", "new2")["label"]
    rng, changes, unvisited = np.random.default_rng(0), [], []
    for _ in range(200):
        drawn = rng.permutation(label)
        old, new = np.bincount(drawn[:900], minlength=k) / 900, np.bincount(drawn[900:], minlength=k) / n_new
        changes.append(0.5 * np.abs(old - new).sum())
        unvisited.append((new == 0).sum())
    assert found.share_change_by_chance == pytest.approx(np.mean(changes), rel=0.1)
    assert found.n_unvisited_by_chance == pytest.approx(np.mean(unvisited), rel=0.1)
    assert np.mean(np.array(changes) > found.share_change_by_chance + found.margin) < 0.01


def test_shards_do_not_matter_only_which_samples_are_old(tmp_path):
    world = World(10)
    old, new = world.draw(300), world.draw(120)
    one = Bench(tmp_path / "one", old, new, k=20).drift()
    two = Bench(tmp_path / "two", old, new, k=20, more={"none": new[:0], "old0": old[:0]}).drift(
        ["old0", "old1", "old2", "gone"]
    )
    assert one == two


def test_without_new_samples_everything_fits(tmp_path):
    world = World(11)
    found = Bench(tmp_path, world.draw(300), world.draw(60), k=10).drift(["old1", "old2", "new1", "new2"])
    assert (found.verdict, found.n_new, found.farther, found.share_change) == ("fits", 0, 0, 0)


def test_without_old_samples_there_is_nothing_to_compare_with(tmp_path):
    world = World(12)
    with pytest.raises(UsageError, match="cluster STORE --force"):
        Bench(tmp_path, world.draw(300), world.draw(60), k=10).drift(["gone"])


def test_a_missing_assignment_is_named(tmp_path):
    world = World(13)
    bench = Bench(tmp_path, world.draw(300), world.draw(60), k=10)
    bench.assignments["new1"].unlink()
    with pytest.raises(StoreError, match=r"new1.*missing"):
        bench.drift()


def test_old_copies_on_their_prototype_do_not_divide_by_zero(tmp_path):
    rows = np.repeat(np.eye(4), 5, axis=0)
    found = Bench(tmp_path, rows, rows[::2], k=4).drift()
    assert (found.old_distance, found.new_distance, found.ratio) == (0, 0, 1)
    assert found.verdict == "fits"
