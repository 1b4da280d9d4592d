"""Whatever becomes of a worker process, the run goes on, blames the right shard, and ends with the same bytes."""

import json
import signal
import sys

import psutil
import pytest
from faults.faulty_workers import use_faulty_workers
from faults.harness import faulty_driver, is_temporary, is_voucher, results, wait_until
from tiny_runs import call, make_tiny_run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kills processes, and looks for them in /proc")

RUN = ("run", "tiny.yaml", "--workers", "2", "--set", "execution.executor=local")
STAGES = {"embed": "train-000001", "score": "train-000001", "write": "shard-000001.tar"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Results of a run in which nothing happens."""
    with pytest.MonkeyPatch.context() as patch:
        folder = make_tiny_run(tmp_path_factory.mktemp("whole"))
        patch.chdir(folder)
        assert call(*RUN).exit_code == 0
        return results(folder)


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with a corpus, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return make_tiny_run(tmp_path)


@pytest.fixture
def faulty(work, monkeypatch):
    """Return ``faulty(stage, do, times)``: from now on a worker of this stage comes to grief; returns its mark."""

    def begin(stage, do, times=99):
        plan = {"stage": stage, "task": STAGES[stage], "do": do, "times": times, "mark": str(work / "mark")}
        monkeypatch.setenv("FAULTY", json.dumps(plan))
        use_faulty_workers(stage, monkeypatch.setattr)
        return work / "mark"

    return begin


@pytest.mark.parametrize(
    ("stage", "do"),
    [
        ("embed", "die_while_writing"),
        ("write", "die_while_writing"),
        pytest.param("embed", "die", marks=pytest.mark.slow),
        pytest.param("score", "die", marks=pytest.mark.slow),
        pytest.param("score", "die_while_writing", marks=pytest.mark.slow),
        pytest.param("write", "die", marks=pytest.mark.slow),
    ],
)
def test_a_worker_that_is_killed_in_the_middle_of_a_task_costs_one_more_try(stage, do, work, faulty, whole):
    mark = faulty(stage, do, times=1)
    assert call(*RUN).exit_code == 0
    assert mark.read_text() == "xx"
    assert results(work) == whole


def test_a_shard_that_kills_its_worker_each_time_is_put_aside_by_name_and_the_others_are_done(
    work, faulty, whole, monkeypatch
):
    mark = faulty("embed", "die_while_writing")
    done = call(*RUN)
    assert done.exit_code == 3
    assert "1 shards were put aside" in done.stderr
    assert "train-000001: its worker process died 3 times" in done.stderr
    assert "8 of 8 samples of 3 shards are embedded" in done.stdout
    assert mark.read_text() == "xxx"
    left = results(work)
    parts = {name: digest for name, digest in whole.items() if "/parts/" in name and "train-000001" not in name}
    assert parts.items() <= left.items()
    assert not [name for name in left if is_temporary(name)]
    monkeypatch.undo()
    monkeypatch.chdir(work)
    assert call(*RUN, "--overwrite").exit_code == 0
    assert whole.items() <= results(work).items()  # scores of the smaller corpus stay


@pytest.mark.slow
@pytest.mark.parametrize("do", ["hang", "hang_while_writing"])
def test_a_shard_that_takes_too_long_is_put_aside_by_name_and_the_others_are_done(do, work, faulty, whole, monkeypatch):
    mark = faulty("embed", do)
    done = call(*RUN, "--set", "execution.timeout_s=10")
    assert done.exit_code == 3
    assert "train-000001: it exceeded the time limit (execution.timeout_s)" in done.stderr
    assert mark.read_text() == "x"
    assert not [name for name in results(work) if is_temporary(name)]
    monkeypatch.undo()
    monkeypatch.chdir(work)
    assert call(*RUN, "--overwrite").exit_code == 0
    assert whole.items() <= results(work).items()  # scores of the smaller corpus stay


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["score", "write"])
def test_work_that_cannot_be_put_aside_ends_the_run_with_the_reason_and_goes_on_later(
    stage, work, faulty, whole, monkeypatch
):
    mark = faulty(stage, "die_while_writing")
    done = call(*RUN)
    assert done.exit_code == 5
    assert STAGES[stage] in done.stderr
    assert "SIGKILL" in done.stderr
    assert mark.read_text() == "xxx"
    assert not [name for name in results(work) if is_temporary(name)]
    monkeypatch.undo()
    monkeypatch.chdir(work)
    assert call(*RUN).exit_code == 0
    assert results(work) == whole


def test_a_driver_that_is_killed_takes_its_workers_along_and_leaves_nothing_torn(work, whole):
    mark = work / "mark"
    with faulty_driver(*RUN, stage="embed", task=STAGES["embed"], do="hang_while_writing", mark=mark) as driver:
        try:
            wait_until((work / "mark.half").exists)
            workers = psutil.Process(driver.pid).children(recursive=True)
            assert len([worker for worker in workers if "spawn_main" in " ".join(worker.cmdline())]) == 2
        finally:
            driver.send_signal(signal.SIGKILL)
    assert psutil.wait_procs(workers, timeout=10)[1] == []
    left = results(work)
    assert [name for name in left if is_temporary(name)]  # half of a part, under a name that says whose it was
    torn = {name for name, digest in left.items() if whole.get(name, digest) != digest}
    assert all(is_voucher(name) for name in torn)
    mark.unlink()
    (work / "mark.half").unlink()
    assert call(*RUN).exit_code == 0
    assert results(work) == whole
