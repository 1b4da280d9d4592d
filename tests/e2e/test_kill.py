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
)
REWRITING = (
    "--set",
    "write.cls=cluster",
    "--set",
    "write.rename_suffix={jpeg: jpg}",
    "--set",
    "write.index=[dino, dali]",
)
PROVED = {
    (): "126 samples equal to their source, byte for byte",
    REWRITING: "126 samples equal, byte for byte, to what their source becomes",
}


def started(small, folder, more=()):
    return subprocess.Popen(
        small.command("run", "tiny.yaml", *OPTIONS, *more),
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
    """Return ``undisturbed(options)``: digests of the same run without any disturbance."""
    known = {}

    def run(more=()):
        if more not in known:
            folder = tmp_path_factory.mktemp("undisturbed")
            small.corpus(folder / "shards", shards=6, count=30)
            (folder / "tiny.yaml").write_text(small.CONFIG)
            done = small.cli("run", "tiny.yaml", *OPTIONS, *more, cwd=folder)
            assert done.returncode == 0, done.stderr
            known[more] = results(small, folder)
        return known[more]

    return run


def results(small, folder):
    """Digests of the shards with their index files, and of the parts; temporary files and work in progress left out."""
    found = small.digests(folder / "pruned") | {
        name: digest
        for name, digest in small.digests(folder / "runs" / "tiny" / "store" / "parts").items()
        if name.endswith(".h5")
    }
    varying = (".sspruning/shards/", ".sspruning/work/", ".sspruning/sources.json")
    own = {name: digest for name, digest in found.items() if not name.startswith(varying)}
    return {name: digest for name, digest in own.items() if ".tmp." not in name and not name.endswith(".lock")}


@pytest.mark.parametrize(
    ("moment", "more"), [*((moment, ()) for moment in MOMENTS), ("pruned/shard-00001*.tar", REWRITING)]
)
def test_a_killed_run_shows_only_whole_files_and_is_finished_by_the_same_command(
    moment, more, work, big_corpus, undisturbed, small, call
):
    code, _ = blow(started(small, work, more), work, moment, signal.SIGKILL)
    assert code == -signal.SIGKILL
    whole, left = undisturbed(more), results(small, work)
    assert left == {name: whole[name] for name in left}
    call("run", "tiny.yaml", *OPTIONS[:2], *more)
    assert results(small, work) == whole
    assert len([name for name in whole if name.endswith(".tar")]) == 32
    assert PROVED[more] in call("verify", "pruned").stdout
    assert small.temporaries(work / "pruned") == small.temporaries(work / "runs" / "tiny" / "store") == []


@pytest.mark.parametrize("moment", ["runs/tiny/store/parts/*.h5", "runs/tiny/scores/assignment/*.npy", "pruned/*.tar"])
def test_a_terminated_run_says_so_and_is_finished_by_the_same_command(
    moment, work, big_corpus, undisturbed, small, call
):
    code, output = blow(started(small, work), work, moment, signal.SIGTERM)
    assert code == 4, output
    assert "run the same command again" in output
    assert "Traceback" not in output
    whole, left = undisturbed(), results(small, work)
    assert left == {name: whole[name] for name in left}
    call("run", "tiny.yaml", *OPTIONS[:2])
    assert results(small, work) == whole
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
