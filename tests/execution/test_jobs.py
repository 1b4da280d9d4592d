"""A task on its way: what a worker is asked, and what its death costs."""

from collections import deque

from sspruning.execution import StageSpec, Task, worker
from sspruning.execution.jobs import next_job

SPEC = StageSpec("executor_jobs:Job")


def test_a_task_that_killed_three_workers_is_a_crash_with_the_reason():
    found, again = [], deque()
    job = next_job(SPEC, iter([Task("a", {"do": "who"})]), found)
    for attempt in (2, 3):
        job.died("by signal SIGKILL", again, found)
        job = again.popleft()
        assert (job.attempt, found, len(again)) == (attempt, [], 0)
    job.died("by signal SIGKILL", again, found)
    [outcome] = found
    assert (outcome.task_id, outcome.kind, outcome.attempts, len(again)) == ("a", "crash", 3, 0)
    assert str(outcome.error) == "the worker process ended by signal SIGKILL"


def test_a_worker_knows_when_the_one_before_it_was_found_dead(monkeypatch):
    monkeypatch.setattr(worker, "run_task", lambda spec, task: worker.died_at())
    job, again = next_job(SPEC, iter([Task("a", {})]), []), deque()
    assert job.answered(worker.answer(job.question)).value is None
    job.died("", again, [])
    assert again[0].died_at is not None
    assert again[0].answered(worker.answer(again[0].question)).value == again[0].died_at
    assert job.answered(worker.answer(job.question)).value is None


def test_tasks_that_cannot_travel_are_passed_over_and_found_to_be_errors():
    found = []
    job = next_job(SPEC, iter([Task("a", {"x": lambda: 1}), Task("b", {})]), found)
    assert job.task_id == "b"
    assert [(outcome.task_id, outcome.kind) for outcome in found] == [("a", "error")]
    assert next_job(SPEC, iter([]), found) is None
