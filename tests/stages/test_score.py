"""Prototypes to scores: exact labels, the same bytes wherever the work ran."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from sspruning.clusterers import faiss_kmeans
from sspruning.config import ScoreConfig
from sspruning.errors import MachineError, StoreError
from sspruning.execution import Outcome, make_executor
from sspruning.execution.inline import InlineExecutor
from sspruning.records import Prototypes
from sspruning.stages import score as module
from sspruning.stages.score import assignment_path, score, score_path
from sspruning.storage.artifacts import ASSIGNMENT_DTYPE, load_column, save_prototypes

pytest.importorskip("faiss")

synthetic = runpy.run_path(str(Path(__file__).with_name("synthetic_store.py")))
make_store, keys_of, planted, split = (synthetic[name] for name in ("make_store", "keys_of", "planted", "split"))

N, K, D = 260, 9, 16


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class Bench:
    """A store of four shards, one of them empty, and prototypes: two are the same, one has a single member."""

    def __init__(self, folder):
        self.folder = folder
        rng = np.random.default_rng(3)
        self.rows = planted(N, D, spread=0.6)
        self.rows[:, -1] = 0
        lonely = unit(np.eye(D)[[-1]] + 0.05 * rng.normal(size=(1, D)))  # nearly at a right angle to all others
        self.rows[77] = lonely
        centroids = unit(self.rows[rng.choice(70, K, replace=False)].astype(np.float64) + 0.1 * rng.normal(size=(K, D)))
        centroids[:, -1] = 0
        centroids[8] = centroids[2]
        centroids[5] = 1.1 * lonely
        self.keys = keys_of(N)
        self.store = make_store(folder / "store", split(self.keys, self.rows, [90, 0, 1, 169]))
        self.prototypes = Prototypes(centroids.astype(np.float32), False, np.zeros(3), N, "p" * 64)
        save_prototypes(self.path, self.prototypes)

    @property
    def path(self):
        return self.folder / "prototypes.h5"

    def score(self, name="scores", executor=None, **config):
        return score(
            self.store,
            self.prototypes,
            self.path,
            self.folder / name,
            ScoreConfig(**config),
            executor or InlineExecutor(),
        )

    def assignment(self, scores, distance="cosine"):
        folder = Path(scores.assignment_folder)
        paths = [assignment_path(folder, record, self.prototypes, distance) for record in self.store.records()]
        sizes = [record.n_rows for record in self.store.records()]
        return np.concatenate([load_column(path, n, ASSIGNMENT_DTYPE) for path, n in zip(paths, sizes, strict=True)])

    def values(self, scores):
        folder = Path(scores.folder)
        return np.concatenate(
            [load_column(score_path(folder, r.shard_id), r.n_rows, np.dtype("<f4")) for r in self.store.records()]
        )


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def files_under(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_labels_and_distances_equal_a_float64_search_of_all_prototypes(bench, distance):
    found = bench.assignment(bench.score(distance=distance), distance)
    rows, centroids = bench.rows.astype(np.float64), bench.prototypes.centroids.astype(np.float64)
    angle = 1 - unit(rows) @ unit(centroids).T
    if distance == "cosine":
        rows, centroids = unit(rows), unit(centroids)
    squares = ((rows[:, None] - centroids[None]) ** 2).sum(axis=2)
    expected = angle if distance == "cosine" else np.sqrt(squares)
    order, at = np.argsort(squares, axis=1, kind="stable"), np.arange(N)
    np.testing.assert_array_equal(found["label"], order[:, 0])
    np.testing.assert_array_equal(found["second_label"], order[:, 1])
    np.testing.assert_allclose(found["distance"], expected[at, order[:, 0]], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found["second_distance"], expected[at, order[:, 1]], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found["cosine_distance"], angle[at, order[:, 0]], rtol=1e-6, atol=1e-7)
    assert 8 not in found["label"]


def test_the_place_where_the_work_runs_changes_no_byte(bench):
    bench.score("inline")
    expected = files_under(bench.folder / "inline")
    assert len(expected) == 8
    for workers in (1, 2):
        executor = make_executor("local", workers)
        try:
            bench.score(f"local{workers}", executor)
        finally:
            executor.close()
        assert files_under(bench.folder / f"local{workers}") == expected


@pytest.mark.parametrize("metric", ["prototype_distance", "prototype_margin", "random"])
@pytest.mark.parametrize("size", [1, 7, 100])
def test_the_size_of_chunks_changes_no_byte(bench, monkeypatch, metric, size):
    bench.score("whole", metric=metric)
    monkeypatch.setattr(module, "ASSIGN_ROWS", size)
    bench.score("pieces", metric=metric)
    assert files_under(bench.folder / "pieces") == files_under(bench.folder / "whole")


def test_a_sample_has_the_same_score_in_whatever_shard_it_lies(bench, tmp_path):
    scores = bench.score()
    by_key = dict(zip(bench.keys, bench.values(scores).tolist(), strict=True))
    order = np.random.default_rng(1).permutation(N)
    keys = [bench.keys[i] for i in order]
    bench.store = make_store(tmp_path / "other", split(keys, bench.rows[order], [13, 247]))
    again = bench.score("other-scores")
    assert dict(zip(keys, bench.values(again).tolist(), strict=True)) == by_key
    np.testing.assert_array_equal(again.cluster_sizes, scores.cluster_sizes)


def test_a_sample_alone_with_its_prototype_is_not_easy(bench):
    scores = bench.score()
    found, values = bench.assignment(scores), bench.values(scores)
    assert (found["label"] == 5).sum() == scores.cluster_sizes[5] == 1
    assert found["distance"][77] < 1e-5
    assert values[77] == found["second_distance"][77] > np.median(values)
    usual = scores.cluster_sizes[found["label"]] > 2
    np.testing.assert_array_equal(values[usual], found["distance"][usual])


def test_one_prototype_is_nearest_and_second_nearest(bench):
    bench.prototypes = Prototypes(bench.prototypes.centroids[:1], False, np.zeros(1), N, "q" * 64)
    save_prototypes(bench.path, bench.prototypes)
    found = bench.assignment(bench.score())
    assert not found["label"].any()
    assert not found["second_label"].any()
    np.testing.assert_array_equal(found["distance"], found["second_distance"])


def test_scores_report_what_they_hold(bench):
    scores = bench.score()
    values, found = bench.values(scores), bench.assignment(scores)
    assert scores.n_rows == N == scores.cluster_sizes.sum()
    assert len(scores.cluster_sizes) == K
    assert scores.summary["min"] == values.min()
    assert scores.summary["max"] == values.max()
    assert scores.summary["mean"] == pytest.approx(values.mean(dtype=np.float64))
    assert scores.summary["mean_distance"] == pytest.approx(found["distance"].mean(dtype=np.float64))


class Forbidden(InlineExecutor):
    """An executor that must get no task."""

    def run(self, spec, tasks):
        assert not list(tasks)
        return iter(())


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_second_time_does_nothing_and_says_the_same(bench):
    first = bench.score()
    before = stamps(bench.folder / "scores")
    second = bench.score(executor=Forbidden())
    assert stamps(bench.folder / "scores") == before
    assert (second.fingerprint, second.folder, second.summary) == (first.fingerprint, first.folder, first.summary)
    assert second.cluster_sizes.tolist() == first.cluster_sizes.tolist()


def test_only_missing_assignments_are_made_and_end_up_the_same(bench):
    bench.score()
    complete = files_under(bench.folder / "scores")
    record = bench.store.records()[3]
    assignment_path(bench.folder / "scores" / "assignment", record, bench.prototypes, "cosine").unlink()
    tasks = []

    class Recording(InlineExecutor):
        def run(self, spec, given):
            listed = list(given)
            tasks.extend(task.id for task in listed)
            return super().run(spec, listed)

    bench.score(executor=Recording())
    assert tasks == [record.shard_id]
    assert files_under(bench.folder / "scores") == complete


def test_another_metric_uses_the_same_assignments(bench):
    first = bench.score()
    second = bench.score(executor=Forbidden(), metric="prototype_margin")
    assert second.fingerprint != first.fingerprint
    assert second.folder != first.folder
    assert (bench.values(second) <= 0).all()


def test_other_prototypes_and_another_geometry_have_assignments_of_their_own(bench):
    first = bench.score()
    bench.prototypes = Prototypes(bench.prototypes.centroids[::-1].copy(), False, np.zeros(1), N, "r" * 64)
    save_prototypes(bench.path, bench.prototypes)
    second = bench.score()
    third = bench.score(distance="euclidean")
    assert len({first.folder, second.folder, third.folder}) == 3
    assert len(list(Path(first.assignment_folder).glob("*.npy"))) == 12


def test_a_damaged_assignment_is_named_with_what_to_do(bench):
    bench.score()
    path = assignment_path(bench.folder / "scores" / "assignment", bench.store.records()[0], bench.prototypes, "cosine")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(StoreError, match="delete it"):
        bench.score()


def test_workers_search_on_the_device_that_is_asked_for(bench, monkeypatch):
    monkeypatch.setattr(faiss_kmeans, "_gpu_works", lambda faiss: False)
    inputs = bench.store, bench.prototypes, bench.path, bench.folder / "gpu", ScoreConfig(), InlineExecutor()
    with pytest.raises(MachineError, match="no working GPU"):
        score(*inputs, device="gpu")


def test_an_error_in_a_worker_is_the_error_of_the_stage(bench):
    bench.path.write_bytes(b"no prototypes")
    with pytest.raises(StoreError, match=r"prototypes\.h5: damaged"):
        bench.score()


@pytest.mark.parametrize("kind", ["crash", "timeout"])
def test_a_worker_that_is_lost_is_reported_with_its_shard(bench, kind):
    class Losing(InlineExecutor):
        def run(self, spec, tasks):
            return (Outcome(task.id, kind, error=RuntimeError("gone")) for task in tasks)

    with pytest.raises(MachineError, match=f"assigning s00: {kind}"):
        bench.score(executor=Losing())
