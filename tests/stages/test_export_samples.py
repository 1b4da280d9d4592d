"""Exported samples are the kept ones, whole; nothing is written beside the output; what stands there stays."""

import hashlib
import json
import shutil
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from corpora import picture, tar

from sspruning import exchange
from sspruning.config import load_config
from sspruning.errors import DataError, MachineError, ShardError, StoreError, UsageError
from sspruning.stages import export_folder
from sspruning.stages.export_samples import SAMPLE_FORMS, export_samples
from sspruning.storage.pruned import PrunedFolder


@pytest.fixture(scope="module")
def made(tmp_path_factory, small):
    """Shards, store and pruned shards of 60 samples, and ``{key: {suffix: bytes}}`` of the kept ones."""
    from sspruning import api

    root = tmp_path_factory.mktemp("made")
    content = small.corpus(root / "shards")
    quick = ["encoder.name=pixels", "cluster.n_clusters=4", "execution.executor=inline", "write.samples_per_shard=16"]
    config = load_config(None, quick)
    api.embed(str(root / "shards"), root / "store", config=config)
    api.select(root / "store", output=root / "pruned", config=config)
    kept = [key for path in sorted((root / "pruned").glob("*.tar")) for key in small.members(path)]
    assert 0 < len(kept) < 60
    return SimpleNamespace(
        root=root, store=root / "store", pruned=root / "pruned", kept={key: content[key] for key in kept}
    )


@pytest.fixture
def hand_made(tmp_path):
    """Return ``hand_made(files)``: a folder that counts as pruned, with one shard of (name, content) pairs."""

    def make(files, name="hostile"):
        folder = tmp_path / name
        (folder / ".sspruning").mkdir(parents=True)
        shard = folder / "shard-000000.tar"
        shard.write_bytes(tar(files, tarfile.PAX_FORMAT))
        keys = {name.rpartition("/")[0] + name.rpartition("/")[2].partition(".")[0] for name, _ in files}
        facts = {"name": shard.name, "n_samples": len(keys), "size": shard.stat().st_size}
        content = {"format": "sspruning-output", "format_version": 2, "fingerprint": "f", "shards": [facts]}
        (folder / ".sspruning" / "manifest.json").write_text(json.dumps(content))
        return folder

    return make


