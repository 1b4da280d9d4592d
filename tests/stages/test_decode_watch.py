"""A worker that died leaves the row that it was decoding, and the next attempt knows why it died."""

import time

import pytest

from sspruning.execution import worker
from sspruning.stages.decode_watch import DIED, ENTRY, TIMEOUT, DecodeWatch

TIMEOUT_S = 5.0


@pytest.fixture
def attempt(tmp_path, monkeypatch):
    """Return ``attempt(found_dead_after_s)``: a watch whose last worker began a decode long ago and died so soon."""
    began = time.time() - 100

    def made(found_dead_after_s=None):
        died_at = None if found_dead_after_s is None else began + found_dead_after_s
        monkeypatch.setattr(worker, "died_at", lambda: died_at)
        watch = DecodeWatch(tmp_path, "shard", TIMEOUT_S)
        ENTRY.pack_into(watch._map, 0, began, 8, watch._deaths)  # row 7
        return watch

    return made


def test_a_worker_that_dies_twice_at_an_image_blames_it_however_long_its_successor_takes_to_start(attempt):
    assert attempt().skips == {}
    assert attempt(found_dead_after_s=0.3).skips == {}
    assert attempt(found_dead_after_s=0.3).skips == {7: DIED}


def test_a_worker_that_dies_when_its_time_is_up_blames_the_image_at_once(attempt):
    attempt()
    assert attempt(found_dead_after_s=TIMEOUT_S + 0.1).skips == {7: TIMEOUT}


def test_the_file_bears_the_name_of_who_hands_out_the_work_wherever_that_is(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "owner", lambda: worker.Owner("node7.cluster", 4711))
    watch = DecodeWatch(tmp_path, "shard", TIMEOUT_S)
    assert [path.name for path in tmp_path.iterdir()] == [".shard.decoding.tmp.node7-cluster.4711.0"]
    watch.close()
    assert list(tmp_path.iterdir()) == []
