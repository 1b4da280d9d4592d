"""Balanced sampling on a tree: the paper's budgets for every number kept, a flat tree, and what is at the edges."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import candidates_of, planted

from sspruning.errors import UsageError
from sspruning.policies import hierarchical as module
from sspruning.policies.balance import places_within
from sspruning.policies.hierarchical import hierarchical


def cut(n, sizes):
    """The largest whole c with sum(min(c, size)) <= n, by bisection as in the paper."""
    low, high = 0, n + 1
    while high - low > 1:
        middle = (low + high) // 2
        if sum(min(middle, size) for size in sizes) <= n:
            low = middle
        else:
            high = middle
    return low


def holds_the_budgets(tree, kept):
    """Whether each node lets its children keep what the paper says; a tree is a list of trees, a leaf an array of rows.

    Returns the number kept below the node.
    """
    if isinstance(tree, np.ndarray):
        return int(kept[tree].sum())
    below = [holds_the_budgets(child, kept) for child in tree]
    sizes = [len(rows_of(child)) for child in tree]
    n = sum(below)
    share = cut(n, sizes)
    extra = [have - min(share, size) for have, size in zip(below, sizes, strict=True)]
    assert set(extra) <= {0, 1}
    assert sum(extra) == n - sum(min(share, size) for size in sizes)
    assert all(size > share for size, more in zip(sizes, extra, strict=True) if more)
    return n


def rows_of(tree):
    """All rows below a node."""
    return tree if isinstance(tree, np.ndarray) else np.concatenate([rows_of(child) for child in tree])


def tree_of(cluster, parents):
    """Nested lists of the rows of each prototype, from the node above each node of each level."""
    nodes = [np.flatnonzero(cluster == one) for one in np.unique(cluster)]
    for above in parents:
        nodes = [[nodes[child] for child in np.flatnonzero(above == parent)] for parent in range(max(above) + 1)]
    return nodes


@given(st.integers(0, 2**32 - 1), st.integers(1, 70), st.integers(1, 12), st.integers(0, 3))
@settings(max_examples=60)
def test_every_number_kept_gives_each_node_the_budget_of_the_paper(seed, n, k, levels):
    """On trees of any shape: children that are exhausted, nodes with one child, one node at the top or several."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, 3))
    candidates = candidates_of(rows, rng.standard_normal((k, 3)), seed=seed)
    parents, nodes = [], len(np.unique(candidates.cluster))
    for _ in range(levels):
        above = np.unique(rng.integers(0, rng.integers(1, nodes + 1), nodes), return_inverse=True)[1]
        parents.append(above)
        nodes = max(above) + 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_parents", lambda points, levels, resamples: parents)
        ranks = hierarchical(candidates)
    tree = tree_of(candidates.cluster, parents)
    for count in range(n + 1):
        assert holds_the_budgets(tree, ranks < count) == count


def test_the_budgets_hold_on_a_tree_of_k_means():
    candidates = unequal_concepts().candidates
    parents = module._parents(candidates.centroids[np.unique(candidates.cluster)], 2, 3)
    assert len(parents) == 2
    ranks = hierarchical(candidates, levels=3, resamples=3)
    tree = tree_of(candidates.cluster, parents)
    for count in range(0, len(candidates) + 1, 7):
        assert holds_the_budgets(tree, ranks < count) == count


def unequal_concepts(**options):
    """100 clusters of 1 to 30 members: the cut lies between their sizes for most numbers kept."""
    sizes = np.random.default_rng(5).integers(1, 31, 100).tolist()
    return planted(seed=5, sizes=sizes, d=8, **options)


def test_half_of_the_prototypes_on_one_concept_do_not_get_half_of_the_places():
    """40 prototypes lie close together, 40 in ten other directions: by prototypes alone the first get half."""
    rng = np.random.default_rng(0)
    directions = np.eye(12)[:11]
    of = np.repeat(np.arange(11), [40] + [4] * 10)
    prototypes = directions[of] + 0.02 * rng.standard_normal((80, 12))
    source = np.repeat(np.arange(80), 20)
    candidates = candidates_of(prototypes[source] + 0.001 * rng.standard_normal((1600, 12)), prototypes)
    dense = of[candidates.cluster] == 0
    flat, balanced = (hierarchical(candidates, levels=levels) < 400 for levels in (1, 2))
    assert flat[dense].sum() == 200
    assert balanced[dense].sum() < 100


