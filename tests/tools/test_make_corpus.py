"""The synthetic corpus: the same bytes every time, and shards that webdataset and sspruning read."""

import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from sspruning.storage.samples import ShardReader

TOOL = Path(__file__).parents[2] / "tools" / "make_corpus.py"


def make(out, *arguments):
    return subprocess.run(
        [sys.executable, str(TOOL), str(out), *map(str, arguments)], capture_output=True, text=True, timeout=120
    )


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def samples(folder):
    """Return key -> {suffix: payload} of every shard in the folder."""
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with ShardReader(str(path)) as reader:
            for sample in reader.samples():
                found[sample.key] = {m.suffix: reader.read(m.start, m.size) for m in sample.members}
    return found


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus") / "shapes"
    done = make(folder, "--samples", 10, "--shards", 3, "--seed", 5)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_sample_has_an_image_a_caption_and_its_facts(corpus):
    found = samples(corpus)

    assert list(found) == [f"{number:08d}" for number in range(10)]
    for members in found.values():
        assert list(members) == ["jpg", "txt", "json"]
        facts = json.loads(members["json"])
        assert members["txt"].decode() == f"a {facts['size']} {facts['colour']} {facts['shape']}"
        assert Image.open(io.BytesIO(members["jpg"])).size == (64, 64)


def test_the_same_arguments_give_the_same_bytes(corpus, tmp_path):
    make(tmp_path, "--samples", 10, "--shards", 3, "--seed", 5)

    assert digests(corpus) == digests(tmp_path)
    assert list(digests(corpus)) == [f"shapes-{number:06d}.tar" for number in range(3)]


def test_a_sample_depends_on_seed_and_number_alone(corpus, tmp_path):
    make(tmp_path / "one", "--samples", 12, "--shards", 1, "--seed", 5)
    make(tmp_path / "other", "--samples", 10, "--shards", 1, "--seed", 6)
    expected = samples(corpus)

    assert expected == {key: value for key, value in samples(tmp_path / "one").items() if key in expected}
    assert samples(tmp_path / "other") != expected


def test_webdataset_groups_it_into_the_same_samples(corpus):
    from webdataset.tariterators import group_by_keys, tar_file_iterator

    keys = []
    for path in sorted(corpus.glob("*.tar")):
        with path.open("rb") as stream:
            members = ({**member, "__url__": str(path)} for member in tar_file_iterator(stream))
            keys += [sample["__key__"] for sample in group_by_keys(members)]

    assert keys == [f"{number:08d}" for number in range(10)]


@pytest.mark.parametrize("arguments", [("--samples", 2, "--shards", 3), ("--samples", 0), ("--shards", 0)])
def test_a_request_without_sense_is_refused(arguments, tmp_path):
    done = make(tmp_path / "none", *arguments)

    assert done.returncode == 2
    assert "samples cannot fill" in done.stderr
    assert not (tmp_path / "none").exists()


def test_a_folder_with_other_shards_is_left_alone(corpus, tmp_path):
    (tmp_path / "train.tar").write_bytes(b"mine")

    done = make(tmp_path, "--samples", 2, "--shards", 1)

    assert done.returncode == 2
    assert "train.tar" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["train.tar"]
