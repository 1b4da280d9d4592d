"""wids finds samples by number."""

import json

import pytest

from sspruning.stages.check_trainer import check_trainer
from sspruning.trainers.shards import folder_of

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore:String specifications:UserWarning")


@pytest.fixture
def wids():
    return pytest.importorskip("wids", reason="wids is not installed")


def test_the_index_names_the_shards_beside_it(folder):
    index = json.loads((folder("captioned").path / "shardindex.json").read_text())
    assert (index["wids_version"], len(index["shardlist"])) == (1, 3)
    for shard in index["shardlist"]:
        path = folder("captioned").path / shard["url"]
        assert (shard["nsamples"], shard["filesize"]) == (14, path.stat().st_size)


@pytest.mark.parametrize("kind", ["captioned", "mixed"])
def test_members_are_those_of_the_source_byte_by_byte(folder, wids, kind, tmp_path, capsys):
    made = folder(kind)
    dataset = wids.ShardListDataset(
        f"{folder_of(made.output)}/shardindex.json", cache_dir=str(tmp_path), transformations=[]
    )
    found = {}
    for number in range(len(dataset)):
        sample = dataset[number]
        members = {suffix: data.read() for suffix, data in sample.items() if suffix.startswith(".")}
        found[sample["__key__"]] = {suffix[1:].lower(): data for suffix, data in members.items()}
    dataset.close()
    assert found == made.content


def test_names_that_its_tar_reader_cuts_are_found_out(folder, wids):
    [found] = check_trainer(folder("long_names").path, ["wids"])
    assert found.ok is False
    assert found.n_lost


def test_the_check_leaves_nothing_behind(folder, wids, capfd):
    made = folder("captioned")
    before = sorted(path.name for path in made.path.iterdir())
    [found] = check_trainer(made.path, ["wids"])
    assert found.ok, found
    assert sorted(path.name for path in made.path.iterdir()) == before
    assert capfd.readouterr() == ("", "")
