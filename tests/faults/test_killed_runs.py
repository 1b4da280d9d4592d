"""The command line, stopped from outside at any moment: only whole files, and the same command ends the work."""

import os
import random
import runpy
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from faults.harness import assert_no_crash, is_temporary, results

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills process groups")

SMALL = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "e2e" / "small_corpora.py")))
RUN = ("run", "tiny.yaml", "--set", "write.samples_per_shard=4")
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
# What must have appeared before the blow. Then a little time passes, drawn from a seed.
QUICK = [("runs/tiny/store/parts/*.json", ()), ("pruned/shard-00001*.tar", REWRITING)]
SLOW = [
    ("runs/tiny/store/store.json", ()),
    ("runs/tiny/store/parts/*.h5", ()),
    ("runs/tiny/prototypes.h5", ()),
    ("runs/tiny/scores/assignment/*.npy", ()),
    ("runs/tiny/selection.parquet", ()),
    ("pruned/shard-000003.tar", ()),
    ("pruned/sizes.json", ()),
]
MOMENTS = [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]
IN_WORK = ("pruned/.sspruning/shards/", "pruned/.sspruning/work/")
DEADLINE_S = 120
KILLS, STOPS = 25, 20


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Folder of six shards of 30 samples."""
    folder = tmp_path_factory.mktemp("corpus") / "shards"
    SMALL.corpus(folder, shards=6, count=30)
    return folder


@pytest.fixture
def work(tmp_path, shards):
    """A folder with a configuration and the corpus."""
    return make(tmp_path, shards)


def make(folder, shards):
    (folder / "tiny.yaml").write_text(SMALL.CONFIG)
    (folder / "shards").symlink_to(shards)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory, shards, nursery):
    """Return ``whole(options)``: results of a run that nothing disturbs."""
    known = {}

    def run(more=()):
        if more not in known:
            folder = make(tmp_path_factory.mktemp("whole"), shards)
            done = nursery.run(*RUN, *more, cwd=folder, shimmed=False)
            assert done.code == 0, done.output
            known[more] = made(folder)
        return known[more]

    return run


def made(folder):
    """What runs make: `results` without the corpus and the test's own files."""
    return {name: kind for name, kind in results(folder).items() if name.startswith(("runs/", "pruned/"))}


