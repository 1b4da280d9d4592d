"""Energon finds samples by the numbers of ``shard.tar.idx``, and fields by ``.nv-meta``."""

import json
import struct
import tarfile

import pytest
import yaml

from sspruning.stages.check_trainer import check_trainer
from sspruning.trainers.energon import ENERGON

KINDS = ["captioned", "mixed", "long_names"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_are_the_first_header_of_each_sample_and_the_end(folder, kind):
    """What its own preparation writes: offsets as Python's tarfile tells them, headers of long names included."""
    made = folder(kind)
    for shard in made.output.shards:
        wanted, last = [], None
        with tarfile.open(made.path / shard.name) as archive:
            for member in archive:
                key = member.name[: member.name.find(".", member.name.rfind("/") + 1)]
                if key != last:
                    wanted.append(member.offset)
                last = key
            wanted.append(archive.offset)
        data = (made.path / f"{shard.name}.idx").read_bytes()
        assert list(struct.unpack(f"<{len(data) // 8}Q", data)) == wanted


def test_the_description_counts_splits_and_maps(folder):
    meta = folder("captioned").path / ".nv-meta"
    names = [f"shard-{number:06d}.tar" for number in range(3)]
    assert json.loads((meta / ".info.json").read_text()) == {"shard_counts": dict.fromkeys(names, 14)}
    assert yaml.safe_load((meta / ".info.yaml").read_text()) == {"shard_counts": dict.fromkeys(names, 14)}
    assert yaml.safe_load((meta / "split.yaml").read_text()) == {"exclude": [], "split_parts": {"train": names}}
    assert yaml.safe_load((meta / "dataset.yaml").read_text()) == {
        "sample_type": {"__module__": "megatron.energon", "__class__": "CaptioningSample"},
        "field_map": {"image": "jpg,JPG", "caption": "txt"},
    }


def test_samples_that_have_not_all_a_caption_are_images(folder):
    config = yaml.safe_load((folder("mixed").path / ".nv-meta" / "dataset.yaml").read_text())
    assert config["sample_type"]["__class__"] == "ImageSample"
    assert set(config["field_map"]["image"].split(",")) == {"jpeg", "JPEG", "png", "PNG", "webp", "WEBP"}


@pytest.mark.filterwarnings("ignore:'pin_memory' argument:UserWarning")  # a machine without a GPU
@pytest.mark.parametrize("kind", KINDS)
def test_its_training_dataset_yields_each_sample_once(folder, kind):
    pytest.importorskip("megatron.energon", reason="megatron-energon is not installed")
    made = folder(kind)
    assert sorted(ENERGON.read(made.output)) == sorted(made.content)


def test_an_index_of_other_bytes_is_found_out(folder, tmp_path):
    import shutil

    shutil.copytree(folder("captioned").path, tmp_path / "pruned")
    index = tmp_path / "pruned" / "shard-000001.tar.idx"
    numbers = bytearray(index.read_bytes())
    numbers[8:16] = struct.pack("<Q", struct.unpack("<Q", numbers[8:16])[0] + 1024)
    index.write_bytes(numbers)
    [found] = check_trainer(tmp_path / "pruned", ["energon"])
    assert found.ok is False
