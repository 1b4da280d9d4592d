"""FAISS made exact: labels equal a float64 search, whatever the chunk, the ties and the near-ties."""

import importlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sspruning.clusterers import KMeansSettings
from sspruning.clusterers import faiss_kmeans as module
from sspruning.clusterers.faiss_kmeans import NearestPrototypes, faiss_kmeans, import_faiss
from sspruning.clusterers.numpy_kmeans import numpy_kmeans
from sspruning.errors import MachineError

SETTINGS = KMeansSettings(k=6, niter=15, spherical=True, init="k-means++", seed=1, device="cpu")


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def stored(rows):
    """Embeddings as a store holds them: unit rows, rounded once to float16."""
    return unit(np.asarray(rows, np.float64)).astype(np.float16)


def brute_force(rows, centroids, *, cosine):
    """(m, 2) nearest and second nearest in float64 by direct subtraction, ties to the lower prototype."""
    rows, centroids = np.asarray(rows, np.float64), np.asarray(centroids, np.float64)
    if cosine:
        rows, centroids = unit(rows), unit(centroids)
    squares = ((rows[:, None] - centroids[None]) ** 2).sum(axis=2)
    found = np.argsort(squares, axis=1, kind="stable")
    return found[:, [0, min(1, len(centroids) - 1)]]


def found_by(search, rows, chunk=None):
    parts = [search.search(rows[i : i + (chunk or len(rows))]) for i in range(0, len(rows), chunk or len(rows))]
    return np.stack([np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])], axis=1)


@pytest.mark.parametrize("cosine", [True, False])
@pytest.mark.parametrize("k", [1, 2, 3, 4, 40])
def test_labels_are_those_of_a_float64_search(k, cosine):
    rng = np.random.default_rng(k)
    rows, centroids = stored(rng.normal(size=(500, 24))), rng.normal(size=(k, 24)).astype(np.float32)
    found = found_by(NearestPrototypes(centroids, cosine=cosine), rows)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, brute_force(rows, centroids, cosine=cosine))


@pytest.mark.parametrize("cosine", [True, False])
def test_exact_ties_go_to_the_lower_prototype(cosine):
    rng = np.random.default_rng(5)
    base = rng.normal(size=(6, 16)).astype(np.float32)
    centroids = base[[0, 1, 2, 1, 3, 0, 0, 4, 5, 5]]
    rows = stored(base.repeat(5, axis=0) + 0.3 * rng.normal(size=(30, 16)))
    found = found_by(NearestPrototypes(centroids, cosine=cosine), rows)
    np.testing.assert_array_equal(found, brute_force(rows, centroids, cosine=cosine))
    assert not set(found[:, 0]) & {3, 5, 6, 9}
    first_of_three = found[found[:, 0] == 0]
    assert (first_of_three[:, 1] == 5).all()


@pytest.mark.parametrize("cosine", [True, False])
def test_prototypes_that_are_all_the_same_give_the_first_two(cosine):
    rows = stored(np.random.default_rng(0).normal(size=(20, 8)))
    found = found_by(NearestPrototypes(np.ones((9, 8), np.float32), cosine=cosine), rows)
    assert (found == [0, 1]).all()


@pytest.mark.parametrize("cosine", [True, False])
@pytest.mark.parametrize("d", [2, 3, 64, 384])
def test_near_ties_below_the_resolution_of_float32_are_settled(cosine, d):
    """Pairs of prototypes one float32 step apart: a float32 product cannot tell them, a float64 difference can."""
    rng = np.random.default_rng(d)
    base = unit(rng.normal(size=(20, d))).astype(np.float32)
    twins = base.copy()
    twins[:, 0] = np.nextafter(twins[:, 0], np.float32(2))
    centroids = np.concatenate([twins, base])[rng.permutation(40)]
    rows = stored(base.repeat(10, axis=0) + 0.2 * rng.normal(size=(200, d)) / np.sqrt(d))
    expected = brute_force(rows, centroids, cosine=cosine)
    np.testing.assert_array_equal(found_by(NearestPrototypes(centroids, cosine=cosine), rows), expected)


