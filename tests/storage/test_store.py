"""A part counts only through its commit record, and only for the shard and the settings that it was made for."""

import hashlib
import json
import os
from dataclasses import astuple, replace

import numpy as np
import pytest
from corpora import make_part

from sspruning.errors import StoreError
from sspruning.fingerprint import canonical_json, fingerprint
from sspruning.records import Scores, ShardRef
from sspruning.storage.artifacts import save_column, score_path
from sspruning.storage.corpus import open_corpus
from sspruning.storage.store import Store

SETTINGS = {"dim": 5, "encoder": {"model": "m", "batch_size": 8}, "image_key": "jpg;png"}


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path / "store", SETTINGS)


@pytest.fixture
def shards(tmp_path):
    """Three different shards, in corpus order."""
    (tmp_path / "in").mkdir()
    for name in "abc":
        (tmp_path / "in" / f"{name}.tar").write_bytes(name.encode() * 1024)
    return open_corpus([str(tmp_path / "in")]).shards


def sha256(shard):
    with open(shard.path, "rb") as stream:  # noqa: PTH123
        return hashlib.file_digest(stream, "sha256").hexdigest()


def commit(store, shard, seed=0, n=7):
    part = replace(make_part(n, seed=seed), attributes={"shard_id": shard.shard_id})
    return store.commit(shard, sha256(shard), part, {"no_key": 2})


@pytest.fixture
def full(store, shards):
    """A store with a part for each of the three shards."""
    store.set_shards(shards)
    for number, shard in enumerate(shards):
        commit(store, shard, seed=number)
    return store


def seen_again(shard):
    stat = os.stat(shard.path)  # noqa: PTH116
    return replace(shard, size=stat.st_size, mtime_ns=stat.st_mtime_ns)


def tree(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def test_a_store_is_made_once_and_opened_after(tmp_path, store):
    content = json.loads((tmp_path / "store" / "store.json").read_text())
    assert content["settings"] == SETTINGS
    assert (content["format"], content["format_version"]) == ("sspruning-store", 2)
    before = tree(tmp_path)
    again = Store.create(tmp_path / "store", dict(reversed(SETTINGS.items())))
    assert again.fingerprint == store.fingerprint == Store(tmp_path / "store").fingerprint == content["fingerprint"]
    assert (again.settings, again.dim) == (SETTINGS, 5)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"dim": 6}, "dim: here 5, asked for 6"),
        ({"image_key": "png;jpg"}, "image_key: here 'jpg;png', asked for 'png;jpg'"),
        ({"new": 1}, "new: here None, asked for 1"),
        ({"encoder": {"model": "other", "batch_size": 8}}, "encoder: here {.*'m'.*}, asked for {.*'other'.*}"),
    ],
)
def test_other_settings_are_refused_and_named(tmp_path, store, change, named):
    before = tree(tmp_path)
    with pytest.raises(StoreError, match=f"{named}.*use another --store folder"):
        Store.create(tmp_path / "store", SETTINGS | change)
    assert tree(tmp_path) == before


def test_what_is_equal_is_not_named_among_the_differences(tmp_path, store):
    with pytest.raises(StoreError) as caught:
        Store.create(tmp_path / "store", SETTINGS | {"dim": 6})
    assert "image_key" not in str(caught.value)


def test_a_folder_without_a_store_says_how_to_make_one(tmp_path):
    with pytest.raises(StoreError, match=r"no store here .*`sspruning embed` makes one"):
        Store(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"format": "sspruning-store", "format_version": 3}', "{"])
def test_a_store_of_another_format_is_refused(tmp_path, store, content):
    (tmp_path / "store" / "store.json").write_text(content)
    with pytest.raises(StoreError, match="store"):
        Store(tmp_path / "store")


def as_version(store, version):
    """Pretend that a release with another format wrote ``store.json``."""
    content = json.loads((store.path / "store.json").read_text()) | {"format_version": version}
    content["fingerprint"] = fingerprint({"format_version": version, "settings": content["settings"]})
    (store.path / "store.json").write_text(canonical_json(content) + "\n")


