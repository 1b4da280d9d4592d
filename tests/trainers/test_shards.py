"""What trainers ask of an output folder."""

from pathlib import Path

import braceexpand
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sspruning.records import Output, OutputShard
from sspruning.trainers.shards import count_samples, image_suffixes, key_of, paths_of, shard_range


def output(*names, suffixes=None):
    shards = [OutputShard(name=name, n_samples=1, size=1, suffixes=suffixes or {}) for name in names]
    return Output(folder="data/pruned", shards=shards, image_key=("jpg", "png"))


@given(st.integers(0, 1200), st.integers(1, 30))
def test_the_range_of_shards_expands_to_their_paths(start, count):
    made = output(*(f"shard-{number:06d}.tar" for number in range(start, start + count)))
    assert list(braceexpand.braceexpand(shard_range(made))) == paths_of(made)


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["shard-000000.tar"], "shard-000000.tar"),
        (["shard-000000.tar", "shard-000001.tar"], "shard-{000000..000001}.tar"),
        (["shard-000000.tar", "shard-000002.tar"], "{shard-000000.tar,shard-000002.tar}"),
        (["a.tar", "b.tar"], "{a.tar,b.tar}"),
        (["x9.tar", "x10.tar"], "x{9..10}.tar"),
    ],
)
def test_ranges_are_written_where_numbers_follow_each_other(names, wanted):
    assert Path(shard_range(output(*names))).name == wanted
    assert shard_range(output(*names)).startswith(str(Path("data/pruned").absolute()))


def test_samples_are_counted_by_the_image_that_is_preferred():
    made = output("a.tar", "b.tar", suffixes={"jpg;png;txt": 3, "png": 4, "tiff": 1})
    assert image_suffixes(made) == {"jpg": 6, "png": 8, "": 2}
    assert count_samples(made, without=["txt"]) == 10
    assert count_samples(made, without=["jpg", "tiff"]) == 8


def test_a_key_ends_before_the_first_dot_of_the_base_name():
    assert key_of("a.b/c.seg.png") == "a.b/c"
