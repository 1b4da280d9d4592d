"""Digests notice what was changed after it was written, and nothing is read that did not change."""

import json
import os

import pytest

from sspruning.errors import StoreError
from sspruning.storage import digests
from sspruning.storage.atomic import file_sha256, write_json
from sspruning.storage.digests import (
    damaged,
    damaged_files,
    drop_damaged,
    is_whole,
    list_files,
    listed,
    read_with_digest,
    with_digest,
)


@pytest.fixture
def folder(tmp_path):
    """A folder with a list of two files that is newer than they are."""
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    list_files(tmp_path, [tmp_path / "one", tmp_path / "two"])
    later(tmp_path / "digests.json")
    return tmp_path


def later(path, seconds=5):
    """Move a file's time on, as if it had been written later."""
    at = path.stat().st_mtime_ns + seconds * 10**9
    os.utime(path, ns=(at, at))
    return at


@pytest.fixture
def read(monkeypatch):
    """Names of the files that were hashed."""
    found = []

    def hashed(path):
        found.append(path.name)
        return file_sha256(path)

    monkeypatch.setattr(digests, "file_sha256", hashed)
    return found


def test_what_did_not_change_is_not_read(folder, read):
    assert is_whole(folder)
    list_files(folder, [folder / "one", folder / "two"])
    assert read == []


def test_what_changed_is_read_and_named(folder, read):
    (folder / "one").write_text("oNe")
    later(folder / "one", 60)
    assert damaged_files(folder) == [folder / "one"]
    assert read == ["one"]


def test_what_only_looks_changed_is_read_once(folder, read):
    later(folder / "two", 60)
    assert damaged_files(folder) == []
    assert damaged_files(folder) == []
    assert read == ["two"]


def test_a_sound_file_that_was_touched_hides_no_damage_of_another(folder):
    (folder / "one").write_text("oNe")
    later(folder / "one", 60)
    later(folder / "two", 120)
    assert damaged_files(folder) == damaged_files(folder) == [folder / "one"]


def test_damage_under_an_old_time_shows_in_the_change_time(tmp_path):
    path, voucher = tmp_path / "file", tmp_path / "voucher"
    path.write_text("one")
    voucher.write_text("")
    sha256, before = file_sha256(path), path.stat()
    os.utime(voucher, ns=(before.st_ctime_ns, before.st_ctime_ns))
    path.write_text("oNe")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.utime(voucher, ns=(path.stat().st_ctime_ns - 1,) * 2)
    assert damaged({path: sha256}, voucher) == [path]


def test_damaged_files_are_removed_but_for_those_that_stay(folder):
    for name in ("one", "two"):
        (folder / name).write_text("other")
        later(folder / name, 60)
    assert drop_damaged(folder, keep=[folder / "two"]) == [folder / "one"]
    assert not (folder / "one").exists()
    assert (folder / "two").exists()


@pytest.mark.parametrize("name", ["../mine", "/etc/hostname", "", "a/../../mine"])
def test_a_list_that_names_files_elsewhere_is_refused_and_removes_nothing(name, tmp_path):
    (tmp_path / "mine").write_text("mine")
    folder = tmp_path / "folder"
    folder.mkdir()
    write_json(folder / "digests.json", with_digest({"files": {name: "0" * 64}}))
    os.utime(folder / "digests.json", (0, 0))
    with pytest.raises(StoreError, match="damaged"):
        listed(folder)
    assert drop_damaged(folder) == []
    assert (tmp_path / "mine").exists()


def test_an_object_that_is_not_what_its_digest_says_is_refused_and_one_without_is_read(tmp_path):
    path = tmp_path / "some.json"
    content = with_digest({"a": 1, "b": [0.1, "x"]})
    write_json(path, content)
    assert read_with_digest(path) == content
    path.write_text(json.dumps(content | {"a": 2}))
    with pytest.raises(StoreError, match="its digest is not that of its content"):
        read_with_digest(path)
    path.write_text(json.dumps({"a": 2}))
    assert read_with_digest(path) == {"a": 2}
    path.write_text("[]")
    with pytest.raises(StoreError, match="no JSON object"):
        read_with_digest(path)
