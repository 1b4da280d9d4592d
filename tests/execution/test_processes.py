"""What only processes can suffer: sudden death, time limits, a driver that is gone."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sspruning.errors import MachineError
from sspruning.execution import StageSpec, Task
from sspruning.execution.processes import ProcessExecutor
from sspruning.execution.signals import undisturbed

JOB = StageSpec("executor_jobs:Job")
HERE = Path(__file__).parent
sys.path.append(str(HERE))  # workers import the jobs by name, and so does this file
import executor_jobs  # noqa: E402

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills processes by signal")


@contextlib.contextmanager
def pool(workers, timeout_s=None):
    executor = ProcessExecutor(workers=workers, timeout_s=timeout_s)
    try:
        yield executor
    finally:
        executor.close()


def by_id(outcomes):
    found = list(outcomes)
    assert len({o.task_id for o in found}) == len(found)
    return {o.task_id: o for o in found}


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_dead_workers_cost_only_their_own_task_and_only_after_three_tries(tmp_path):
    once, poison = tmp_path / "once", tmp_path / "poison"
    tasks = [
        Task("poison", {"do": "die", "counter": str(poison)}),
        Task("once", {"do": "die_once", "counter": str(once)}),
        *(Task(str(x), {"do": "square", "x": x}) for x in range(8)),
    ]
    with pool(2) as executor:
        found = by_id(executor.run(JOB, tasks))
    assert (found["poison"].kind, found["poison"].attempts, poison.read_text()) == ("crash", 3, "xxx")
    assert found["poison"].error is not None
    assert (found["once"].kind, found["once"].value, found["once"].attempts) == ("ok", "survived", 2)
    assert {i: found[i].value for i in map(str, range(8))} == {str(x): x * x for x in range(8)}
    assert all(found[str(x)].attempts == 1 for x in range(8))


def test_a_single_worker_that_dies_is_replaced(tmp_path):
    counter = tmp_path / "counter"
    with pool(1) as executor:
        found = by_id(executor.run(JOB, [Task("0", {"do": "die_once", "counter": str(counter)})]))
        assert (found["0"].kind, found["0"].attempts) == ("ok", 2)


def test_an_idle_worker_that_dies_is_replaced():
    with pool(1) as executor:
        (first,) = executor.run(JOB, [Task("0", {"do": "who"})])
        os.kill(first.value[0], signal.SIGKILL)
        assert wait_until(lambda: not alive(first.value[0]))
        (second,) = executor.run(JOB, [Task("1", {"do": "who"})])
        assert second.kind == "ok"
        assert second.value[0] != first.value[0]


def test_a_worker_that_dies_while_it_takes_a_task_costs_no_other_worker_anything(tmp_path):
    fatal = executor_jobs.FatalOnce(str(tmp_path / "counter"))
    tasks = [
        Task("long", {"do": "sleep", "seconds": 1.5}),
        Task("fatal", {"do": "square", "x": 5, "poison": fatal}),
        *(Task(str(x), {"do": "square", "x": x}) for x in range(4)),
    ]
    with pool(2) as executor:
        found = by_id(executor.run(JOB, tasks))
    assert {name: (one.kind, one.attempts) for name, one in found.items()} == {
        "long": ("ok", 1),
        "fatal": ("ok", 2),
        **{str(x): ("ok", 1) for x in range(4)},
    }


def test_a_dead_worker_is_found_although_a_child_of_it_lives_on_and_holds_its_pipe(tmp_path):
    payload = {"do": "die_with_a_child_that_lives_on", "counter": str(tmp_path / "n"), "child": str(tmp_path / "pid")}
    try:
        with pool(1) as executor:
            found = by_id(executor.run(JOB, [Task("0", payload)]))
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert (found["0"].kind, found["0"].value, found["0"].attempts) == ("ok", "survived", 2)


def test_workers_do_not_hear_the_terminal():
    with pool(1) as executor:
        (found,) = executor.run(JOB, [Task("0", {"do": "hearing"})])
    assert found.value == [True, []]


def test_a_stop_while_a_worker_is_started_comes_when_it_stands():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        with undisturbed():
            signal.raise_signal(signal.SIGTERM)
            assert heard == []
            assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        assert heard == [signal.SIGTERM]
        assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_error_tells_where_in_the_worker_it_was_raised():
    with pool(1) as executor:
        (found,) = executor.run(JOB, [Task("0", {"do": "raise_value_error"})])
    assert "in raise_value_error" in "".join(found.error.__notes__)


def test_a_task_beyond_the_time_limit_is_given_up_and_the_others_finish():
    with pool(2, timeout_s=1.0) as executor:
        found = by_id(
            executor.run(
                JOB,
                [
                    Task("slow", {"do": "sleep", "seconds": 60}),
                    *(Task(str(x), {"do": "square", "x": x}) for x in range(4)),
                ],
            )
        )
    assert (found["slow"].kind, found["slow"].attempts) == ("timeout", 1)
    assert [found[str(x)].value for x in range(4)] == [0, 1, 4, 9]


def test_a_task_that_ends_its_process_politely_is_an_error_not_the_end_of_the_driver():
    with pool(1) as executor:
        found = by_id(executor.run(JOB, [Task("leave", {"do": "leave"}), Task("0", {"do": "square", "x": 5})]))
    assert found["leave"].kind == "error"
    assert "SystemExit" in repr(found["leave"].error)
    assert found["0"].value == 25


def test_workers_do_their_sums_in_one_thread():
    with pool(1) as executor:
        (found,) = executor.run(JOB, [Task("0", {"do": "threads"})])
    assert found.value == ["1", "1"]


def test_close_stops_running_workers(tmp_path):
    file = tmp_path / "pid"
    with pool(1) as executor:
        running = executor.run(
            JOB,
            [
                Task("0", {"do": "square", "x": 1}),
                Task("1", {"do": "tell_pid_and_sleep", "file": str(file), "seconds": 60}),
            ],
        )
        assert next(running).value == 1
        assert wait_until(lambda: file.exists() and file.read_text())
        pid = int(file.read_text())
        running.close()
    assert wait_until(lambda: not alive(pid))


def test_a_closed_executor_says_so():
    executor = ProcessExecutor(workers=1)
    executor.close()
    with pytest.raises(MachineError, match="could not be started"):
        list(executor.run(JOB, [Task("0", {"do": "who"})]))


def test_workers_that_cannot_start_are_reported_not_waited_for(monkeypatch):
    monkeypatch.setattr("sspruning.execution.processes._start_worker", executor_jobs.refuse_to_start)
    with pool(1) as executor, pytest.raises(MachineError, match="could not be started"):
        list(executor.run(JOB, (Task(str(x), {"do": "who"}) for x in range(5))))


DRIVER = """
import sys
sys.path.insert(0, {here!r})
from sspruning.execution import StageSpec, Task
from sspruning.execution.processes import ProcessExecutor
from sspruning.execution.signals import undisturbed

if __name__ == "__main__":
    tasks = [
        Task(str(i), {{"do": "tell_pid_and_sleep", "file": f"{folder}/pid{{i}}", "seconds": 120}}) for i in range(2)
    ]
    list(ProcessExecutor(workers=2).run(StageSpec("executor_jobs:Job"), tasks))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="death with the parent is a service of Linux")
def test_no_worker_outlives_a_driver_that_was_killed(tmp_path):
    script = tmp_path / "driver.py"
    script.write_text(DRIVER.format(here=str(HERE), folder=str(tmp_path)))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    driver = subprocess.Popen([sys.executable, str(script)], env=environment, stderr=subprocess.PIPE)
    files = [tmp_path / "pid0", tmp_path / "pid1"]
    pids = []
    try:
        assert wait_until(lambda: all(f.exists() and f.read_text() for f in files), 40), driver.poll()
        pids = [int(f.read_text()) for f in files]
        assert all(alive(pid) for pid in pids)
        driver.kill()
        driver.wait(10)
        assert wait_until(lambda: not any(alive(pid) for pid in pids), 10)
    finally:
        driver.kill()
        driver.wait(10)
        driver.stderr.close()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
