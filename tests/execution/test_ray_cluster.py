"""What only actors of a cluster can suffer: death, time limits, no room, a cluster that is gone or was never there."""

import contextlib
import importlib.util
import os
import re
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from sspruning.errors import MachineError, UsageError
from sspruning.execution import StageSpec, Task, ray_cluster, ray_session
from sspruning.execution.ray_cluster import RayExecutor

JOB = StageSpec("executor_jobs:Job")
HERE = Path(__file__).parent
sys.path.append(str(HERE))  # actors import the jobs by name

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kills processes by signal")


@contextlib.contextmanager
def pool(workers, **options):
    executor = RayExecutor(workers=workers, **options)
    try:
        yield executor
    finally:
        executor.close()


@pytest.fixture(scope="module")
def crew(local_ray):
    """An executor with two actors that stay between tests."""
    with pool(2) as executor:
        yield executor


def by_id(outcomes):
    found = list(outcomes)
    assert len({o.task_id for o in found}) == len(found)
    return {o.task_id: o for o in found}


def ended(pid):
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).wait(10)
    return not psutil.pid_exists(pid)


def wait_for_text(path):
    end = time.monotonic() + 30
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return path.read_text()


def test_dead_actors_cost_only_their_own_task_and_only_after_three_tries(crew, tmp_path):
    once, poison = tmp_path / "once", tmp_path / "poison"
    tasks = [
        Task("poison", {"do": "die", "counter": str(poison)}),
        Task("once", {"do": "die_once", "counter": str(once)}),
        *(Task(str(x), {"do": "square", "x": x}) for x in range(8)),
    ]
    found = by_id(crew.run(JOB, tasks))
    assert (found["poison"].kind, found["poison"].attempts, poison.read_text()) == ("crash", 3, "xxx")
    assert "connection" in str(found["poison"].error)
    assert (found["once"].kind, found["once"].value, found["once"].attempts) == ("ok", "survived", 2)
    assert {i: found[i].value for i in map(str, range(8))} == {str(x): x * x for x in range(8)}
    assert all(found[str(x)].attempts == 1 for x in range(8))


def test_an_actor_that_is_killed_in_the_middle_of_a_task_costs_one_more_try(crew, tmp_path):
    pid, counter = tmp_path / "pid", tmp_path / "counter"
    payload = {"do": "tell_pid_and_sleep_once", "file": str(pid), "counter": str(counter), "seconds": 60}
    running = crew.run(JOB, [Task("quick", {"do": "square", "x": 3}), Task("0", payload)])
    assert next(running).value == 9
    os.kill(int(wait_for_text(pid)), signal.SIGKILL)
    [found] = running
    assert (found.kind, found.value, found.attempts, counter.read_text()) == ("ok", "survived", 2, "xx")


def test_an_idle_actor_that_dies_is_replaced_and_nothing_is_blamed_for_it(crew):
    first = {o.value[0] for o in crew.run(JOB, [Task(str(x), {"do": "who"}) for x in range(8)])}
    for pid in first:
        os.kill(pid, signal.SIGKILL)
        assert ended(pid)
    second = list(crew.run(JOB, [Task(str(x), {"do": "who"}) for x in range(2)]))
    assert [(o.kind, o.attempts) for o in second] == [("ok", 1)] * 2
    assert first.isdisjoint({o.value[0] for o in second})


def test_actors_are_workers_of_the_driver_and_do_their_sums_in_one_thread(crew):
    tasks = [Task("threads", {"do": "threads"}), Task("owner", {"do": "owner"})]
    found = by_id(crew.run(JOB, tasks))
    assert found["threads"].value == ["1", "1"]
    assert found["owner"].value[1] == os.getpid()


def test_a_task_beyond_the_time_limit_is_given_up_with_its_process_and_the_others_finish(local_ray, crew, tmp_path):
    crew.close()
    pid = tmp_path / "pid"
    with pool(2, timeout_s=1.0) as executor:
        slow = Task("slow", {"do": "tell_pid_and_sleep", "file": str(pid), "seconds": 60})
        found = by_id(executor.run(JOB, [slow, *(Task(str(x), {"do": "square", "x": x}) for x in range(4))]))
        assert (found["slow"].kind, found["slow"].attempts) == ("timeout", 1)
        assert [found[str(x)].value for x in range(4)] == [0, 1, 4, 9]
        assert not psutil.pid_exists(int(pid.read_text()))


def test_close_stops_running_actors_and_a_closed_executor_says_so(local_ray, tmp_path):
    file = tmp_path / "pid"
    with pool(1) as executor:
        tasks = [
            Task("0", {"do": "square", "x": 1}),
            Task("1", {"do": "tell_pid_and_sleep", "file": str(file), "seconds": 60}),
        ]
        running = executor.run(JOB, tasks)
        assert next(running).value == 1
        pid = int(wait_for_text(file))
    assert not psutil.pid_exists(pid)
    with pytest.raises(MachineError, match="executor is closed"):
        list(executor.run(JOB, [Task("0", {"do": "who"})]))


