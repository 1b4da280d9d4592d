"""Index files of trainers: from a shard that was read back, named in the manifest, repaired without writing shards."""

import hashlib
import json
import shutil
import socket

import pytest
from fake_trainers import TABLE
from listening import Listening

from sspruning import api
from sspruning.config import WriteConfig
from sspruning.errors import DataError, StoreError, UsageError
from sspruning.stages.sidecars import output_of
from sspruning.stages.verify import verify
from sspruning.stages.write import write
from sspruning.storage.artifacts import SelectionFile
from sspruning.storage.digests import with_digest
from sspruning.storage.samples import ShardReader
from sspruning.storage.store import Store
from sspruning.trainers import TRAINERS


@pytest.fixture(autouse=True)
def fakes(monkeypatch):
    for name, target in TABLE.items():
        monkeypatch.setitem(TRAINERS._table, name, target)


@pytest.fixture(scope="module")
def store(tmp_path_factory, small, settings):
    folder = tmp_path_factory.mktemp("index")
    small.corpus(folder / "shards", shards=2, count=15)
    api.embed(str(folder / "shards"), folder / "store", config=settings())
    api.select(folder / "store", config=settings("select.keep_fraction=0.8"))
    return Store(folder / "store")


@pytest.fixture
def do(store, inline, tmp_path):
    """Return ``do(**write settings)``: manifest of 3 shards in ``tmp_path / "pruned"``."""
    selection = SelectionFile.open(store.path / "selection.parquet")

    def run(progress=None, *, overwrite=False, **config):
        made = WriteConfig(**{"num_shards": 3, "index": ["plain"], **config})
        return write(store, selection, tmp_path / "pruned", made, inline, progress, overwrite=overwrite)

    return run


def manifest_of(folder):
    return json.loads((folder / ".sspruning" / "manifest.json").read_text())


def tars(small, folder):
    return {path: stamp for path, stamp in small.stamps(folder).items() if path.endswith(".tar")}


def test_a_trainer_is_told_what_stands_in_the_shard(do, tmp_path):
    pruned = tmp_path / "pruned"
    do()
    for path in sorted(pruned.glob("*.tar")):
        name, n_samples, size, suffixes, samples = json.loads((pruned / f"plain/index/{path.name}.json").read_text())
        with ShardReader(str(path)) as reader:
            found = list(reader.samples())
        assert (name, n_samples, size) == (path.name, len(found), path.stat().st_size)
        assert samples == [[sample.key, [list(member) for member in sample.members]] for sample in found]
        kinds = [";".join(sorted(sample.suffixes)) for sample in found]
        assert suffixes == {kind: kinds.count(kind) for kind in kinds}


def test_the_output_as_trainers_see_it_is_read_from_the_manifest(do, tmp_path):
    pruned = tmp_path / "pruned"
    manifest = do(rename_suffix={"jpeg": "jpg"})
    found = output_of(pruned)
    assert found.n_samples == manifest.n_kept == 24
    assert found.image_key == ("jpg", "png", "webp")
    image_key, suffixes, counts = json.loads((pruned / "plain/total.json").read_text())
    assert (tuple(image_key), suffixes) == (found.image_key, found.suffixes)
    assert counts == [f"{shard.n_samples}\n" for shard in found.shards]


def test_every_index_file_is_in_the_manifest_and_working_files_are_gone(do, tmp_path):
    pruned = tmp_path / "pruned"
    do(index=["plain", "sharp", "timm"])
    files = manifest_of(pruned)["files"]
    standing = {str(path.relative_to(pruned)) for path in pruned.rglob("*") if path.is_file()}
    left_out = {".sspruning/manifest.json", ".sspruning/sources.json", *(path.name for path in pruned.glob("*.tar"))}
    assert set(files) == standing - left_out
    assert len([name for name in files if name.startswith(("plain/", "sharp/"))]) == 8
    for name, sha256 in files.items():
        assert hashlib.sha256((pruned / name).read_bytes()).hexdigest() == sha256
    assert not (pruned / ".sspruning" / "shards").exists()


@pytest.mark.parametrize("name", ["plain/total.json", "plain/index/shard-000001.tar.json", ".sspruning/config.yaml"])
@pytest.mark.parametrize("change", ["lost", "changed"])
def test_a_lost_or_changed_file_is_repaired_and_no_shard_is_written(name, change, do, small, tmp_path):
    pruned = tmp_path / "pruned"
    do()
    before, shards = small.digests(pruned), tars(small, pruned)
    if change == "lost":
        (pruned / name).unlink()
    else:
        (pruned / name).write_text("# other")
    assert not verify(pruned).ok
    do()
    assert small.digests(pruned) == before
    assert tars(small, pruned) == shards


def test_a_changed_shard_is_written_again_when_index_files_are_repaired(do, small, tmp_path):
    pruned = tmp_path / "pruned"
    do()
    before = small.digests(pruned)
    small.flip(pruned / "shard-000001.tar", 700)
    (pruned / "plain/total.json").unlink()
    do()
    assert small.digests(pruned) == before


def test_other_index_files_replace_the_old_ones_and_no_shard_is_written(do, small, tmp_path):
    pruned = tmp_path / "pruned"
    first = do()
    shards = tars(small, pruned)
    second = do(index=["sharp"])
    assert tars(small, pruned) == shards
    assert not (pruned / "plain").exists()
    assert (pruned / "sharp" / "total.json").exists()
    assert second.fingerprint != first.fingerprint
    assert verify(pruned).ok
    do(index=[])
    assert {path.name for path in pruned.iterdir()} == {".sspruning", *(path.name for path in pruned.glob("*.tar"))}
    assert tars(small, pruned) == shards


