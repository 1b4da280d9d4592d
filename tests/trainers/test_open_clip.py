"""open_clip reads pruned shards with captions, and says what it would leave out."""

import json
import shutil

import pytest

from sspruning.stages.check_trainer import check_trainer
from sspruning.trainers.open_clip import OPEN_CLIP

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def needs_open_clip():
    pytest.importorskip("pandas", reason="open_clip's data module imports pandas")
    pytest.importorskip("open_clip_train.data", reason="open_clip_torch is not installed")


def test_the_index_counts_the_samples_of_each_shard(folder):
    sizes = json.loads((folder("captioned").path / "sizes.json").read_text())
    assert sizes == {f"shard-{number:06d}.tar": 14 for number in range(3)}


def test_captions_and_images_are_the_ones_of_the_source(folder, monkeypatch):
    needs_open_clip()
    made = folder("captioned")
    captions = []
    monkeypatch.setattr("sspruning.trainers.open_clip._tokens", lambda text: [captions.append(text) or 0])
    assert list(OPEN_CLIP.read(made.output)) == [""] * 42
    assert sorted(captions) == sorted(members["txt"].decode() for members in made.content.values())


def test_samples_without_a_caption_are_an_obstacle_and_are_not_read(folder):
    made = folder("mixed")
    silent = sum("txt" not in members for members in made.content.values())
    [obstacle] = OPEN_CLIP.obstacles(made.output)
    assert f"{silent} of 42 samples have no .txt" in obstacle
    needs_open_clip()
    [found] = check_trainer(made.path, ["open_clip"])
    assert (found.ok, found.keys_told, found.n_read, found.n_lost) == (False, False, 42 - silent, silent)


def test_an_index_without_a_shard_is_found_out(folder, tmp_path):
    needs_open_clip()
    shutil.copytree(folder("captioned").path, tmp_path / "pruned")
    (tmp_path / "pruned" / "sizes.json").write_text('{"shard-000000.tar": 14, "shard-000001.tar": 14}')
    [found] = check_trainer(tmp_path / "pruned", ["open_clip"])
    assert not found.ok
    assert "KeyError: 'shard-000002.tar'" in found.problem


def test_it_is_not_started_on_members_that_it_would_unpickle(folder):
    made = folder("captioned", "write.rename_suffix={json: meta.pkl}")
    [found] = check_trainer(made.path, ["open_clip"])
    if found.way == "no package":
        pytest.skip(found.problem)
    assert not found.ok
    assert ".meta.pkl" in found.problem


def test_fewer_shards_than_its_workers_are_told_in_the_command(folder):
    assert OPEN_CLIP.command(folder("captioned").output).endswith("--workers 3")
    assert "--workers" not in OPEN_CLIP.command(folder("captioned", "write.samples_per_shard=10").output)
