"""Which GPUs are in sight, and who gets which; no GPU is needed to know."""

import sys
from pathlib import Path

import pytest

from sspruning.config import default_workers
from sspruning.execution import StageSpec, Task, make_executor
from sspruning.execution.devices import gpus_of_slot, visible_gpus

HERE = Path(__file__).parent


@pytest.fixture
def devices(tmp_path, monkeypatch):
    """A folder of devices with four GPUs, as a container may see them, and what is no GPU."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name in ("nvidia2", "nvidia3", "nvidia6", "nvidia7", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    return tmp_path


def test_gpus_are_counted_not_named_by_their_files(devices):
    assert visible_gpus(devices) == ("0", "1", "2", "3")


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("2", ("2",)),
        ("3, 1", ("3", "1")),
        ("GPU-8932f937,MIG-1a", ("GPU-8932f937", "MIG-1a")),
        ("", ()),
        ("-1", ()),
        ("0,-1,2", ("0",)),
    ],
)
def test_the_environment_says_which_are_in_sight(variable, expected, devices, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert visible_gpus(devices) == expected


def test_a_machine_without_gpus_has_none_whatever_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert visible_gpus(tmp_path) == ()


@pytest.mark.parametrize(
    ("each", "expected"),
    [
        (1, ["0", "1", "2", "0", "1"]),
        (0.5, ["0", "1", "2", "0", "1"]),
        (2, ["0,1", "2,0", "1,2", "0,1", "2,0"]),
        (1.5, ["0,1", "2,0", "1,2", "0,1", "2,0"]),
        (9, ["0,1,2", "0,1,2", "0,1,2", "0,1,2", "0,1,2"]),
    ],
)
def test_slots_take_turns(each, expected):
    assert [",".join(gpus_of_slot(slot, ("0", "1", "2"), each)) for slot in range(5)] == expected


def test_as_many_workers_as_gpus_have_one_each():
    gpus = tuple("abcdefgh")
    assert {gpus_of_slot(slot, gpus, 1) for slot in range(8)} == {(gpu,) for gpu in gpus}


def test_without_gpus_nobody_gets_one():
    assert gpus_of_slot(0, (), 1) == ()


@pytest.mark.parametrize(("device", "expected"), [("auto", 3), ("cuda", 3), ("cuda:1", 1), ("mps", 1)])
def test_one_worker_for_each_gpu_is_the_default(device, expected, monkeypatch):
    monkeypatch.setattr("sspruning.config.visible_gpus", lambda: ("0", "1", "2"))
    assert default_workers(device) == expected


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_one_worker_for_each_core_is_the_default_without_gpus(device, monkeypatch):
    monkeypatch.setattr("sspruning.config.visible_gpus", lambda: ())
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3, 4}, raising=False)
    assert default_workers(device) == 5


def test_each_worker_process_sees_its_own_gpu_and_a_replacement_gets_the_one_that_is_free(monkeypatch, tmp_path):
    monkeypatch.setattr("sspruning.execution.processes.visible_gpus", lambda: ("5", "7"))
    monkeypatch.syspath_prepend(str(HERE))
    seen = {"do": "environment", "names": ["CUDA_VISIBLE_DEVICES"], "seconds": 0.2}
    executor = make_executor("local", 2, gpus_per_worker=None)
    try:
        run = lambda tasks: list(executor.run(StageSpec("executor_jobs:Job"), tasks))  # noqa: E731
        assert {o.value[0] for o in run([Task(str(x), seen) for x in range(2)])} == {"5", "7"}
        run([Task("die", {"do": "die_once", "counter": str(tmp_path / "counter")})])
        assert {o.value[0] for o in run([Task(str(x), seen) for x in range(2)])} == {"5", "7"}
    finally:
        executor.close()


def test_workers_that_need_no_gpu_of_their_own_see_what_the_driver_sees(monkeypatch):
    monkeypatch.setattr("sspruning.execution.processes.visible_gpus", lambda: ("5", "7"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,7")
    monkeypatch.setattr(sys, "path", [str(HERE), *sys.path])
    executor = make_executor("local", 1)
    try:
        [found] = executor.run(
            StageSpec("executor_jobs:Job"), [Task("0", {"do": "environment", "names": ["CUDA_VISIBLE_DEVICES"]})]
        )
    finally:
        executor.close()
    assert found.value == ["4,5,7"]
