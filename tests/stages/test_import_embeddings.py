"""Embeddings of others: any table, in any order, becomes the parts that an encoder would have made, or says why not."""

import contextlib
import errno
import runpy
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest

from sspruning import api
from sspruning.config import CorpusConfig
from sspruning.errors import DataError, MachineError, StoreError, UsageError
from sspruning.execution.inline import InlineExecutor
from sspruning.execution.processes import ProcessExecutor
from sspruning.stages import embedding_table, import_shard, key_index
from sspruning.stages.embedding_table import open_table
from sspruning.stages.import_embeddings import import_embeddings
from sspruning.storage.store import Store

tables = runpy.run_path(str(Path(__file__).with_name("embedding_bench.py")))
Bench, DIM, KINDS, embeddings, normalised, refused, same_rows, skipped = (
    tables[name] for name in ("Bench", "DIM", "KINDS", "embeddings", "normalised", "refused", "same_rows", "skipped")
)


@pytest.fixture
def bench(tmp_path, content):
    return Bench(tmp_path, content)


# what comes out


@pytest.mark.parametrize("kind", KINDS)
def test_every_sample_gets_the_embedding_of_its_key(kind, bench):
    source, options = bench.table(kind)
    report = bench.load(source, **options)
    assert (report.n_shards, report.n_samples, report.n_embedded, report.done_now) == (3, 60, 60, 3)
    assert report.skipped == report.quarantined == {}
    assert report.notes == bench.progress.said == []
    same_rows(embeddings(Store(bench.folder / "store")), bench.keys, normalised(bench.rows))
    assert not list((bench.folder / "store").rglob(".*"))


def test_all_but_the_embedding_is_what_an_encoder_leaves(bench, store):
    """``store`` was made of the same shards by `embed`."""
    source, options = bench.table()
    bench.load(source, store="imported", **options)
    imported = Store(bench.folder / "imported")
    for theirs, ours in zip(store.records(), imported.records(), strict=True):
        assert (ours.shard_sha256, ours.n_samples, ours.ignored) == (
            theirs.shard_sha256,
            theirs.n_samples,
            theirs.ignored,
        )
        with store.open_part(theirs) as a, imported.open_part(ours) as b:
            assert a.keys() == b.keys()
            for name in ("key_hash", "row", "block_start", "block_end", "image_start", "image_size"):
                np.testing.assert_array_equal(a.column(name), b.column(name))
            np.testing.assert_array_equal(a.digest(), b.digest())
            np.testing.assert_array_equal(a.content(), b.content())
            assert (b.column("defects") == 0).all()
            assert list(a.skipped()) == list(b.skipped())


def test_the_norm_is_the_length_that_a_row_had(bench):
    source, options = bench.table()
    bench.load(source, **options)
    store = Store(bench.folder / "store")
    expected = dict(
        zip(bench.keys, np.linalg.norm(bench.rows.astype(np.float64), axis=1).astype(np.float32), strict=True)
    )
    for record in store.records():
        with store.open_part(record) as part:
            assert part.column("norm").tolist() == [expected[key] for key in list(part.keys())]


def test_nothing_depends_on_batches(bench, monkeypatch):
    source, options = bench.table("parquet")
    bench.load(source, **options)
    for module, name in ((embedding_table, "KEY_ROWS"), (import_shard, "BATCH_ROWS")):
        monkeypatch.setattr(module, name, 7)
    monkeypatch.setattr(embedding_table, "VECTOR_BYTES", 4 * DIM * 5)
    bench.load(source, store="small", **options)
    assert bench.parts("store") == bench.parts("small")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["clip-retrieval", "npz"])
def test_nothing_depends_on_workers(kind, bench):
    source, options = bench.table(kind)
    bench.load(source, **options)
    with contextlib.closing(ProcessExecutor(workers=2)) as executor:
        bench.load(source, store="two", executor=executor, **options)
    assert bench.parts("store") == bench.parts("two")


