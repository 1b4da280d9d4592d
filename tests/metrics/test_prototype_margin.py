import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sspruning.clusterers.faiss_kmeans import NearestPrototypes
from sspruning.metrics.distances import pair_distance
from sspruning.metrics.prototype_margin import prototype_margin
from sspruning.records import ScoringChunk


def chunk_of(near, far):
    m = len(near)
    return ScoringChunk(
        label=np.zeros(m, np.int32),
        distance=np.asarray(near, np.float32),
        second_label=np.ones(m, np.int32),
        second_distance=np.asarray(far, np.float32),
        cluster_size=np.full(m, 9, np.int64),
        tie=np.zeros(m, np.uint64),
    )


def test_on_the_border_between_two_prototypes_is_hardest():
    assert prototype_margin(chunk_of([0.5, 0.25, 0.0], [0.5, 0.5, 1.0])).tolist() == [0.0, -0.25, -1.0]


def test_one_prototype_leaves_no_margin():
    assert prototype_margin(chunk_of([0.1, 0.7], [0.1, 0.7])).tolist() == [0.0, 0.0]


@given(seed=st.integers(0, 2**32 - 1), cosine=st.booleans())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_the_margin_is_never_positive_for_the_distances_that_scoring_makes(seed, cosine):
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(1, 6))
    centroids = (base + 1e-6 * rng.normal(size=(8, 6))).astype(np.float32)
    rows = (base + rng.normal(size=(50, 6))).astype(np.float16)
    first, second = NearestPrototypes(centroids, cosine=cosine).search(rows)
    near, far = (pair_distance(rows, centroids, label, cosine=cosine) for label in (first, second))
    assert (prototype_margin(chunk_of(near, far)) <= 0).all()
