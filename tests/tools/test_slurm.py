"""The batch templates, run by plain processes that stand for tasks of an array, with variables as SLURM sets them."""

import hashlib
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
TEMPLATES = sorted((ROOT / "tools" / "slurm").glob("*.sbatch"))
SMALL = SimpleNamespace(**runpy.run_path(str(ROOT / "tests" / "e2e" / "small_corpora.py")))
OPTIONS = ("--encoder", "pixels", "--executor", "inline")
pytestmark = pytest.mark.skipif(os.name != "posix" or shutil.which("bash") is None, reason="runs bash scripts")
# In a process with STRIKE set: after the first commit record it is killed, or waits for a signal.
STRIKE = """
import os, signal, time
strike, replace = os.environ.get("STRIKE"), os.replace
def struck(source, target):
    replace(source, target)
    if str(target).endswith(".json") and os.path.basename(os.path.dirname(target)) == "parts":
        if strike == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        open(os.environ["STRIKE_AT"], "w").close()
        time.sleep(60)
if strike:
    os.replace = struck
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Folder of nine shards of four samples."""
    folder = tmp_path_factory.mktemp("corpus") / "shards"
    SMALL.corpus(folder, shards=9, count=4)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory, shards):
    """Digests of the store that one `embed` makes."""
    store = tmp_path_factory.mktemp("whole") / "store"
    done = SMALL.cli("embed", shards, "--store", store, *OPTIONS, cwd=store.parent)
    assert done.returncode == 0, done.stderr
    return made(store)


def made(store):
    """Digests of all that a store holds, without logs and the settings last used."""
    return {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in store.rglob("*")
        if path.is_file() and path.parent.name != "logs" and path.name != "config.yaml"
    }


@pytest.fixture
def start(tmp_path, shards):
    """Return ``start(template, *arguments, **variables)``: a running batch script, its output in ``said``."""
    tools, crew = tmp_path / "bin", []
    tools.mkdir()
    (tools / "sspruning").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sspruning "$@"\n')
    (tools / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path}/scontrol.log"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(STRIKE)

    def run(template, *arguments, **variables):
        named = {"SHARDS": str(shards), "STORE": str(tmp_path / "store")}
        environment = SMALL.environment(**(named | variables))
        environment["PATH"] = f"{tools}:{os.environ['PATH']}"
        environment["PYTHONPATH"] += f":{tmp_path / 'site'}"
        script = ["bash", ROOT / "tools" / "slurm" / template, *arguments]
        process = subprocess.Popen(
            script, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        crew.append(process)
        return process

    yield run
    for process in crew:
        process.kill()
        process.communicate()


@pytest.fixture
def task(start):
    """Return ``task(number, first, last, **variables)``: a running task of an array."""

    def run(number, first, last, **variables):
        facts = {"ID": number, "MIN": first, "MAX": last, "COUNT": last - first + 1, "STEP": 1}
        array = {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in facts.items()}
        job = {"SLURM_JOB_ID": str(100 + number), "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}
        return start("embed_array.sbatch", *OPTIONS, **array, **job, **variables)

    return run


def ended(process):
    """Exit code and output of a script."""
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def test_an_array_whose_task_is_killed_is_finished_by_an_array_of_another_size(task, start, tmp_path, whole):
    crew = [task(1, 1, 3), task(2, 1, 3, STRIKE="kill"), task(3, 1, 3)]
    (first, said), (killed, _), (third, _) = map(ended, crew)
    assert (first, killed, third) == (0, 128 + signal.SIGKILL, 0)
    assert "task 1 of 3 (SLURM array): 3 of 9 shards" in said
    assert "12 of 12 samples of 3 shards are embedded" in said
    assert not (tmp_path / "store" / "manifest.json").exists()
    code, said = ended(start("select.sbatch", OUTPUT=str(tmp_path / "pruned")))
    assert code == 4
    assert "7 of 9 shards embedded" in said
    assert "task 2 of 3: dead, its lock counts no more (SLURM job 102, process" in said
    assert [ended(process)[0] for process in (task(0, 0, 1), task(1, 0, 1))] == [0, 0]
    assert made(tmp_path / "store") == whole
    code, said = ended(
        start(
            "select.sbatch", "--keep-fraction", "0.5", "--set", "cluster.n_clusters=2", OUTPUT=str(tmp_path / "pruned")
        )
    )
    assert code == 0, said
    assert "kept 18 of 36 samples" in said
    assert not (tmp_path / "scontrol.log").exists()


@pytest.mark.parametrize(
    ("number", "queued_again"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)], ids=["time limit", "cancelled"]
)
def test_a_task_that_is_stopped_is_queued_again_unless_it_was_cancelled(number, queued_again, task, tmp_path):
    process = task(0, 0, 1, STRIKE="wait", STRIKE_AT=str(tmp_path / "waiting"))
    end = time.monotonic() + 60
    while not (tmp_path / "waiting").exists() and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(number)
    code, said = ended(process)
    assert "run the same command again" in said
    assert code == (0 if queued_again else 4)
    log = tmp_path / "scontrol.log"
    assert (log.read_text() if log.exists() else "") == ("requeue 100\n" if queued_again else "")
    assert [path.name for path in (tmp_path / "store").glob(".*")] == []


def test_a_template_says_what_it_has_to_be_told(start):
    code, said = ended(start("embed_array.sbatch", SHARDS=""))
    assert code != 0
    assert "SHARDS: name the shards" in said


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_templates_are_sound_shell_scripts(path):
    assert subprocess.run(["bash", "-n", path], check=False).returncode == 0
    if shellcheck := shutil.which("shellcheck"):
        found = subprocess.run([shellcheck, path], capture_output=True, text=True, check=False)
        assert found.stdout == ""
    assert all(len(line) <= 120 for line in path.read_text().splitlines())