def test_a_store_of_an_earlier_release_says_to_embed_again_and_how(tmp_path, store):
    as_version(store, 1)
    before = tree(tmp_path)
    message = rf"store format 1, this release reads 2: .*`sspruning embed SHARDS --store {store.path}` again"
    with pytest.raises(StoreError, match=message):
        Store(store.path)
    with pytest.raises(StoreError, match=message):
        Store.create(store.path, SETTINGS)
    assert tree(tmp_path) == before


def test_a_store_of_a_later_release_is_not_called_an_earlier_one(store):
    as_version(store, 3)
    with pytest.raises(StoreError, match="store format 3, this release reads 2; use the release that made it"):
        Store(store.path)


def test_a_committed_part_is_read_back_with_its_record(full, shards):
    records = full.records()
    assert [record.shard_id for record in records] == ["a", "b", "c"]
    assert full.n_rows == 21
    for number, record in enumerate(records):
        part = make_part(seed=number)
        assert record.part_name == f"{record.shard_id}.{record.fingerprint[:16]}.h5"
        assert (record.n_samples, record.n_rows, record.ignored) == (10, 7, {"no_key": 2})
        assert record.skipped == {"no_image": 1, "not_an_image": 1, "truncated": 1}
        image = full.part_path(record).read_bytes()
        assert (record.sha256, record.size) == (hashlib.sha256(image).hexdigest(), len(image))
        with full.open_part(record) as opened:
            assert np.array_equal(opened.embedding(), part.embedding)
        assert full.committed(shards[number]) == record
    assert [astuple(record) for record in Store(full.path).records()] == [astuple(record) for record in records]


def test_two_stores_of_equal_content_are_equal_bytes(full, tmp_path, shards):
    other = Store.create(tmp_path / "other", SETTINGS)
    other.set_shards(shards)
    for number, shard in reversed(list(enumerate(shards))):
        commit(other, shard, seed=number)
    for made in (full, other):
        made.write_manifest()
    assert tree(tmp_path / "other") == tree(full.path)


def test_nothing_is_committed_before_the_record_is_written(store, shards, monkeypatch):
    def stop(path, value):
        raise KeyboardInterrupt

    monkeypatch.setattr("sspruning.storage.store.write_json", stop)
    with pytest.raises(KeyboardInterrupt):
        commit(store, shards[0])
    assert [path.suffix for path in (store.path / "parts").iterdir()] == [".h5"]
    assert store.committed(shards[0]) is None


def test_a_shard_that_was_only_touched_is_hashed_and_needs_no_work(full, shards):
    os.utime(shards[0].path, ns=(1, 1))
    assert full.committed(seen_again(shards[0])) is not None


def test_a_shard_edited_to_the_same_size_is_found_by_its_time(full, shards):
    with open(shards[0].path, "r+b") as stream:  # noqa: PTH123
        stream.write(b"x")
    os.utime(shards[0].path, ns=(1, 1))
    assert full.committed(seen_again(shards[0])) is None


def test_an_edit_that_keeps_size_and_time_is_found_when_inputs_are_verified(full, shards):
    with open(shards[0].path, "r+b") as stream:  # noqa: PTH123
        stream.write(b"x")
    os.utime(shards[0].path, ns=(1, shards[0].mtime_ns))
    assert full.committed(seen_again(shards[0])) is not None
    assert full.committed(seen_again(shards[0]), verify_content=True) is None
    assert full.committed(seen_again(shards[1]), verify_content=True) is not None


def test_another_size_needs_work_without_a_look_at_the_content(full, shards, monkeypatch):
    monkeypatch.setattr("sspruning.storage.store.source_sha256", pytest.fail)
    assert full.committed(replace(shards[0], size=shards[0].size + 512)) is None
    assert full.committed(shards[1]) is not None


def test_a_shard_that_no_one_embedded_needs_work(full):
    assert full.committed(ShardRef("d", "/nowhere/d.tar", 1, 1)) is None


def edit_record(**changes):
    def edit(record):
        content = json.loads(record.read_text())
        record.write_text(json.dumps(content | changes))

    return edit


