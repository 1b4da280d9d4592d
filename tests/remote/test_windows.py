"""What is asked of a store while a shard is read: large steps, one ahead, and after a jump only what is wanted."""

import time
from itertools import pairwise

import numpy as np
import pytest

from sspruning.errors import ShardError
from sspruning.storage import sources, tar_scan
from sspruning.storage.samples import ShardReader
from sspruning.storage.sources import open_source

STEP = 1 << 16
MEMBER = 3000


@pytest.fixture
def steps(monkeypatch):
    """Steps a 128th as long as they are, so that small objects do."""
    for name in ("STEP", "FIRST_STEP", "SMALL_STEP", "NEAR", "KEPT_BYTES"):
        monkeypatch.setattr(sources, name, getattr(sources, name) >> 7)
    monkeypatch.setattr(tar_scan, "WINDOW", tar_scan.WINDOW >> 7)
    assert sources.STEP == STEP


@pytest.fixture(scope="module")
def content(small, tmp_path_factory):
    """A shard of 400 samples of 3,000 bytes."""
    noise = np.random.default_rng(0)
    samples = {f"{number:03d}": {"jpg": noise.bytes(MEMBER)} for number in range(400)}
    return small.shard(tmp_path_factory.mktemp("windows") / "a.tar", samples).read_bytes()


@pytest.fixture
def url(steps, bucket, content):
    return bucket("a.tar", content)


def test_a_scan_asks_for_every_byte_once(url, content, faults):
    with ShardReader(url) as reader:
        for sample in reader.samples():
            (member,) = sample.members
            assert reader.read(member.start, member.size) == content[member.start : member.start + member.size]
    ranges = sorted(faults.ranges())
    assert all(start + size == after for (start, size), (after, _) in pairwise(ranges))
    assert sum(size for _, size in ranges) == len(content)
    assert max(size for _, size in ranges) == STEP


def test_samples_that_are_read_a_little_later_are_still_at_hand(url, content, faults):
    with ShardReader(url) as reader:
        waiting = []
        for sample in reader.samples():
            waiting.append(sample.members[0])
            if len(waiting) > 100:
                member = waiting.pop(0)
                assert reader.read(member.start, member.size) == content[member.start : member.start + member.size]
    assert sum(size for _, size in faults.ranges()) == len(content)


def test_a_reader_that_waits_is_read_ahead_of_by_one_step_only(url, faults):
    with ShardReader(url) as reader:
        samples = reader.samples()
        for _ in range(150):
            sample = next(samples)
        deadline = time.monotonic() + 5
        ahead = 0
        while time.monotonic() < deadline and ahead < STEP:
            ahead = max(start + size for start, size in faults.ranges()) - sample.block_end
            time.sleep(0.01)
        time.sleep(0.1)
        ahead = max(start + size for start, size in faults.ranges()) - sample.block_end
    assert STEP <= ahead <= 2 * STEP + MEMBER


def test_after_a_jump_only_what_is_wanted_is_asked_for(url, content, faults):
    source = open_source(url)
    for start in (900_000, 300_000, 600_000, 100_000):
        assert source.read(start, 2000) == content[start : start + 2000]
    assert faults.ranges() == [(start, 2000) for start in (900_000, 300_000, 600_000, 100_000)]
    source.close()


def test_a_small_gap_is_read_over(url, faults):
    source = open_source(url)
    for start in range(0, 400_000, 8000):
        source.read(start, 4000)
    assert len(faults.ranges()) < 15
    source.close()


def test_a_step_ahead_that_fails_is_told_where_its_bytes_are_wanted(url, faults):
    source = open_source(url)
    for start in range(0, 6 * STEP, 1000):
        source.read(start, 1000)
    faults.fail = 100
    with pytest.raises(ShardError, match=r"scratch/a\.tar: at byte \d+: cannot be read \(no answer in 7 tries"):
        source.read(6 * STEP, 6 * STEP)
    source.close()
