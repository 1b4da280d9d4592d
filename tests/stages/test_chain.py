"""Steps take samples out one after the other, each with its reason; the policy ranks what is left."""

import runpy
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from sspruning.config import Config, ScoreConfig, SelectConfig, override
from sspruning.errors import UsageError
from sspruning.execution.inline import InlineExecutor
from sspruning.recipes import RECIPES
from sspruning.records import DEFECTS
from sspruning.stages.candidates import Scored, gather, scratch_vectors
from sspruning.stages.chain import check_chain, is_nested, run_chain
from sspruning.stages.cluster import cluster
from sspruning.stages.recluster import recluster
from sspruning.stages.score import assignment_path, score
from sspruning.stages.select import select
from sspruning.storage.artifacts import save_prototypes

pytest.importorskip("faiss")

synthetic = runpy.run_path(str(Path(__file__).with_name("synthetic_store.py")))
make_store, keys_of, planted, split = (synthetic[name] for name in ("make_store", "keys_of", "planted", "split"))

N = 400
COPIES = 40  # the last rows are near copies of the first ones


def rows_with_copies():
    rows = planted(N - COPIES, spread=0.3).astype(np.float32)
    near = rows[:COPIES] + 0.01 * np.random.default_rng(1).standard_normal((COPIES, rows.shape[1]))
    return (np.concatenate([rows, near]) / np.linalg.norm(np.concatenate([rows, near]), axis=1)[:, None]).astype(
        np.float16
    )


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain")
    store = make_store(folder / "store", split(keys_of(N), rows_with_copies(), [250, 0, 150]))
    prototypes = cluster(store, override(Config(), "cluster", n_clusters=6).cluster, mark="p" * 64)
    save_prototypes(folder / "prototypes.h5", prototypes)
    scores = score(store, prototypes, folder / "prototypes.h5", folder / "scores", ScoreConfig(), InlineExecutor())
    assignments = {
        record.shard_id: assignment_path(Path(scores.assignment_folder), record, prototypes, "cosine")
        for record in store.records()
    }
    return Scored(store, prototypes, scores, assignments, Config())


def chosen(scored, tmp_path, **section):
    """Selection and its table for a section `select`."""
    section = SelectConfig(**{"keep_fraction": 0.5, **section})
    path = tmp_path / "selection.parquet"
    config = scored.config.model_copy(update={"select": section})
    with_section = Scored(scored.store, scored.prototypes, scored.scores, scored.assignments, config)
    (found,) = select(with_section, {section.keep_fraction: path}, {})
    return found, pq.read_table(path).to_pydict()


DEDUP = {"dedup": {"threshold": 0.99, "survivor": "hard"}}


def test_each_step_sees_what_the_one_before_left_and_every_drop_has_its_reason(scored, tmp_path):
    found, table = chosen(scored, tmp_path, steps=[DEDUP, {"outliers": {"quantile": 0.95}}], keep="hard", balance=0.0)
    reasons = np.array(table["reason"])
    copies = [reason for reason in reasons if reason.startswith("duplicate_of:")]
    n_outliers = round(0.05 * (N - len(copies)))

    assert len(copies) >= COPIES
    assert found.settings["dropped"] == {"1 dedup": len(copies), "2 outliers": n_outliers}
    assert (reasons == "outlier").sum() == n_outliers
    assert (reasons == "kept").sum() == found.n_kept == N // 2
    assert set(reasons) - {"kept", "outlier", "pruned_easy"} == set(copies)


def test_a_duplicate_names_the_key_of_the_sample_that_stays_for_it(scored, tmp_path):
    _, table = chosen(scored, tmp_path, steps=[DEDUP], keep_fraction=0.9 * (N - COPIES) / N)
    row_of = {key: i for i, key in enumerate(table["key"])}
    rows = rows_with_copies().astype(np.float64)
    pairs = [(i, row_of[r.removeprefix("duplicate_of:")]) for i, r in enumerate(table["reason"]) if ":" in r]

    assert len(pairs) >= COPIES
    assert all(rows[i] @ rows[twin] > 0.985 for i, twin in pairs)
    assert not any(table["reason"][twin].startswith("duplicate_of") for _, twin in pairs)
    assert not any(table["kept"][i] for i, _ in pairs)


def test_ranks_put_survivors_first_then_what_the_last_step_took_then_the_first(scored, tmp_path):
    _, table = chosen(scored, tmp_path, steps=[DEDUP, {"outliers": {"quantile": 0.95}}], keep="random")
    stage = np.array([2 if ":" in reason else reason == "outlier" for reason in table["reason"]])
    in_order = stage[np.argsort(table["rank"])]

    assert sorted(table["rank"]) == list(range(N))
    assert (np.diff(in_order) >= 0).all()


def test_too_few_survivors_are_an_error_that_says_how_many_there_are(scored, tmp_path):
    with pytest.raises(UsageError, match=r"samples are left \(1 dedup took \d+\), but 396 are to be kept"):
        chosen(scored, tmp_path, steps=[DEDUP], keep_fraction=0.99)
    assert not (tmp_path / "selection.parquet").exists()


