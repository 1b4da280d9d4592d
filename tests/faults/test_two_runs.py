"""One run at a time in a folder: the second is told who is there; the lock of a dead run is in nobody's way."""

import json
import os
import socket
import subprocess
import sys

import pytest
from faults.harness import assert_no_crash, content, faulty_driver, stamps, wait_until
from faults.stories import EMBED, SELECT, STORIES

from sspruning.storage import lock
from sspruning.storage.lock import LOCK

LOCAL = ("--set", "execution.executor=local", "--workers", "2")
RUN = ("run", "../whole.yaml")
FEWER = ("--set", "select.keep_fraction=0.4", "--overwrite")
ELSEWHERE = ("--set", "paths.run_dir=runs/other")  # but with the same output
# What the first run is doing when others come, what it has done before, and the folders that they would share with it.
MEETINGS = {
    "embed": (
        "s1",
        "runs/whole/store/parts/s0.json",
        {RUN: "runs/whole", (*RUN, *FEWER): "runs/whole", (*RUN, "--set", "cluster.seed=1"): "runs/whole"},
    ),
    "write": (
        "shard-000001.tar",
        "pruned/.sspruning/shards/shard-000000.tar.json",
        {RUN: "runs/whole", (*RUN, *ELSEWHERE): "pruned", (*RUN, *ELSEWHERE, *FEWER): "pruned"},
    ),
}
LOCKED = {
    "embed": "store", "cluster": "store", "score": "store", "select": "store", "run": "runs/whole",
    "write": "pruned/.sspruning", "import-embeddings": "other",
}  # fmt: skip
QUICK = {"select", "write"}
VERBS = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in LOCKED]


def files(folder):
    """What is in files that are no logs: their times may be moved on by who has found them sound."""
    return {name: (size, digest) for name, (size, _, digest) in stamps(folder).items()}


def own(files):
    """Files that only the first run makes; the second may have a folder of its own."""
    return {name: stamp for name, stamp in files.items() if not name.startswith("runs/other/")}


@pytest.mark.skipif(sys.platform != "linux", reason="uses worker processes of a driver outside pytest")
@pytest.mark.parametrize("stage", ["embed", pytest.param("write", marks=pytest.mark.slow)])
def test_a_second_run_is_told_who_is_there_and_the_first_is_not_disturbed(stage, nursery, ground, monkeypatch):
    clean = ground.clean("run")
    folder = ground.fresh()
    monkeypatch.chdir(folder)
    task, done_before, others = MEETINGS[stage]
    mark = ground.root / "mark"
    with faulty_driver(*RUN, *LOCAL, stage=stage, task=task, do="wait", mark=mark) as first:
        try:
            wait_until(lambda: mark.exists() and (folder / done_before).exists())
            before = files(folder)
            for second, place in others.items():
                done = nursery.run(*second, cwd=folder)
                assert done.code == 5, done.output
                assert_no_crash(done.output)
                told = done.output.splitlines()[-1]
                assert told.startswith(f"sspruning: {folder / place}"), told
                assert f"another run works here (process {first.pid} on {socket.gethostname()}, since " in told
                assert "wait until it is done, or stop it" in told
                assert own(files(folder)) == before
        finally:
            mark.unlink(missing_ok=True)
        output = first.communicate(timeout=60)[0]
    assert first.returncode == 0, output
    assert_no_crash(output)
    settings = dict.fromkeys(("runs/whole/config.yaml", "runs/whole/digests.json"))  # say how many workers
    found = {name: kind for name, kind in content(folder).items() if not name.startswith("runs/other")}
    assert found | settings == clean.new | settings


def leave_lock(folder, **changes):
    """A lock as this process would leave it, with changes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LOCK).write_text(json.dumps({**lock._owner(), **changes}))


@pytest.mark.parametrize("name", VERBS)
def test_the_lock_of_a_run_on_another_host_is_respected_until_a_person_deletes_it(name, nursery, ground):
    story, clean = STORIES[name], ground.clean(name)
    folder = ground.fresh(clean.before)
    leave_lock(folder / LOCKED[name], host="elsewhere", pid=4321)
    before = files(folder)
    done = nursery.run(*story.verb, cwd=folder)
    assert done.code == 5, done.output
    told = done.output.splitlines()[-1]
    assert f"{LOCKED[name]}: a run on another host works here (process 4321 on elsewhere" in told
    assert f"if you know that it is dead, delete {folder / LOCKED[name] / LOCK}" in told
    assert files(folder) == before
    (folder / LOCKED[name] / LOCK).unlink()
    assert nursery.run(*story.verb, cwd=folder).code == 0
    assert content(folder) == clean.new


@pytest.mark.parametrize("name", VERBS)
def test_the_lock_of_a_dead_run_is_taken_over(name, nursery, ground):
    story, clean = STORIES[name], ground.clean(name)
    folder = ground.fresh(clean.before)
    with subprocess.Popen(["true"]) as dead:
        pass
    leave_lock(folder / LOCKED[name], pid=dead.pid)
    done = nursery.run(*story.verb, cwd=folder)
    assert done.code == 0, done.output
    assert content(folder) == clean.new


def test_a_verb_that_only_reads_does_not_mind_a_run(nursery, ground):
    folder = ground.fresh(ground.clean("write").before)
    leave_lock(folder / "store", host="elsewhere")
    before = files(folder)
    for verb in (
        ("status", "store"),
        ("inspect", "../shards"),
        ("embed", "../shards", "--store", "store", "--dry-run"),
    ):
        done = nursery.run(*verb, cwd=folder)
        assert done.code in {0, 4}, done.output
    assert files(folder) == before
    assert os.path.lexists(folder / "store" / LOCK)
    assert nursery.run(*SELECT, cwd=folder).code == nursery.run(*EMBED, cwd=folder).code == 5
