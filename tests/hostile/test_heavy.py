"""Hostile inputs that take long: images that kill or hang their worker, and millions of members."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hostile import tiny_members
from hostile.cases_heavy import MEMBERS, TINY, WORKERS
from hostile.harness import EMBED, params

import sspruning

PATHS = [str(Path(sspruning.__file__).parent.parent), str(Path(__file__).parent.parent)]
VERB, *OPTIONS = EMBED[:-2]
BYTES_EACH = 320
"""Memory for each sample of one shard: its key and reason, and a hash of the key. Measured: 275."""


@pytest.mark.parametrize("case", params(WORKERS))
def test_an_image_that_stops_its_worker_costs_only_its_shard(case, arena, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(arena.root), *PATHS]))
    arena.build(case)
    settings = [part for setting in case.settings for part in ("--set", setting)]
    case.outcome.check(arena, arena.run(VERB, *OPTIONS, "--workers", 2, *settings, processes=True))


@pytest.mark.parametrize("case", params([TINY]))
def test_two_million_members_take_little_memory_each(case, arena):
    arena.build(case)
    done = subprocess.run(
        [sys.executable, tiny_members.__file__, str(arena.root), str(MEMBERS)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(PATHS)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < MEMBERS * BYTES_EACH >> 20
    (record,) = [record for record in arena.store.records() if record.shard_id == "b"]
    assert (record.n_samples, record.n_rows, record.skipped) == (MEMBERS, 0, {"no_image": MEMBERS})
    arena.assert_good_shards_are_whole(arena.ledger())