def test_a_write_that_stops_among_the_index_files_goes_on_with_others(do, small, tmp_path, monkeypatch):
    pruned = tmp_path / "pruned"
    do(index=["sharp"])
    whole = small.digests(pruned)
    shutil.rmtree(pruned)

    def stop(self, output):
        raise KeyboardInterrupt

    monkeypatch.setattr("fake_trainers.Plain.files", stop)
    with pytest.raises(KeyboardInterrupt):
        do()
    monkeypatch.undo()
    for name, target in TABLE.items():
        monkeypatch.setitem(TRAINERS._table, name, target)
    shards = tars(small, pruned)
    (pruned / "sharp").mkdir()
    host = socket.gethostname().replace(".", "-")
    (pruned / "sharp" / f".total.json.tmp.{host}.99999999.00000000").write_text("of a killed run")
    do(index=["sharp"])
    assert tars(small, pruned) == shards
    assert small.digests(pruned) == whole


def test_a_file_outside_of_the_output_is_refused(do, tmp_path):
    with pytest.raises(StoreError, match=r"'\.\./stray\.json'"):
        do(index=["stray"])
    assert not (tmp_path / "stray.json").exists()


def test_people_are_told_of_unlike_members_and_of_what_trainers_would_miss(do):
    heard = Listening()
    do(heard, index=["plain", "sharp"])
    unlike, obstacle = heard.said
    assert "samples have not all the same members" in unlike
    assert "--members" in unlike
    assert obstacle == "Plain: 24 samples are too plain: write with --sharp"
    again = Listening()
    do(again, index=["plain", "sharp"])
    assert again.said == []


def test_the_note_on_unlike_members_names_those_that_all_have(tmp_path, small, settings, inline):
    image = small.image(1)
    small.shard(
        tmp_path / "in" / "a.tar", {"x": {"jpg": image, "txt": b"t"}, "y": {"jpg": image, "txt": b"t", "a": b"1"}}
    )
    api.embed(str(tmp_path / "in"), tmp_path / "store", config=settings())
    heard = Listening()
    chosen = settings("select.keep_fraction=1.0", "cluster.n_clusters=1", "write.index=[]")
    api.select(tmp_path / "store", output=tmp_path / "pruned", config=chosen, progress=heard)
    (note,) = [text for text in heard.said if "members" in text]
    assert "1 with jpg;txt" in note
    assert "--members 'jpg;txt'" in note


def test_more_and_smaller_shards_are_made_where_so_many_are_needed(do, tmp_path):
    heard = Listening()
    manifest = do(heard, num_shards=None, min_shards=5, index=[])
    assert [shard["n_samples"] for shard in manifest.shards] == [4, 5, 5, 5, 5]
    assert heard.said[0] == "5 shards of about 4 samples instead of 1, as write.min_shards asks"
    with pytest.raises(UsageError, match="25 shards are asked for but 24 samples are kept"):
        do(num_shards=25, overwrite=True)


def save_manifest(folder, content):
    (folder / ".sspruning" / "manifest.json").write_text(json.dumps(with_digest(content)))


def earlier_release(folder):
    """Make an output look like one of format version 1."""
    save_manifest(folder, {**manifest_of(folder), "format_version": 1})


def test_an_output_of_an_earlier_release_is_refused_and_can_be_replaced(do, tmp_path):
    pruned = tmp_path / "pruned"
    do()
    earlier_release(pruned)
    for look in (output_of, verify):
        with pytest.raises(StoreError, match=r"output format 1, this release reads 2.*--overwrite"):
            look(pruned)
    with pytest.raises(UsageError, match=r"another release wrote.*--overwrite"):
        do()
    do(overwrite=True)
    assert verify(pruned).ok


@pytest.mark.parametrize("name", ["../outside.txt", "/outside.txt", ""])
def test_a_manifest_that_names_files_elsewhere_removes_nothing(name, do, small, tmp_path):
    pruned = tmp_path / "pruned"
    (tmp_path / "outside.txt").write_text("mine")
    do()
    content = manifest_of(pruned)
    content["files"][name] = "0" * 64
    save_manifest(pruned, {**content, "shards_fingerprint": "0" * 64})
    before = small.digests(tmp_path)
    with pytest.raises(StoreError, match="would lie outside"):
        do(overwrite=True)
    assert small.digests(tmp_path) == before


@pytest.mark.parametrize("key", ["files", "image_key", "shards", "write"])
def test_a_manifest_without_a_key_is_damaged(key, do, tmp_path):
    do()
    content = manifest_of(tmp_path / "pruned")
    del content[key]
    save_manifest(tmp_path / "pruned", content)
    with pytest.raises(StoreError, match=f"without {key}"):
        output_of(tmp_path / "pruned")


def test_a_shard_that_does_not_read_back_as_planned_is_removed_and_named(tmp_path, small, settings, monkeypatch):
    monkeypatch.setattr("sspruning.stages.write.refuse_repeated_rows", lambda store: None)
    image = small.image(1)
    small.shard(tmp_path / "in" / "a.tar", {"x": {"jpg": image}, "same": {"jpg": image}})
    small.shard(tmp_path / "in" / "b.tar", {"same": {"png": small.image(2, "PNG")}, "y": {"jpg": image}})
    chosen = settings("corpus.preflight=false", "select.keep_fraction=1.0", "cluster.n_clusters=1")
    api.embed(str(tmp_path / "in"), tmp_path / "store", config=chosen)
    with pytest.raises(DataError, match=r"with 4 samples, but reads back with 3 samples.*--repeated-keys prefix"):
        api.select(tmp_path / "store", output=tmp_path / "pruned", config=chosen)
    assert not list((tmp_path / "pruned").glob("*.tar"))
