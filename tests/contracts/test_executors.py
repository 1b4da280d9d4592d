"""Every executor of the table gives each task exactly one outcome, and the same one."""

import importlib.util
import sys
from pathlib import Path

import pytest

from sspruning.errors import ConfigError, ShardError, UsageError
from sspruning.execution import EXECUTORS, StageSpec, Task, make_executor

JOB = "executor_jobs:Job"
PLACES = [(name, workers) for name in sorted(EXECUTORS) for workers in ((1,) if name == "inline" else (1, 2))]


@pytest.fixture(scope="module")
def importable_jobs():
    folder = str(Path(__file__).parent.parent / "execution")
    sys.path.insert(0, folder)
    yield
    sys.path.remove(folder)


@pytest.fixture(scope="module", params=PLACES, ids=lambda place: f"{place[0]}-{place[1]}")
def executor(request, importable_jobs):
    name, workers = request.param
    if name == "ray":
        request.getfixturevalue("local_ray")
    made = make_executor(name, workers)
    yield made
    made.close()


def outcomes(executor, payloads, **kwargs):
    tasks = (Task(str(number), payload) for number, payload in enumerate(payloads))
    found = list(executor.run(StageSpec(JOB, kwargs), tasks))
    assert sorted(outcome.task_id for outcome in found) == sorted(str(number) for number in range(len(payloads)))
    return [outcome for _, outcome in sorted((int(outcome.task_id), outcome) for outcome in found)]


def test_each_task_of_a_generator_has_exactly_one_outcome_with_its_value(executor):
    found = outcomes(executor, [{"do": "square", "x": x} for x in range(25)])
    assert [(o.kind, o.value, o.error, o.attempts) for o in found] == [("ok", x * x, None, 1) for x in range(25)]


def test_no_tasks_give_no_outcomes(executor):
    assert outcomes(executor, []) == []


def test_an_error_of_a_task_is_its_outcome_and_the_others_go_on(executor):
    found = outcomes(executor, [{"do": "square", "x": 3}, {"do": "raise_value_error"}, {"do": "square", "x": 4}])
    assert [o.kind for o in found] == ["ok", "error", "ok"]
    assert type(found[1].error) is ValueError
    assert str(found[1].error) == "a plain mistake"


def test_an_error_of_a_task_is_not_tried_again(executor, tmp_path):
    counter = tmp_path / "counter"
    (found,) = outcomes(executor, [{"do": "count_then_raise", "counter": str(counter)}])
    assert (found.kind, found.attempts, counter.read_text()) == ("error", 1, "x")


def test_a_damaged_shard_keeps_its_path_and_offset(executor):
    (found,) = outcomes(executor, [{"do": "raise_shard_error"}])
    assert type(found.error) is ShardError
    assert (found.error.path, found.error.offset, found.error.problem) == ("a.tar", 512, "cut off")
    assert str(found.error) == "a.tar: at byte 512: cut off"


def test_other_errors_of_the_tree_keep_their_type(executor):
    (found,) = outcomes(executor, [{"do": "raise_config_error"}])
    assert (found.kind, type(found.error), str(found.error)) == ("error", ConfigError, "no such key")


def test_a_time_out_that_a_task_raises_itself_is_an_error_like_any_other(executor):
    (found,) = outcomes(executor, [{"do": "raise_timeout_error"}])
    assert (found.kind, type(found.error)) == ("error", TimeoutError)


def test_a_disk_that_gives_no_answer_is_asked_again(executor, tmp_path):
    counter = tmp_path / "counter"
    (found,) = outcomes(executor, [{"do": "fail_transiently", "times": 1, "counter": str(counter)}])
    assert (found.kind, found.value, counter.read_text()) == ("ok", "in the end", "xx")


def test_a_disk_that_is_broken_is_asked_three_times(executor, tmp_path, monkeypatch):
    if "Inline" not in type(executor).__name__:
        pytest.skip("the pauses can only be cut short in this process")
    monkeypatch.setattr("sspruning.execution.worker.PAUSES_S", (0, 0))
    counter = tmp_path / "counter"
    (found,) = outcomes(executor, [{"do": "fail_transiently", "times": 9, "counter": str(counter)}])
    assert (found.kind, type(found.error), counter.read_text()) == ("error", ShardError, "xxx")


def test_what_cannot_travel_is_an_error_of_its_task_alone(executor):
    if "Inline" in type(executor).__name__:
        pytest.skip("nothing travels here")
    found = outcomes(
        executor,
        [{"do": "square", "x": lambda: 3}, {"do": "hand_back_what_cannot_travel"}, {"do": "square", "x": 2}],
    )
    assert [o.kind for o in found] == ["error", "error", "ok"]


@pytest.mark.parametrize("do", ["raise_fussy", "raise_unreadable"])
def test_an_error_that_cannot_travel_spoils_nothing(executor, do):
    found = outcomes(executor, [{"do": do}, *({"do": "square", "x": x} for x in range(6))])
    assert found[0].kind == "error"
    assert ("4: four" in str(found[0].error)) == (do == "raise_fussy")
    assert [o.value for o in found[1:]] == [0, 1, 4, 9, 16, 25]


def test_a_worker_object_is_built_once_for_each_spec(executor, tmp_path):
    log = tmp_path / "built"
    first = outcomes(executor, [{"do": "who"}] * 12, name="first", log=str(log))
    second = outcomes(executor, [{"do": "who"}] * 12, name="second", log=str(log))
    again = outcomes(executor, [{"do": "who"}] * 12, name="first", log=str(log))
    assert {o.value[1] for o in first + again} == {"first"}
    assert {o.value[1] for o in second} == {"second"}
    built = log.read_text().splitlines()
    assert len(built) == len(set(built)) <= 2 * executor.workers
    assert {f"{pid} {name}" for pid, name in (o.value for o in first + second + again)} == set(built)


def test_tasks_are_taken_from_a_generator_only_as_they_are_needed(executor):
    taken = []

    def tasks():
        for number in range(40):
            taken.append(number)
            yield Task(str(number), {"do": "square", "x": number})

    running = executor.run(StageSpec(JOB), tasks())
    next(running)
    assert len(taken) <= 2 * executor.workers + 1
    assert len(list(running)) == 39


def test_a_run_that_is_left_early_does_not_disturb_the_next(executor):
    running = executor.run(StageSpec(JOB), (Task(str(x), {"do": "square", "x": x}) for x in range(10)))
    next(running)
    running.close()
    assert [o.value for o in outcomes(executor, [{"do": "square", "x": x} for x in range(5)])] == [0, 1, 4, 9, 16]


def test_an_error_of_the_task_source_reaches_the_caller(executor):
    def tasks():
        yield Task("0", {"do": "square", "x": 1})
        raise KeyError("the list of shards is gone")

    with pytest.raises(KeyError, match="list of shards"):
        list(executor.run(StageSpec(JOB), tasks()))


def test_an_unknown_target_is_an_error_of_the_task(executor):
    (found,) = executor.run(StageSpec("executor_jobs:NoSuchThing"), [Task("0", {})])
    assert (found.kind, type(found.error)) == ("error", AttributeError)


def test_closing_twice_is_harmless(importable_jobs):
    for name in sorted(EXECUTORS):
        if name == "ray" and importlib.util.find_spec("ray") is None:
            continue
        made = make_executor(name, 1)
        made.close()
        made.close()


def test_an_unknown_executor_is_refused_with_the_known_names():
    with pytest.raises(UsageError, match=r"'lokal'.*Did you mean 'local'.*inline, local, ray"):
        make_executor("lokal", 1)