def test_a_cluster_with_room_for_fewer_actors_does_the_work_with_those_and_says_so(local_ray, monkeypatch, caplog):
    monkeypatch.setattr(ray_cluster, "SAY_AFTER_S", 0.2)
    with pool(4) as executor:
        tasks = [Task(str(x), {"do": "environment", "names": [], "seconds": 0.3}) for x in range(6)]
        assert [o.kind for o in executor.run(JOB, tasks)] == ["ok"] * 6
    assert re.search("[12] of 4 workers run: each needs 1 core, and the cluster has 0 of 2 CPUs", caplog.text)
    assert len(caplog.records) == 1


def test_a_cluster_without_room_is_not_waited_for_for_ever(local_ray, monkeypatch):
    monkeypatch.setattr(ray_cluster, "GIVE_UP_AFTER_S", 1.0)
    told = pytest.raises(MachineError, match=r"no worker could be started.*1 core and 1 GPU.*0 of 0 GPUs")
    with pool(1, gpus_per_worker=1) as executor, told:
        list(executor.run(JOB, [Task("0", {"do": "who"})]))


def test_the_cluster_says_how_many_workers_there_are(local_ray):
    with pool(None, gpus_per_worker=None) as executor:
        assert executor.workers == 2


def test_a_machine_that_does_not_see_the_folder_of_the_run_is_told(local_ray, monkeypatch):
    monkeypatch.setattr(ray_cluster, "Path", SimpleNamespace(cwd=lambda: "/no/such/folder"))
    with pool(1) as executor, pytest.raises(MachineError, match=r"/no/such/folder: No such file.*every machine"):
        list(executor.run(JOB, [Task("0", {"do": "who"})]))


@pytest.mark.slow
def test_actors_that_cannot_start_are_reported_not_waited_for(local_ray, monkeypatch):
    monkeypatch.setattr(ray_cluster, "sys", SimpleNamespace(path="no list"))
    monkeypatch.setattr(ray_cluster.Owner, "here", lambda: RefusesToBeRead())
    with pool(1) as executor, pytest.raises(MachineError, match="could not be started: 3 ended before they were ready"):
        list(executor.run(JOB, [Task("0", {"do": "who"})]))


class RefusesToBeRead:
    """Pickles, and ends whoever unpickles it."""

    def __reduce__(self):
        return os._exit, (1,)


# A cluster that is gone


def test_a_head_that_does_not_answer_for_a_while_is_given_up(local_ray, monkeypatch):
    session = ray_session.RaySession(None, 2)
    monkeypatch.setattr(ray_session, "_answers", lambda address: False)
    session.check(now=True)
    monkeypatch.setattr(ray_session, "LOST_AFTER_S", 0)
    session.check()  # too soon to look again
    with pytest.raises(MachineError, match=r"head .* does not answer any more.*--executor local"):
        session.check(now=True)


def test_a_machine_that_the_cluster_has_lost_is_given_up(local_ray, monkeypatch):
    session = ray_session.RaySession(None, 2)
    session.check(now=True)
    monkeypatch.setattr(session, "ray", SimpleNamespace(nodes=lambda: [{"NodeID": session._node, "Alive": False}]))
    with pytest.raises(MachineError, match=r"\(raylet\) has died.*--executor local.*goes on from here"):
        session.check(now=True)


def test_a_connection_that_the_program_made_is_left_alone(local_ray):
    with pool(1) as executor:
        list(executor.run(JOB, [Task("0", {"do": "who"})]))
    assert local_ray.is_initialized()


# A cluster that was never there


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("127.0.0.1:1", MachineError, r"no connection to Ray at .*:1 \(no answer within 5 s\).*RAY_AUTH_TOKEN.*local"),
        ("nonsense", UsageError, "'nonsense': expected HOST:PORT"),
        ("host:port", UsageError, "'host:port': expected HOST:PORT"),
        ("ray://host:10001", UsageError, "expected HOST:PORT of the head"),
    ],
)
def test_an_address_that_leads_nowhere_is_told_soon(address, error, message, local_ray):
    with pytest.raises(error, match=message):
        ray_session._head(address)


def test_a_note_of_a_cluster_that_is_gone_is_not_followed(local_ray, monkeypatch):
    services = importlib.import_module("ray._private.services")
    monkeypatch.setattr(services, "canonicalize_bootstrap_address", lambda address: "127.0.0.1:1")
    assert ray_session._head(None) is None
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(MachineError, match="no connection to Ray"):
        ray_session._head(None)


def test_a_missing_package_is_told_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MachineError, match=r"pip install 'sspruning\[ray\]'"):
        RayExecutor(workers=1)
