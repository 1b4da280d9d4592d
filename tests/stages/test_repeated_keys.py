"""Shards that share keys: refused with the way out, or told apart by the shard's name from the store to the output."""

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

import sspruning
from sspruning import api
from sspruning.config import load_config
from sspruning.errors import StoreError, UsageError
from sspruning.stages.verify import REWRITTEN, verify
from sspruning.storage.artifacts import SelectionFile
from sspruning.storage.samples import KEY_CAP
from sspruning.storage.store import Store

PREFIX = "corpus.repeated_keys=prefix"


@pytest.fixture
def shards(tmp_path, small):
    """``{shard_id: {key: {suffix: bytes}}}`` of two shards with the same keys and one sample of its own each."""
    found = {}
    for number, name in enumerate(("a.v2", "b")):
        content = small.samples(number, 12)
        found[name] = {key.replace(f"s{number}", "s"): own for key, own in content.items()}
        found[name][f"only-{name[0]}"] = {"jpg": small.image(100 + number)}
        small.shard(tmp_path / "shards" / f"{name}.tar", found[name])
    return found


@pytest.fixture
def chosen(settings):
    return lambda *overrides: settings(PREFIX, "cluster.n_clusters=2", *overrides)


@pytest.fixture
def store(shards, tmp_path, chosen):
    api.embed(str(tmp_path / "shards"), tmp_path / "store", config=chosen())
    return Store(tmp_path / "store")


def keys_of(shards):
    return {f"{name}/{key}": own for name, content in shards.items() for key, own in content.items()}


def test_the_refusal_names_the_way_out(shards, tmp_path, settings):
    with pytest.raises(UsageError, match=r"keys must be unique.*--repeated-keys prefix"):
        api.embed(str(tmp_path / "shards"), tmp_path / "store", config=settings())
    assert not (tmp_path / "store").exists()


def test_without_a_preflight_they_are_found_before_shards_are_written(shards, tmp_path, settings):
    chosen = settings("corpus.preflight=false")
    api.embed(str(tmp_path / "shards"), tmp_path / "store", config=chosen)
    with pytest.raises(UsageError, match=r"keys must be unique.*in a\.v2 and b;.*--repeated-keys prefix"):
        api.select(tmp_path / "store", output=tmp_path / "pruned", config=chosen)
    assert not list((tmp_path / "pruned").glob("*.tar"))


def test_keys_of_the_store_begin_with_the_name_of_their_shard(store, shards):
    found = []
    for record in store.records():
        with store.open_part(record) as part:
            found += part.keys()
    assert sorted(found) == sorted(keys_of(shards))
    assert store.settings["key_prefix"] == "shard_id"


def test_the_output_holds_every_sample_under_its_own_key(store, shards, tmp_path, chosen, small):
    api.select(store.path, output=tmp_path / "pruned", config=chosen("select.keep_fraction=0.8"))
    file = SelectionFile.open(store.path / "selection.parquet")
    kept = set(file.column("key")[file.column("kept")].tolist())
    found = [pair for path in sorted((tmp_path / "pruned").glob("*.tar")) for pair in small.members(path).items()]
    assert len(found) == len(kept) == 21
    assert dict(found) == {key: own for key, own in keys_of(shards).items() if key in kept}
    assert file.selection.settings["key_prefix"] == "shard_id"
    assert verify(tmp_path / "pruned").checked[REWRITTEN] == 21


def test_a_changed_source_is_found_by_the_key_with_the_shard_in_front(store, tmp_path, chosen, small):
    api.select(store.path, output=tmp_path / "pruned", config=chosen("select.keep_fraction=1.0"))
    target = tmp_path / "shards" / "b.tar"
    small.flip(target, small.offset_of(target, "only-b", "jpg"))
    report = verify(tmp_path / "pruned")
    assert report.problems == [f"{target}: sample 'b/only-b' differs from its copy in the output"]


def test_a_store_keeps_to_its_way(store, tmp_path, settings, small):
    small.shard(tmp_path / "other" / "c.tar", small.samples(5, 3))
    with pytest.raises(StoreError, match=r"key_prefix: here 'shard_id', asked for None.*--repeated-keys"):
        api.embed(str(tmp_path / "other"), store.path, config=settings())
    api.embed(str(tmp_path / "other"), tmp_path / "plain", config=settings())
    with pytest.raises(StoreError, match=r"key_prefix: here None, asked for 'shard_id'"):
        api.embed(str(tmp_path / "other"), tmp_path / "plain", config=settings(PREFIX))


def test_more_shards_go_into_the_store_in_the_same_way(store, tmp_path, chosen, small):
    before = small.digests(store.path / "parts")
    small.shard(tmp_path / "shards" / "c.tar", {"only-a": {"jpg": small.image(7)}})
    api.embed(str(tmp_path / "shards"), store.path)  # with the settings last used there
    after = small.digests(store.path / "parts")
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 2


def test_a_key_that_grows_too_long_is_skipped(tmp_path, chosen, small):
    key = "/".join(["k" * 127] * (KEY_CAP // 128 - 1)) + "/" + "k" * 125
    content = {key + name: {"jpg": small.image(number)} for number, name in enumerate(["a", "bbb"])}
    small.shard(tmp_path / "shards" / "a.tar", content)
    report = api.embed(str(tmp_path / "shards"), tmp_path / "store", config=chosen())
    assert (report.n_embedded, report.skipped) == (1, {"key_too_long": 1})


def test_a_shard_whose_name_no_key_can_begin_with_is_named(tmp_path, chosen, small):
    small.shard(tmp_path / "shards" / "__a__.tar", small.samples(0, 2))
    with pytest.raises(UsageError, match=r"__a__\.tar: no key can begin with '__a__'"):
        api.embed(str(tmp_path / "shards"), tmp_path / "store", config=chosen())
    assert not (tmp_path / "store").exists()


def test_without_repeated_keys_nothing_of_a_store_changes(tmp_path, settings, content):
    api.embed(str(tmp_path / "shards"), tmp_path / "store", config=settings())
    assert "key_prefix" not in Store(tmp_path / "store").settings
    api.select(tmp_path / "store", config=settings())
    assert b"key_prefix" not in pq.read_schema(tmp_path / "store" / "selection.parquet").metadata[b"sspruning"]


def test_the_setting_is_read_from_a_file(tmp_path):
    (tmp_path / "c.yaml").write_text("corpus: {repeated_keys: prefix}")
    assert load_config(tmp_path / "c.yaml").corpus.repeated_keys == "prefix"


def test_embeddings_made_elsewhere_are_known_by_the_prefixed_keys(store, shards, tmp_path, chosen):
    keys, rows = tmp_path / "keys.txt", tmp_path / "rows.npy"
    found = {key: row for chunk in store.chunks() for key, row in zip(chunk.keys, chunk.embeddings, strict=True)}
    keys.write_text("\n".join(found) + "\n")
    np.save(rows, np.stack(list(found.values())))
    report = sspruning.import_embeddings(rows, str(tmp_path / "shards"), tmp_path / "other", keys=keys, config=chosen())
    assert report.n_embedded == len(found)
    again = Store(tmp_path / "other")
    assert {key for chunk in again.chunks() for key in chunk.keys} == set(found)


def test_evaluation_shards_are_compared_though_they_share_keys(store, shards, tmp_path, chosen):
    shutil.copytree(tmp_path / "shards", tmp_path / "eval")
    found = sspruning.decontaminate(store.path, str(tmp_path / "eval"), threshold=0.999, config=chosen())
    assert found.n_contaminated == store.n_rows
