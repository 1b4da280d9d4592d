"""Folders to shards: what lands in them, under which keys, and what is refused."""

import os
import sys

import pytest
import webdataset

from sspruning import api
from sspruning.errors import UsageError
from sspruning.stages.pack import pack


@pytest.fixture
def folder(tmp_path, small):
    """Return ``folder(names)``: tmp_path / images with these files; images get pixels, others their own name."""

    def make(*names):
        for number, name in enumerate(names):
            path = tmp_path / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            kind = {".png": "PNG", ".webp": "WEBP", ".gif": "GIF"}.get(path.suffix.lower(), "JPEG")
            is_image = path.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp", ".gif"}
            path.write_bytes(small.image(number, kind) if is_image else name.encode())
        return tmp_path / "images"

    return make


def packed(small, output):
    found = {}
    for path in sorted(output.glob("*.tar")):
        found.update(small.members(path))
    return found


def test_files_travel_byte_for_byte_under_their_relative_paths(folder, tmp_path, small):
    source = folder("a/1.jpg", "a/1.txt", "a/1.json", "a/1.cls", "a/2.PNG", "b/c/3.webp", "4.jpeg")
    report = pack(source, tmp_path / "out")
    found = packed(small, tmp_path / "out")
    assert found == {
        "4": {"jpeg": (source / "4.jpeg").read_bytes()},
        "a/1": {suffix: (source / f"a/1.{suffix}").read_bytes() for suffix in ("jpg", "cls", "json", "txt")},
        "a/2": {"png": (source / "a/2.PNG").read_bytes()},
        "b/c/3": {"webp": (source / "b/c/3.webp").read_bytes()},
    }
    assert (report.n_samples, report.n_files, report.renamed, report.left_out) == (4, 7, 0, 0)
    assert report.shards == ["shard-000000.tar"]


def test_shards_are_balanced_and_numbered(folder, tmp_path, small):
    report = pack(folder(*[f"{i:03d}.jpg" for i in range(25)]), tmp_path / "out", samples_per_shard=10)
    sizes = [len(small.members(tmp_path / "out" / name)) for name in report.shards]
    assert report.shards == ["shard-000000.tar", "shard-000001.tar", "shard-000002.tar"]
    assert sum(sizes) == 25
    assert max(sizes) - min(sizes) <= 1


def test_the_bytes_depend_on_the_files_alone(folder, tmp_path, small):
    source = folder("b/2.jpg", "a/1.jpg", "a/1.txt")
    pack(source, tmp_path / "one")
    for path in source.rglob("*"):
        os.utime(path, (1, 1))
    copy = tmp_path / "copy"
    for path in sorted(source.rglob("*.*"), reverse=True):
        target = copy / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
        target.chmod(0o600)
    pack(copy, tmp_path / "two")
    assert small.digests(tmp_path / "one") == small.digests(tmp_path / "two")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("v1.5.final.jpg", "v1_5_final"),
        ("d.1/x.jpg", "d.1/x"),
        ("__meta__/x.jpg", "meta/x"),
        ("d/__x__.jpg", "d/x"),
        ("____/x.jpg", "_/x"),
        ("__/x.jpg", "_/x"),
        ("d/____.jpg", "d/_"),
        ("ünïcode/日本.jpg", "ünïcode/日本"),
        ("x" * 150 + "/" + "y" * 120 + ".jpg", "x" * 150 + "/" + "y" * 120),
    ],
)
def test_keys_mean_the_same_to_webdataset(name, key, folder, tmp_path, small, settings):
    pack(folder(name, "other.jpg"), tmp_path / "out")
    assert packed(small, tmp_path / "out").keys() == {key, "other"}
    report = api.embed(str(tmp_path / "out"), tmp_path / "store", config=settings())
    assert report.n_embedded == 2


def test_changed_keys_are_counted(folder, tmp_path):
    assert pack(folder("a.1.jpg", "plain.jpg"), tmp_path / "out").renamed == 1


