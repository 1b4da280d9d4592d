"""Stopped at any moment, a run leaves nothing half done under a final name, and the same command finishes it."""

import os
import random
import signal
import subprocess
import time

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills process groups")

OPTIONS = ("--set", "write.samples_per_shard=4", "--executor", "local", "--workers", "2")
DEADLINE_S = 60
# What must have appeared before the blow. Then a little time passes, drawn from a seed.
MOMENTS = (
    "runs/tiny/store/store.json",
    "runs/tiny/store/parts/*.h5",
    "runs/tiny/store/parts/*.json",
    "runs/tiny/prototypes.h5",
    "runs/tiny/scores/assignment/*.npy",
    "runs/tiny/selection.parquet",
    "pruned/shard-000003.tar",
    "pruned/shard-00002*.tar",
)
INDEX_FILES = ("_info.json", "sizes.json", "shardindex.json", ".sspruning/manifest.json", ".sspruning/config.yaml")


def started(small, folder):
    return subprocess.Popen(
        small.command("run", "tiny.yaml", *OPTIONS),
        cwd=folder,
        env=small.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def blow(process, folder, moment, number):
    """Send a signal to the whole process group soon after ``moment`` is there; returns exit code and output."""
    end = time.monotonic() + DEADLINE_S
    while process.poll() is None and not any(folder.glob(moment)) and time.monotonic() < end:
        time.sleep(0.001)
    time.sleep(random.Random(moment).uniform(0, 0.01))  # noqa: S311 - a moment, not a secret
    if process.poll() is None:
        os.killpg(process.pid, number) if number == signal.SIGKILL else process.send_signal(number)
    output, _ = process.communicate(timeout=DEADLINE_S)
    return process.returncode, output


@pytest.fixture
def big_corpus(work, small):
    return small.corpus(work / "shards", shards=6, count=30)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, small):
    """Digests of the same run without any disturbance."""
    folder = tmp_path_factory.mktemp("undisturbed")
    small.corpus(folder / "shards", shards=6, count=30)
    (folder / "tiny.yaml").write_text(small.CONFIG)
    done = small.cli("run", "tiny.yaml", *OPTIONS, cwd=folder)
    assert done.returncode == 0, done.stderr
    return results(small, folder)


def results(small, folder):
    """Digests of the shards with their index files, and of the parts; temporary files and work in progress left out."""
    found = small.digests(folder / "pruned") | small.digests(folder / "runs" / "tiny" / "store" / "parts")
    return {name: digest for name, digest in found.items() if name.endswith((".tar", ".h5")) or name in INDEX_FILES}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_shows_only_whole_files_and_is_finished_by_the_same_command(
    moment, work, big_corpus, undisturbed, small, call
):
    code, _ = blow(started(small, work), work, moment, signal.SIGKILL)
    assert code == -signal.SIGKILL
    left = results(small, work)
    assert left == {name: undisturbed[name] for name in left}
    call("run", "tiny.yaml", *OPTIONS[:2])
    assert results(small, work) == undisturbed
    assert len([name for name in undisturbed if name.endswith(".tar")]) == 32
    assert "126 samples equal" in call("verify", "pruned").stdout
    assert small.temporaries(work / "pruned") == small.temporaries(work / "runs" / "tiny" / "store") == []


@pytest.mark.parametrize("moment", ["runs/tiny/store/parts/*.h5", "runs/tiny/scores/assignment/*.npy", "pruned/*.tar"])
def test_a_terminated_run_says_so_and_is_finished_by_the_same_command(
    moment, work, big_corpus, undisturbed, small, call
):
    code, output = blow(started(small, work), work, moment, signal.SIGTERM)
    assert code == 4, output
    assert "run the same command again" in output
    assert "Traceback" not in output
    left = results(small, work)
    assert left == {name: undisturbed[name] for name in left}
    call("run", "tiny.yaml", *OPTIONS[:2])
    assert results(small, work) == undisturbed
    assert small.temporaries(work / "pruned") == small.temporaries(work / "runs" / "tiny" / "store") == []


def test_an_interrupted_embedding_reports_as_unfinished(work, big_corpus, small, call):
    blow(started(small, work), work, "runs/tiny/store/corpus.json", signal.SIGKILL)
    parts = work / "runs" / "tiny" / "store" / "parts"
    for path in sorted(parts.glob("*.json"))[1:]:
        path.unlink()
    result = call("status", "runs/tiny", code=4)
    assert "shards are not embedded yet" in result.stderr
    call("run", "tiny.yaml")
    assert "6 of 6 shards embedded" in call("status", "runs/tiny").stdout
