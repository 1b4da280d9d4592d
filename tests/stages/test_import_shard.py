"""Rows of a part: unit length, rounded once, digests of all that was read."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sspruning.stages import import_shard
from sspruning.stages.import_shard import unit_rows

tables = runpy.run_path(str(Path(__file__).with_name("embedding_bench.py")))
Bench, normalised = (tables[name] for name in ("Bench", "normalised"))


@pytest.fixture
def bench(tmp_path, content):
    return Bench(tmp_path, content)


# rows that are normalised already


@pytest.mark.parametrize("d", [1, 2, 5, 384])
def test_rows_that_a_store_could_hold_are_not_rounded_again(d):
    rows = normalised(np.random.default_rng(0).normal(size=(4000, d)))
    found, norm, good = unit_rows(rows.astype(np.float32))
    assert found.tobytes() == rows.tobytes()
    assert good.all()
    assert np.abs(norm - 1).max() < 5e-4
    if d == 2:
        assert normalised(rows.astype(np.float32)).tobytes() != rows.tobytes()  # a second rounding would move some


def test_a_float16_row_of_another_length_is_normalised():
    rows = (normalised(np.random.default_rng(0).normal(size=(50, 16))).astype(np.float32) * 2).astype(np.float16)
    found, norm, _ = unit_rows(rows.astype(np.float32))
    assert found.tobytes() == normalised(rows).tobytes()
    assert (norm > 1.9).all()


@given(arrays.arrays(np.float32, (5, 6), elements=st.floats(width=32)))
def test_any_row_has_unit_length_or_no_direction(values):
    found, norm, good = unit_rows(values)
    assert np.isfinite(norm[good]).all()
    assert np.abs(np.linalg.norm(found[good].astype(np.float64), axis=1) - 1).max(initial=0) < 2e-3
    wide = values.astype(np.float64)
    length = np.sqrt((wide**2).sum(1))
    usable = np.isfinite(length) & (length.astype(np.float32) > 0) & (length <= np.finfo(np.float32).max)
    np.testing.assert_array_equal(good, usable)


# digests


def test_a_large_sample_is_hashed_in_pieces_to_the_same_digests(bench, monkeypatch):
    source, options = bench.table()
    bench.load(source, **options)
    monkeypatch.setattr(import_shard, "STREAM_BLOCKS_ABOVE", 600)
    bench.load(source, store="pieces", **options)
    assert bench.parts("store") == bench.parts("pieces")
