"""DALI's index of a shard names every member's place."""

import pytest

from sspruning.records import OutputSample, OutputShard
from sspruning.stages.check_trainer import check_trainer
from sspruning.trainers.dali import DALI

SHARD = OutputShard(name="shard-000000.tar", n_samples=2, size=10_240, suffixes={})


def index_of(samples):
    return {name: b"".join(pieces).decode() for name, pieces in DALI.shard_files(SHARD, samples)}


@pytest.mark.parametrize("kind", ["captioned", "mixed", "long_names"])
def test_every_member_is_where_the_index_says(folder, kind):
    made = folder(kind)
    found = {}
    for shard in made.output.shards:
        data = (made.path / shard.name).read_bytes()
        head, *lines = (made.path / shard.name).with_suffix(".idx").read_text().splitlines()
        assert head == f"v1.2 {shard.n_samples}"
        for line in lines:
            fields = line.split(" ")
            for suffix, start, size, name in zip(*(fields[at::4] for at in range(4)), strict=True):
                key = name.removesuffix(f".{suffix}")
                found.setdefault(key, {})[suffix] = data[int(start) : int(start) + int(size)]
                assert int(start) % 512 == 0
    assert found == made.content


@pytest.mark.parametrize("kind", ["captioned", "mixed", "blank", "long_names"])
def test_its_own_reader_yields_the_images_byte_by_byte(folder, kind):
    dali = pytest.importorskip("nvidia.dali", reason="nvidia-dali is not installed")
    import numpy as np

    made = folder(kind)
    paths = [str(made.path / shard.name) for shard in made.output.shards]

    @dali.pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def pipeline():
        return dali.fn.readers.webdataset(
            paths=paths,
            index_paths=[path[:-3] + "idx" for path in paths],
            ext=["jpg;png;jpeg;webp"],
            missing_component_behavior="error",
            name="shards",
        )

    made_pipeline = pipeline()
    made_pipeline.build()
    found = [np.array(made_pipeline.run()[0][0]).tobytes() for _ in range(made_pipeline.epoch_size("shards"))]
    images = [data for members in made.content.values() for name, data in members.items() if name not in OTHERS]
    assert sorted(found) == sorted(images)


OTHERS = {"txt", "cls", "json", "meta.json"}


def test_names_with_blanks_get_the_form_that_holds_no_names(folder):
    made = folder("blank")
    assert (made.path / "shard-000000.idx").read_text().startswith("v1.1 14\njpg 512 ")
    [found] = check_trainer(made.path, ["dali"])
    assert found.ok, found
    assert not found.keys_told or found.way == "run"


def test_a_member_whose_suffix_has_a_blank_is_left_out():
    samples = [OutputSample("a", [("jpg", 512, 9), ("my notes", 1536, 4)]), OutputSample("b", [("jpg", 2560, 7)])]
    assert index_of(samples) == {"shard-000000.idx": "v1.2 2\njpg 512 9 a.jpg\njpg 2560 7 b.jpg\n"}


def test_a_shard_with_a_sample_that_could_not_be_named_gets_no_index():
    assert index_of([OutputSample("a", [("my jpg", 512, 9)])]) == {}


def test_an_index_that_points_elsewhere_is_found_out(folder, tmp_path):
    import shutil

    shutil.copytree(folder("captioned").path, tmp_path / "pruned")
    index = tmp_path / "pruned" / "shard-000001.idx"
    index.write_text(index.read_text().replace("jpg 512 ", "jpg 99999744 "))
    [found] = check_trainer(tmp_path / "pruned", ["dali"])
    assert found.ok is False
    assert found.problem
