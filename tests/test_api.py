"""The stages as functions: what they return, and that importing them is cheap."""

import inspect
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import sspruning
from sspruning import api, records
from sspruning.errors import ConfigError, StoreError, UsageError

SMALL = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "e2e" / "small_corpora.py")))


@pytest.fixture
def content(tmp_path):
    return SMALL.corpus(tmp_path / "shards")


@pytest.fixture
def config(tmp_path):
    text = "encoder: {name: pixels}\ncluster: {n_clusters: 4}\nexecution: {executor: inline}\n"
    (tmp_path / "own.yaml").write_text(text)
    return sspruning.load(tmp_path / "own.yaml", ["select.keep_fraction=0.7", "write.samples_per_shard=16"])


@pytest.fixture
def store(tmp_path, content, config):
    sspruning.embed(str(tmp_path / "shards"), tmp_path / "store", config=config)
    return tmp_path / "store"


def test_every_public_name_is_there_and_documented():
    for name in sspruning.__all__:
        assert getattr(sspruning, name) is not None
        if name != "__version__":
            assert inspect.getdoc(getattr(sspruning, name))
    for name in api.__all__:
        assert inspect.getdoc(getattr(api, name))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="prune_all"):
        sspruning.prune_all  # noqa: B018


def test_every_function_is_typed():
    for name in api.__all__:
        function = getattr(api, name)
        if inspect.isfunction(function):
            signature = inspect.signature(function)
            assert signature.return_annotation is not inspect.Signature.empty, name
            assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values()), name


def test_importing_the_package_loads_no_heavy_library():
    code = (
        "import sys, sspruning, sspruning.cli\n"
        "print(sorted({'torch', 'faiss', 'h5py', 'pyarrow', 'numpy'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], env=SMALL.environment(), capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_each_stage_returns_its_record(tmp_path, content, config):
    shards = str(tmp_path / "shards")
    found = sspruning.inspect([shards])
    assert (found.n_samples, found.n_shards) == (60, 3)
    plan = sspruning.plan(sspruning.load(tmp_path / "own.yaml", [f"corpus.input={shards}"]), tmp_path / "store")
    assert (plan.n_samples, plan.pending_shards) == (60, 3)
    report = sspruning.embed(shards, tmp_path / "store", config=config)
    assert isinstance(report, records.EmbedReport)
    assert (report.n_embedded, report.done_now) == (60, 3)
    prototypes = sspruning.cluster(tmp_path / "store", config=config)
    assert isinstance(prototypes, records.Prototypes)
    assert prototypes.centroids.shape == (4, 192)
    scores = sspruning.score(tmp_path / "store", config=config)
    assert isinstance(scores, records.Scores)
    assert (scores.n_rows, int(scores.cluster_sizes.sum())) == (60, 60)
    selected = sspruning.select(tmp_path / "store", config=config)
    assert isinstance(selected.selection, records.Selection)
    assert (selected.selection.n_kept, selected.manifest) == (42, None)
    manifest = sspruning.write(tmp_path / "store", tmp_path / "pruned")
    assert isinstance(manifest, records.Manifest)
    assert (manifest.n_kept, len(manifest.shards)) == (42, 3)
    assert sspruning.verify(tmp_path / "pruned").ok
    assert sspruning.status(tmp_path / "store").complete


def test_settings_not_given_are_the_ones_last_used(store, config):
    sspruning.select(store, config=config)
    again = sspruning.select(store)
    assert (again.prototypes.k, again.selection.n_kept) == (4, 42)


def test_prune_runs_the_whole_chain(tmp_path, content, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text(SMALL.CONFIG)
    result = sspruning.prune(sspruning.load("own.yaml"))
    assert (result.embedded.n_embedded, result.selection.n_kept, result.manifest.n_kept) == (60, 42, 42)
    assert sspruning.verify("pruned" if isinstance(result.manifest.path, Path) else tmp_path / "pruned").ok


def test_a_store_is_read_in_chunks_of_unit_rows_with_their_keys_and_scores(store, content, config):
    opened = sspruning.Store(store)
    chunks = list(opened.chunks(rows=7))
    assert all(len(chunk.keys) == len(chunk.embeddings) <= 7 for chunk in chunks)
    assert [key for chunk in chunks for key in chunk.keys] == list(content)
    embeddings = np.concatenate([chunk.embeddings for chunk in chunks])
    assert embeddings.dtype == np.float16
    assert embeddings.shape == (60, opened.dim)
    assert np.abs(np.linalg.norm(embeddings.astype(np.float64), axis=1) - 1).max() < 2e-3
    assert chunks[0].scores is None
    scores = sspruning.score(store, config=config)
    values = np.concatenate([chunk.scores for chunk in opened.chunks(rows=7, scores=scores)])
    assert values.dtype == np.float32
    assert (float(values.min()), float(values.max())) == (scores.summary["min"], scores.summary["max"])


def test_the_paths_of_a_store_do_not_depend_on_the_folder_one_is_in(tmp_path, content, config, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sspruning.embed("shards", "store", config=config)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert sspruning.embed("../shards", "../store").done_now == 0
    sspruning.select("../store", output="pruned", config=config)
    assert sspruning.verify(Path("pruned")).ok


def test_mistakes_are_errors_of_the_package(tmp_path, content, config):
    with pytest.raises(UsageError, match="no such shard"):
        sspruning.embed(str(tmp_path / "nothing.tar"), tmp_path / "store", config=config)
    with pytest.raises(StoreError, match="no store here"):
        sspruning.Store(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="no selection here"):
        sspruning.write(tmp_path, tmp_path / "pruned")
    with pytest.raises(ConfigError, match="unknown key"):
        sspruning.load(tmp_path / "own.yaml", ["select.keep_fractions=1"])


def test_a_selection_without_its_store_asks_for_it(store, tmp_path, config):
    sspruning.select(store, config=config)
    (tmp_path / "moved").mkdir()
    (store / "selection.parquet").rename(tmp_path / "moved" / "selection.parquet")
    with pytest.raises(UsageError, match="--store"):
        sspruning.write(tmp_path / "moved" / "selection.parquet", tmp_path / "pruned")
    assert sspruning.write(tmp_path / "moved", tmp_path / "pruned", store=store).n_kept == 42
