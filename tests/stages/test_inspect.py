"""What `inspect` counts, without decoding."""

import pytest

from sspruning.errors import UsageError
from sspruning.stages.inspect import inspect_corpus, key_hash, refuse_repeated_keys
from sspruning.storage.corpus import open_corpus

IMAGES = ("jpg", "png", "jpeg", "webp")


@pytest.fixture
def look(tmp_path):
    return lambda suffixes=IMAGES: inspect_corpus(open_corpus([str(tmp_path / "shards")]), suffixes)


def test_samples_suffixes_and_bytes_are_counted(content, look):
    found = look()
    assert (found.n_shards, found.n_samples, found.without_image) == (3, 60, 0)
    for suffix in ("jpg", "cls", "txt", "meta.json"):
        own = [members[suffix] for members in content.values() if suffix in members]
        assert found.suffixes[suffix] == len(own)
        assert found.suffix_bytes[suffix] == sum(map(len, own))
    assert sum(found.sample_kinds.values()) == 60
    assert found.sample_kinds["jpg+cls+txt"] == sum(tuple(m) == ("jpg", "cls", "txt") for m in content.values())
    assert not found.problems
    assert not found.repeated_keys


def test_samples_without_the_wanted_suffix_are_counted(content, look):
    assert look(("jpg",)).without_image == sum("jpg" not in members for members in content.values())


def test_a_damaged_shard_is_named_with_its_offset_and_the_others_are_counted(content, look, tmp_path, small):
    target = tmp_path / "shards" / "train-000001.tar"
    key = list(small.members(target))[7]
    header = small.offset_of(target, key, "txt") - 512
    small.flip(target, header + 5)
    found = look()
    assert list(found.problems) == [str(target)]
    assert f"at byte {header}:" in found.problems[str(target)]
    assert found.n_samples >= 40


def test_repeated_keys_are_listed_with_both_places_and_refused(content, look, tmp_path, small):
    small.shard(tmp_path / "shards" / "z.tar", {"part.0/s1-0000": {"jpg": b"x"}, "own": {"jpg": b"y"}})
    found = look()
    (line,) = found.repeated_keys
    assert "'part.0/s1-0000'" in line
    assert "train-000001.tar" in line
    assert "z.tar" in line
    with pytest.raises(UsageError, match="must be unique"):
        refuse_repeated_keys(found)


def test_a_shard_that_is_gone_meanwhile_is_a_problem_and_no_crash(content, tmp_path):
    corpus = open_corpus([str(tmp_path / "shards")])
    (tmp_path / "shards" / "train-000002.tar").unlink()
    found = inspect_corpus(corpus, IMAGES)
    assert len(found.problems) == 1
    assert found.n_samples == 40


def test_key_hashes_are_fixed_for_ever():
    assert key_hash("cat/0001") == 0x40A126DFC72A3B8F
    assert key_hash("é") == 0x2F19F3EF8BBF1ACB
