"""The direction of each policy, on planted groups: typical samples near 0, rare ones near 1."""

from dataclasses import replace

import numpy as np
import pytest

from sspruning.policies import Candidates
from sspruning.policies.keep_easiest import keep_easiest
from sspruning.policies.keep_hardest import keep_hardest
from sspruning.policies.keep_random import keep_random


@pytest.fixture
def planted():
    """Four clusters of 50; in each, 40 typical and 10 rare samples."""
    rng = np.random.default_rng(0)
    rare = np.arange(200) % 50 >= 40
    score = np.where(rare, 0.9, 0.1) + 0.05 * rng.random(200)
    return rare, Candidates(
        score=score.astype(np.float32),
        cluster=np.repeat(np.arange(4, dtype=np.int32), 50),
        second_cluster=np.zeros(200, np.int32),
        distance=score.astype(np.float32),
        tie=rng.permutation(200).astype(np.uint64),
        centroids=np.eye(4, dtype=np.float32),
        count=100,
        balance=0.5,
        floor="proportional",
    )


def test_keep_hard_keeps_the_rare(planted):
    rare, candidates = planted
    np.testing.assert_array_equal(keep_hardest(candidates) < 40, rare)


def test_keep_easy_keeps_the_typical(planted):
    rare, candidates = planted
    np.testing.assert_array_equal(keep_easiest(candidates) < 160, ~rare)


def test_keep_hard_and_keep_easy_part_the_samples_between_them(planted):
    _, candidates = planted
    hard, easy = keep_hardest(candidates) < 100, keep_easiest(candidates) < 100
    assert not (hard & easy)[candidates.score != np.median(candidates.score)].any()


def test_keep_random_knows_neither_scores_nor_clusters(planted):
    rare, candidates = planted
    kept = keep_random(candidates) < 100
    assert 5 <= kept[rare].sum() <= 35
    shuffled = replace(
        candidates, score=candidates.score[::-1].copy(), cluster=np.zeros(200, np.int32), balance=1.0, floor="uniform"
    )
    np.testing.assert_array_equal(keep_random(shuffled), keep_random(candidates))


def test_keep_random_keeps_the_smallest_hashes(planted):
    _, candidates = planted
    np.testing.assert_array_equal(keep_random(candidates), candidates.tie.astype(np.int64))
