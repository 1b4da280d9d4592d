"""Hugging Face datasets reads pruned shards whose samples are alike, and says what it makes of others."""

import pytest

from sspruning.stages.check_trainer import check_trainer
from sspruning.trainers.huggingface import HUGGINGFACE
from sspruning.trainers.shards import folder_of, paths_of

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture
def datasets():
    return pytest.importorskip("datasets", reason="datasets is not installed")


def test_members_are_those_of_the_source(folder, datasets, tmp_path):
    made = folder("captioned")
    loaded = datasets.load_dataset(
        "webdataset", data_files=paths_of(made.output), split="train", streaming=True, cache_dir=str(tmp_path)
    ).decode(enable=False)
    found = {
        sample["__key__"]: (sample["jpg"]["bytes"], sample["txt"].encode(), sample["json"]["n"], sample["cls"])
        for sample in loaded
    }
    assert found == {
        key: (members["jpg"], members["txt"], int(members["json"][6:-1]), int(members["cls"]))
        for key, members in made.content.items()
    }


def test_torchtitans_way_of_loading_finds_the_same(folder, datasets, tmp_path):
    made = folder("captioned")
    loaded = datasets.load_dataset(
        folder_of(made.output), data_files={"train": "*.tar"}, split="train", streaming=True, cache_dir=str(tmp_path)
    )
    assert {sample["__key__"] for sample in loaded} == set(made.content)


def test_samples_with_unlike_members_are_an_obstacle(folder, datasets):
    made = folder("mixed")
    images, members = HUGGINGFACE.obstacles(made.output)
    assert "jpeg, png, webp" in images.replace("png, jpeg", "jpeg, png")
    assert "samples differ in their members" in members
    [found] = check_trainer(made.path, ["hf"])
    assert found.ok is False
    assert "don't share the same prefix or the same types" in found.problem


def test_the_cure_of_that_obstacle_cures_it(folder, datasets):
    cure = ["write.rename_suffix={jpeg: jpg, png: jpg, webp: jpg}", "write.members=jpg"]
    made = folder("mixed", *cure)
    assert HUGGINGFACE.obstacles(made.output) == []
    [found] = check_trainer(made.path, ["hf"])
    assert found.ok, found


def test_images_that_become_no_column_are_not_counted_as_read(folder, datasets):
    """The first five samples have the same members, later ones have their image under another suffix."""
    made = folder("late_png")
    [found] = check_trainer(made.path, ["hf"])
    assert found.ok is False
    assert found.problem == ""
    assert found.n_lost == sum("png" in members for members in made.content.values())
    assert "images have the suffixes jpg, png" in found.obstacles[0]
