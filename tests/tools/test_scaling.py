"""The replay of weak scaling: what costs nothing scales, and each cost shows where it belongs."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))


def costs(**given):
    from bench.scaling_model import Costs

    free = {"start_s": [0.0], "fixed_s": 0.0, "per_shard_s": 0.0, "per_own_shard_s": 0.0, "last_per_shard_s": 0.0}
    return Costs(**(free | given))


def total(workers, shard_s=(2.0,), **given):
    from bench.scaling_model import replay

    return replay(workers, 10, shard_s, costs(**given), seed=1).total_s


def test_equal_shards_that_cost_nothing_else_scale_perfectly():
    assert total(1) == total(512) == 20.0


def test_uneven_shards_wait_for_the_slowest_task():
    assert total(512, shard_s=(1.0, 3.0)) > total(8, shard_s=(1.0, 3.0)) > 20.0


def test_costs_are_added_by_what_they_grow_with():
    assert total(4, fixed_s=1, per_own_shard_s=0.1) == pytest.approx(22)
    assert total(4, per_shard_s=0.1, last_per_shard_s=0.05) == pytest.approx(20 + 4 + 2)


def test_a_file_server_counts_where_all_tasks_ask_more_than_it_answers():
    assert total(4, calls_per_shard=5, server_calls_per_s=1e9) == pytest.approx(20)
    assert total(4, calls_per_shard=5, server_calls_per_s=100) == pytest.approx(20 + 4 * 5 * 40 / 100)


def test_a_plane_is_found_again():
    from bench.scaling_model import fitted

    points = [(n, m, 0.5 + 1e-4 * n + 2e-3 * m) for n in (1000, 4000) for m in (10, 100, 500)]
    assert fitted(points) == pytest.approx((0.5, 1e-4, 2e-3))
