"""What tests of loading share: folders of pruned shards made by hand, loaders in this process and in workers."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from corpora import make_shard


def _make_pruned(folder, counts):
    shards, at = [], 0
    for number, count in enumerate(counts):
        path = make_shard(folder / f"shard-{number:06d}.tar", range(at, at + count))
        shards.append({"name": path.name, "n_samples": count, "size": path.stat().st_size})
        at += count
    (folder / ".sspruning").mkdir(exist_ok=True)
    content = {"format": "sspruning-output", "format_version": 2, "fingerprint": "f" * 64, "shards": shards}
    (folder / ".sspruning" / "manifest.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="session")
def make_pruned():
    """Return ``make_pruned(folder, counts)``: the folder, with so many samples in each shard, and a manifest."""
    return _make_pruned


@pytest.fixture(scope="session")
def pruned(tmp_path_factory):
    """A folder of four shards with 23 samples in all."""
    return _make_pruned(tmp_path_factory.mktemp("pruned"), (5, 7, 3, 8))


@pytest.fixture(scope="session")
def keys():
    """Return ``keys(dataset, workers)``: keys in the order in which a DataLoader hands samples over."""

    def load(dataset, workers=0, **options):
        loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=workers, **options)
        return [sample["__key__"] for sample in loader]

    return load


@pytest.fixture(scope="session")
def small():
    """Helpers of tests/e2e/small_corpora.py."""
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).parent.parent / "e2e" / "small_corpora.py")))
