"""Scores to selection: exact, nested, reproducible, and with a reason for each sample."""

import json
import os
import runpy
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from sspruning import api
from sspruning.config import Config, ScoreConfig, SelectConfig, load_config
from sspruning.errors import StoreError, UsageError
from sspruning.execution.inline import InlineExecutor
from sspruning.policies import COUNT_MATTERS, POLICIES, RULES
from sspruning.records import Prototypes
from sspruning.stages import chain as module
from sspruning.stages import streamed
from sspruning.stages.candidates import Scored
from sspruning.stages.score import assignment_path, score
from sspruning.stages.select import kept_count, select, selection_fingerprint
from sspruning.storage.artifacts import SELECTION_SCHEMA, SelectionFile, save_prototypes

pytest.importorskip("faiss")

synthetic = runpy.run_path(str(Path(__file__).with_name("synthetic_store.py")))
make_store, keys_of, planted, split = (synthetic[name] for name in ("make_store", "keys_of", "planted", "split"))

N, K = 201, 7
NESTED = sorted(set(POLICIES) - COUNT_MATTERS)
SIZES = [60, 0, 1, 140]


class Bench:
    """A scored store of four shards, one of them empty."""

    def __init__(self, folder, sizes, order):
        self.folder = folder
        keys, rows = keys_of(N), planted(N)
        self.keys = [keys[i] for i in order]
        self.store = make_store(folder / "store", split(self.keys, rows[order], sizes))
        prototypes = Prototypes(rows[:K].astype(np.float32), False, np.zeros(1), N, "p" * 64)
        save_prototypes(folder / "prototypes.h5", prototypes)
        self.prototypes = prototypes
        self.scores = score(
            self.store, prototypes, folder / "prototypes.h5", folder / "scores", ScoreConfig(), InlineExecutor()
        )
        assigned = Path(self.scores.assignment_folder)
        self.assignments = {
            record.shard_id: assignment_path(assigned, record, prototypes, "cosine") for record in self.store.records()
        }

    def scored(self, **chosen):
        config = Config(select=SelectConfig(**chosen))
        return Scored(self.store, self.prototypes, self.scores, self.assignments, config)

    def select(self, name="selection.parquet", **chosen):
        path, fraction = self.folder / name, chosen.get("keep_fraction", 0.8)
        (found,) = select(self.scored(**chosen), {fraction: path}, {"metric": "m"})
        return found, pq.read_table(path).to_pydict()


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("select"), SIZES, np.arange(N))


def kept_keys(table):
    return {key for key, kept in zip(table["key"], table["kept"], strict=True) if kept}


@pytest.mark.parametrize("keep", sorted(POLICIES))
@pytest.mark.parametrize("fraction", [0.004, 0.25, 0.5, 0.7, 0.8, 0.999, 1.0])
def test_exactly_the_asked_for_share_is_kept(bench, keep, fraction):
    selection, table = bench.select(keep=keep, keep_fraction=fraction)
    assert sum(table["kept"]) == selection.n_kept == round(fraction * N)
    assert selection.n_embedded == N == len(table["key"])
    assert sorted(table["rank"]) == list(range(N))
    assert table["kept"] == [rank < selection.n_kept for rank in table["rank"]]


@pytest.mark.parametrize("keep", NESTED)
@pytest.mark.parametrize("floor", ["proportional", "uniform"])
def test_a_smaller_fraction_keeps_a_subset(bench, keep, floor):
    before, ranks = set(), set()
    for fraction in (0.05, 0.1, 0.3, 0.5, 0.55, 0.8, 1.0):
        _, table = bench.select(keep=keep, keep_fraction=fraction, floor=floor)
        kept = kept_keys(table)
        assert before < kept
        before = kept
        ranks.add(tuple(table["rank"]))
    assert len(ranks) == 1


