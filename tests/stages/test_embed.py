"""Shards to store: what is done, what is left alone, what is put aside, and that the counts add up."""

import json

import pytest

from sspruning.config import CorpusConfig
from sspruning.errors import MachineError, ShardError, StoreError, UsageError
from sspruning.execution import Outcome
from sspruning.records import EncoderSpec
from sspruning.stages.embed import embed, estimated_seconds
from sspruning.stages.fill import pending_shards
from sspruning.storage.corpus import open_corpus
from sspruning.storage.store import Store

PIXELS = EncoderSpec(name="pixels")


class Scripted:
    """The inline executor, except for shards whose outcome is given."""

    workers = 1

    def __init__(self, inline, **outcomes):
        self.inline, self.outcomes, self.asked = inline, outcomes, []

    def run(self, spec, tasks):
        for task in tasks:
            self.asked.append(task.id)
            kind = self.outcomes.get(task.id.replace("-", "_"))
            if kind is None:
                yield from self.inline.run(spec, [task])
            else:
                yield Outcome(task.id, kind.get("kind", "error"), error=kind.get("error"), attempts=3)

    def close(self):
        pass


@pytest.fixture
def do(tmp_path, content, inline):
    def run(executor=inline, spec=PIXELS, **options):
        corpus = open_corpus([str(tmp_path / "shards")])
        return embed(corpus, tmp_path / "store", spec, CorpusConfig(), executor, **options)

    return run


def test_every_sample_is_accounted_for(do, tmp_path, content):
    report = do()
    assert (report.n_shards, report.n_samples, report.n_embedded, report.done_now) == (3, 60, 60, 3)
    assert report.skipped == report.quarantined == {}
    keys = [key for chunk in Store(tmp_path / "store").chunks() for key in chunk.keys]
    assert keys == list(content)


def test_a_finished_store_asks_nothing_of_the_workers_and_changes_no_file(do, tmp_path, inline, small):
    do()
    before = small.stamps(tmp_path / "store")
    executor = Scripted(inline)
    assert do(executor).done_now == 0
    assert executor.asked == []
    assert small.stamps(tmp_path / "store") == before


def test_lost_or_damaged_parts_are_made_again_with_the_same_bytes(do, tmp_path, small):
    do()
    parts = tmp_path / "store" / "parts"
    before = small.digests(parts)
    first, second, _ = sorted(parts.glob("*.h5"))
    first.unlink()
    small.cut(second, 100)
    (parts / "train-000002.json").write_text("{}")
    assert do().done_now == 3
    assert small.digests(parts) == before


@pytest.mark.parametrize("name", ["corpus.json", "manifest.json", "request.json"])
@pytest.mark.parametrize("damage", ["lost", "damaged"])
def test_small_files_of_a_store_are_made_again(name, damage, do, tmp_path, small):
    do()
    before = small.digests(tmp_path / "store")
    (tmp_path / "store" / name).unlink() if damage == "lost" else (tmp_path / "store" / name).write_text("{")
    do()
    assert small.digests(tmp_path / "store") == before


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        ({"kind": "crash"}, "died 3 times"),
        ({"kind": "timeout"}, "time limit"),
        ({"error": ShardError("x", 512, "damaged header")}, "at byte 512: damaged header"),
    ],
)
def test_a_shard_that_cannot_be_done_is_put_aside_and_tried_again_next_time(outcome, said, do, tmp_path, inline):
    report = do(Scripted(inline, train_000001=outcome))
    assert said in report.quarantined["train-000001"]
    assert (report.n_embedded, report.done_now) == (40, 2)
    facts = json.loads((tmp_path / "store" / "quarantine" / "train-000001.json").read_text())
    assert facts["path"] == str(tmp_path / "shards" / "train-000001.tar")
    again = do()
    assert (again.n_embedded, again.done_now, again.quarantined) == (60, 1, {})


def test_a_shard_put_aside_no_longer_counts_with_its_old_part(do, tmp_path, inline):
    do()
    (tmp_path / "shards" / "train-000001.tar").touch()
    target = tmp_path / "shards" / "train-000001.tar"
    target.write_bytes(target.read_bytes() + bytes(512))
    report = do(Scripted(inline, train_000001={"error": ShardError(str(target), 0, "damaged")}))
    assert (report.n_embedded, list(report.quarantined)) == (40, ["train-000001"])
    assert [record.shard_id for record in Store(tmp_path / "store").records()] == ["train-000000", "train-000002"]


@pytest.mark.parametrize(("error", "kind"), [(UsageError("no"), UsageError), (ValueError("odd"), MachineError)])
def test_an_error_that_is_not_the_shards_fault_stops_the_job(error, kind, do, inline):
    with pytest.raises(kind):
        do(Scripted(inline, train_000001={"error": error}))


def test_an_encoder_that_cannot_be_built_stops_the_job_before_a_store_is_made(do, tmp_path):
    with pytest.raises(UsageError):
        do(spec=EncoderSpec(name="pixels", model="resnet50"))
    assert not (tmp_path / "store" / "store.json").exists()


def test_other_settings_are_refused_with_what_differs(do):
    do()
    with pytest.raises(StoreError, match="preprocess"):
        do(spec=EncoderSpec(name="pixels", image_size=16))


def test_a_disk_without_room_is_refused_before_work(do, tmp_path, monkeypatch):
    import shutil

    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("sspruning.stages.fill.shutil.disk_usage", lambda _: free)
    with pytest.raises(MachineError, match="free some space"):
        do()
    assert not (tmp_path / "store").exists()


def test_pending_shards_are_those_without_their_part(do, tmp_path, inline):
    corpus = open_corpus([str(tmp_path / "shards")])
    assert pending_shards(tmp_path / "store", corpus) == list(corpus.shards)
    do(Scripted(inline, train_000001={"kind": "crash"}))
    assert [shard.shard_id for shard in pending_shards(tmp_path / "store", corpus)] == ["train-000001"]


def test_the_estimate_uses_the_rate_of_the_last_embedding_here(tmp_path, settings):
    seconds, source = estimated_seconds(tmp_path, 3000, settings("execution.workers=2"))
    assert seconds == pytest.approx(1.0)
    assert "2 cores" in source
    events = [
        {"event": "end", "stage": "embed", "done": 10, "per_second": 5.0},
        {"event": "end", "stage": "embed", "done": 10, "per_second": 50.0},
        {"event": "end", "stage": "embed", "done": 0, "per_second": 0.0},
        {"event": "interrupted", "stage": "embed", "done": 9, "per_second": 9.0},
    ]
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events) + "not json\n")
    seconds, source = estimated_seconds(tmp_path, 3000, settings())
    assert seconds == pytest.approx(60.0)
    assert "last embedding" in source
