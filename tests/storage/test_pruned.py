"""A folder of pruned shards is read only if it is finished and whole."""

import json

import pytest
from corpora import make_shard

from sspruning.errors import ShardError, StoreError, UsageError
from sspruning.storage.pruned import PrunedFolder


@pytest.fixture
def folder(tmp_path):
    """Return ``folder(**facts)``: a folder with shards of 3 and 2 samples, and its manifest with these facts."""

    def make(**facts):
        shards = [make_shard(tmp_path / "b.tar", range(3)), make_shard(tmp_path / "a.tar", range(3, 5))]
        listed = [
            {"name": path.name, "n_samples": count, "size": path.stat().st_size}
            for path, count in zip(shards, (3, 2), strict=True)
        ]
        content = {"format": "sspruning-output", "format_version": 2, "fingerprint": "f", "shards": listed, **facts}
        (tmp_path / ".sspruning").mkdir(exist_ok=True)
        (tmp_path / ".sspruning" / "manifest.json").write_text(json.dumps(content))
        return tmp_path

    return make


def test_shards_come_in_the_order_of_the_manifest_with_their_samples(folder):
    found = PrunedFolder.open(folder(image_key=["png", "jpg"], shards_fingerprint="s"))
    assert (found.n_samples, found.fingerprint, found.image_key) == (5, "s", ("png", "jpg"))
    assert found.selection == found.path / ".sspruning" / "selection.parquet"
    keys = [[sample.key for _, sample in found.samples(number)] for number in range(2)]
    assert keys == [["000000", "000001", "000002"], ["000003", "000004"]]
    assert [sample.key for _, sample in found.samples(0, 2)] == ["000002"]
    for reader, sample in found.samples(1, 1):
        assert reader.read(sample.members[1].start, sample.members[1].size) == b"4"


def test_an_older_manifest_is_read_and_another_one_is_not(folder):
    assert PrunedFolder.open(folder(format_version=1)).image_key == ()
    for facts in ({"format_version": 3}, {"format": "other"}):
        with pytest.raises(StoreError, match="this release reads 'sspruning-output' 1 and 2"):
            PrunedFolder.open(folder(**facts))


def test_a_manifest_that_makes_no_sense_is_damaged(folder):
    shard = {"name": "b.tar", "n_samples": 3, "size": 1}
    for shards in (None, [{}], [{**shard, "name": "../b.tar"}], [{**shard, "name": 7}], [{**shard, "size": "x"}]):
        with pytest.raises(StoreError, match=r"manifest\.json: damaged"):
            PrunedFolder.open(folder(shards=shards))


def test_a_folder_that_is_not_finished_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        PrunedFolder.open(tmp_path / "none")
    with pytest.raises(UsageError, match="run the same command again"):
        PrunedFolder.open(tmp_path)


def test_a_shard_that_is_gone_or_has_other_samples_is_refused(folder):
    found = PrunedFolder.open(folder())
    make_shard(found.path / "a.tar", range(4))
    with pytest.raises(StoreError, match="has 4 samples, and 2 in the manifest"):
        list(found.samples(1))
    with pytest.raises(StoreError, match=r"a\.tar: missing, or not the"):
        PrunedFolder.open(found.path)
    (found.path / "a.tar").unlink()
    with pytest.raises(ShardError, match=r"a\.tar"):
        list(found.samples(1))