@pytest.mark.parametrize("cosine", [True, False])
def test_more_near_ties_than_any_list_of_candidates_are_settled(cosine):
    """100 prototypes within a few float32 steps of each other, the first twenty repeated."""
    rng = np.random.default_rng(11)
    centroids = np.repeat(unit(rng.normal(size=(1, 16))).astype(np.float32), 100, axis=0)
    for _ in range(3):
        steps = rng.integers(-1, 2, centroids.shape)
        centroids = np.where(steps == 0, centroids, np.nextafter(centroids, steps.astype(np.float32)))
    centroids[80:] = centroids[:20]
    rows = stored(centroids[:1] + 0.5 * rng.normal(size=(300, 16)))
    search, expected = NearestPrototypes(centroids, cosine=cosine), brute_force(rows, centroids, cosine=cosine)
    np.testing.assert_array_equal(found_by(search, rows), expected)
    np.testing.assert_array_equal(found_by(search, rows, 7), expected)


@pytest.mark.parametrize("cosine", [True, False])
def test_large_offsets_that_swamp_the_expanded_form_are_settled(cosine):
    rng = np.random.default_rng(8)
    centroids = (100 + 0.01 * rng.normal(size=(12, 10))).astype(np.float32)
    rows = (100 + 0.01 * rng.normal(size=(300, 10))).astype(np.float32)
    found = found_by(NearestPrototypes(centroids, cosine=cosine), rows)
    np.testing.assert_array_equal(found, brute_force(rows, centroids, cosine=cosine))


@pytest.mark.parametrize("cosine", [True, False])
@pytest.mark.parametrize("k", [1, 2, 3, 50])
def test_chunks_of_any_size_give_equal_labels(k, cosine):
    rng = np.random.default_rng(2)
    centroids = np.concatenate([c := rng.normal(size=(k, 32)).astype(np.float32), np.nextafter(c, np.float32(9))])[:k]
    rows = stored(rng.normal(size=(230, 32)))
    search = NearestPrototypes(centroids, cosine=cosine)
    whole = found_by(search, rows)
    for chunk in (1, 7, 100):
        np.testing.assert_array_equal(found_by(search, rows, chunk), whole)


@pytest.mark.parametrize("cosine", [True, False])
@pytest.mark.parametrize("k", [1, 2, 3, 60])
def test_the_nearest_alone_is_the_first_of_the_two(k, cosine):
    """Among prototypes of which two each are one float32 step apart, and twenty the same."""
    rng = np.random.default_rng(k)
    base = unit(rng.normal(size=(20, 16))).astype(np.float32)
    many = np.concatenate([base, np.nextafter(base, np.float32(2)), np.repeat(base[:1], 20, axis=0)])
    centroids = many[rng.permutation(60)][:k]
    rows = stored(base.repeat(15, axis=0) + 0.05 * rng.normal(size=(300, 16)))
    search, expected = NearestPrototypes(centroids, cosine=cosine), brute_force(rows, centroids, cosine=cosine)[:, 0]
    assert search.nearest(rows).dtype == np.int32
    for chunk in (1, 7, 300):
        found = np.concatenate([search.nearest(rows[i : i + chunk]) for i in range(0, 300, chunk)])
        np.testing.assert_array_equal(found, expected)


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 6), st.booleans())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_labels_are_exact_on_coarse_grids_full_of_ties(seed, k, d, cosine):
    rng = np.random.default_rng(seed)
    centroids = rng.integers(-2, 3, (k, d)).astype(np.float32)
    centroids[~centroids.any(axis=1), 0] = 1
    rows = rng.integers(-2, 3, (40, d)).astype(np.float16)
    rows[~rows.any(axis=1), 0] = 1
    first, second = NearestPrototypes(centroids, cosine=cosine).search(rows)
    wide, points = np.asarray(rows, np.float64), np.asarray(centroids, np.float64)
    if cosine:
        wide, points = unit(wide), unit(points)
    squares = ((wide[:, None] - points[None]) ** 2).sum(axis=2)
    at = np.arange(40)
    best = np.sort(squares, axis=1)
    np.testing.assert_allclose(squares[at, first], best[:, 0], atol=1e-12)
    np.testing.assert_allclose(squares[at, second], best[:, min(1, k - 1)], atol=1e-12)
    assert k == 1 or (first != second).all()
    if not cosine:  # whole numbers: exact in float64, so ties are exact and go to the lower prototype
        np.testing.assert_array_equal(first, squares.argmin(axis=1))