def started(folder, workers, more=()):
    return subprocess.Popen(
        SMALL.command(*RUN, "--executor", "local", "--workers", str(workers), *more),
        cwd=folder,
        env=SMALL.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(process, condition):
    """Wait until something is so, or the process has ended."""
    end = time.monotonic() + DEADLINE_S
    while process.poll() is None and not condition():
        assert time.monotonic() < end, "it hangs"
        time.sleep(0.001)


def appeared(process, folder, moment):
    """Wait until a file is there, and a little longer."""
    wait_for(process, lambda: any(folder.glob(moment)))
    time.sleep(random.Random(moment).uniform(0, 0.01))  # noqa: S311 - a moment, no secret


def blow(process, number, *, group):
    """Send a signal, wait for the end; returns exit code and output."""
    if process.poll() is None:
        os.killpg(process.pid, number) if group else process.send_signal(number)
    output, _ = process.communicate(timeout=DEADLINE_S)
    return process.returncode, output


def assert_only_whole_files(folder, whole):
    """What stands under a final name is what an undisturbed run leaves there."""
    left = {name: kind for name, kind in made(folder).items() if not (is_temporary(name) or name.startswith(IN_WORK))}
    torn = {name for name, kind in left.items() if not name.endswith(".sspruning.lock") and whole.get(name) != kind}
    assert torn == set()


@pytest.mark.parametrize(("moment", "more"), MOMENTS)
def test_a_killed_run_shows_only_whole_files_and_is_finished_by_the_same_command(moment, more, work, whole, nursery):
    process = started(work, 2, more)
    appeared(process, work, moment)
    assert blow(process, signal.SIGKILL, group=True)[0] == -signal.SIGKILL
    assert_only_whole_files(work, whole(more))
    done = nursery.run(*RUN, *more, cwd=work, shimmed=False)
    assert done.code == 0, done.output
    assert made(work) == whole(more)
    assert len(list((work / "pruned").glob("*.tar"))) == 32
    assert PROVED[more] in nursery.run("verify", "pruned", cwd=work, shimmed=False).output


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("runs/tiny/store/parts/*.h5", signal.SIGTERM),
        ("pruned/*.tar", signal.SIGINT),
        pytest.param("runs/tiny/scores/assignment/*.npy", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("pruned/*.tar", signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_says_so_and_is_finished_by_the_same_command(moment, number, work, whole, nursery):
    process = started(work, 2)
    appeared(process, work, moment)
    code, output = blow(process, number, group=number == signal.SIGINT)
    assert code == 4, output
    assert "run the same command again" in output
    assert_no_crash(output)
    assert [name for name in made(work) if is_temporary(name) or name.endswith(".lock")] == []
    assert_only_whole_files(work, whole())
    assert nursery.run(*RUN, cwd=work, shimmed=False).code == 0
    assert made(work) == whole()


def test_an_unfinished_embedding_reports_as_unfinished(work, whole, nursery):
    assert nursery.run(*RUN, cwd=work, shimmed=False).code == 0
    for path in sorted((work / "runs" / "tiny" / "store" / "parts").glob("*.json"))[1:]:
        path.unlink()
    done = nursery.run("status", "runs/tiny", cwd=work, shimmed=False)
    assert done.code == 4
    assert "5 shards are not embedded yet" in done.output
    assert nursery.run(*RUN, cwd=work, shimmed=False).code == 0
    assert "6 of 6 shards embedded" in nursery.run("status", "runs/tiny", cwd=work, shimmed=False).output
    assert made(work) == whole()


@pytest.fixture(scope="module")
def seconds(tmp_path_factory, shards):
    """Return ``seconds(workers)``: how long a run takes on this machine."""
    known = {}

    def measured(workers):
        if workers not in known:
            begin = time.monotonic()
            process = started(make(tmp_path_factory.mktemp("measured"), shards), workers)
            output, _ = process.communicate(timeout=DEADLINE_S)
            assert process.returncode == 0, output
            known[workers] = time.monotonic() - begin
        return known[workers]

    return measured


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_runs_killed_at_random_moments_are_finished_by_the_same_command(
    workers, tmp_path, shards, whole, seconds, record_property
):
    drawn = random.Random(workers)  # noqa: S311 - moments, no secrets
    killed = 0
    for number in range(KILLS):
        (tmp_path / str(number)).mkdir()
        folder = make(tmp_path / str(number), shards)
        after, group = drawn.uniform(0, seconds(workers)), drawn.random() < 0.5
        process = started(folder, workers)
        begun = time.monotonic()
        wait_for(process, lambda end=begun + after: time.monotonic() > end)
        code, _ = blow(process, signal.SIGKILL, group=group)
        killed += code == -signal.SIGKILL
        where = f"seed {workers}, kill {number}, after {after:.3f} s"
        assert code in {0, -signal.SIGKILL}, where
        again = started(folder, workers)
        output, _ = again.communicate(timeout=DEADLINE_S)
        assert again.returncode == 0, f"{where}\n{output}"
        assert made(folder) == whole(), where
    record_property("outcomes", f"{killed} killed, {KILLS - killed} done before")
    assert killed > KILLS // 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("group", [True, False], ids=["group", "driver"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_runs_stopped_at_random_moments_end_soon_with_exit_code_4_and_leave_nothing_unfinished(
    number, group, tmp_path, shards, whole, seconds, nursery, record_property
):
    drawn = random.Random(f"{number} {group}")  # noqa: S311 - moments, no secrets
    codes, slowest = [], 0.0
    for attempt in range(STOPS):
        (tmp_path / str(attempt)).mkdir()
        folder = make(tmp_path / str(attempt), shards)
        after = drawn.uniform(0.5, seconds(2))
        process = started(folder, 2)
        begun = time.monotonic()
        wait_for(process, lambda end=begun + after: time.monotonic() > end)
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        struck = time.monotonic()
        code, output = blow(process, number, group=group)
        slowest = max(slowest, time.monotonic() - struck)
        where = f"attempt {attempt}, after {after:.3f} s: exit code {code}\n{output}"
        assert_no_crash(output)
        assert psutil.wait_procs(children, timeout=10)[1] == [], where
        assert [name for name in made(folder) if is_temporary(name) or name.endswith(".lock")] == [], where
        assert_only_whole_files(folder, whole())
        if code == 4:
            assert "run the same command again" in output
        else:  # by the signal, when all was done
            assert made(folder) == whole(), where
            assert code in {0, -number}, where
        assert nursery.run(*RUN, cwd=folder, shimmed=False).code == 0, where
        assert made(folder) == whole(), where
        codes.append(code)
    record_property(
        "outcomes", f"{codes.count(4)} with exit code 4, {STOPS - codes.count(4)} else; {slowest:.1f} s at most"
    )
    assert codes.count(4) > STOPS // 3
