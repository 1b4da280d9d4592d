"""Advice: total, reproducible, with a reason for everything, and never followed in silence."""

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from listening import Listening

from sspruning import api
from sspruning.config import ScoreConfig, SelectConfig, load_config
from sspruning.errors import ConfigError, UsageError
from sspruning.execution.inline import InlineExecutor
from sspruning.policies import POLICIES
from sspruning.records import Prototypes
from sspruning.stages.advise import AUTO, Observed, advise, known_to_lose, observe, order_statistics
from sspruning.stages.run import check_names, prune, up_to_selections
from sspruning.stages.score import assignment_path, score
from sspruning.stages.workspace import Workspace
from sspruning.storage.artifacts import SelectionFile, save_prototypes

pytest.importorskip("faiss")

synthetic = runpy.run_path(str(Path(__file__).with_name("synthetic_store.py")))
make_store, keys_of, planted, split = (synthetic[name] for name in ("make_store", "keys_of", "planted", "split"))


def observed(n=50_000, k=200, **changes):
    """A large and healthy corpus."""
    sizes = np.full(k, n // max(k, 1), np.int64)
    facts = {"n": n, "cluster_sizes": sizes, "metric": "prototype_distance", "median": 0.3, "high": 0.5, "top": 0.7}
    return Observed(**{**facts, "duplicates": 0, **changes})


# the rules


@given(
    n=st.integers(0, 10**10),
    sizes=st.lists(st.integers(0, 10**9), max_size=30),
    fraction=st.none() | st.floats(0, 1, exclude_min=True),
    metric=st.sampled_from(["prototype_distance", "prototype_margin", "random", "imported", "something new"]),
    scores=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3).map(sorted),
    share=st.floats(0, 1),
)
def test_there_is_a_known_policy_and_a_reason_for_whatever_is_observed(n, sizes, fraction, metric, scores, share):
    median, high, top = scores
    facts = observed(
        n=n,
        cluster_sizes=np.array(sizes, np.int64),
        metric=metric,
        median=median,
        high=high,
        top=top,
        duplicates=int(share * n),
    )
    advice = advise(facts, fraction)
    assert advice.keep in POLICIES
    assert 0 < advice.keep_fraction <= 1
    assert fraction is None or advice.keep_fraction == fraction
    assert 0 <= advice.balance <= 1
    assert advice.reasons
    assert all(reason.sentence and reason.evidence for reason in (*advice.reasons, *advice.warnings))
    assert advise(facts, fraction) == advice
    assert known_to_lose(SelectConfig(keep=advice.keep, keep_fraction=advice.keep_fraction)) is None


@pytest.mark.parametrize(
    ("n", "k", "metric", "fraction", "keep"),
    [
        (50_000, 200, "prototype_distance", 0.49, "random"),
        (50_000, 200, "prototype_distance", 0.5, "random"),
        (50_000, 200, "prototype_distance", 0.69, "random"),
        (50_000, 200, "prototype_distance", 0.7, "hard"),
        (50_000, 200, "imported", 0.8, "hard"),
        (50_000, 2000, "prototype_distance", 0.8, "random"),
        (50_000, 2000, "imported", 0.8, "hard"),
        (50_000, 200, "random", 0.8, "random"),
        (10_000, 100, "prototype_margin", 0.8, "hard"),
        (9_999, 100, "prototype_margin", 0.8, "random"),
        (9_999, 100, "prototype_margin", 0.4, "random"),
    ],
)
def test_the_fraction_the_amount_of_data_and_the_metric_decide(n, k, metric, fraction, keep):
    assert advise(observed(n, k, metric=metric), fraction).keep == keep


def test_without_a_fraction_scarce_data_are_pruned_less():
    plenty, scarce = advise(observed()), advise(observed(1000, 16))
    assert (plenty.keep, plenty.keep_fraction) == ("hard", 0.8)
    assert plenty.keep_fraction < scarce.keep_fraction < 1
    assert "arXiv:2206.14486" in plenty.reasons[0].evidence


def test_a_small_fraction_is_advised_against_with_the_papers_that_measured_it():
    (reason,) = advise(observed(), 0.3).reasons
    assert "random" in reason.sentence
    assert "arXiv:2210.15809" in reason.evidence
    assert "arXiv:2302.06960" in reason.evidence