def test_no_rows_give_no_labels():
    for k in (1, 2, 5):
        search = NearestPrototypes(np.eye(5, dtype=np.float32)[:k], cosine=True)
        first, second = search.search(np.empty((0, 5), np.float16))
        assert len(first) == len(second) == 0


def test_only_rows_that_need_it_are_searched_again(monkeypatch):
    rng = np.random.default_rng(3)
    search = NearestPrototypes(rng.normal(size=(50, 64)).astype(np.float32), cosine=True)
    repaired = []
    repair = search._repaired
    monkeypatch.setattr(search, "_repaired", lambda rows, *rest: repaired.append(len(rows)) or repair(rows, *rest))
    search.search(stored(rng.normal(size=(2000, 64))))
    assert sum(repaired) < 20


@pytest.mark.parametrize("spherical", [True, False])
def test_the_objective_comes_close_to_the_oracles_on_planted_groups(spherical):
    rng = np.random.default_rng(4)
    centres = unit(rng.normal(size=(6, 20)))
    rows = unit(centres[np.arange(600) % 6] + 0.05 * rng.normal(size=(600, 20))).astype(np.float32)
    choice = KMeansSettings(k=6, niter=15, spherical=spherical, init="k-means++", seed=1, device="cpu")
    best = {}
    for name, run in (("faiss", faiss_kmeans), ("numpy", numpy_kmeans)):
        objectives = [run(rows.copy(), replace(choice, seed=seed)).objective[-1] for seed in range(5)]
        best[name] = max(objectives) if spherical else min(objectives)
    assert best["faiss"] == pytest.approx(best["numpy"], rel=1e-3)


def test_a_missing_start_method_is_told_and_random_points_are_used(monkeypatch):
    faiss = import_faiss()
    monkeypatch.delattr(faiss, "ClusteringInitMethod_AFK_MC2")
    rows = unit(np.random.default_rng(0).normal(size=(100, 4))).astype(np.float32)
    found = faiss_kmeans(rows, KMeansSettings(k=3, niter=2, spherical=True, init="afk-mc2", seed=0, device="cpu"))
    assert found.info["init"] == "random"
    assert "afk-mc2" in found.info["note"]


def test_without_faiss_the_message_has_the_command_that_installs_it(monkeypatch):
    real = importlib.import_module

    def without_faiss(name, *rest):
        if name == "faiss":
            raise ImportError("No module named 'faiss'")
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without_faiss)
    rows = np.eye(8, dtype=np.float32)
    with pytest.raises(MachineError, match=r"pip install 'sspruning\[cpu\]'.*'sspruning\[gpu\]'"):
        faiss_kmeans(rows, SETTINGS)
    with pytest.raises(MachineError, match=r"pip install"):
        NearestPrototypes(rows, cosine=True)


def test_a_gpu_that_is_asked_for_and_missing_is_an_error(monkeypatch):
    monkeypatch.setattr(module, "_gpu_works", lambda faiss: False)
    with pytest.raises(MachineError, match="no working GPU"):
        faiss_kmeans(np.eye(8, dtype=np.float32), replace(SETTINGS, device="gpu"))


