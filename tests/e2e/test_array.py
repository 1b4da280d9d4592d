"""Tasks of an array on the command line: flags, variables, exit codes, and verbs that cannot be shared."""

import json

ARRAY = {"ID": 4, "COUNT": 2, "MIN": 3, "MAX": 4, "STEP": 1}
EMBED = ("embed", "shards", "--store", "store", "--encoder", "pixels", "--executor", "inline")


def as_task(monkeypatch):
    """Variables of the second of two tasks."""
    for name, value in ARRAY.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))


def test_the_variables_of_an_array_decide_and_flags_overrule_them(call, corpus, work, monkeypatch):
    as_task(monkeypatch)
    result = call(*EMBED)
    assert "task 2 of 2 (SLURM array): 1 of 3 shards" in result.stderr
    assert "left to other tasks: 2 shards (train-000000, train-000002)" in result.stdout
    assert (work / "store" / "logs" / "events.task-2-of-2.jsonl").exists()
    told = json.loads(call(*EMBED, "--num-workers", 2, "--worker-index", 0, "--json").stdout)
    assert (told["n_shards"], told["done_now"], told["n_left"]) == (2, 2, 0)
    assert "task" not in call(*EMBED, "--num-workers", 1).stderr


def test_a_store_is_unfinished_until_the_last_task_is_done(call, corpus):
    call(*EMBED, "--num-workers", 2, "--worker-index", 1)
    assert "2 shards are not embedded yet: train-000000, train-000002" in call("status", "store", code=4).stderr
    call("select", "store", code=3)
    call(*EMBED, "--num-workers", 2, "--worker-index", 0)
    call("status", "store")


def test_a_damaged_shard_is_told_by_the_task_whose_it_is(call, corpus, work, small):
    small.cut(work / "shards" / "train-000001.tar", 4000)
    call(*EMBED, "--num-workers", 2, "--worker-index", 1, code=3)
    call(*EMBED, "--num-workers", 2, "--worker-index", 0)
    call("status", "store", code=3)


def test_a_dry_run_of_a_task_is_about_its_share(call, corpus, work):
    said = call(*EMBED, "--num-workers", 2, "--worker-index", 1, "--dry-run").stdout
    assert "task 2 of 2: 1 of 3 shards" in said
    assert "samples with an image: 20" in said
    assert not (work / "store").exists()


def test_other_verbs_do_everything_or_nothing(call, corpus, monkeypatch):
    as_task(monkeypatch)
    call("run", "tiny.yaml")
    assert "3 of 3 shards embedded" in call("status", "runs/tiny").stdout
    call("run", "tiny.yaml", "--num-workers", "2", code=2)


def test_contradictions_are_refused_before_any_work(call, corpus, work, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "7")
    assert "SLURM_ARRAY_TASK_COUNT is not" in call(*EMBED, code=2).stderr
    call(*EMBED, "--num-workers", 2, "--worker-index", 2, code=2)
    assert not (work / "store").exists()
