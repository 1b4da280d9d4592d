"""What tests of the stages share: small corpora, an executor without processes, stores made of pixels."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from sspruning import api
from sspruning.config import load_config
from sspruning.execution.inline import InlineExecutor
from sspruning.storage.store import Store

SMALL = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent.parent / "e2e" / "small_corpora.py")))


@pytest.fixture(scope="session")
def small():
    """Helpers of tests/e2e/small_corpora.py."""
    return SMALL


@pytest.fixture
def inline():
    """An executor that works in this process."""
    return InlineExecutor()


@pytest.fixture(scope="session")
def settings():
    """Return ``settings(*overrides)``: a quick configuration."""

    def make(*overrides):
        quick = ["encoder.name=pixels", "cluster.n_clusters=4", "select.keep_fraction=0.7", "execution.executor=inline"]
        return load_config(None, [*quick, "write.samples_per_shard=16", *overrides])

    return make


@pytest.fixture
def content(tmp_path):
    """``{key: {suffix: bytes}}`` of three shards of 20 samples in ``tmp_path / "shards"``."""
    return SMALL.corpus(tmp_path / "shards")


@pytest.fixture
def configured(tmp_path, content, settings):
    """Return ``configured(*overrides)``: a run of that corpus into ``run`` and ``pruned``."""

    def make(*overrides):
        return settings(
            f"corpus.input={tmp_path / 'shards'}",
            f"paths.run_dir={tmp_path / 'run'}",
            f"paths.output={tmp_path / 'pruned'}",
            *overrides,
        )

    return make


@pytest.fixture
def store(tmp_path, content, settings):
    """A store of that corpus."""
    api.embed(str(tmp_path / "shards"), tmp_path / "store", config=settings())
    return Store(tmp_path / "store")


@pytest.fixture
def pruned(tmp_path, store, settings):
    """Folder of pruned shards of that store."""
    api.select(store.path, output=tmp_path / "pruned", config=settings())
    return tmp_path / "pruned"
