"""How many output shards there are, and how many samples each gets."""

import numpy as np
import pytest

from sspruning.config import WriteConfig
from sspruning.errors import UsageError
from sspruning.stages.output_plan import shard_borders, shard_count


@pytest.mark.parametrize("n", [1, 2, 7, 16, 17, 42, 1000])
@pytest.mark.parametrize("most", [1, 3, 16, 10_000])
def test_shards_are_as_few_as_fit_and_their_sizes_at_most_one_apart(n, most):
    count = shard_count(n, WriteConfig(samples_per_shard=most))
    borders = shard_borders(n, count)
    sizes = np.diff(borders)
    assert (borders[0], borders[-1]) == (0, n)
    assert len(sizes) == count == -(-n // most)
    assert sizes.max() <= most
    assert sizes.max() - sizes.min() <= 1
    assert sizes.min() >= 1


@pytest.mark.parametrize("settings", [{"num_shards": 7}, {"min_shards": 7}, {"num_shards": 7, "min_shards": 3}])
@pytest.mark.parametrize("n", [7, 8, 1000])
def test_a_number_of_shards_is_kept_exactly_and_none_is_empty(settings, n):
    count = shard_count(n, WriteConfig(samples_per_shard=200, **settings))
    sizes = np.diff(shard_borders(n, count))
    assert count == 7
    assert sizes.min() >= 1
    assert sizes.max() - sizes.min() <= 1


def test_more_shards_than_min_shards_are_left_alone():
    assert shard_count(1000, WriteConfig(samples_per_shard=100, min_shards=3)) == 10


@pytest.mark.parametrize("settings", [{"num_shards": 7}, {"min_shards": 7}])
def test_more_shards_than_samples_are_refused(settings):
    with pytest.raises(UsageError, match=r"7 shards are asked for but 6 samples are kept"):
        shard_count(6, WriteConfig(**settings))


def test_no_samples_make_no_shard():
    with pytest.raises(UsageError, match="no shard may be empty"):
        shard_count(0, WriteConfig())
