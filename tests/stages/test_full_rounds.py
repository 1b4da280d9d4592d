"""Rounds over everything: the bits of a plain float64 k-means, however the rows are cut and wherever the work runs."""

import hashlib
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sspruning.clusterers import faiss_kmeans
from sspruning.config import ClusterConfig
from sspruning.errors import DataError, MachineError, StoreError
from sspruning.execution import Outcome, make_executor
from sspruning.execution.inline import InlineExecutor
from sspruning.progress import SilentProgress
from sspruning.records import Prototypes
from sspruning.stages import full_rounds as module
from sspruning.stages import round_worker
from sspruning.stages.full_rounds import clear_rounds, full_rounds, last_state

pytest.importorskip("faiss")

synthetic = runpy.run_path(str(Path(__file__).with_name("synthetic_store.py")))
make_store, keys_of, planted, split = (synthetic[name] for name in ("make_store", "keys_of", "planted", "split"))

N, D, K, MARK = 400, 16, 9, "ab" * 32
KEYS = keys_of(N)
FAR = np.eye(D)[-1]
"""Where few rows are."""


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def embeddings():
    """Groups that overlap, all in one half of the space; two rows far from all others, the farther three times."""
    rows = planted(N, D, spread=0.7)
    rows[:, -2:] = [1, 0]
    rows = unit(rows.astype(np.float64))
    rows[[70, 71, 300]] = unit(FAR + 0.1 * rows[5])
    rows[120] = unit(FAR + 0.3 * rows[9])
    return rows.astype(np.float16)


ROWS = embeddings()


def beginning(spherical):
    """Prototypes to start from: two of them one float32 step apart, and two that no row is near to."""
    rng = np.random.default_rng(3)
    centroids = unit(ROWS[rng.choice(60, K, replace=False)].astype(np.float64)).astype(np.float32)
    centroids[4] = np.nextafter(centroids[2], np.float32(2))
    centroids[[3, 7]] = -FAR
    return Prototypes(centroids, spherical, np.zeros(2), 60, MARK, {"n_embedded": N})


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """The same rows in one part, in five, and in another order under other names."""
    folder = tmp_path_factory.mktemp("stores")
    order = np.random.default_rng(5).permutation(N)
    mixed = split([KEYS[i] for i in order], ROWS[order], [150, 0, 250])
    return {
        "one": make_store(folder / "one", split(KEYS, ROWS, [N])),
        "five": make_store(folder / "five", split(KEYS, ROWS, [90, 0, 60, 150, 100])),
        "mixed": make_store(folder / "mixed", {f"z{name}": shard for name, shard in mixed.items()}),
    }


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    """Several groups although the store is small."""
    monkeypatch.setattr(module, "GROUP_ROWS", 100)
    monkeypatch.setattr(module, "ROWS_PER_PROTOTYPE", 1)


def run(store, folder, *, spherical=True, rounds=4, executor=None, start=None):
    begin = start or last_state(folder, MARK) or beginning(spherical)
    config = ClusterConfig(full_rounds=rounds, spherical=spherical, device="cpu")
    return full_rounds(store, begin, config, folder, executor or InlineExecutor(), SilentProgress())


def bits(found):
    return found.centroids.tobytes(), found.info["full_rounds"]


def oracle(centroids, rounds, *, spherical):
    """Centroids by the plainest float64 k-means, and its objective: at the start, then after each round."""
    rows, objective = ROWS.astype(np.float64), []
    for _ in range(rounds):
        points, wide = (unit(rows), unit(centroids.astype(np.float64))) if spherical else (rows, centroids)
        squares = ((points[:, None] - wide[None].astype(np.float64)) ** 2).sum(axis=2)
        labels = squares.argmin(axis=1)
        new = centroids.copy()
        for label in set(labels.tolist()):
            mean = rows[labels == label].mean(axis=0)
            new[label] = unit(mean) if spherical else mean
        far = (0.5 * squares if spherical else np.sqrt(squares))[np.arange(N), labels].astype(np.float32)
        names = np.array([int(part) for part in key_hashes()], np.uint64)
        order = [i for i in np.lexsort((names, -far)) if far[i] > 0]
        first = {ROWS[i].tobytes(): i for i in reversed(order)}
        empty = sorted(set(range(K)) - set(labels.tolist()))
        refill = sorted(first.values(), key=order.index)[: len(empty)]
        for label, row in zip(empty, refill, strict=True):
            new[label] = unit(rows[row]) if spherical else rows[row]
        for some in ([centroids] if not objective else []) + [{label: new[label] for label in set(labels.tolist())}]:
            own = np.array([some[label] for label in labels.tolist()], np.float64)
            objective.append((rows * own).sum() if spherical else ((rows - own) ** 2).sum())
        centroids = new
    return centroids, objective


