"""One run at a time in a folder; the lock of a dead run is in nobody's way."""

import json
import os
import socket
import subprocess
import sys

import pytest

from sspruning.errors import MachineError
from sspruning.storage import lock
from sspruning.storage.lock import LOCK, alone_in, holders, task_lock


def leave_lock(folder, **changes):
    """A lock as this process would leave it, with changes."""
    (folder / LOCK).write_text(json.dumps({**lock._owner(), **changes}))


def end(process):
    process.kill()
    process.wait()


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    end(process)


def test_the_lock_stands_inside_the_block_and_is_gone_after_it(tmp_path):
    with alone_in(tmp_path / "new"):
        held = json.loads((tmp_path / "new" / LOCK).read_text())
        assert (held["pid"], held["host"]) == (os.getpid(), socket.gethostname())
    assert list((tmp_path / "new").iterdir()) == []


def test_the_lock_is_given_back_after_an_error(tmp_path):
    with pytest.raises(ValueError, match="inside"), alone_in(tmp_path):
        raise ValueError("inside")
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_holds_a_folder_may_ask_again(tmp_path):
    with alone_in(tmp_path):
        with alone_in(tmp_path):
            pass
        assert (tmp_path / LOCK).exists()


def test_a_live_run_is_named_and_left_alone(tmp_path, sleeper):
    import psutil

    leave_lock(tmp_path, pid=sleeper.pid, started=psutil.Process(sleeper.pid).create_time())
    before = (tmp_path / LOCK).read_bytes()
    with pytest.raises(MachineError, match=f"another run works here .process {sleeper.pid} on"), alone_in(tmp_path):
        pass
    assert (tmp_path / LOCK).read_bytes() == before


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path, sleeper):
    import psutil

    leave_lock(tmp_path, pid=sleeper.pid, started=psutil.Process(sleeper.pid).create_time())
    end(sleeper)
    with alone_in(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "changes", [{"started": 1.0}, {"boot": "another"}], ids=["number used again", "machine restarted"]
)
def test_a_number_that_now_belongs_to_another_process_holds_nothing(tmp_path, changes):
    leave_lock(tmp_path, **changes)
    with alone_in(tmp_path):
        pass


def test_a_run_on_another_host_is_believed_alive_until_told_otherwise(tmp_path):
    leave_lock(tmp_path, host="elsewhere", pid=1)
    with pytest.raises(MachineError, match=r"elsewhere.*delete .*\.sspruning\.lock"), alone_in(tmp_path):
        pass
    (tmp_path / LOCK).unlink()
    with alone_in(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", b"\xff"])
def test_a_damaged_lock_of_nobody_is_in_nobodys_way(tmp_path, content):
    (tmp_path / LOCK).write_bytes(content)
    with alone_in(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_somebody_else_took_meanwhile_is_not_removed(tmp_path):
    with alone_in(tmp_path):
        leave_lock(tmp_path, host="elsewhere")
        other = (tmp_path / LOCK).read_bytes()
    assert (tmp_path / LOCK).read_bytes() == other


def test_of_many_processes_at_once_one_at_a_time_is_inside(tmp_path):
    code = (
        "import sys, time, pathlib\n"
        "from sspruning.storage.lock import alone_in\n"
        "from sspruning.errors import MachineError\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "entered = 0\n"
        "end = time.monotonic() + 30\n"
        "while entered < 5 and time.monotonic() < end:\n"
        "    try:\n"
        "        with alone_in(folder / 'place'):\n"
        "            (folder / 'inside').mkdir()\n"
        "            time.sleep(0.001)\n"
        "            (folder / 'inside').rmdir()\n"
        "            entered += 1\n"
        "    except MachineError:\n"
        "        time.sleep(0.001)\n"
        "assert entered == 5\n"
    )
    crew = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.PIPE) for _ in range(3)]
    assert [(process.wait(), process.stderr.read()) for process in crew] == [(0, b"")] * 3
    for process in crew:
        process.stderr.close()


# tasks of an array


