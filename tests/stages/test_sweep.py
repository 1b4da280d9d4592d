"""Selections side by side: the numbers are those of the plainest counting."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sspruning.errors import UsageError
from sspruning.records import Selection
from sspruning.stages.sweep import balance_score, compare_selections
from sspruning.storage.artifacts import save_selection

N = 300


def saved(path, rank, fraction, *, shards=(100, 0, 200), content="c", duplicates=()):
    """A selection of ``N`` samples in three clusters; the score of sample i is i."""
    count = round(fraction * N)
    kept = rank < count
    reason = np.where(kept, "kept", "pruned_easy").astype(object)
    reason[list(duplicates)] = "duplicate_of:k0"
    table = pa.table(
        {
            "key": [f"k{i}" for i in range(N)],
            "shard": pa.array(["s"] * N).dictionary_encode(),
            "row": np.arange(N, dtype=np.uint32),
            "centroid": (np.arange(N) % 10 // 4).astype(np.int32),
            "cosine_dist_to_cent": np.zeros(N, np.float32),
            "score": np.arange(N, dtype=np.float32),
            "rank": rank,
            "kept": kept,
            "weight": np.ones(N, np.float32),
            "reason": pa.array(reason, pa.string()),
        }
    )
    ends = np.cumsum(shards)
    groups = [table.slice(end - size, size) for size, end in zip(shards, ends, strict=True)]
    settings = {"keep_fraction": fraction, "content": content}
    save_selection(path, groups, Selection(n_embedded=N, n_kept=count, fingerprint="f", settings=settings))
    return path


def test_nested_selections_share_everything_and_the_counts_are_plain(tmp_path):
    hard = np.arange(N)[::-1].copy()
    paths = [saved(tmp_path / f"{f}", hard, f) for f in (0.5, 0.9)]
    large, small = compare_selections(paths)

    assert (large.keep_fraction, large.n_kept, small.n_kept) == (0.9, 270, 150)
    assert small.shared == large.shared == 1.0
    assert (large.by_chance, small.by_chance) == (1.0, 0.9)
    assert small.mean_score == np.arange(150, 300).mean()
    assert small.tail_kept == 1.0
    clusters = np.bincount((np.arange(150, 300) % 10 // 4), minlength=3)
    assert small.fewest == clusters.min()
    assert small.balance == pytest.approx(
        np.mean([min(a, b) / max(a, b) for a, b in itertools.combinations(clusters, 2)])
    )


def test_unlike_selections_share_what_they_share(tmp_path):
    hard = np.arange(N)[::-1].copy()
    easy = np.arange(N)
    large, small = compare_selections([saved(tmp_path / "a", hard, 0.8), saved(tmp_path / "b", easy, 0.5)])

    assert small.shared == 90 / 150
    assert (large.tail_kept, small.tail_kept) == (1.0, 0.0)


def test_empty_clusters_and_duplicates_are_counted(tmp_path):
    only_last = np.argsort(np.argsort(-(np.arange(N) % 10 // 4), kind="stable"), kind="stable")
    (row,) = compare_selections([saved(tmp_path / "a", only_last, 0.1, duplicates=[1, 11])])

    assert (row.empty_clusters, row.fewest, row.duplicates) == (2, 0, 2)
    assert row.balance == 0.0


@given(st.lists(st.integers(0, 50), min_size=2, max_size=30))
def test_the_balance_score_is_the_mean_over_all_pairs(counts):
    pairs = [min(a, b) / max(a, b) if max(a, b) else 0.0 for a, b in itertools.combinations(counts, 2)]
    expected = np.mean(pairs) if any(counts) else 1.0
    assert balance_score(np.array(counts)) == pytest.approx(expected)


def test_one_cluster_is_balanced():
    assert balance_score(np.array([7])) == 1.0


def test_selections_of_other_stores_and_none_at_all_are_refused(tmp_path):
    rank = np.arange(N)
    with pytest.raises(UsageError, match="not made from the same store"):
        compare_selections([saved(tmp_path / "a", rank, 0.8), saved(tmp_path / "b", rank, 0.5, content="d")])
    with pytest.raises(UsageError, match="no selection to compare"):
        compare_selections([])
