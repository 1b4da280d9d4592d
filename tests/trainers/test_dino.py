"""DINOv2's reader finds the embedded images by the byte ranges of ``entries.npy``."""

import io
import mmap
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from sspruning.records import Output, OutputSample, OutputShard
from sspruning.stages.check_trainer import check_trainer
from sspruning.trainers.dino import DINO

KINDS = ["captioned", "mixed", "long_names"]


def entries_of(made):
    return np.load(made.path / ".sspruning" / "entries.npy"), np.load(made.path / ".sspruning" / "class-ids.npy")


def image_of(members):
    [image] = [data for suffix, data in members.items() if suffix in {"jpg", "jpeg", "png", "webp"}]
    return image


def pixels(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB")).tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_its_rule_finds_the_embedded_image_of_each_kept_sample_byte_by_byte(folder, kind):
    """Map CLASS_ID.tar, slice, skip the header block: what is left is the image and its padding."""
    made = folder(kind)
    entries, class_ids = entries_of(made)
    images = []
    for entry in entries:
        assert class_ids[entry["class_index"]] == entry["class_id"]
        with (made.path / f"{entry['class_id']}.tar").open("rb") as stream:
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            data = mapped[entry["start_offset"] : entry["end_offset"]][512:]
            mapped.close()
        assert len(data) % 512 == 0
        images.append(data)
    wanted = [image_of(made.content[key]) for key in made.content]
    assert len(images) == len(wanted)
    assert sorted(images) == sorted(image + bytes(-len(image) % 512) for image in wanted)
    assert sorted(map(pixels, images)) == sorted(map(pixels, wanted))


def test_the_tables_have_the_fields_that_its_reader_reads(folder):
    entries, class_ids = entries_of(folder("captioned"))
    assert entries.dtype == np.dtype(
        [
            ("class_index", "<u4"),
            ("class_id", "<U12"),
            ("start_offset", "<u4"),
            ("end_offset", "<u4"),
            ("filename", "<U15"),
        ]
    )
    assert class_ids.tolist() == ["shard-000000", "shard-000001", "shard-000002"]
    assert np.unique(entries["class_index"], return_counts=True)[1].tolist() == [14, 14, 14]
    assert "0/sub/00000.jpg" in entries["filename"] or "1/sub/01000.jpg" in entries["filename"]


@pytest.mark.parametrize("kind", KINDS)
def test_its_own_dataset_decodes_the_same_images(folder, kind):
    loaders = pytest.importorskip("dinov2.data.loaders", reason="dinov2 is not installed")
    made = folder(kind)
    dataset = loaders.make_dataset(
        dataset_str=f"ImageNet22k:root={made.path}:extra={made.path}/.sspruning", transform=np.asarray
    )
    found = [dataset[index][0].tobytes() for index in range(len(dataset))]
    assert sorted(found) == sorted(pixels(image_of(members)) for members in made.content.values())


def test_names_are_cut_so_that_one_long_name_does_not_widen_every_row(folder):
    made = folder("long_names")
    assert entries_of(made)[0].dtype["filename"].itemsize == 4 * 100
    [found] = check_trainer(made.path, ["dino"])
    assert found.ok, found
    assert not found.keys_told


def pieces(tmp_path, shards):
    """Write the working files of some shards, {name: samples}; return their `Output`."""
    output = Output(folder=str(tmp_path), shards=[], image_key=("jpg", "png"))
    for name, samples in shards.items():
        shard = OutputShard(name=name, n_samples=len(samples), size=10_000, suffixes={})
        output.shards.append(shard)
        for path, content in DINO.shard_files(shard, samples):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(b"".join(content))
    return output


def test_the_member_that_was_embedded_is_listed_where_a_sample_has_several_images(tmp_path):
    samples = [
        OutputSample("a", [("png", 512, 100), ("jpg", 1536, 600), ("txt", 3072, 1)]),
        OutputSample("b", [("txt", 4096, 9), ("png", 5120, 512)]),
    ]
    output = pieces(tmp_path, {"shard-000000.tar": samples, "shard-000001.tar": samples[1:]})
    files = {name: b"".join(content) for name, content in DINO.files(output)}
    entries = np.load(io.BytesIO(files[".sspruning/entries.npy"]))
    assert entries.tolist() == [
        (0, "shard-000000", 1024, 2560, "a.jpg"),
        (0, "shard-000000", 4608, 5632, "b.png"),
        (1, "shard-000001", 4608, 5632, "b.png"),
    ]


def test_a_sample_without_an_image_is_left_out_and_told(tmp_path):
    samples = [OutputSample("a", [("txt", 512, 100)]), OutputSample("b", [("jpg", 1536, 512)])]
    output = pieces(tmp_path, {"shard-000000.tar": samples, "shard-000001.tar": samples[:1]})
    entries = np.load(io.BytesIO(b"".join(next(DINO.files(output))[1])))
    assert entries.tolist() == [(0, "shard-000000", 1024, 2048, "b.jpg")]
    told = replace(output, shards=[replace(output.shards[0], suffixes={"jpg": 1, "txt": 1})])
    assert "1 of 2 samples have no image under jpg, png" in DINO.obstacles(told)[0]


def test_a_shard_of_4_gib_is_an_obstacle_and_leaves_no_index_behind(tmp_path):
    samples = [OutputSample("a", [("jpg", 512, 100)])]
    output = pieces(tmp_path, {"shard-000000.tar": samples})
    large = replace(output.shards[0], size=1 << 32)
    assert list(DINO.shard_files(large, samples)) == []
    assert list(DINO.files(replace(output, shards=[large]))) == []
    [obstacle] = DINO.obstacles(replace(output, shards=[large]))
    assert "shard-000000.tar: 4 GiB or larger" in obstacle
    assert "--samples-per-shard" in obstacle


def test_a_folder_that_its_dataset_string_cannot_name_is_an_obstacle(tmp_path):
    output = Output(folder=str(tmp_path / "a=b"), shards=[], image_key=("jpg",))
    assert "cannot hold : or =" in DINO.obstacles(output)[0]


def test_an_image_that_begins_as_gzip_does_is_found_out(folder, tmp_path):
    import shutil

    shutil.copytree(folder("captioned").path, tmp_path / "pruned")
    start = int(entries_of(folder("captioned"))[0][20]["start_offset"]) + 512
    with (tmp_path / "pruned" / "shard-000001.tar").open("r+b") as stream:
        stream.seek(start)
        stream.write(b"\x1f\x8b")
    with pytest.raises(Exception, match="gzip"):
        list(DINO.read_by_rule(replace(folder("captioned").output, folder=str(tmp_path / "pruned"))))
