"""Tasks that share the shards of a store: each does and reports its own; together they leave what one run leaves."""

import json
import threading

import pytest

from sspruning import api
from sspruning.config import CorpusConfig
from sspruning.errors import MachineError, StoreError, UsageError
from sspruning.records import EncoderSpec
from sspruning.stages import finish
from sspruning.stages import shared_corpus as shared_corpus_module
from sspruning.stages.embed import _created, embed
from sspruning.stages.fill import limits_of, store_settings
from sspruning.stages.share import Share
from sspruning.stages.shared_corpus import shared_corpus
from sspruning.stages.status import status
from sspruning.storage.atomic import write_json
from sspruning.storage.corpus import open_corpus
from sspruning.storage.lock import alone_in
from sspruning.storage.store import Store

N = 5


@pytest.fixture(scope="module")
def shards(tmp_path_factory, small):
    """Folder of five shards of eight samples."""
    folder = tmp_path_factory.mktemp("array") / "shards"
    small.corpus(folder, shards=N, count=8)
    return folder


@pytest.fixture
def task(tmp_path, shards, settings):
    """Return ``task(index, count)``: the report of one task's share, embedded into ``store``."""

    def run(index, count, store="store", source=shards, **options):
        config = settings(*options.pop("overrides", []))
        return api.embed(str(source), tmp_path / store, config=config, worker_index=index, num_workers=count, **options)

    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory, shards, settings, small):
    """Digests of the store that one run makes."""
    folder = tmp_path_factory.mktemp("whole") / "store"
    api.embed(str(shards), folder, config=settings())
    return made(folder, small)


def made(store, small):
    """Digests of all that a store holds, without logs and the settings last used and their digest."""
    found = small.digests(store)
    return {name: kind for name, kind in found.items() if not name.startswith(("logs/", "config.yaml", "digests.json"))}


def test_every_task_does_its_share_and_reports_on_it_alone(task, tmp_path):
    first, last = task(0, 3), task(2, 3)
    assert (first.n_shards, first.n_samples, first.n_embedded, first.done_now, first.n_left) == (2, 16, 16, 2, 3)
    assert (last.n_shards, last.n_samples, last.done_now, last.n_left) == (1, 8, 1, 2)
    assert last.notes == ["left to other tasks: 2 shards (train-000001, train-000004)"]
    assert len(Store(tmp_path / "store").shards()) == N
    assert status(tmp_path / "store").pending == ["train-000001", "train-000004"]
    assert not (tmp_path / "store" / "manifest.json").exists()
    assert (task(1, 3).n_left, task(1, 3).done_now) == (0, 0)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_tasks_in_any_order_leave_what_one_run_leaves(order, task, tmp_path, whole, small):
    for index in order:
        task(index, 3)
    assert made(tmp_path / "store", small) == whole


def test_another_number_of_tasks_goes_on_where_the_first_stopped(task, tmp_path, whole, small):
    task(0, 3)
    assert [task(index, 2).done_now for index in range(2)] == [2, 1]
    assert made(tmp_path / "store", small) == whole


def test_a_task_without_shards_is_done(task, tmp_path):
    report = task(6, 7)
    assert (report.n_shards, report.n_samples, report.quarantined) == (0, 0, {})
    assert not (tmp_path / "store" / "store.json").exists()


def test_a_share_without_any_image_is_done_too(tmp_path, task, small):
    small.corpus(tmp_path / "in", shards=1, count=4)
    small.shard(tmp_path / "in" / "x.tar", {"a": {"txt": b"t"}})
    report = task(1, 2, source=tmp_path / "in")
    assert report.skipped == {"no_image": 1}


def test_damage_in_the_own_share_is_reported_and_that_of_others_is_not(tmp_path, task, small):
    small.corpus(tmp_path / "in", shards=3, count=8)
    small.cut(tmp_path / "in" / "train-000001.tar", 4000)
    assert list(task(1, 3, source=tmp_path / "in").quarantined) == ["train-000001"]
    for index in (0, 2):
        report = task(index, 3, source=tmp_path / "in")
        assert (report.quarantined, report.n_embedded) == ({}, 8)
    parts = json.loads((tmp_path / "store" / "manifest.json").read_text())["parts"]
    assert [part["shard_id"] for part in parts] == ["train-000000", "train-000002"]


def test_parts_that_another_task_is_about_to_record_are_left_alone(task, tmp_path):
    task(1, 2)
    parts = tmp_path / "store" / "parts"
    (parts / "train-000001.json").rename(tmp_path / "later.json")
    task(0, 2)
    (tmp_path / "later.json").rename(parts / "train-000001.json")
    assert status(tmp_path / "store").complete


class Together:
    """The inline executor, which is done with its shards when those of all threads are."""

    workers = 1

    def __init__(self, inline, gate):
        self.inline, self.gate = inline, gate

    def run(self, spec, tasks):
        tasks = list(tasks)
        yield from self.inline.run(spec, tasks)
        if "shard" in tasks[0].payload:
            self.gate.wait(30)


def test_tasks_that_end_at_the_same_time_leave_a_manifest_of_everything(shards, tmp_path, inline, whole, small):
    gate, left = threading.Barrier(3), []

    def work(index):
        corpus, executor = open_corpus([str(shards)]), Together(inline, gate)
        spec, share = EncoderSpec(name="pixels"), Share(index, 3)
        left.append(embed(corpus, tmp_path / "store", spec, CorpusConfig(), executor, share=share).n_left)

    crew = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join(60)
    assert left == [0, 0, 0]
    assert made(tmp_path / "store", small) == whole


