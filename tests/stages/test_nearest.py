"""The nearest rows of another store: those that a plain float64 search finds, whatever the blocks."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sspruning.metrics.distances import unit_rows
from sspruning.progress import SilentProgress
from sspruning.stages import nearest as module
from sspruning.stages.nearest import NearestRows, nearest_rows

synthetic = runpy.run_path(str(Path(__file__).with_name("synthetic_store.py")))
make_store, keys_of, planted, split = (synthetic[name] for name in ("make_store", "keys_of", "planted", "split"))


def plainly(rows, others):
    """Nearest other row of each row, one pair at a time in float64; the first where several are."""
    rows, others = unit_rows(rows), unit_rows(others)
    cosine = np.array([np.einsum("ij,ij->i", np.broadcast_to(row, others.shape), others) for row in rows])
    return cosine.argmax(axis=1), cosine.max(axis=1)


def crowded(seed, n=60, d=384):
    """(n, d) rows of which many are the same, or differ by less than float32 products can tell."""
    rng = np.random.default_rng(seed)
    rows = planted(4, d, groups=2, spread=0.02, seed=seed // 2)[rng.integers(0, 4, n)]
    rows[np.arange(n), rng.integers(0, d, n)] += rng.choice([0.0, 2.0**-14, 2.0**-13], n).astype(np.float16)
    return rows


@settings(max_examples=15)
@given(seed=st.integers(0, 1000), tile=st.sampled_from([(1, 25), (7, 9), (64, 3), (4096, 4096)]))
def test_near_ties_are_settled_as_one_pair_at_a_time_would(seed, tile, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ties")
    others, rows = crowded(seed), crowded(seed + 1, n=20)
    store = make_store(folder, split(keys_of(60), others, [11, 0, 49]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TILE_ROWS", tile[0])
        patch.setattr(module, "TILE_COLUMNS", tile[1])
        patch.setattr(module, "PAIRS", 13)
        found, cosine = NearestRows(store).search(rows)
    wanted, highest = plainly(rows, others)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_allclose(cosine, highest, rtol=0, atol=1e-15)


def test_float32_alone_would_not_do(tmp_path):
    """The planted ties are real: products of many rows come to other neighbours."""
    others, rows = crowded(4), crowded(5)
    exact, _ = NearestRows(make_store(tmp_path, split(keys_of(60), others, [60]))).search(rows)
    rough = (unit_rows(rows).astype(np.float32) @ unit_rows(others).astype(np.float32).T).argmax(axis=1)
    assert (exact != rough).any()


@pytest.mark.parametrize("change", [{"HELD_BYTES": 0}, {"READ_ROWS": 7}, {"READ_ROWS": 7, "HELD_BYTES": 0}])
def test_blocks_change_no_byte(tmp_path, monkeypatch, change):
    store = make_store(tmp_path / "a", split(keys_of(50), crowded(5, 50), [30, 0, 20]))
    others = make_store(tmp_path / "b", split(keys_of(60), crowded(6), [25, 35]))
    whole = list(nearest_rows(store, others, tmp_path / "whole", SilentProgress()))
    for name, value in change.items():
        monkeypatch.setattr(module, name, value)
    pieces = list(nearest_rows(store, others, tmp_path / "pieces", SilentProgress()))
    assert [len(part) for part in whole] == [30, 0, 20]
    assert [part.tobytes() for part in pieces] == [part.tobytes() for part in whole]


def test_only_parts_that_are_new_are_compared(tmp_path, monkeypatch):
    shards = split(keys_of(50), planted(50), [30, 20])
    others = make_store(tmp_path / "b", split(keys_of(10), planted(10, seed=1), [10]))
    store, folder = make_store(tmp_path / "a", shards), tmp_path / "columns"
    before = list(nearest_rows(store, others, folder, SilentProgress()))
    compared = []
    true = module._compared
    monkeypatch.setattr(module, "_compared", lambda *args: compared.append(args[1].shard_id) or true(*args))
    assert [part.tobytes() for part in nearest_rows(store, others, folder, SilentProgress())] == [
        part.tobytes() for part in before
    ]
    assert compared == []
    shards["s02"] = (keys_of(5, "new"), planted(5, seed=2))
    list(nearest_rows(make_store(tmp_path / "a", shards), others, folder, SilentProgress()))
    assert compared == ["s02"]


def test_a_damaged_column_is_made_again(tmp_path):
    store = make_store(tmp_path / "a", split(keys_of(30), planted(30), [30]))
    others = make_store(tmp_path / "b", split(keys_of(10), planted(10, seed=1), [10]))
    [before] = nearest_rows(store, others, tmp_path / "columns", SilentProgress())
    [path] = (tmp_path / "columns").glob("*.npy")
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    [after] = nearest_rows(store, others, tmp_path / "columns", SilentProgress())
    assert path.read_bytes() == whole
    assert after.tobytes() == before.tobytes()