class BrokenGpuFaiss:
    """A FAISS that sees a GPU on which every search fails."""

    StandardGpuResources = staticmethod(lambda: SimpleNamespace(setTempMemory=lambda size: None))
    IndexFlatIP = staticmethod(lambda d: import_faiss().IndexFlatIP(d))

    def get_num_gpus(self):
        return 1

    def index_cpu_to_gpu(self, *parts):
        raise RuntimeError("no kernel image is available for execution on the device")


class GpuIndex:
    """Products of ``bits`` of mantissa, which then err by as much as float32 sums of another order may."""

    def __init__(self, bits):
        self.bits, self.rng, self.searched = bits, np.random.default_rng(0), 0

    def add(self, centroids):
        self.centroids = self._rounded(centroids)

    def _rounded(self, rows):
        mantissa, exponent = np.frexp(rows.astype(np.float64))
        return np.ldexp(np.rint(mantissa * 2.0**self.bits), exponent - self.bits)

    def search(self, rows, k):
        self.searched += len(rows)
        products = self._rounded(rows) @ self.centroids.T
        products += self.rng.uniform(-1, 1, products.shape) * rows.shape[1] * 2.0**-24
        order = np.argsort(-products, axis=1)[:, :k]
        return np.take_along_axis(products, order, axis=1).astype(np.float32), order


class GpuFaiss(BrokenGpuFaiss):
    """A FAISS with a GPU that works; of ``bits`` of mantissa, float32 has 24 and TF32 has 11."""

    def __init__(self, bits=24):
        self.bits, self.made = bits, []

    def index_cpu_to_gpu(self, resources, device, index):
        self.made.append(GpuIndex(self.bits))
        return self.made[-1]


def test_a_gpu_that_fails_its_trial_search_is_not_used():
    assert not module._gpu_works(BrokenGpuFaiss())
    assert not module._use_gpu(BrokenGpuFaiss(), "auto")
    assert not module._use_gpu(BrokenGpuFaiss(), "cpu")


def test_a_gpu_that_rounds_more_than_float32_is_not_used():
    assert module._gpu_works(GpuFaiss(24))
    assert not module._gpu_works(GpuFaiss(11))


def test_near_ties_are_settled_whatever_the_order_in_which_a_gpu_adds(monkeypatch):
    rng = np.random.default_rng(1)
    base = unit(rng.normal(size=(20, 32))).astype(np.float32)
    centroids = np.concatenate([np.nextafter(base, np.float32(2)), base])[rng.permutation(40)]
    rows = stored(base.repeat(10, axis=0) + 0.03 * rng.normal(size=(200, 32)))
    gpu = GpuFaiss()
    monkeypatch.setattr(module, "import_faiss", lambda: gpu)
    search = NearestPrototypes(centroids, cosine=True, device="auto")
    expected = brute_force(rows, centroids, cosine=True)
    np.testing.assert_array_equal(found_by(search, rows), expected)
    np.testing.assert_array_equal(search.nearest(rows), expected[:, 0])
    assert gpu.made[-1].searched >= 2 * len(rows)
    on_cpu = NearestPrototypes(centroids, cosine=True)
    assert isinstance(on_cpu._index, import_faiss().IndexFlatIP)


def test_without_a_working_gpu_the_search_runs_on_the_cpu_unless_one_is_asked_for(monkeypatch):
    monkeypatch.setattr(module, "import_faiss", BrokenGpuFaiss)
    rows = np.eye(4, dtype=np.float32)
    assert NearestPrototypes(rows, cosine=True, device="auto").nearest(rows).tolist() == [0, 1, 2, 3]
    with pytest.raises(MachineError, match="no working GPU"):
        NearestPrototypes(rows, cosine=True, device="gpu")


def test_the_objective_has_a_value_for_each_iteration_also_where_faiss_stops_early():
    rows = np.repeat(np.eye(4, dtype=np.float32), 10, axis=0)
    settings = KMeansSettings(k=4, niter=20, spherical=True, init="random", seed=0, device="cpu")
    found = faiss_kmeans(rows, settings)

    assert found.objective.shape == (20,)
    assert found.objective[-1] == found.objective.max()