DAMAGE = {
    "record missing": lambda record, part: record.unlink(),
    "record empty": lambda record, part: record.write_text(""),
    "record cut": lambda record, part: record.write_text(record.read_text()[:50]),
    "record of another kind": lambda record, part: record.write_text("[1]"),
    "record with a key missing": lambda record, part: record.write_text('{"shard_id": "a"}'),
    "record with an unknown key": lambda record, part: edit_record(more=1)(record),
    "record of other settings": lambda record, part: edit_record(fingerprint="0" * 64)(record),
    "record of another shard's content": lambda record, part: edit_record(shard_sha256="0" * 64)(record),
    "record with numbers for text": lambda record, part: edit_record(fingerprint=5)(record),
    "record of another shard": lambda record, part: record.write_bytes(record.with_name("b.json").read_bytes()),
    "part missing": lambda record, part: part.unlink(),
    "part cut": lambda record, part: os.truncate(part, part.stat().st_size - 1),
    "part longer": lambda record, part: part.write_bytes(part.read_bytes() + b"\0"),
    "part under another name": lambda record, part: part.rename(part.with_name("a.0123456789abcdef.h5")),
}


@pytest.mark.parametrize("name", list(DAMAGE))
def test_a_part_with_a_broken_proof_is_pending_and_is_not_used(full, shards, name):
    part = full.part_path(full.records()[0])
    DAMAGE[name](full.path / "parts" / "a.json", part)
    fresh = Store(full.path)
    assert fresh.committed(shards[0]) is None
    assert [record.shard_id for record in fresh.records()] == ["b", "c"]
    commit(fresh, shards[0])
    assert len(fresh.records(refresh=True)) == 3
    fresh.drop_stale_parts(fresh.records(), fresh.shards())
    assert sorted(path.suffix for path in part.parent.iterdir()) == [".h5"] * 3 + [".json"] * 3


def test_a_part_that_contradicts_its_record_is_refused(full):
    record = full.records()[0]
    with (
        pytest.raises(StoreError, match="7 rows, its record says 8"),
        full.open_part(replace(record, n_rows=8)),
    ):
        pass
    full.info["settings"]["dim"] = 6
    with pytest.raises(StoreError), full.open_part(record):
        pass


def test_a_new_content_replaces_the_stale_part_of_this_shard_only(full, shards, tmp_path):
    before = {record.shard_id: record.part_name for record in full.records()}
    with open(shards[0].path, "ab") as stream:  # noqa: PTH123
        stream.write(b"more")
    commit(full, seen_again(shards[0]))
    after = {record.shard_id: record.part_name for record in full.records(refresh=True)}
    assert after["a"] != before["a"]
    assert (after["b"], after["c"]) == (before["b"], before["c"])
    assert sorted(path.name for path in (full.path / "parts").glob("*.h5")) == sorted(after.values())


@pytest.mark.parametrize("name", ["*", "?", "[ab]", "a?", "a"])
def test_a_shard_whose_name_looks_like_a_pattern_removes_no_other_part(full, shards, name):
    commit(full, replace(shards[0], shard_id=name))
    assert len(full.records(refresh=True)) == 3


def test_records_of_shards_that_left_the_corpus_are_left_out_and_return(full, shards):
    everything = full.content_fingerprint()
    full.set_shards(shards[1:])
    assert [record.shard_id for record in full.records()] == ["b", "c"]
    assert list(full.shards()) == ["b", "c"]
    assert full.content_fingerprint() != everything
    full.set_shards(shards)
    assert full.content_fingerprint() == everything


def test_the_corpus_is_read_back_as_it_was_recorded(full, shards):
    assert tuple(Store(full.path).shards().values()) == shards


def test_the_content_fingerprint_follows_the_content_not_the_place(full, tmp_path, shards):
    before = full.content_fingerprint()
    moved = tuple(replace(shard, path=f"/elsewhere/{shard.shard_id}.tar", mtime_ns=1) for shard in shards)
    full.set_shards(moved)
    assert full.content_fingerprint() == before
    with open(shards[1].path, "ab") as stream:  # noqa: PTH123
        stream.write(b"x")
    commit(full, seen_again(shards[1]))
    assert Store(full.path).content_fingerprint() != before


def test_other_settings_give_other_part_fingerprints(store, tmp_path):
    other = Store.create(tmp_path / "other", SETTINGS | {"image_key": "png"})
    assert store.part_fingerprint("0" * 64) != other.part_fingerprint("0" * 64)
    assert store.part_fingerprint("0" * 64) != store.part_fingerprint("1" * 64)