def test_the_store_can_be_clustered_selected_written_and_verified(bench, settings, small):
    source, options = bench.table("npz")
    bench.load(source, **options)
    found = api.select(bench.folder / "store", output=bench.folder / "pruned", config=settings())
    assert found.manifest.n_kept == 42
    assert len(small.entries(*(bench.folder / "pruned").glob("*.tar"))) > 42
    for folder in ("store", "pruned"):
        assert api.verify(bench.folder / folder).problems == []


# samples and keys without a partner


@pytest.mark.parametrize("kind", KINDS)
def test_samples_that_the_table_lacks_are_skipped_and_its_own_extra_keys_counted(kind, bench):
    keys = [*bench.keys[5:], "stranger/1", "stranger/2"]
    rows = np.concatenate([bench.rows[5:], bench.rows[:2]])
    source, options = bench.table(kind, keys, rows)
    report = bench.load(source, **options)
    assert (report.n_embedded, report.skipped) == (55, {"no_embedding": 5})
    assert report.notes == bench.progress.said == [f"{source}: 2 of 57 keys are in none of the shards; left out"]
    store = Store(bench.folder / "store")
    same_rows(embeddings(store), bench.keys[5:], normalised(bench.rows[5:]))
    assert skipped(store) == dict.fromkeys(bench.keys[:5], "no_embedding")


def test_useless_rows_and_samples_are_skipped_with_their_reason(tmp_path, small):
    content = {
        "good": {"jpg": small.image(1)},
        "no image": {"txt": b"text"},
        "heavy": {"jpg": bytes(100_001)},
        "zero": {"jpg": small.image(2)},
        "nan": {"jpg": small.image(3)},
        "infinite": {"png": small.image(4, "PNG")},
        "not decodable": {"jpg": b"nobody looks"},
        "unknown": {"jpg": small.image(5)},
    }
    small.shard(tmp_path / "shards" / "a.tar", content)
    bench = Bench(tmp_path, content)
    keys = [key for key in content if key != "unknown"]
    rows = np.ones((len(keys), 3), np.float32)
    rows[keys.index("zero")] = 0
    rows[keys.index("nan"), 1] = np.nan
    rows[keys.index("infinite"), 2] = np.inf
    source, options = bench.table("npz", keys, rows)
    report = bench.load(source, config=CorpusConfig(max_member_bytes=100_000), **options)
    store = Store(tmp_path / "store")
    assert set(embeddings(store)) == {"good", "not decodable"}
    assert skipped(store) == {
        "no image": "no_image",
        "heavy": "image_too_large",
        "zero": "zero_embedding",
        "nan": "nonfinite_embedding",
        "infinite": "nonfinite_embedding",
        "unknown": "no_embedding",
    }
    assert report.n_samples == 8
    assert report.notes == []  # keys of skipped samples are no strangers


# again, and again with something changed


def test_a_second_import_does_nothing(bench, small):
    source, options = bench.table("npz")
    bench.load(source, **options)
    before = small.stamps(bench.folder / "store")
    bench.progress.stages.clear()
    report = bench.load(source, **options)
    assert (report.done_now, report.n_embedded) == (0, 60)
    assert "index" not in bench.progress.stages
    assert small.stamps(bench.folder / "store") == before


def test_only_missing_parts_are_made_again(bench, small):
    source, options = bench.table("parquet")
    bench.load(source, **options)
    before = small.stamps(bench.folder / "store" / "parts")
    gone = sorted((bench.folder / "store" / "parts").glob("*.json"))[1]
    gone.unlink()
    assert bench.load(source, **options).done_now == 1
    after = small.stamps(bench.folder / "store" / "parts")
    assert {path for path in before if before[path][1] == after[path][1]} == {
        path for path in before if gone.stem not in path
    }
    assert {path: digest for path, (digest, _) in before.items()} == {
        path: digest for path, (digest, _) in after.items()
    }


