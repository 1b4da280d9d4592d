"""Selection to shards: orders, sizes, bytes, resumption, refusals."""

import contextlib
import itertools
import shutil

import pytest

from sspruning import api
from sspruning.config import WriteConfig
from sspruning.errors import MachineError, ShardError, StoreError, UsageError
from sspruning.execution import Outcome
from sspruning.stages.verify import verify
from sspruning.stages.write import write
from sspruning.storage.artifacts import SelectionFile


@pytest.fixture
def selection(store, settings):
    api.select(store.path, config=settings())
    return SelectionFile.open(store.path / "selection.parquet")


@pytest.fixture
def do(store, selection, inline, tmp_path):
    """Return ``do(folder, **write settings)``: manifest of the shards in that folder."""

    def run(name="pruned", executor=inline, *, overwrite=False, **config):
        made = WriteConfig(**{"samples_per_shard": 16, **config})
        return write(store, selection, tmp_path / name, made, executor, overwrite=overwrite)

    return run


def keys(small, folder):
    """Keys in output order."""
    return [key for path in sorted(folder.glob("*.tar")) for key in small.members(path)]


def by_key(selection):
    return dict(zip(selection.column("key").tolist(), selection.column("score").tolist(), strict=True))


def kept_in_corpus_order(selection):
    return selection.column("key")[selection.column("kept")].tolist()


def test_corpus_order_is_the_order_of_the_sources(do, selection, small, tmp_path):
    do()
    assert keys(small, tmp_path / "pruned") == kept_in_corpus_order(selection)


@pytest.mark.parametrize(("order", "sign"), [("easy-to-hard", 1), ("hard-to-easy", -1)])
def test_curriculum_orders_follow_the_score(order, sign, do, selection, small, tmp_path):
    do(order=order)
    score = by_key(selection)
    found = [sign * score[key] for key in keys(small, tmp_path / "pruned")]
    assert found == sorted(found)
    assert sorted(keys(small, tmp_path / "pruned")) == sorted(kept_in_corpus_order(selection))


def test_shuffling_is_decided_by_the_seed(do, selection, small, tmp_path):
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        do(name, order="shuffled", seed=seed)
    one, again, two = (keys(small, tmp_path / name) for name in ("one", "again", "two"))
    kept = kept_in_corpus_order(selection)
    assert one == again
    assert small.digests(tmp_path / "one") == small.digests(tmp_path / "again")
    assert sorted(one) == sorted(two) == sorted(kept)
    assert one != two
    assert one != kept


def test_every_order_holds_the_same_samples_byte_for_byte(do, small, tmp_path):
    for order in ("corpus", "shuffled", "easy-to-hard", "hard-to-easy"):
        do(order, order=order)
    found = [
        small.entries(*sorted((tmp_path / order).glob("*.tar")))
        for order in ("corpus", "shuffled", "easy-to-hard", "hard-to-easy")
    ]
    assert found[0] == found[1] == found[2] == found[3]
    source = small.entries(*sorted((tmp_path / "shards").glob("*.tar")))
    assert found[0] == {name: source[name] for name in found[0]}