@pytest.mark.parametrize("keep", sorted(POLICIES))
def test_the_same_selection_has_the_same_bytes(bench, keep):
    for name in ("first.parquet", "second.parquet"):
        bench.select(name, keep=keep)
    assert (bench.folder / "first.parquet").read_bytes() == (bench.folder / "second.parquet").read_bytes()


@pytest.mark.parametrize("keep", sorted(POLICIES))
def test_the_order_of_samples_and_shards_does_not_change_what_is_kept(bench, keep, tmp_path):
    order = np.random.default_rng(2).permutation(N)
    other = Bench(tmp_path, [150, 51], order)
    ranks = [
        dict(zip(table["key"], table["rank"], strict=True))
        for _, table in (bench.select(keep=keep), other.select(keep=keep))
    ]
    assert ranks[0] == ranks[1]


def test_rows_stand_in_store_order_one_group_for_each_shard_with_rows(bench):
    _, table = bench.select()
    assert table["key"] == bench.keys
    assert table["shard"] == [f"s{i:02d}" for i, size in enumerate(SIZES) for _ in range(size)]
    assert table["row"] == [i * 3 // 2 for size in SIZES for i in range(size)]
    with pq.ParquetFile(bench.folder / "selection.parquet") as file:
        groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert [rows for rows in groups if rows] == [60, 1, 140]


def test_columns_are_those_of_the_scores(bench):
    _, table = bench.select(keep="hard", balance=0)
    assert pq.read_schema(bench.folder / "selection.parquet").remove_metadata() == SELECTION_SCHEMA
    scores = np.concatenate([np.load(Path(bench.scores.folder) / f"{r.shard_id}.npy") for r in bench.store.records()])
    np.testing.assert_array_equal(np.array(table["score"], np.float32), scores)
    assigned = np.concatenate([np.load(bench.assignments[record.shard_id]) for record in bench.store.records()])
    assert table["centroid"] == assigned["label"].tolist()
    np.testing.assert_array_equal(np.array(table["cosine_dist_to_cent"], np.float32), assigned["cosine_distance"])
    assert set(table["weight"]) == {1.0}


def test_keep_hard_keeps_the_highest_scores_and_keep_easy_the_lowest(bench):
    for keep, sign in (("hard", 1), ("easy", -1)):
        _, table = bench.select(keep=keep, keep_fraction=0.5, balance=0)
        score_of, kept = sign * np.array(table["score"]), np.array(table["kept"])
        assert score_of[kept].min() >= score_of[~kept].max()


@pytest.mark.parametrize(
    ("keep", "reason"), [("hard", "pruned_easy"), ("easy", "pruned_hard"), ("random", "pruned_random")]
)
def test_each_sample_has_the_reason_of_its_fate(bench, keep, reason):
    _, table = bench.select(keep=keep, keep_fraction=0.6)
    assert table["reason"] == ["kept" if kept else reason for kept in table["kept"]]


def test_every_cluster_keeps_its_floor(bench):
    _, table = bench.select(keep_fraction=0.6, balance=0.5)
    centroid, kept = np.array(table["centroid"]), np.array(table["kept"])
    sizes, held = np.bincount(centroid, minlength=K), np.bincount(centroid[kept], minlength=K)
    assert (held >= (0.5 * kept.sum() * sizes / N).astype(int)).all()


def test_another_seed_draws_another_random_subset(bench):
    first, second = (kept_keys(bench.select(keep="random", keep_fraction=0.5, seed=seed)[1]) for seed in (0, 1))
    assert len(first) == len(second) == 100
    assert 30 < len(first & second) < 70


def test_the_file_carries_its_facts(bench):
    selection, _ = bench.select(keep="easy", keep_fraction=0.25)
    found = SelectionFile.open(bench.folder / "selection.parquet").selection
    assert found == selection
    section = SelectConfig(keep="easy", keep_fraction=0.25).as_json()
    assert found.settings == {**section, "metric": "m", "nested": True, "dropped": {}}
    assert found.fingerprint == selection_fingerprint(bench.scores, SelectConfig(keep="easy", keep_fraction=0.25))
    assert found.fingerprint != selection_fingerprint(bench.scores, SelectConfig(keep="easy", keep_fraction=0.26))


def test_a_policy_that_loses_samples_is_caught(bench, monkeypatch):
    for wrong in (lambda c: np.zeros(N, np.int64), lambda c: np.arange(N - 1), lambda c: np.arange(N) + 1):
        monkeypatch.setattr(module.POLICIES, "resolve", lambda name, wrong=wrong: wrong)
        with pytest.raises(StoreError, match="did not rank every sample exactly once"):
            bench.select("wrong.parquet")
    assert not (bench.folder / "wrong.parquet").exists()


def test_an_unknown_policy_is_refused(bench):
    with pytest.raises(UsageError, match="Did you mean 'hard'"):
        bench.select("wrong.parquet", keep="hardest")


def test_missing_scores_say_what_to_run(bench, tmp_path):
    lost = replace(bench.scored(), scores=replace(bench.scores, folder=str(tmp_path)))
    with pytest.raises(StoreError, match="run `sspruning score` again"):
        select(lost, {0.8: tmp_path / "selection.parquet"}, {})
    assert not (tmp_path / "selection.parquet").exists()


@pytest.mark.parametrize(
    ("n", "fraction", "count"), [(10, 0.5, 5), (3, 0.5, 2), (10, 1.0, 10), (1000, 0.0006, 1), (7, 0.8, 6)]
)
def test_the_count_is_the_nearest_whole_number(n, fraction, count):
    assert kept_count(n, fraction) == count


def test_a_fraction_that_keeps_nothing_is_refused(bench):
    with pytest.raises(UsageError, match="keeps none"):
        kept_count(10, 0.04)
    with pytest.raises(UsageError, match="keeps none"):
        bench.select("none.parquet", keep_fraction=0.001)
    assert not (bench.folder / "none.parquet").exists()


# several fractions at once


def test_several_fractions_are_each_what_one_alone_would_be(bench):
    fractions = [0.9, 0.3, 0.5]
    for keep in ("hard", "coverage"):
        paths = {fraction: bench.folder / f"{keep}-{fraction}.parquet" for fraction in fractions}
        found = select(bench.scored(keep=keep), paths, {"metric": "m"})

        assert [one.n_kept for one in found] == [181, 100, 60]
        for fraction, path in paths.items():
            bench.select("alone.parquet", keep=keep, keep_fraction=fraction)
            assert path.read_bytes() == (bench.folder / "alone.parquet").read_bytes()


def test_nested_sets_are_ranked_once_and_others_once_for_each_fraction(bench, monkeypatch):
    ranked = []
    resolve = module.POLICIES.resolve
    monkeypatch.setattr(module.POLICIES, "resolve", lambda name: ranked.append(name) or resolve(name))
    for keep in ("hard", "density"):
        select(bench.scored(keep=keep), {f: bench.folder / f"{f}.parquet" for f in (0.9, 0.5)}, {})

    assert ranked == ["hard", "density", "density"]


# more samples than are held in memory


@pytest.fixture
def few_are_many(monkeypatch):
    """Selections of all samples of the bench are made as if they were more than are chosen from in memory."""
    monkeypatch.setattr(streamed, "STREAM_ABOVE", N - 1)


@pytest.mark.parametrize("keep", sorted(RULES))
@pytest.mark.parametrize("floor", ["proportional", "uniform"])
def test_without_ranks_the_rows_are_the_same_but_for_the_rank(bench, keep, floor, monkeypatch):
    for fraction in (0.005, 0.3, 0.7, 1.0):
        ranked, before = bench.select(keep=keep, keep_fraction=fraction, floor=floor)
        with monkeypatch.context() as patch:
            patch.setattr(streamed, "STREAM_ABOVE", N - 1)
            found, after = bench.select(keep=keep, keep_fraction=fraction, floor=floor)
        assert (found.n_kept, found.fingerprint) == (ranked.n_kept, ranked.fingerprint)
        assert after.pop("rank") == [None] * N
        del before["rank"]
        assert after == before


def test_a_selection_without_ranks_says_so_and_is_a_version_of_its_own(bench, few_are_many):
    found, _ = bench.select()
    path = bench.folder / "selection.parquet"
    assert SelectionFile.open(path).selection == found
    assert not found.ranked
    assert found.settings["nested"] is False
    schema = pq.read_schema(path)
    assert json.loads(schema.metadata[b"sspruning"])["format_version"] == 3
    assert [field.name for field in schema if field.nullable] == ["rank"]


def test_few_samples_steps_and_policies_that_look_at_vectors_have_ranks(bench, few_are_many, monkeypatch):
    assert bench.select(keep="coverage")[0].ranked
    assert bench.select(keep="density")[0].ranked
    assert bench.select(steps=["defects"])[0].ranked
    assert not bench.select()[0].ranked
    monkeypatch.setattr(streamed, "STREAM_ABOVE", N)
    assert bench.select()[0].ranked


def test_several_fractions_without_ranks_are_each_what_one_alone_would_be(bench, few_are_many):
    paths = {fraction: bench.folder / f"many-{fraction}.parquet" for fraction in (0.9, 0.3)}
    select(bench.scored(), paths, {"metric": "m"})
    for fraction, path in paths.items():
        bench.select("alone.parquet", keep_fraction=fraction)
        assert path.read_bytes() == (bench.folder / "alone.parquet").read_bytes()


class Nothing:
    needs = frozenset()

    def __call__(self, piece):
        return np.zeros(piece.size, bool)


def test_a_rule_that_keeps_another_number_is_caught(bench, few_are_many, monkeypatch):
    monkeypatch.setattr(streamed.RULES, "resolve", lambda name: lambda stream: Nothing())
    with pytest.raises(StoreError, match="keeps 0 samples instead of 161"):
        bench.select("wrong.parquet")
    assert not (bench.folder / "wrong.parquet").exists()


KILLED = """
import os, signal, sys
from contextlib import contextmanager
from pathlib import Path
from sspruning import api
from sspruning.config import load_config
from sspruning.progress import SilentProgress
from sspruning.stages import streamed

class Deadly(SilentProgress):
    @contextmanager
    def stage(self, name, total, unit):
        with super().stage(name, total, unit) as self.told:
            yield self if name == "select" else self.told

    def tick(self, count=1):
        self.told.tick(count)
        if self.told.done > 100:
            os.kill(os.getpid(), signal.SIGKILL)

streamed.STREAM_ABOVE = 0
api.select(sys.argv[1], config=load_config(None, sys.argv[2:]), progress=Deadly())
"""
SETTINGS = ("cluster.n_clusters=4", "execution.executor=inline", "select.keep_fraction=0.7")


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_a_selection_killed_while_it_is_written_is_made_by_the_same_command(tmp_path, monkeypatch):
    path = tmp_path / "store"
    make_store(path, split(keys_of(N), planted(N), SIZES))
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(path), *SETTINGS],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL
    assert not (path / "selection.parquet").exists()
    assert [found.name.partition(".tmp.")[0] for found in path.glob(".*.tmp.*")] == [".selection.parquet"]

    monkeypatch.setattr(streamed, "STREAM_ABOVE", 0)
    selected = api.select(path, config=load_config(None, list(SETTINGS))).selection
    assert (selected.n_kept, selected.ranked) == (round(0.7 * N), False)
    assert list(path.glob(".*.tmp.*")) == []
    stamp = (path / "selection.parquet").stat().st_mtime_ns
    api.select(path, config=load_config(None, list(SETTINGS)))
    assert (path / "selection.parquet").stat().st_mtime_ns == stamp