def key_hashes():
    return [int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little") for key in KEYS]


class Spy(InlineExecutor):
    """Keeps the tasks it was given; after ``stop`` outcomes the run is interrupted."""

    def __init__(self, stop=None):
        super().__init__()
        self.stop, self.tasks = stop, []

    def run(self, spec, tasks):
        for task in tasks:
            if self.stop is not None and len(self.tasks) == self.stop:
                raise KeyboardInterrupt
            self.tasks.append(task.payload)
            yield from super().run(spec, [task])


@pytest.mark.parametrize("spherical", [True, False])
@pytest.mark.parametrize("rounds", [1, 4])
def test_the_centroids_are_those_of_plain_float64_k_means(stores, tmp_path, spherical, rounds):
    start = beginning(spherical)
    found = run(stores["five"], tmp_path, spherical=spherical, rounds=rounds)
    expected, objective = oracle(start.centroids, rounds, spherical=spherical)
    np.testing.assert_array_equal(found.centroids, expected)
    told = found.info["full_rounds"]
    assert (told["asked"], told["rounds"], told["refilled"][0]) == (rounds, rounds, 2)
    np.testing.assert_allclose(told["objective"], objective, rtol=1e-6)
    assert (found.fingerprint, found.sample_size, len(found.objective)) == (MARK, 60, 2)


@pytest.mark.parametrize("spherical", [True, False])
def test_the_bits_do_not_depend_on_parts_order_groups_or_blocks(stores, tmp_path, spherical, monkeypatch):
    expected = bits(run(stores["one"], tmp_path / "one", spherical=spherical))
    for name in ("five", "mixed"):
        assert bits(run(stores[name], tmp_path / name, spherical=spherical)) == expected
    monkeypatch.setattr(round_worker, "BLOCK_ROWS", 33)
    assert bits(run(stores["five"], tmp_path / "blocks", spherical=spherical)) == expected
    monkeypatch.setattr(module, "GROUP_ROWS", 10**6)
    assert bits(run(stores["five"], tmp_path / "group", spherical=spherical)) == expected


def test_the_bits_do_not_depend_on_executor_or_workers(stores, tmp_path):
    expected = {
        spherical: bits(run(stores["five"], tmp_path / str(spherical), spherical=spherical))
        for spherical in (True, False)
    }
    for workers in (1, 2):
        executor = make_executor("local", workers)
        try:
            for spherical, wanted in expected.items():
                folder = tmp_path / f"{workers}-{spherical}"
                assert bits(run(stores["mixed"], folder, spherical=spherical, executor=executor)) == wanted
        finally:
            executor.close()


@pytest.mark.parametrize("stop", [0, 2, 3, 5, 6, 8, 11])
def test_a_run_that_is_killed_goes_on_in_the_round_and_group_where_it_stopped(stores, tmp_path, stop):
    clean, spy = Spy(), Spy(stop)
    expected = bits(run(stores["five"], tmp_path / "clean", executor=clean))
    with pytest.raises(KeyboardInterrupt):
        run(stores["five"], tmp_path / "rounds", executor=spy)
    rest = Spy()
    assert bits(run(stores["five"], tmp_path / "rounds", executor=rest)) == expected
    assert spy.tasks + rest.tasks == clean.tasks
    assert stop < len(clean.tasks)


def test_a_run_that_was_killed_after_its_last_round_has_nothing_left_to_do(stores, tmp_path):
    expected, spy = bits(run(stores["five"], tmp_path)), Spy()
    assert bits(run(stores["five"], tmp_path, executor=spy)) == expected
    assert spy.tasks == []


def test_only_a_round_that_leaves_a_prototype_without_rows_reads_everything_twice(stores, tmp_path):
    spy = Spy()
    told = run(stores["five"], tmp_path, rounds=3, executor=spy).info["full_rounds"]
    groups = len({task["group"] for task in spy.tasks})
    assert groups == 3
    again = sorted({task["done"] for task in spy.tasks if task["farthest"]})
    assert again == [done for done, count in enumerate(told["refilled"]) if count]
    assert 0 in again
    assert len(again) < 3


def test_equal_embeddings_fill_one_empty_prototype_only(stores, tmp_path):
    found = run(stores["five"], tmp_path, rounds=1)
    once, thrice = (unit(ROWS[row].astype(np.float64)).astype(np.float32) for row in (120, 70))
    assert sorted(map(bytes, found.centroids[[3, 7]])) == sorted(map(bytes, (once, thrice)))


def test_the_farthest_go_by_distance_then_by_the_hash_of_the_key_and_never_lie_on_their_prototype():
    rows = np.zeros(7, round_worker.far_dtype(1))
    rows["distance"] = [0.5, 0.9, 0.5, 0.5, 0, 0.9, 0.4]
    rows["key_hash"] = [7, 2**63 + 1, 3, 9, 0, 2**63, 1]
    rows["embedding"][:, 0] = [0, 1, 2, 2, 4, 1, 6]
    assert round_worker.farthest(rows, 9)["key_hash"].tolist() == [2**63, 3, 7, 1]
    assert round_worker.farthest(rows, 2)["key_hash"].tolist() == [2**63, 3]


def test_rounds_end_once_nothing_moves(stores, tmp_path):
    told = run(stores["five"], tmp_path, rounds=500).info["full_rounds"]
    assert told["rounds"] < 100
    assert told["moved"][-1] == 0
    assert 0 not in told["moved"][:-1]
    assert (np.diff(told["objective"][2:]) > -1e-4).all()


def test_more_prototypes_than_different_rows_leave_some_without_rows(tmp_path):
    rows = np.repeat(np.eye(D, dtype=np.float16)[:3], 20, axis=0)
    store = make_store(tmp_path / "store", split(keys_of(60), rows, [60]))
    start = beginning(True)
    start.centroids[:] = -FAR
    found = run(store, tmp_path / "rounds", rounds=9, start=start)
    told = found.info["full_rounds"]
    assert told["rounds"] < 9
    assert set(map(bytes, found.centroids)) >= {bytes(row) for row in np.eye(D, dtype=np.float32)[:3]}


def test_rows_that_cancel_out_leave_their_prototype_where_it_is(tmp_path):
    rows = np.concatenate([np.eye(D)[:1], -np.eye(D)[:1]]).astype(np.float16)
    store = make_store(tmp_path / "store", split(keys_of(2), rows, [2]))
    start = replace(beginning(True), centroids=np.eye(D, dtype=np.float32)[1:2])
    found = run(store, tmp_path / "rounds", start=start)
    np.testing.assert_array_equal(found.centroids, start.centroids)


def test_prototypes_of_other_settings_are_not_gone_on_with(stores, tmp_path):
    run(stores["five"], tmp_path)
    assert last_state(tmp_path, MARK).fingerprint == MARK
    other = "cd" * 32
    assert last_state(tmp_path, other) is None
    spy = Spy()
    run(stores["five"], tmp_path, start=replace(beginning(True), fingerprint=other), executor=spy)
    assert spy.tasks
    assert {path.name[:2] for path in tmp_path.iterdir()} == {"cd"}


def test_a_damaged_state_is_passed_over(stores, tmp_path):
    expected = bits(run(stores["five"], tmp_path))
    (path,) = tmp_path.glob("*.h5")
    path.write_bytes(path.read_bytes()[:-100])
    assert last_state(tmp_path, MARK) is None
    assert bits(run(stores["five"], tmp_path)) == expected


def test_damaged_sums_are_removed_and_made_again(stores, tmp_path):
    expected = bits(run(stores["five"], tmp_path / "clean"))
    with pytest.raises(KeyboardInterrupt):
        run(stores["five"], tmp_path / "rounds", executor=Spy(2))
    sums = sorted((tmp_path / "rounds").glob("*.sums-*.npy"))[0]
    sums.write_bytes(sums.read_bytes()[:-8])
    with pytest.raises(StoreError, match="missing or damaged; run the same command again"):
        run(stores["five"], tmp_path / "rounds")
    assert bits(run(stores["five"], tmp_path / "rounds")) == expected


def test_sums_of_other_rows_than_the_stores_are_refused(stores, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(stores["five"], tmp_path, executor=Spy(3))
    first, _, last = sorted(tmp_path.glob("*.sums-*.npy"))
    first.write_bytes(last.read_bytes())
    with pytest.raises(StoreError, match=r"rows were summed up, the store has 400; remove the folder"):
        run(stores["five"], tmp_path)


def test_an_embedding_that_is_not_of_unit_length_is_refused(tmp_path):
    store = make_store(tmp_path / "store", split(keys_of(2), 2 * np.eye(D, dtype=np.float16)[:2], [2]))
    with pytest.raises(StoreError, match=r"an embedding of length 2, expected 1"):
        run(store, tmp_path / "rounds")


def test_more_rows_than_can_be_added_exactly_are_refused(stores, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "EXACT_ROWS", 30)
    with pytest.raises(DataError, match="ask for more prototypes"):
        run(stores["five"], tmp_path)


def test_workers_search_on_the_device_that_is_asked_for(stores, tmp_path, monkeypatch):
    monkeypatch.setattr(faiss_kmeans, "_gpu_works", lambda faiss: False)
    config = ClusterConfig(full_rounds=1, device="gpu")
    with pytest.raises(MachineError, match="no working GPU"):
        full_rounds(stores["five"], beginning(True), config, tmp_path, InlineExecutor(), SilentProgress())


def test_a_worker_that_dies_is_told_with_its_round(stores, tmp_path):
    class Dying(InlineExecutor):
        def run(self, spec, tasks):
            for task in tasks:
                yield Outcome(task.id, "crash", error=ChildProcessError("ended by SIGKILL"))

    with pytest.raises(MachineError, match=r"round 1 of 4, group 0: crash: .*SIGKILL"):
        run(stores["five"], tmp_path, executor=Dying())


def test_the_work_folder_goes_and_nothing_else(stores, tmp_path):
    run(stores["five"], tmp_path / "rounds")
    clear_rounds(tmp_path / "rounds")
    clear_rounds(tmp_path / "rounds")
    assert list(tmp_path.iterdir()) == []


def test_sums_of_squared_lengths_are_exact():
    rows = ROWS.astype(np.float32)
    upper, lower = round_worker.squared_halves(rows)
    expected = sum(int(value * 2**24) ** 2 for row in ROWS.astype(np.float64).tolist() for value in row)
    assert int(upper.sum()) * 2**24 + int(lower.sum()) == expected