def files_of(folder):
    """{relative path: bytes} of all files, but for the record of the export."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found.pop(".sspruning-export.json")
    return found


def all_members(kept):
    return {f"{key}.{suffix}": data for key, members in kept.items() for suffix, data in members.items()}


def image_of(members):
    return next((suffix, members[suffix]) for suffix in ("jpg", "png", "jpeg", "webp") if suffix in members)


def images(kept):
    return {f"{key}.{image_of(members)[0]}": image_of(members)[1] for key, members in kept.items()}


# a folder of files


def test_a_folder_has_every_member_of_every_kept_sample_byte_for_byte(made, tmp_path):
    report = exchange.export(made.pruned, "folder", tmp_path / "out")
    wanted = all_members(made.kept)
    assert files_of(tmp_path / "out") == wanted
    assert (report.n_rows, report.n_files, report.n_written) == (len(made.kept), len(wanted), len(wanted))
    assert report.size == sum(map(len, wanted.values()))


def test_images_may_go_alone_or_members_by_name(made, tmp_path):
    exchange.export(made.pruned, "folder", tmp_path / "images", options={"members": "image"})
    assert files_of(tmp_path / "images") == images(made.kept)
    report = exchange.export(made.pruned, "folder", tmp_path / "json", options={"members": "META.JSON; npy"})
    with_json = {f"{key}.meta.json": m["meta.json"] for key, m in made.kept.items() if "meta.json" in m}
    assert files_of(tmp_path / "json") == with_json
    assert report.notes == [f"{len(made.kept) - len(with_json)} samples have no member meta.json or npy, and no file"]


def test_each_shard_may_have_a_folder_of_its_own(made, tmp_path, small):
    exchange.export(made.pruned, "folder", tmp_path / "out", options={"layout": "shard"})
    wanted = {
        f"{path.stem}/{name}": data
        for path in made.pruned.glob("*.tar")
        for name, data in all_members(small.members(path)).items()
    }
    assert files_of(tmp_path / "out") == wanted


def test_a_second_export_writes_nothing_and_an_interrupted_one_goes_on(made, tmp_path, small, monkeypatch):
    out = tmp_path / "out"
    real, calls = export_folder._Files._write, []

    def dies(self, path, reader, member):
        calls.append(path)
        if len(calls) == 30:
            raise KeyboardInterrupt
        real(self, path, reader, member)

    with monkeypatch.context() as patch:
        patch.setattr(export_folder._Files, "_write", dies)
        with pytest.raises(KeyboardInterrupt):
            exchange.export(made.pruned, "folder", out)
    (out / ".file.tmp.elsewhere.1.0").write_bytes(b"left by another machine")
    wanted = all_members(made.kept)
    assert exchange.export(made.pruned, "folder", out).n_written == len(wanted) - 29
    (out / ".file.tmp.elsewhere.1.0").unlink()
    assert files_of(out) == wanted
    before = small.stamps(out, but={".sspruning-export.json"})
    assert exchange.export(made.pruned, "folder", out).n_written == 0
    assert small.stamps(out, but={".sspruning-export.json"}) == before


def test_a_file_that_is_missing_or_cut_is_written_again(made, tmp_path):
    exchange.export(made.pruned, "folder", tmp_path / "out")
    first, second = sorted(all_members(made.kept))[:2]
    (tmp_path / "out" / first).unlink()
    (tmp_path / "out" / second).write_bytes(b"")
    assert exchange.export(made.pruned, "folder", tmp_path / "out").n_written == 2
    assert files_of(tmp_path / "out") == all_members(made.kept)


def test_a_folder_with_something_else_in_it_is_left_alone(made, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    exchange.export(made.pruned, "folder", tmp_path / "out")
    for output, options, problem in (
        ("mine", {}, "no export of sspruning"),
        ("file", {}, "a file stands there"),
        ("out", {"members": "image"}, "other samples or with other options"),
    ):
        with pytest.raises(UsageError, match=problem):
            exchange.export(made.pruned, "folder", tmp_path / output, options=options)
    for output in (made.pruned, made.pruned / "below"):
        with pytest.raises(UsageError, match="lies in the folder of the pruned shards"):
            exchange.export(made.pruned, "folder", output)
    with pytest.raises(UsageError, match="other samples or with other options"):
        exchange.export(made.pruned, "mds", tmp_path / "out")


@pytest.mark.parametrize("key", ["../out-of-it", "a/../../b", "/abs/x", "a//b", "C:/windows", "c:x", "a\\b", "a/./b"])
@pytest.mark.parametrize("layout", ["key", "shard"])
def test_a_key_that_leads_elsewhere_is_refused_by_name(key, layout, hand_made, tmp_path):
    folder = hand_made([("fine/0.jpg", b"1"), (f"{key}.jpg", b"2")])
    with pytest.raises(DataError) as caught:
        exchange.export(folder, "folder", tmp_path / "x" / "out", options={"layout": layout})
    assert repr(key) in str(caught.value)
    written = [path for path in tmp_path.rglob("*") if path.is_file() and folder not in path.parents]
    assert all((tmp_path / "x" / "out") in path.parents for path in written)


def test_names_that_begin_with_a_dot_and_a_slash_are_as_plain_as_others(hand_made, tmp_path):
    exchange.export(hand_made([("./a/0.jpg", b"1"), ("./1.jpg", b"2")]), "folder", tmp_path / "out")
    assert files_of(tmp_path / "out") == {"a/0.jpg": b"1", "1.jpg": b"2"}
    with pytest.raises(DataError, match=r"'0' and '\./0' are written differently"):
        exchange.export(hand_made([("./0.jpg", b"1"), ("0.jpg", b"2")], "mixed"), "folder", tmp_path / "mixed-out")


def test_symbolic_links_in_the_way_are_not_followed(hand_made, tmp_path):
    folder = hand_made([("a/b/0.jpg", b"1"), ("a/1.jpg", b"2")])
    exchange.export(folder, "folder", tmp_path / "out")
    (tmp_path / "elsewhere").mkdir()
    shutil.rmtree(tmp_path / "out" / "a")
    (tmp_path / "out" / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"out/a: is no folder"):
        exchange.export(folder, "folder", tmp_path / "out")
    (tmp_path / "out" / "a").unlink()
    (tmp_path / "out" / "a").mkdir()
    (tmp_path / "out" / "a" / "1.jpg").symlink_to(tmp_path / "elsewhere" / "1.jpg")
    with pytest.raises(DataError, match=r"a/1\.jpg: a folder or a symbolic link"):
        exchange.export(folder, "folder", tmp_path / "out")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_names_that_no_file_can_have_are_refused_by_name(hand_made, tmp_path):
    for number, files in enumerate(([("n" * 300 + ".jpg", b"1")], [("a.jpg", b"1"), ("a.jpg/0.jpg", b"2")])):
        folder = hand_made(files, f"folder{number}")
        with pytest.raises(DataError, match=r"nnnn.*no file can be called so|is no folder"):
            exchange.export(folder, "folder", tmp_path / f"out{number}")


def test_a_crowded_folder_is_pointed_out(made, tmp_path, monkeypatch):
    monkeypatch.setattr(export_folder, "CROWD", 20)
    report = exchange.export(made.pruned, "folder", tmp_path / "out")
    assert "layout=shard" in report.notes[-1]


def test_a_damaged_shard_is_no_shorter_export(made, tmp_path):
    folder = shutil.copytree(made.pruned, tmp_path / "pruned")
    shard = folder / "shard-000001.tar"
    data = bytearray(shard.read_bytes())
    data[:100] = b"x" * 100
    shard.write_bytes(data)
    for form in ("folder", "mds"):
        with pytest.raises(ShardError, match=r"shard-000001\.tar"):
            exchange.export(folder, form, tmp_path / form)
    assert not (tmp_path / "mds").exists()


def test_lightly_reads_the_folder(made, tmp_path):
    lightly = pytest.importorskip("lightly.data", reason="lightly is not installed", exc_type=ImportError)
    for layout in ("key", "shard"):
        exchange.export(made.pruned, "folder", tmp_path / layout, options={"layout": layout})
        dataset = lightly.LightlyDataset(input_dir=str(tmp_path / layout))
        names = {
            name.removeprefix(name.split("/")[0] + "/") if layout == "shard" else name
            for name in dataset.get_filenames()
        }
        assert names == set(images(made.kept))
        assert dataset[0][0].size == (16, 16)


# a list of paths


def listed(path):
    return path.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("layout", ["key", "shard"])
def test_a_list_names_the_images_of_an_exported_folder(layout, made, tmp_path):
    """Of pruned shards, a store, or a selection: in the same order, that of the store."""
    exchange.export(made.pruned, "folder", tmp_path / "out", options={"layout": layout})
    for number, source in enumerate((made.pruned, made.store, made.store / "selection.parquet")):
        output = tmp_path / f"{number}.txt"
        report = exchange.export(source, "filelist", output, options={"root": str(tmp_path / "out")})
        paths = listed(output)
        assert report.n_rows == len(paths) == len(made.kept)
        for path, members in zip(paths, made.kept.values(), strict=True):
            assert Path(path).read_bytes() == image_of(members)[1]


def test_a_list_names_the_images_that_the_shards_were_packed_from(tmp_path, settings, monkeypatch):
    """Also those whose names packing has changed; no second copy is needed."""
    from sspruning import api

    names = ["b/1.JPG", "b/2.v2.png", "b/c/3.jpeg", "4.png", "4.jpg", "b/5.webp"]
    for number, name in enumerate(names):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number, kind="PNG" if name.endswith("png") else "JPEG"))
    api.pack(tmp_path / "photos", tmp_path / "shards")
    config = settings("cluster.n_clusters=1", "select.keep_fraction=1.0")
    api.embed(str(tmp_path / "shards"), tmp_path / "store", config=config)
    api.select(tmp_path / "store", config=config)
    monkeypatch.chdir(tmp_path)
    exchange.export("store", "filelist", "list.txt", options={"root": "photos"})
    assert sorted(listed(tmp_path / "list.txt")) == sorted(str(tmp_path / "photos" / name) for name in names)
    (tmp_path / "photos" / "b" / "2.v2.png").unlink()
    with pytest.raises(DataError, match="no image of the kept sample 'b/2_v2'"):
        exchange.export("store", "filelist", "other.txt", options={"root": "photos"})
    assert not (tmp_path / "other.txt").exists()


def test_a_list_wants_to_know_where_images_lie_and_a_name_of_its_own(made, tmp_path):
    for options, problem in (({}, "root=DIR"), ({"root": str(tmp_path / "none")}, "no such folder")):
        with pytest.raises(UsageError, match=problem):
            exchange.export(made.store, "filelist", tmp_path / "l.txt", options=options)
    (tmp_path / "l.txt").write_text("x")
    given = {"root": str(tmp_path)}
    with pytest.raises(UsageError, match="stands there already"):
        exchange.export(made.store, "filelist", tmp_path / "l.txt", options=given)
    with pytest.raises(UsageError, match=r"must end in \.txt"):
        exchange.export(made.store, "filelist", tmp_path / "l.csv", options=given)
    with pytest.raises(StoreError, match="no selection here"):
        exchange.export(tmp_path, "filelist", tmp_path / "m.txt", options=given)


# MosaicML streaming


@pytest.fixture(scope="module")
def streaming():
    return pytest.importorskip("streaming", reason="mosaicml-streaming is not installed", exc_type=ImportError)


def full(kept):
    """Rows as MDS has them: a column for each suffix, empty where a sample lacks it."""
    suffixes = {suffix for members in kept.values() for suffix in members}
    return {key: {"__key__": key, **dict.fromkeys(suffixes, b""), **members} for key, members in kept.items()}


def test_mds_shards_hold_the_kept_samples_for_the_library_that_reads_them(made, tmp_path, streaming):
    from streaming.base.format import reader_from_json

    report = exchange.export(made.pruned, "mds", tmp_path / "out")
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    rows = []
    for shard in index["shards"]:
        data = (tmp_path / "out" / shard["raw_data"]["basename"]).read_bytes()
        assert shard["raw_data"]["hashes"] == {"sha1": hashlib.sha1(data, usedforsecurity=False).hexdigest()}
        reader = reader_from_json(str(tmp_path / "out"), None, shard)
        rows += [reader[number] for number in range(len(reader))]
    assert {row["__key__"]: row for row in rows} == full(made.kept)
    assert [row["__key__"] for row in rows] == list(made.kept)
    without = sum("meta.json" not in members for members in made.kept.values())
    assert f"{without} samples without .meta.json have it empty" in report.notes
    assert not list(tmp_path.glob(".*"))


def test_a_streaming_dataset_reads_the_folder(made, tmp_path, streaming):
    exchange.export(made.pruned, "mds", tmp_path / "out", options={"size_limit": 1 << 17})
    dataset = streaming.StreamingDataset(local=str(tmp_path / "out"), shuffle=False, batch_size=1)
    assert {row["__key__"]: row for row in dataset} == full(made.kept)


def test_mds_has_equal_bytes_for_equal_samples_and_is_not_written_twice(made, tmp_path, streaming, small):
    exchange.export(made.pruned, "mds", tmp_path / "a")
    exchange.export(made.pruned, "mds", tmp_path / "b")
    assert small.digests(tmp_path / "a") == small.digests(tmp_path / "b")
    before = small.stamps(tmp_path / "a")
    assert exchange.export(made.pruned, "mds", tmp_path / "a").n_written == 0
    assert small.stamps(tmp_path / "a") == before
    with pytest.raises(UsageError, match="other options"):
        exchange.export(made.pruned, "mds", tmp_path / "a", options={"size_limit": 1 << 20})
    (tmp_path / "a" / "shard.00000.mds").unlink()
    with pytest.raises(StoreError, match=r"shard\.00000\.mds: missing"):
        exchange.export(made.pruned, "mds", tmp_path / "a")


def test_a_sample_larger_than_a_shard_makes_no_empty_one(hand_made, tmp_path, streaming):
    folder = hand_made([("0.jpg", bytes(300_000)), ("1.jpg", b"1"), ("2.jpg", bytes(300_000))])
    exchange.export(folder, "mds", tmp_path / "out", options={"size_limit": 100_000})
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert [shard["samples"] for shard in index["shards"]] == [2, 1]


def test_an_interrupted_mds_export_leaves_nothing(made, tmp_path, streaming, monkeypatch):
    real = PrunedFolder.samples

    def dies(self, number, start=0):
        if number == 1 and calls.append(1) is None and len(calls) == 2:  # headers are read before
            raise KeyboardInterrupt
        return real(self, number, start)

    calls = []
    with monkeypatch.context() as patch:
        patch.setattr(PrunedFolder, "samples", dies)
        with pytest.raises(KeyboardInterrupt):
            exchange.export(made.pruned, "mds", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_without_the_library_the_command_that_installs_it_is_named(made, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "streaming", None)
    with pytest.raises(MachineError, match="pip install mosaicml-streaming"):
        exchange.export(made.pruned, "mds", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# asking for it


def test_every_form_is_known_with_its_options(made, tmp_path):
    for form in SAMPLE_FORMS:
        with pytest.raises(UsageError, match="no option 'colour'"):
            exchange.export(made.pruned, form, tmp_path / "out", options={"colour": "red"})
    for options in ({"layout": "tree"}, {"members": " ; "}):
        with pytest.raises(UsageError, match="known: "):
            exchange.export(made.pruned, "folder", tmp_path / "out", options=options)
    with pytest.raises(UsageError, match="size_limit 12"):
        exchange.export(made.pruned, "mds", tmp_path / "out", options={"size_limit": 12})
    with pytest.raises(UsageError, match="no finished pruned shards here"):
        exchange.export(made.store, "folder", tmp_path / "out")
    with pytest.raises(UsageError, match=r"unknown export form 'fodler'\. Did you mean 'folder'"):
        exchange.export(made.pruned, "fodler", tmp_path / "out")


def test_a_selection_goes_out_of_the_pruned_shards_too(made, tmp_path):
    exchange.export(made.pruned, "keys", tmp_path / "keys.txt")
    assert listed(tmp_path / "keys.txt") == list(made.kept)


def test_a_stage_can_be_called_by_itself(made, tmp_path):
    assert export_samples(made.pruned, "folder", tmp_path / "out", options={"members": "cls"}).n_files == len(made.kept)
