"""Verbs on Ray: the same bytes as with local workers, whatever becomes of actors, nodes and drivers."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from corpora import picture, tar
from faults.harness import PACKAGE_ROOT, assert_no_crash, is_temporary, results
from tiny_runs import call, make_tiny_run

from sspruning.storage.store import Store

HERE = Path(__file__).parent

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kills processes, and looks for them in /proc")

LOCAL, RAY = ("--executor", "local", "--workers", "2"), ("--executor", "ray", "--workers", "2")
EMBED = ("embed", "shards", "--store", "store", "--encoder", "pixels", "--set", "corpus.decode_timeout_s=3")
DEADLINE_S = 90


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Results of a run with local workers in which nothing happens."""
    with pytest.MonkeyPatch.context() as patch:
        folder = make_tiny_run(tmp_path_factory.mktemp("whole"))
        patch.chdir(folder)
        assert call("run", "tiny.yaml", *LOCAL).exit_code == 0
        return results(folder)


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with a corpus, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return make_tiny_run(tmp_path)


def test_a_whole_run_writes_the_same_bytes_as_with_local_workers(work, whole, local_ray):
    done = call("run", "tiny.yaml", *RAY)
    assert done.exit_code == 0, done.output
    assert results(work) == whole
    assert not [name for name in results(work) if is_temporary(name)]


def test_images_that_kill_or_hang_their_actor_are_skipped_by_name_as_with_local_workers(work, local_ray, monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setattr("sspruning.stages.embed.WORKER", "poisoned_workers:embed")
    for name, side in (("kills", 13), ("hangs", 14)):
        shard = work / "shards" / f"{name}.tar"
        shard.write_bytes(tar([(f"by-{name}.png", picture(1, 32, "PNG")), (f"{name}.png", picture(1, side, "PNG"))]))
        os.utime(shard, (1e9, 1e9))
    made = {}
    for store, options in (("store-local", LOCAL), ("store-ray", RAY)):
        done = call(*EMBED[:3], store, *EMBED[4:], *options)
        assert done.exit_code == 0, done.output
        assert "14 of 16 samples of 5 shards are embedded" in done.stdout
        assert {record.shard_id: record.skipped for record in Store(work / store).records() if record.skipped} == {
            "kills": {"decoder_died": 1},
            "hangs": {"decode_timeout": 1},
        }
        made[store] = results(work / store)
        assert not [name for name in made[store] if is_temporary(name)]
    assert made["store-ray"] == made["store-local"]


# Drivers of their own, each with a Ray of its own

DRIVER = """
import os, sys
import sspruning.stages.embed
from sspruning.cli import main
sspruning.stages.embed.WORKER = "faults.faulty_workers:embed"
sys.argv[0] = "sspruning"
if __name__ == "__main__":
    main()
"""
HANG = '{"task": "train-000001", "do": "hang_while_writing", "times": 1, "mark": "MARK"}'


@contextlib.contextmanager
def stuck(work, **environment):
    """A run whose actor hangs in the middle of a file; gives the driver and all processes that it brought about."""
    (work / "driver.py").write_text(DRIVER)
    paths = os.pathsep.join([str(PACKAGE_ROOT), str(HERE.parent)])
    plan = HANG.replace("MARK", str(work / "mark"))
    with subprocess.Popen(
        [sys.executable, "driver.py", "run", "tiny.yaml", *RAY, "--ray-address", "local"],
        env={**os.environ, "PYTHONPATH": paths, "FAULTY": plan, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as driver:
        family = []
        try:
            end = time.monotonic() + DEADLINE_S
            while not (work / "mark.half").exists():
                assert driver.poll() is None, driver.communicate()
                assert time.monotonic() < end
                time.sleep(0.05)
            family += psutil.Process(driver.pid).children(recursive=True)
            assert any("raylet" in process.name() for process in family)
            yield driver, family
        finally:
            driver.kill()
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


def finished(work, whole):
    """The same command with local workers ends with the bytes of an undisturbed run."""
    for name in ("driver.py", "mark", "mark.half"):
        (work / name).unlink()
    assert call("run", "tiny.yaml", *LOCAL).exit_code == 0
    assert results(work) == whole


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_ends_with_exit_code_4_its_actors_gone_and_is_finished_by_the_same_command(
    number, work, whole, local_ray
):
    with stuck(work) as (driver, family):
        driver.send_signal(number)
        _, errors = driver.communicate(timeout=DEADLINE_S)
        assert driver.returncode == 4
        assert_no_crash(errors)
        assert "run the same command again" in errors
        assert psutil.wait_procs(family, timeout=10)[1] == []
        assert not [name for name in results(work) if is_temporary(name)]
    finished(work, whole)


@pytest.mark.slow
def test_a_driver_that_is_killed_leaves_nothing_torn_and_its_actors_end(work, whole, local_ray):
    with stuck(work) as (driver, family):
        driver.kill()
        driver.wait()
        busy = [process for process in family if process.name().startswith(("raylet", "ray::SSPruning"))]
        assert psutil.wait_procs(busy, timeout=DEADLINE_S)[1] == []
    assert [name for name in results(work) if is_temporary(name)]
    finished(work, whole)


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "told"), [("raylet", "(raylet) has died"), ("gcs_server", "does not answer")])
def test_a_cluster_that_dies_is_told_and_the_run_is_finished_without_it(victim, told, work, whole, local_ray):
    with stuck(work) as (driver, family):
        next(process for process in family if process.name() == victim).kill()
        _, errors = driver.communicate(timeout=DEADLINE_S)
        assert driver.returncode == 5, errors
        assert_no_crash(errors)
        assert told in errors
        assert "--executor local" in errors
        psutil.wait_procs(family, timeout=10)
    finished(work, whole)


@pytest.mark.slow
def test_a_home_that_cannot_be_written_does_not_matter(work, whole, local_ray):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-m", "sspruning", "run", "tiny.yaml", *RAY, "--ray-address", "local"],
        env={**environment, "PYTHONPATH": str(PACKAGE_ROOT), "HOME": "/proc/nothing"},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert results(work) == whole
