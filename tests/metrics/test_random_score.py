import numpy as np

from sspruning.metrics.random_score import random_score
from sspruning.records import ScoringChunk
from sspruning.stages.cluster import seeded


def scores_of(tie):
    m = len(tie)
    zeros = np.zeros(m, np.float32)
    label = np.zeros(m, np.int32)
    return random_score(
        ScoringChunk(
            label=label,
            distance=zeros,
            second_label=label,
            second_distance=zeros,
            cluster_size=np.ones(m, np.int64),
            tie=tie,
        )
    )


def test_scores_lie_between_zero_and_below_one_even_at_the_ends():
    ends = np.array([0, 1, 2**63, 2**64 - 1], np.uint64)
    scores = scores_of(ends)
    assert scores[0] == 0
    assert (scores >= 0).all()
    assert (scores < 1).all()


def test_scores_are_uniform_and_another_seed_gives_independent_ones():
    keys = np.arange(20_000, dtype=np.uint64)
    first, second = (scores_of(seeded(keys, seed)).astype(np.float64) for seed in (0, 1))
    counts, _ = np.histogram(first, bins=20, range=(0, 1))
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03
    assert len(set(first.tolist())) > 19_900