def test_clustering_again_makes_prototypes_of_the_survivors_alone(scored, tmp_path):
    with scratch_vectors(scored.store, tmp_path) as vectors:
        everyone = gather(scored, 10, vectors, images=False)
        some = np.flatnonzero(everyone.cluster != everyone.cluster[0])
        again = recluster(everyone.take(some), scored.config, n_clusters=5)
        rows = vectors[some].astype(np.float64)

    assert again.centroids.shape[0] == 5
    similarity = rows @ again.centroids.T.astype(np.float64)
    np.testing.assert_array_equal(again.cluster, similarity.argmax(1))
    np.testing.assert_allclose(again.score, 1 - similarity.max(1) / np.linalg.norm(rows, axis=1), atol=2e-4)
    assert len(again) == len(some)


def test_scores_of_survivors_are_those_of_the_new_prototypes(scored, tmp_path):
    _, before = chosen(scored, tmp_path, steps=[DEDUP], keep_fraction=0.5)
    _, after = chosen(scored, tmp_path, steps=[DEDUP, {"recluster": {"n_clusters": 3}}], keep_fraction=0.5)
    gone = np.array([":" in reason for reason in after["reason"]])

    assert np.array_equal(np.array(before["score"])[gone], np.array(after["score"])[gone])
    assert not np.array_equal(np.array(before["score"])[~gone], np.array(after["score"])[~gone])
    assert before["centroid"] == after["centroid"]


def test_no_scratch_file_is_left_and_none_has_a_name_meanwhile(scored, tmp_path):
    with scratch_vectors(scored.store, tmp_path) as vectors:
        assert list(tmp_path.iterdir()) == []
        np.testing.assert_array_equal(vectors[:], rows_with_copies().astype(np.float32))
        np.testing.assert_array_equal(vectors.take(np.array([7, 3]))[np.array([1])][0], vectors[3:4][0])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", sorted(RECIPES))
@pytest.mark.parametrize("fraction", [0.3, 0.7])
def test_every_recipe_keeps_the_exact_count_the_same_each_time(scored, tmp_path, name, fraction):
    found, table = chosen(scored, tmp_path, recipe=name, keep_fraction=fraction)
    first = (tmp_path / "selection.parquet").read_bytes()
    chosen(scored, tmp_path, recipe=name, keep_fraction=fraction)

    assert sum(table["kept"]) == found.n_kept == round(fraction * N)
    assert sorted(table["rank"]) == list(range(N))
    assert found.settings["recipe"] == name
    assert (tmp_path / "selection.parquet").read_bytes() == first


@pytest.mark.parametrize("name", [name for name in sorted(RECIPES) if is_nested(SelectConfig(recipe=name))])
def test_a_recipe_that_is_nested_keeps_a_subset_at_a_smaller_fraction(scored, tmp_path, name):
    kept = [
        {key for key, stays in zip(table["key"], table["kept"], strict=True) if stays}
        for _, table in (chosen(scored, tmp_path, recipe=name, keep_fraction=f) for f in (0.2, 0.5, 0.8))
    ]
    assert kept[0] < kept[1] < kept[2]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"steps": ["dedupe"]}, r"unknown filter 'dedupe'\. Did you mean 'dedup'"),
        ({"steps": [{"dedup": {"treshold": 0.9}}]}, r"no option 'treshold'\. Did you mean 'threshold'"),
        ({"steps": [{"recluster": {"k": 3}}]}, "one option, n_clusters"),
        ({"keep": "ccs", "options": {"bta": 0.1}}, r"no option 'bta'\. Did you mean 'beta'"),
        ({"keep": "ccs", "options": {"beta": "much"}}, "option 'beta' is a float"),
    ],
)
def test_a_wrong_name_is_refused_before_any_work(section, message):
    with pytest.raises(UsageError, match=message):
        check_chain(SelectConfig(**section))


def test_a_defect_goes_before_the_choice(scored, tmp_path, monkeypatch):
    broken = np.zeros(N, np.uint8)
    broken[[3, 300]] = DEFECTS["blank"]
    from sspruning.stages import chain as module

    def gathered(*args, **kwargs):
        found = gather(*args, **kwargs)
        return type(found)(**{**{f: getattr(found, f) for f in found.__dataclass_fields__}, "defects": broken})

    monkeypatch.setattr(module, "gather", gathered)
    _, table = chosen(scored, tmp_path, steps=["defects"], keep_fraction=0.9)

    assert [i for i, reason in enumerate(table["reason"]) if reason == "defect"] == [3, 300]


def test_what_is_nested_is_known_beforehand():
    assert is_nested(SelectConfig(keep="hard"))
    assert is_nested(SelectConfig(keep="hard", steps=[DEDUP]))
    assert not is_nested(SelectConfig(keep="hard", steps=[{"dedup": {"share": 0.5}}]))
    assert not is_nested(SelectConfig(keep="coverage"))


def test_the_chain_reports_the_stages_it_went_through(scored, tmp_path):
    from sspruning.progress import SilentProgress

    config = scored.config.model_copy(update={"select": SelectConfig(steps=[DEDUP], keep="random")})
    chained = run_chain(
        Scored(scored.store, scored.prototypes, scored.scores, scored.assignments, config),
        N // 2, tmp_path, SilentProgress(),
    )  # fmt: skip

    assert chained.reasons[-1] == "pruned_random"
    assert list(chained.dropped) == ["1 dedup"]
    assert (chained.twin >= 0).sum() == chained.dropped["1 dedup"]
