"""What tests of trainers share: pruned folders, and readers that leave files to the garbage collector."""

import gc

import pytest
from pruned_folders import pruned


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Return ``folder(kind, *overrides)``: pruned shards of that kind, made once; to be left as they are."""
    return lambda kind, *overrides: pruned(tmp_path_factory, kind, *overrides)


@pytest.fixture(scope="package", autouse=True)
def _collected():
    """Collect the files that webdataset, and what is built on it, leave open."""
    yield
    gc.collect()
