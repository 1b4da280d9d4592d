"""The soak finds what is torn, and finds nothing in a short while."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def soak(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    from bench import soak

    return soak


def test_a_torn_or_lost_file_is_named(soak, tmp_path):
    (tmp_path / "pruned").mkdir()
    shard = tmp_path / "pruned" / "shard-000000.tar"
    shard.write_bytes(b"whole")
    calm = soak.made(tmp_path)
    soak.check_whole(tmp_path, calm)
    shard.write_bytes(b"who")
    with pytest.raises(soak.SoakError, match=r"shard-000000\.tar: not what an undisturbed run leaves there"):
        soak.check_whole(tmp_path, calm)
    shard.unlink()
    soak.check_whole(tmp_path, calm)  # not there yet is no tear
    with pytest.raises(soak.SoakError, match=r"differs from the undisturbed run: \['pruned/shard-000000\.tar'\]"):
        soak.check_end(tmp_path, calm, 8)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_runs_that_are_disturbed_for_a_while_end_with_the_same_bytes(record_property):
    done = subprocess.run(
        [sys.executable, str(TOOLS / "bench" / "soak.py"), "--minutes", "0.5", "--shards", "10", "--dry"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    kinds = next(line for line in done.stdout.splitlines() if line.strip().startswith("kinds"))
    record_property("outcomes", kinds.split("  ")[-1])