@pytest.mark.parametrize("most", [1, 5, 41, 42])
def test_files_are_numbered_without_gaps_and_end_as_tar_wants(most, do, small, tmp_path):
    manifest = do(samples_per_shard=most)
    files = sorted((tmp_path / "pruned").glob("*.tar"))
    assert [path.name for path in files] == [f"shard-{i:06d}.tar" for i in range(-(-42 // most))]
    sizes = [len(small.members(path)) for path in files]
    assert sizes == [shard["n_samples"] for shard in manifest.shards]
    assert max(sizes) - min(sizes) <= 1
    for path in files:
        data = path.read_bytes()
        assert len(data) % 10240 == 0
        assert data.endswith(bytes(1024))


@pytest.mark.parametrize("order", ["corpus", "shuffled"])
def test_samples_larger_than_the_copy_buffer_are_copied_in_pieces(order, do, small, tmp_path, monkeypatch):
    do("usual", order=order)
    monkeypatch.setattr("sspruning.stages.write_shard.COPY_BYTES", 1000)
    monkeypatch.setattr("sspruning.stages.write_shard.OPEN_SOURCES", 1)
    do("pieces", order=order)
    assert small.digests(tmp_path / "pieces") == small.digests(tmp_path / "usual")


def test_a_changed_byte_in_a_large_sample_is_found(do, selection, small, tmp_path, monkeypatch):
    monkeypatch.setattr("sspruning.stages.write_shard.COPY_BYTES", 1000)
    key = kept_in_corpus_order(selection)[3]
    target = tmp_path / "shards" / "train-000000.tar"
    small.flip(target, small.offset_of(target, key, "txt"))
    with pytest.raises(ShardError, match="not the ones that were embedded") as caught:
        do()
    assert caught.value.path == str(target)
    assert not list((tmp_path / "pruned").glob("*.tar"))
    assert small.temporaries(tmp_path) == []


@pytest.mark.parametrize("change", ["cut", "grown", "gone"])
def test_a_source_of_another_size_is_named(change, do, small, tmp_path):
    target = tmp_path / "shards" / "train-000000.tar"
    if change == "gone":
        target.unlink()
    else:
        small.cut(target, target.stat().st_size + (10240 if change == "grown" else -10240))
    with pytest.raises(ShardError) as caught:
        do()
    assert caught.value.path == str(target)
    assert not list((tmp_path / "pruned").glob("*.tar"))


class Broken:
    """Runs some tasks inline, then raises."""

    workers = 1

    def __init__(self, inline, after, error):
        self.inline, self.after, self.error = inline, after, error

    def run(self, spec, tasks):
        tasks = iter(tasks)
        yield from self.inline.run(spec, itertools.islice(tasks, self.after))
        raise self.error

    def close(self):
        pass


def test_an_interrupted_write_goes_on_where_it_stopped(do, inline, small, tmp_path):
    do("whole", samples_per_shard=5)
    with pytest.raises(KeyboardInterrupt):
        do(executor=Broken(inline, 4, KeyboardInterrupt()), samples_per_shard=5)
    before = small.stamps(tmp_path / "pruned")
    done = [path for path in before if path.endswith(".tar")]
    assert len(done) == 4
    with pytest.raises(StoreError, match="not finished"):
        verify(tmp_path / "pruned")
    do(samples_per_shard=5)
    after = small.stamps(tmp_path / "pruned")
    assert {path: after[path] for path in done} == {path: before[path] for path in done}
    assert small.digests(tmp_path / "pruned") == small.digests(tmp_path / "whole")


def test_another_plan_after_an_interruption_leaves_nothing_of_the_first(do, inline, small, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        do(executor=Broken(inline, 4, KeyboardInterrupt()), samples_per_shard=5)
    do()
    assert len(list((tmp_path / "pruned").glob("*.tar"))) == 3
    assert verify(tmp_path / "pruned").ok


def test_a_finished_output_is_left_alone(do, small, tmp_path):
    first = do()
    before = small.stamps(tmp_path / "pruned")
    assert do() == first
    assert small.stamps(tmp_path / "pruned") == before


@pytest.mark.parametrize("lost", ["shard-000001.tar", "sizes.json", "_info.json", "shardindex.json"])
def test_what_is_lost_from_an_output_is_written_again(lost, do, small, tmp_path):
    do()
    before = small.digests(tmp_path / "pruned")
    (tmp_path / "pruned" / lost).unlink()
    do()
    assert small.digests(tmp_path / "pruned") == before


def test_a_worker_that_dies_stops_the_write_as_a_machine_error(do, tmp_path):
    class Dead:
        workers = 1

        def run(self, spec, tasks):
            for task in tasks:
                yield Outcome(task.id, "crash", error=RuntimeError("gone"), attempts=3)

    with pytest.raises(MachineError, match="crash"):
        do(executor=Dead())


def test_folders_that_would_suffer_are_refused(do, store, selection, small, tmp_path):
    before = small.stamps(tmp_path / "shards", store.path)
    for name in ("shards", "shards/below", "store", "store/below"):
        for overwrite in (False, True):
            with pytest.raises(UsageError, match=r"the output lies in the (input folder|store)"):
                do(name, overwrite=overwrite)
    assert small.stamps(tmp_path / "shards", store.path) == before


def test_overwrite_removes_what_sspruning_wrote_and_nothing_else(do, small, tmp_path):
    do(samples_per_shard=5)
    (tmp_path / "pruned" / "README.txt").write_text("mine")
    with pytest.raises(UsageError, match="--overwrite"):
        do(samples_per_shard=21)
    do(samples_per_shard=21, overwrite=True)
    names = {path.name for path in (tmp_path / "pruned").iterdir()}
    assert names == {
        "shard-000000.tar",
        "shard-000001.tar",
        "sizes.json",
        "_info.json",
        "shardindex.json",
        ".sspruning",
        "README.txt",
    }


def test_a_selection_of_another_store_is_refused(store, selection, tmp_path, small, settings):
    small.corpus(tmp_path / "others", shards=2)
    api.embed(str(tmp_path / "others"), tmp_path / "second", config=settings("encoder.image_size=9"))
    with pytest.raises(StoreError, match="was not made from the store"):
        api.write(selection.path, tmp_path / "pruned", store=tmp_path / "second")


@pytest.mark.parametrize("change", ["added", "removed", "shortened"])
def test_a_selection_older_than_its_store_is_refused(change, store, selection, tmp_path, small, settings):
    shutil.copy(selection.path, tmp_path / "old.parquet")
    if change == "added":
        small.shard(tmp_path / "shards" / "train-000003.tar", small.samples(3, 20))
    elif change == "removed":
        (tmp_path / "shards" / "train-000002.tar").unlink()
    else:
        small.rewrite(tmp_path / "shards" / "train-000001.tar", lambda content: content.popitem())
    api.embed(str(tmp_path / "shards"), store.path, config=settings())
    with pytest.raises(StoreError, match="sspruning select"):
        api.write(tmp_path / "old.parquet", tmp_path / "pruned", store=store.path)
    assert not list((tmp_path / "pruned").glob("*.tar"))


def test_a_damaged_selection_is_a_data_error(store, selection, tmp_path, small):
    size = selection.path.stat().st_size
    for offset in range(4, size // 2, size // 31):
        small.flip(selection.path, offset)
        with contextlib.suppress(StoreError):
            api.write(selection.path, tmp_path / f"pruned-{offset}", store=store.path)
        small.flip(selection.path, offset)