def test_a_new_shard_is_added_even_if_the_table_lacks_it(bench, small):
    source, options = bench.table()
    bench.load(source, **options)
    small.shard(bench.folder / "shards" / "new.tar", {"n1": {"jpg": small.image(1)}})
    report = bench.load(source, **options)
    assert (report.done_now, report.n_embedded, report.skipped) == (1, 60, {"no_embedding": 1})


def test_a_damaged_shard_is_put_aside_and_tried_again(bench, small):
    source, options = bench.table()
    shard = bench.folder / "shards" / "train-000001.tar"
    whole = shard.read_bytes()
    small.cut(shard, len(whole) // 2)
    report = bench.load(source, **options)
    assert list(report.quarantined) == ["train-000001"]
    assert report.n_embedded == 40
    shard.write_bytes(whole)
    report = bench.load(source, **options)
    assert (report.quarantined, report.n_embedded, report.done_now) == ({}, 60, 1)


def test_a_store_belongs_to_one_table_and_one_encoder(bench, store):
    source, options = bench.table()
    with pytest.raises(StoreError, match="other settings"):
        bench.load(source, **options)  # made by `embed`
    bench.load(source, store="imported", **options)
    other, options = bench.table(rows=bench.rows + 1, name="other")
    with pytest.raises(StoreError, match="source_sha256"):
        bench.load(other, store="imported", **options)


def test_the_place_and_name_of_a_table_do_not_matter_and_its_keys_do(bench):
    source, options = bench.table()
    bench.load(source, model="resnet", **options)
    moved = bench.folder / "elsewhere.npy"
    shutil.move(source, moved)
    assert bench.load(moved, model="resnet", **options).done_now == 0
    assert Store(bench.folder / "store").settings["encoder"]["model"] == "resnet"
    bench.text([*bench.keys[1:], bench.keys[0]], "table")
    with pytest.raises(StoreError, match="source_sha256"):
        bench.load(moved, model="resnet", **options)


# what is refused


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_that_occurs_twice_is_refused_by_name(kind, bench):
    keys = [*bench.keys[:-2], bench.keys[3], bench.keys[3]]
    source, options = bench.table(kind, keys)
    refused(bench, DataError, source, repr(bench.keys[3]), "occurs 3 times", **options)


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_of_other_shards_is_refused_with_a_key_of_each(kind, bench):
    keys = [f"{key}.jpg" for key in bench.keys]
    source, options = bench.table(kind, keys)
    refused(bench, DataError, source, "no key of these shards", repr(keys[0]), "'part.0/s0-0000'", **options)


def test_embeddings_without_shards_are_refused_with_the_reason(bench):
    source, options = bench.table()
    with pytest.raises(UsageError, match="name those that they were made from"):
        import_embeddings(open_table(source, **options), None, bench.folder / "store", CorpusConfig(), InlineExecutor())


def test_a_full_disk_leaves_no_scratch_and_no_store(bench, monkeypatch):
    def full(path, pieces):
        raise MachineError(f"{path}: {errno.ENOSPC}")

    source, options = bench.table("parquet")
    monkeypatch.setattr(embedding_table, "write_stream", full)
    refused(bench, MachineError, source, str(errno.ENOSPC), **options)


def test_scratch_of_a_killed_import_is_removed_by_the_next(bench):
    source, options = bench.table("npz")
    bench.load(source, **options)
    (bench.folder / "store" / "parts" / "train-000001.json").unlink()
    host = socket.gethostname().replace(".", "-")
    left = bench.folder / "store" / f".vectors.npy.tmp.{host}.{2**22 + 1}.0123abcd"
    left.write_bytes(b"half")
    bench.load(source, **options)
    assert not left.exists()


def test_two_keys_with_one_hash_are_refused(bench, monkeypatch):
    source, options = bench.table()
    monkeypatch.setattr(key_index, "key_hash", len)
    refused(bench, DataError, source, "the same 64-bit hash", **options)
