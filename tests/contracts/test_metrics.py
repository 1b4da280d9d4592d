"""Every metric of the table is larger for harder samples, finite, and blind to the grouping of rows."""

from dataclasses import fields
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sspruning.errors import UsageError
from sspruning.metrics import METRICS
from sspruning.records import ScoringChunk

UNDIRECTED = {"random"}
"""Metrics for which no sample is harder than another."""


def chunk_of(seed=0, m=200, k=12, largest=2.0):
    rng = np.random.default_rng(seed)
    near, far = np.sort(rng.random((2, m)).astype(np.float32) * np.float32(largest), axis=0)
    label = rng.integers(0, k, m).astype(np.int32)
    return ScoringChunk(
        label=label,
        distance=near,
        second_label=((label + 1) % k).astype(np.int32),
        second_distance=far,
        cluster_size=rng.integers(1, 6, k)[label].astype(np.int64),
        tie=rng.integers(0, 2**64, m, dtype=np.uint64),
    )


def rows_of(chunk, rows):
    return ScoringChunk(**{field.name: getattr(chunk, field.name)[rows] for field in fields(chunk)})


@pytest.mark.parametrize("name", sorted(METRICS))
@pytest.mark.parametrize("largest", [1e-30, 2.0, 1e4])
def test_scores_are_finite_float32_one_a_row(name, largest):
    scores = METRICS.resolve(name)(chunk_of(largest=largest))
    assert scores.shape == (200,)
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("name", sorted(METRICS))
def test_no_rows_give_no_scores(name):
    assert METRICS.resolve(name)(chunk_of(m=0)).shape == (0,)


@pytest.mark.parametrize("name", sorted(set(METRICS) - UNDIRECTED))
def test_what_lies_farther_from_its_own_prototype_is_harder(name):
    """Ten samples of a large cluster, on the way from its prototype to the border with the next."""
    near = np.linspace(0.05, 0.45, 10, dtype=np.float32)
    scores = METRICS.resolve(name)(
        ScoringChunk(
            label=np.zeros(10, np.int32),
            distance=near,
            second_label=np.ones(10, np.int32),
            second_distance=np.float32(1) - near,
            cluster_size=np.full(10, 1000, np.int64),
            tie=np.arange(10, dtype=np.uint64),
        )
    )
    assert (np.diff(scores) > 0).all()


@pytest.mark.parametrize("name", sorted(METRICS))
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_order_and_grouping_of_rows_change_no_bit(name, seed):
    metric, rng, chunk = METRICS.resolve(name), np.random.default_rng(seed), chunk_of(seed)
    whole = metric(chunk)
    order = rng.permutation(200)
    assert metric(rows_of(chunk, order)).tobytes() == whole[order].tobytes()
    borders = [0, *np.sort(rng.integers(0, 201, 5)).tolist(), 200]
    pieces = [metric(rows_of(chunk, slice(a, b))) for a, b in pairwise(borders)]
    assert np.concatenate(pieces).tobytes() == whole.tobytes()


@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_metric_leaves_its_input_as_it_was(name):
    chunk = chunk_of()
    before = [getattr(chunk, field.name).tobytes() for field in fields(chunk)]
    METRICS.resolve(name)(chunk)
    assert [getattr(chunk, field.name).tobytes() for field in fields(chunk)] == before


def test_an_unknown_metric_is_refused_with_the_nearest_name():
    with pytest.raises(UsageError, match=r"unknown metric 'prototype_distnace'\. Did you mean 'prototype_distance'\?"):
        METRICS.resolve("prototype_distnace")