def live(process):
    import psutil

    return {"pid": process.pid, "started": psutil.Process(process.pid).create_time()}


def leave_task_lock(folder, task, **changes):
    (folder / task_lock(task)).write_text(json.dumps({**lock._owner(), **changes}))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_tasks_of_one_array_work_side_by_side(tmp_path, sleeper):
    leave_task_lock(tmp_path, (1, 3), **live(sleeper))
    with alone_in(tmp_path, (2, 3)):
        assert names(tmp_path) == [task_lock((1, 3)), task_lock((2, 3))]
    assert names(tmp_path) == [task_lock((1, 3))]


@pytest.mark.parametrize(
    ("there", "comes"),
    [((2, 3), (2, 3)), ((2, 3), (2, 4)), ((2, 3), None), (None, (2, 3))],
    ids=["the same task", "another array", "a run that wants to be alone", "a task beside such a run"],
)
def test_what_would_do_the_same_work_twice_is_told_who_is_there(there, comes, tmp_path, sleeper):
    leave_lock(tmp_path, **live(sleeper)) if there is None else leave_task_lock(tmp_path, there, **live(sleeper))
    before = names(tmp_path)
    said = "another run" if there is None else "task 2 of 3"
    with pytest.raises(MachineError, match=f"{said} works here .process {sleeper.pid}"), alone_in(tmp_path, comes):
        pass
    assert names(tmp_path) == before


def test_of_two_that_come_at_the_same_time_none_works_beside_the_other(tmp_path, sleeper, monkeypatch):
    take = lock._take

    def taken(path, mine):
        take(path, mine)
        leave_lock(tmp_path, **live(sleeper))

    monkeypatch.setattr(lock, "_take", taken)
    with pytest.raises(MachineError, match="another run works here"), alone_in(tmp_path, (1, 2)):
        pass
    assert names(tmp_path) == [LOCK]


def test_locks_of_dead_tasks_and_runs_are_in_nobodys_way(tmp_path):
    leave_task_lock(tmp_path, (1, 3), boot="another")
    leave_lock(tmp_path, boot="another")
    with alone_in(tmp_path, (2, 4)):
        assert names(tmp_path) == [task_lock((2, 4))]
    leave_task_lock(tmp_path, (1, 3), boot="another")
    with alone_in(tmp_path):
        assert names(tmp_path) == [LOCK]


@pytest.mark.parametrize("task", [None, (2, 3)])
def test_a_job_that_slurm_started_again_on_another_host_takes_its_own_lock_over(task, tmp_path, monkeypatch):
    old = {"host": "elsewhere", "job": "77", "restarts": 0}
    leave_lock(tmp_path, **old) if task is None else leave_task_lock(tmp_path, task, **old)
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    with alone_in(tmp_path, task):
        held = json.loads(next(tmp_path.iterdir()).read_text())
        assert (held["host"], held["job"], held["restarts"]) == (socket.gethostname(), "77", 1)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("job", "restarts"), [("78", "1"), ("77", "0"), ("77", "x")], ids=["another job", "not started again", "nonsense"]
)
def test_any_other_lock_of_another_host_stays(job, restarts, tmp_path, monkeypatch):
    leave_task_lock(tmp_path, (2, 3), host="elsewhere", job="77", restarts=0)
    monkeypatch.setenv("SLURM_JOB_ID", job)
    monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    told = pytest.raises(MachineError, match=r"SLURM job 77, .* on elsewhere.*delete .*task-2-of-3")
    with told, alone_in(tmp_path, (2, 3)):
        pass


def test_holders_are_told_with_what_is_known_of_their_life(tmp_path, sleeper):
    leave_task_lock(tmp_path, (2, 10), **live(sleeper))
    leave_task_lock(tmp_path, (10, 10), boot="another")
    leave_task_lock(tmp_path, (3, 10), host="elsewhere", job="9")
    found = [(holder.task, holder.alive) for holder in holders(tmp_path)]
    assert found == [((2, 10), True), ((3, 10), None), ((10, 10), False)]
    assert "SLURM job 9, process" in holders(tmp_path)[1].who