def test_resampling_leaves_a_dense_region_fewer_nodes():
    rng = np.random.default_rng(0)
    dense = np.arange(400) < 300
    points = np.where(dense[:, None], 0.3 * rng.standard_normal((400, 2)), rng.uniform(-4, 4, (400, 2)))
    nodes = [
        len(np.unique(module._parents(points.astype(np.float32), 1, resamples)[0][dense])) for resamples in (0, 10)
    ]
    assert nodes[1] < 0.7 * nodes[0]


@pytest.mark.parametrize("leaf", ["random", "closest"])
def test_a_prototype_gives_its_samples_in_the_order_asked_for(leaf):
    candidates = planted().candidates
    ranks = hierarchical(candidates, leaf=leaf)
    first = candidates.distance if leaf == "closest" else np.zeros(len(candidates))
    for cluster in range(4):
        rows = np.flatnonzero(candidates.cluster == cluster)
        in_order = rows[np.lexsort((candidates.tie[rows], first[rows]))]
        assert (np.diff(ranks[in_order]) > 0).all()


def test_one_level_deals_out_the_prototypes_in_turn():
    candidates = planted(sizes=(40, 20, 10, 5)).candidates
    ranks = hierarchical(candidates, levels=1)
    kept = np.bincount(candidates.cluster[ranks < 31], minlength=4)
    assert sorted(kept.tolist()) == [5, 8, 9, 9]


def test_large_nodes_do_not_come_first_where_one_is_left_over():
    """With one sample kept, each of ten prototypes has it about as often, small or large."""
    first = np.zeros(10)
    base = planted(sizes=[50] * 5 + [2] * 5, spread=0.05).candidates
    for seed in range(200):
        tie = np.random.default_rng(seed).integers(0, 2**63, len(base)).astype(np.uint64)
        ranks = hierarchical(replace(base, tie=tie), levels=1)
        first[base.cluster[np.argmin(ranks)]] += 1
    assert 70 < first[:5].sum() < 130


def test_the_order_of_rows_and_the_number_kept_change_nothing():
    candidates = unequal_concepts().candidates
    ranks = hierarchical(candidates, levels=3)
    order = np.random.default_rng(1).permutation(len(candidates))
    np.testing.assert_array_equal(hierarchical(candidates.take(order), levels=3), ranks[order])
    np.testing.assert_array_equal(hierarchical(replace(candidates, count=9, vectors=None), levels=3), ranks)


def test_another_seed_draws_other_samples():
    candidates = planted().candidates
    other = replace(candidates, tie=np.random.default_rng(99).permutation(candidates.tie))
    assert hierarchical(candidates).tolist() != hierarchical(other).tolist()


def test_prototypes_without_samples_do_not_count():
    candidates = unequal_concepts().candidates
    far = np.concatenate([-candidates.centroids, candidates.centroids])
    moved = replace(candidates, centroids=far, cluster=candidates.cluster + np.int32(100))
    np.testing.assert_array_equal(hierarchical(moved, levels=3), hierarchical(candidates, levels=3))


@pytest.mark.parametrize("levels", [1, 2, 9])
@pytest.mark.parametrize(("n", "k"), [(0, 1), (1, 1), (1, 30), (30, 1), (50, 30)])
def test_few_samples_and_few_prototypes_are_ranked(n, k, levels):
    rng = np.random.default_rng(n)
    candidates = candidates_of(rng.standard_normal((n, 4)), rng.standard_normal((k, 4)))
    assert sorted(hierarchical(candidates, levels=levels).tolist()) == list(range(n))


@pytest.mark.parametrize("k", [1, 40])
def test_identical_embeddings_and_identical_prototypes_are_ranked(k):
    candidates = candidates_of(np.ones((80, 4)), np.ones((k, 4)))
    spread = replace(candidates, cluster=np.arange(80, dtype=np.int32) % k)
    for given_ in (candidates, spread):
        assert sorted(hierarchical(given_, levels=3).tolist()) == list(range(80))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": 0}, "levels must be at least 1; got 0"),
        ({"resamples": -1}, "resamples must be at least 0; got -1"),
        ({"leaf": "nearest"}, "leaf must be 'random' or 'closest'; got 'nearest'"),
    ],
)
def test_an_option_out_of_its_range_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        hierarchical(planted(sizes=(5, 5)).candidates, **options)


@given(st.integers(0, 2**32 - 1), st.integers(0, 40), st.integers(1, 5))
def test_places_count_those_of_the_same_group_that_stand_before(seed, n, groups):
    rng = np.random.default_rng(seed)
    group, order = rng.integers(0, groups, n), rng.permutation(n)
    seen, expected = {}, [0] * n
    for sample in order.tolist():
        expected[sample] = seen.get(group[sample], 0)
        seen[group[sample]] = expected[sample] + 1
    assert places_within(group, order).tolist() == expected