def test_two_images_of_one_name_become_two_samples_with_its_text(folder, tmp_path, small):
    source = folder("a.jpg", "a.png", "a.txt")
    report = pack(source, tmp_path / "out")
    text = (source / "a.txt").read_bytes()
    assert packed(small, tmp_path / "out") == {
        "a_jpg": {"jpg": (source / "a.jpg").read_bytes(), "txt": text},
        "a_png": {"png": (source / "a.png").read_bytes(), "txt": text},
    }
    assert report.renamed == 2


@pytest.mark.parametrize(
    "names",
    [
        ("a.1.jpg", "a_1.jpg"),
        ("a.jpg", "a.png", "a_jpg.jpg"),
        ("a.jpg", "a.JPG"),
        ("a.1.jpg", "a.1.txt", "a_1.txt"),
        ("a.jpg", "a.txt", "a.TXT"),
    ],
)
def test_files_that_would_share_a_place_in_a_sample_are_refused(names, folder, tmp_path):
    with pytest.raises(UsageError, match="rename one of them"):
        pack(folder(*names), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_files_are_left_out_and_counted(folder, tmp_path, small):
    source = folder("a.jpg", "notes.md", ".hidden.jpg", "lonely.txt")
    report = pack(source, tmp_path / "out")
    assert packed(small, tmp_path / "out").keys() == {"a"}
    assert report.left_out == 3


def test_a_list_file_names_images_relative_to_itself(folder, tmp_path, small):
    source = folder("a/1.jpg", "b/2.jpg", "b/3.jpg")
    listed = tmp_path / "list.txt"
    listed.write_text(f"images/a/1.jpg\n\n{source / 'b' / '2.jpg'}\n")
    pack(listed, tmp_path / "out")
    assert packed(small, tmp_path / "out").keys() == {"a/1", "b/2"}


def test_a_list_with_a_missing_image_is_refused(folder, tmp_path):
    folder("a.jpg")
    (tmp_path / "list.txt").write_text("images/a.jpg\nimages/b.jpg\n")
    with pytest.raises(UsageError, match=r"b\.jpg is not a file"):
        pack(tmp_path / "list.txt", tmp_path / "out")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot have such names")
def test_a_name_that_is_not_utf8_is_refused(folder, tmp_path):
    source = folder("a.jpg")
    (source / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"x")
    with pytest.raises(UsageError, match="UTF-8"):
        pack(source, tmp_path / "out")


def test_an_existing_output_is_replaced_only_on_request(folder, tmp_path, small):
    source = folder(*[f"{i}.jpg" for i in range(4)])
    pack(source, tmp_path / "out", samples_per_shard=1)
    before = small.stamps(tmp_path / "out")
    with pytest.raises(UsageError, match="--overwrite"):
        pack(source, tmp_path / "out")
    assert small.stamps(tmp_path / "out") == before
    pack(source, tmp_path / "out", overwrite=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["shard-000000.tar"]


def test_impossible_places_are_refused(folder, tmp_path):
    source = folder("a.jpg")
    with pytest.raises(UsageError, match="input folder"):
        pack(source, source)
    with pytest.raises(UsageError, match="no such folder"):
        pack(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="name a folder"):
        pack(source, tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no images"):
        pack(tmp_path / "empty", tmp_path / "out")


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_what_was_packed(folder, tmp_path):
    source = folder("a/1.jpg", "a/1.cls", "b/2.png")
    pack(source, tmp_path / "out")
    shard = str(tmp_path / "out" / "shard-000000.tar")
    found = {s["__key__"]: s for s in webdataset.WebDataset(shard, shardshuffle=False)}
    assert found.keys() == {"a/1", "b/2"}
    assert found["a/1"]["cls"] == (source / "a/1.cls").read_bytes()
    assert found["b/2"]["png"] == (source / "b/2.png").read_bytes()