def test_the_options_are_those_of_select():
    assert advise(observed(), 0.75).options == "--keep hard --keep-fraction 0.75 --balance 0.5"
    assert advise(observed(), 0.3).options == "--keep random --keep-fraction 0.3"


def test_a_healthy_corpus_is_not_warned_of():
    assert advise(observed()).warnings == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"k": 2000}, "25.0 samples for each of 2,000 prototypes"),
        ({"cluster_sizes": np.array([*[500] * 96, 0, 0, 1, 2])}, "2 of 100 clusters are empty and 2 have one or two"),
        ({"top": 2.0}, "8.5 times as far"),
        ({"median": 0.5}, "inf times as far"),
        ({"duplicates": 600}, "600 of 50,000 samples lie exactly on their prototype"),
    ],
)
def test_what_may_be_wrong_is_warned_of(changes, said):
    (warning,) = advise(observed(**changes)).warnings
    assert said in warning.sentence


def test_the_tip_of_a_few_hundred_samples_is_too_few_to_judge():
    assert advise(observed(n=900, k=16, top=9.0)).warnings == ()


def test_keeping_few_hard_samples_is_warned_of_with_reason_and_way_out():
    warning = known_to_lose(SelectConfig(keep="hard", keep_fraction=0.3))
    assert warning.startswith("warning: keeping the hardest 30% loses to a random subset")
    assert "arXiv:2210.15809" in warning
    assert "--keep random" in warning


@pytest.mark.parametrize(("keep", "fraction"), [("hard", 0.5), ("hard", 0.8), ("easy", 0.1), ("random", 0.1)])
def test_other_choices_are_not_warned_of(keep, fraction):
    assert known_to_lose(SelectConfig(keep=keep, keep_fraction=fraction)) is None


# the numbers