def test_whoever_writes_an_old_manifest_over_a_new_one_looks_again(task, tmp_path, whole, small, monkeypatch):
    task(0, 2)
    late = Store(tmp_path / "store")

    def write_late():
        content = late.manifest(refresh=True)
        monkeypatch.undo()
        task(1, 2)
        assert made(tmp_path / "store", small) == whole
        write_json(late.path / "manifest.json", content)

    monkeypatch.setattr(late, "write_manifest", write_late)
    finish.record_manifest(late)
    assert made(tmp_path / "store", small) == whole


def test_a_manifest_that_no_task_has_written_is_made_by_the_next_verb(task, tmp_path, settings, whole, small):
    for index in range(2):
        task(index, 2)
    (tmp_path / "store" / "manifest.json").unlink()
    api.cluster(tmp_path / "store", config=settings())
    assert small.digests(tmp_path / "store")["manifest.json"] == whole["manifest.json"]


def test_keys_that_two_shares_have_in_common_are_found_by_the_last_task(tmp_path, task, small):
    own = small.samples(0, 4)
    for name in ("a", "b"):
        small.shard(tmp_path / "in" / f"{name}.tar", own)
    task(0, 2, source=tmp_path / "in")
    for _ in range(2):
        with pytest.raises(UsageError, match=r"keys must be unique.*'part.0/s0-0000' in a and b.*--repeated-keys"):
            task(1, 2, source=tmp_path / "in")
    prefixed = {"source": tmp_path / "in", "store": "other", "overrides": ["corpus.repeated_keys=prefix"]}
    assert [task(index, 2, **prefixed).n_left for index in range(2)] == [1, 0]


def test_a_whole_run_beside_a_live_task_is_refused_and_so_is_the_same_task(task, tmp_path, settings, shards):
    with alone_in(tmp_path / "store", (2, 3)):
        assert task(0, 3).done_now == 2
        assert status(tmp_path / "store").at_work[0].startswith("task 2 of 3: at work (process ")
        with pytest.raises(MachineError, match="task 2 of 3 works here"):
            api.embed(str(shards), tmp_path / "store", config=settings())
        with pytest.raises(MachineError, match="task 2 of 3 works here"):
            api.select(tmp_path / "store", config=settings())
    assert status(tmp_path / "store").at_work == []


def test_a_share_that_is_none_is_refused(task):
    with pytest.raises(UsageError, match="indices are 0 to 1"):
        task(2, 2)


def test_a_task_whose_probe_came_to_another_number_type_takes_that_of_the_store(tmp_path, monkeypatch):
    def described(executor, work):
        dtype = work.kwargs["spec"].dtype.replace("auto", "float32")
        identity = {"encoder": work.kwargs["spec"].name, "dtype": dtype}
        return {"dim": 4, "identity": identity, "notes": []}

    monkeypatch.setattr("sspruning.stages.embed._describe", described)
    limits, spec = limits_of(CorpusConfig()), EncoderSpec(name="x")
    theirs = {"dim": 4, "identity": {"encoder": "x", "dtype": "bfloat16"}}
    Store.create(tmp_path, store_settings(theirs, limits))
    assert _created(tmp_path, spec, spec, limits, None)[1].dtype == "bfloat16"
    other = EncoderSpec(name="y")
    with pytest.raises(StoreError, match="other settings"):
        _created(tmp_path, other, other, limits, None)


def test_a_task_that_finds_the_list_of_shards_looks_at_its_own_only(task, tmp_path, shards, monkeypatch):
    asked = []
    real = shared_corpus_module.open_corpus
    monkeypatch.setattr(shared_corpus_module, "open_corpus", lambda inputs: asked.append(len(inputs)) or real(inputs))
    task(0, 5)
    task(1, 5)
    assert asked == [1, 1]  # the folder, and then one shard
    looked = shared_corpus([str(shards / "*.tar")], tmp_path / "store", Share(2, 5))
    assert looked == real([str(shards)])
    assert asked[2:] == [1]
    assert shared_corpus([str(shards / "train-00000[0-2].tar")], tmp_path / "store", Share(2, 5)).size_bytes < (
        looked.size_bytes
    )


def test_shards_that_change_between_two_arrays_are_done_again_and_listed_as_they_are(tmp_path, task, small):
    small.corpus(tmp_path / "in", shards=3, count=8)
    for index in range(3):
        task(index, 3, source=tmp_path / "in")
    for number in (0, 2):
        small.corpus(tmp_path / "new", shards=3, count=9)
        (tmp_path / "new" / f"train-{number:06d}.tar").replace(tmp_path / "in" / f"train-{number:06d}.tar")
    assert [task(index, 3, source=tmp_path / "in").done_now for index in range(3)] == [1, 0, 1]
    listed = tuple(Store(tmp_path / "store").shards().values())
    assert listed == open_corpus([str(tmp_path / "in")]).shards
    parts = json.loads((tmp_path / "store" / "manifest.json").read_text())["parts"]
    assert [part["n_rows"] for part in parts] == [9, 8, 9]
