"""Which shards a task takes: by flags or a scheduler's variables, each shard once, whatever the number of tasks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sspruning.errors import UsageError
from sspruning.records import ShardRef
from sspruning.stages.share import WHOLE, Share, share_of
from sspruning.storage.corpus import Corpus


def array(task, count, first=0, last=None, step=1):
    """Variables of one task of a SLURM array."""
    last = first + (count - 1) * step if last is None else last
    facts = {"ID": task, "COUNT": count, "MIN": first, "MAX": last, "STEP": step}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in facts.items()}


def corpus(n):
    return Corpus(tuple(ShardRef(f"s-{i:03}", f"/s-{i:03}.tar", 1, 1) for i in range(n)))


@given(n=st.integers(0, 40), count=st.integers(1, 50))
def test_every_shard_belongs_to_one_task_and_shares_differ_by_one_shard_at_most(n, count):
    shares = [Share(index, count).of(corpus(n)).shards for index in range(count)]
    assert sorted((shard for own in shares for shard in own), key=lambda s: s.shard_id) == list(corpus(n).shards)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (0, 1)),
        (array(1, 3), (1, 3)),
        (array(5, 3, first=3, step=2), (1, 3)),
        (array(100, 2, first=100), (0, 2)),
        (array(7, 1, first=7), (0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "4"}, (3, 4)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, (0, 1)),
        ({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "8"}, (2, 8)),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, (0, 1)),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "RANK": "5", "WORLD_SIZE": "16"}, (5, 16)),
        ({**array(2, 3), "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "1"}, (2, 3)),
    ],
    ids=str,
)
def test_the_environment_names_the_share(variables, expected):
    found = share_of(variables)
    assert (found.index, found.count) == expected


def test_a_batch_script_that_starts_one_process_does_everything_though_it_has_more_tasks_to_give_away():
    assert share_of({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) == WHOLE


@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_ARRAY_TASK_ID": "1"},
        array("x", 3),
        {**array(1, 3), "SLURM_ARRAY_TASK_COUNT": "many"},
        array(1, 0),
        array(3, 3),
        array(4, 3, first=3, step=2),
        array(0, 3, step=0),
        array(1, 3, last=9),
        {"RANK": "1"},
        {"WORLD_SIZE": "2"},
        {"RANK": "2", "WORLD_SIZE": "2"},
        {"RANK": "-1", "WORLD_SIZE": "2"},
        {"RANK": "one", "WORLD_SIZE": "2"},
        {"SLURM_STEP_NUM_TASKS": "2"},
        {**array(1, 3), "RANK": "1", "WORLD_SIZE": "2"},
        {**array(1, 3), "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"},
    ],
    ids=str,
)
def test_variables_that_make_no_sense_are_refused_with_the_way_out_and_flags_overrule_them(variables):
    with pytest.raises(UsageError, match="--num-workers 1"):
        share_of(variables)
    assert share_of(variables, num_workers=1) == WHOLE
    assert share_of(variables, num_workers=4, worker_index=3) == Share(3, 4)


@pytest.mark.parametrize("flags", [{"num_workers": 2}, {"worker_index": 0}, {"num_workers": 2, "worker_index": 2}])
def test_one_flag_without_the_other_or_an_index_beyond_the_last_is_refused(flags):
    with pytest.raises(UsageError, match=r"--worker-index|--num-workers|indices are 0 to 1"):
        share_of({}, **flags)


def test_people_are_told_whose_share_it_is():
    assert share_of(array(1, 3)).describe(corpus(50)) == "task 2 of 3 (SLURM array): 17 of 50 shards"
    assert Share(1, 3).events == "events.task-2-of-3.jsonl"
    assert WHOLE.events == "events.jsonl"