def test_a_quarantined_shard_is_listed_until_it_is_committed(store, shards):
    store.set_shards(shards)
    assert store.quarantined() == {}
    store.quarantine(shards[0], "at byte 5: damaged")
    store.quarantine(shards[2], "cut short")
    assert store.quarantined() == {"a": "at byte 5: damaged", "c": "cut short"}
    commit(store, shards[0])
    assert store.quarantined() == {"c": "cut short"}
    store.set_shards(shards[:2])
    assert store.quarantined() == {}


def test_the_manifest_holds_all_records_and_can_be_made_again(full):
    full.write_manifest()
    first = (full.path / "manifest.json").read_bytes()
    content = json.loads(first)
    assert content["store"] == full.fingerprint
    assert content["parts"] == [json.loads((full.path / "parts" / f"{name}.json").read_text()) for name in "abc"]
    (full.path / "manifest.json").unlink()
    Store(full.path).write_manifest()
    assert (full.path / "manifest.json").read_bytes() == first


@pytest.mark.parametrize("rows", [1, 3, 7, 1000])
def test_chunks_hold_all_rows_in_order_however_many_at_a_time(full, rows):
    chunks = list(full.chunks(rows))
    parts = [make_part(seed=number) for number in range(3)]
    assert max(len(chunk.keys) for chunk in chunks) <= rows
    assert [key for chunk in chunks for key in chunk.keys] == [key for part in parts for key in part.key]
    embeddings = np.concatenate([chunk.embeddings for chunk in chunks])
    assert embeddings.tobytes() == b"".join(part.embedding.tobytes() for part in parts)
    assert all(chunk.scores is None for chunk in chunks)


def test_chunks_carry_the_scores_that_are_asked_for(full, tmp_path):
    for number, name in enumerate("abc"):
        save_column(score_path(tmp_path / "scores", name), np.arange(7, dtype=np.float32) + 10 * number)
    scores = Scores(str(tmp_path / "scores"), "", 21, np.array([21]), "f", "m", {})
    found = np.concatenate([chunk.scores for chunk in full.chunks(3, scores)])
    assert found.tolist() == [10 * number + row for number in range(3) for row in range(7)]


def test_key_hashes_come_part_by_part(full):
    found = [(record.shard_id, hashes.tobytes()) for record, hashes in full.key_hashes()]
    assert found == [(name, make_part(seed=number).key_hash.tobytes()) for number, name in enumerate("abc")]


def test_a_store_without_a_corpus_says_what_is_missing(store):
    with pytest.raises(StoreError, match=r"corpus\.json: missing"):
        store.records()


def spoil(path):
    """Flip a bit of a file's last number or letter but three."""
    data = bytearray(path.read_bytes())
    data[-4] ^= 1
    path.write_bytes(data)


def test_a_damaged_store_json_is_written_again_by_the_settings_that_its_parts_had(full):
    path = full.path / "store.json"
    whole = path.read_bytes()
    spoil(path)
    assert Store.at(full.path) is None
    with pytest.raises(StoreError, match="is damaged; run `sspruning embed`"):
        Store(full.path)
    with pytest.raises(StoreError, match="damaged"):
        Store.create(full.path, SETTINGS | {"dim": 6})
    assert len(Store.create(full.path, SETTINGS).records()) == 3
    assert path.read_bytes() == whole


def test_a_record_that_is_not_what_the_manifest_says_counts_no_more(full, shards):
    full.write_manifest()
    path = full.record_path(shards[0].shard_id)
    path.write_text(path.read_text().replace('"no_key": 2', '"no_key": 3'))
    assert [Store(full.path).committed(shard) is None for shard in shards] == [True, False, False]


def test_a_part_that_was_changed_after_its_record_counts_no_more(full, shards):
    record = full.records()[1]
    part = full.part_path(record)
    spoil(part)
    later = full.record_path(record.shard_id).stat().st_mtime_ns + 10**9
    os.utime(part, ns=(later, later))
    assert [full.committed(shard) is None for shard in shards] == [False, True, False]
    assert full.doubt(record) == "its part is missing or damaged"


def test_a_manifest_that_is_up_to_date_is_left_alone(full):
    full.write_manifest()
    before = (full.path / "manifest.json").stat()
    full.write_manifest()
    assert (full.path / "manifest.json").stat().st_mtime_ns == before.st_mtime_ns