@given(
    values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=300),
    cut=st.integers(0, 300),
    share=st.floats(0, 1),
)
def test_order_statistics_are_exact_however_the_values_are_cut(values, cut, share):
    column = np.array(values, np.float32)
    pieces = [column[:cut], column[cut:]]
    expected = np.sort(column)[min(int(share * len(column)), len(column) - 1)]
    assert order_statistics(lambda: pieces, (share, 0.5)) == [expected, np.sort(column)[len(column) // 2]]


@pytest.mark.parametrize("metric", ["prototype_distance", "random"])
def test_what_is_observed_are_the_facts_of_the_store(metric, tmp_path):
    rows = planted(400)
    rows[7:107] = rows[7]
    store = make_store(tmp_path / "store", split(keys_of(400), rows, [150, 0, 250]))
    centroids = np.concatenate([rows[[7, 0, 300]], -rows[:1]]).astype(np.float32)
    prototypes = Prototypes(centroids, False, np.zeros(1), 400, "p" * 64)
    save_prototypes(tmp_path / "p.h5", prototypes)
    scores = score(store, prototypes, tmp_path / "p.h5", tmp_path / "s", ScoreConfig(metric=metric), InlineExecutor())
    files = {
        record.shard_id: assignment_path(Path(scores.assignment_folder), record, prototypes, "cosine")
        for record in store.records()
    }
    found = observe(store, scores, files)
    values = np.sort(np.concatenate([np.load(path) for path in sorted(Path(scores.folder).glob("*.npy"))]))
    assert (found.n, found.metric, len(found.cluster_sizes)) == (400, metric, 4)
    assert (found.median, found.high, found.top) == (values[200], values[360], values[399])
    assert found.duplicates == 102  # the two other prototypes lie on one sample each, in clusters of more than two


# keep: auto


def selected(store, config):
    """(selection, notes, bytes of the file) of a selection with these settings."""
    progress, workspace = Listening(), Workspace.of(store.path)
    *_, (found,) = up_to_selections(workspace, config, InlineExecutor(), progress)
    return found, progress.said, workspace.selection.read_bytes()


@pytest.mark.parametrize(("fraction", "keep"), [(0.7, "random"), (0.3, "random")])
def test_auto_becomes_the_advised_policy_and_says_why(fraction, keep, store, settings):
    config = settings("select.keep=auto", f"select.keep_fraction={fraction}")
    found, said, _ = selected(store, config)
    assert found.settings["keep"] == keep
    assert found.settings["asked"] == AUTO
    assert f"keep auto: {keep}, for a fraction of {fraction}" in said[0]
    assert "  1. Keep random" in said[0]
    assert "arXiv" in said[0] or "not measured" in said[0]


def test_auto_keeps_what_the_same_policy_asked_for_by_name_keeps(store, settings):
    auto, _, first = selected(store, settings("select.keep=auto"))
    named, _, second = selected(store, settings(f"select.keep={auto.settings['keep']}"))
    assert named.fingerprint == auto.fingerprint
    assert "asked" not in named.settings
    assert selected(store, settings("select.keep=auto"))[2] == first != second
    assert SelectionFile.open(Workspace.of(store.path).selection).column("rank").shape == (60,)


def test_auto_that_comes_to_the_same_policy_leaves_the_shards_alone(store, settings, tmp_path, small):
    api.select(store.path, output=tmp_path / "out", config=settings("select.keep=random"))
    before = small.stamps(tmp_path / "out")
    api.select(store.path, output=tmp_path / "out", config=settings("select.keep=auto"))
    assert small.stamps(tmp_path / "out") == before


def test_plentiful_data_are_kept_hard_and_a_balance_of_ones_own_stays(store, settings, monkeypatch):
    monkeypatch.setattr("sspruning.stages.advise.PLENTY", 10)
    config = settings("select.keep=auto", "cluster.n_clusters=1", "select.balance=0.25")
    found, said, _ = selected(store, config)
    assert (found.settings["keep"], found.settings["balance"]) == ("hard", 0.25)
    assert any("balance stays 0.25" in note for note in said)


def test_scarce_data_are_kept_at_random(store, settings):
    found, said, _ = selected(store, settings("select.keep=auto", "cluster.n_clusters=1"))
    assert found.settings["keep"] == "random"
    assert any("the evidence disagrees" in note for note in said)


def test_the_settings_keep_auto(store, settings):
    api.select(store.path, config=settings("select.keep=auto"))
    assert Workspace.of(store.path).load_config().select.keep == AUTO


def test_a_run_may_ask_for_auto(configured):
    result = prune(configured("select.keep=auto"))
    assert (result.selection.settings["keep"], result.selection.settings["asked"]) == ("random", AUTO)
    assert result.manifest.n_kept == 42


def test_names_that_mean_something_beside_the_tables_are_known_and_named(settings):
    check_names(settings("select.keep=auto"))
    with pytest.raises(UsageError, match=r"Did you mean 'auto'\? Known: auto, ccs"):
        check_names(settings("select.keep=autom"))
    with pytest.raises(UsageError, match="Did you mean 'imported'"):
        check_names(settings("score.metric=import"))


# imported scores, end to end


def test_imported_scores_are_selected_by_until_another_metric_is_asked_for(store, settings, tmp_path):
    keys = [key for chunk in store.chunks() for key in chunk.keys]
    hardest = set(keys[::3])
    pq.write_table(pa.table({"key": keys, "el2n": [float(key in hardest) for key in keys]}), tmp_path / "t.parquet")
    config = settings("score.metric=imported", f"score.table={tmp_path / 't.parquet'}", "select.balance=0")
    api.score(store.path, config=config)

    def kept(config):
        file = SelectionFile.open(Path(api.select(store.path, config=config).selection.path))
        return set(file.column("key")[file.column("kept")].tolist())

    sticky = load_config(None, [f"select.keep_fraction={20 / 60}"], base=Workspace.of(store.path).load_config())
    assert kept(sticky) == hardest
    plain = load_config(None, ["score.metric=prototype_distance"], base=sticky)
    assert kept(plain) != hardest
    assert kept(load_config(None, ["score.metric=imported"], base=Workspace.of(store.path).load_config())) == hardest


# the function of the package


def test_advice_on_a_store_changes_no_setting(store, settings):
    api.select(store.path, config=settings())
    before = Workspace.of(store.path).config.read_bytes()
    advice = api.advise(store.path, 0.6)
    assert (advice.keep, advice.keep_fraction) == ("random", 0.6)
    assert Workspace.of(store.path).config.read_bytes() == before
    assert replace(api.advise(store.path), warnings=()).keep_fraction == 0.9


@pytest.mark.parametrize("fraction", [0, -0.5, 1.5, float("nan")])
def test_a_fraction_that_is_none_is_refused_before_anything_is_made(fraction, store):
    with pytest.raises(ConfigError, match=r"select\.keep_fraction"):
        api.advise(store.path, fraction)
    assert not (store.path / "prototypes.h5").exists()
