import numpy as np

from sspruning.metrics.prototype_distance import TINY_CLUSTER, prototype_distance
from sspruning.records import ScoringChunk


def scores_of(sizes, near, far):
    m = len(sizes)
    return prototype_distance(
        ScoringChunk(
            label=np.zeros(m, np.int32),
            distance=np.array(near, np.float32),
            second_label=np.ones(m, np.int32),
            second_distance=np.array(far, np.float32),
            cluster_size=np.array(sizes, np.int64),
            tie=np.zeros(m, np.uint64),
        )
    ).tolist()


def test_the_score_is_the_distance_to_the_own_prototype():
    assert scores_of([3, 50], [0.25, 0.5], [0.75, 1.0]) == [0.25, 0.5]


def test_members_of_tiny_clusters_are_measured_from_the_next_prototype():
    assert scores_of([1, 2, 3], [0.0, 0.125, 0.125], [0.75, 0.5, 0.5]) == [0.75, 0.5, 0.125]


def test_a_sample_alone_on_its_prototype_is_not_the_easiest_of_all():
    alone, typical = scores_of([1, 500], [0.0, 0.25], [1.0, 1.0])
    assert alone > typical
    assert TINY_CLUSTER == 2
