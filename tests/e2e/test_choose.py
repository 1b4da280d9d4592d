"""Recipes, steps, several fractions, sweeps, growing corpora, evaluation sets, and forms for other tools."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from sspruning.config import load_config
from sspruning.recipes import RECIPES
from sspruning.storage.artifacts import SelectionFile


@pytest.fixture
def store(work, corpus, call):
    call("-q", "embed", "shards", "--store", "store", "--encoder", "pixels", "--executor", "inline")
    return work / "store"


def columns(path):
    return pq.read_table(path).to_pydict()


def kept(path):
    table = columns(path)
    return {key for key, stays in zip(table["key"], table["kept"], strict=True) if stays}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_works_by_its_name_and_its_file_says_the_same(name, store, small, call):
    file = small.PACKAGE_ROOT / "configs" / f"{name}.yaml"
    section = yaml.safe_load(file.read_text())["select"]
    assert {key: section[key] for key in RECIPES[name].select} == RECIPES[name].select
    assert load_config(file).select.recipe == name

    said = call("select", "store", "--recipe", name, "--keep-fraction", "0.5", "--executor", "inline").stdout
    assert f"kept 30 of 60 samples (50.0%): recipe {name}: " in said
    assert len(kept(store / "selection.parquet")) == 30


def test_steps_and_options_come_from_the_command_line(store, call):
    said = call(
        *("select", "store", "--step", "dedup share=0.9 survivor=easy", "--step", "outliers quantile=0.9 by=density"),
        *("--keep", "ccs", "--option", "beta=0.1", "--keep-fraction", "0.5"),
    ).stdout
    settings = SelectionFile.open(store / "selection.parquet").selection.settings

    assert settings["options"] == {"beta": 0.1}
    assert [list(step) for step in settings["steps"]] == [["dedup"], ["outliers"]]
    assert "step 2 outliers took" in said


def test_a_policy_by_name_alone_forgets_the_recipe(store, call):
    call("-q", "select", "store", "--recipe", "d4", "--keep-fraction", "0.5")
    call("-q", "select", "store", "--keep", "easy")
    settings = SelectionFile.open(store / "selection.parquet").selection.settings

    assert (settings["recipe"], settings["steps"], settings["keep"]) == (None, [], "easy")
    assert (settings["balance"], settings["keep_fraction"]) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recipe", "d5"], "unknown recipe 'd5'"),
        (["--step", "dedupe"], "Did you mean 'dedup'"),
        (["--step", "dedup treshold=0.9"], "Did you mean 'threshold'"),
        (["--option", "beta"], "expected NAME=VALUE"),
        (["--keep-fraction", "0.5,x"], "expected a number such as 0.7"),
        (["--keep-fraction", "0.5,1.5"], "less than or equal to 1"),
    ],
)
def test_a_wrong_word_is_a_usage_error_that_names_the_right_one(arguments, message, store, call):
    assert message in call("select", "store", *arguments, code=2).output


def test_several_fractions_make_one_selection_and_one_output_each(store, work, call):
    call("-q", "select", "store", "--keep", "hard", "--keep-fraction", "0.9,0.5", "--output", "out", "-j", "1")
    large, small = (kept(store / f"selection-{fraction}.parquet") for fraction in ("0.9", "0.5"))

    assert (len(large), len(small)) == (54, 30)
    assert small < large
    for fraction, count in (("0.9", 54), ("0.5", 30)):
        manifest = json.loads((work / "out" / f"keep-{fraction}" / ".sspruning" / "manifest.json").read_text())
        assert manifest["n_kept"] == count
    call("verify", "out/keep-0.5")


def test_a_sweep_shows_a_row_for_each_fraction_and_a_second_one_does_nothing(store, call):
    said = call("sweep", "store", "--keep-fraction", "0.9,0.5", "--keep", "coverage").stdout
    stamp = (store / "selection-0.5.parquet").stat().st_mtime_ns

    assert [line.split()[:2] for line in said.splitlines()[1:3]] == [["0.9", "54"], ["0.5", "30"]]
    assert call("sweep", "store", "--keep-fraction", "0.9,0.5").stdout == said
    assert (store / "selection-0.5.parquet").stat().st_mtime_ns == stamp


def test_numbers_of_prototypes_are_compared_and_nothing_is_written(store, small, call):
    before = small.stamps(store, but=["config.yaml"])
    said = call("cluster", "store", "--sweep", "2,4").stdout

    assert "recommended: --n-clusters" in said
    assert small.stamps(store, but=["config.yaml"]) == before


def test_new_shards_join_the_prototypes_and_only_they_are_assigned(store, work, small, call):
    call("-q", "cluster", "store", "--n-clusters", "4", "--reuse")
    call("-q", "select", "store")
    prototypes = (store / "prototypes.h5").read_bytes()
    old = set((store / "scores" / "assignment").iterdir())
    stamps = {path: path.stat().st_mtime_ns for path in old}
    small.shard(work / "shards" / "train-000009.tar", small.samples(90, 20))
    call("-q", "embed", "shards", "--store", "store", "--encoder", "pixels", "--executor", "inline")
    said = call("select", "store", "--keep-fraction", "0.5").output

    assert (store / "prototypes.h5").read_bytes() == prototypes
    assert "20 new samples among 60 old ones" in said
    new = set((store / "scores" / "assignment").iterdir())
    assert len(new - old) == 1
    assert {path: path.stat().st_mtime_ns for path in old} == stamps
    assert len(kept(store / "selection.parquet")) == 40


def test_contaminated_samples_stay_out_of_later_selections(store, work, corpus, small, call):
    key = next(iter(corpus))
    small.shard(work / "eval" / "eval.tar", {"the-same": corpus[key]})
    said = call("decontaminate", "store", "--against", "eval/*.tar", "--threshold", "0.99", "--drop", "-j", "1").stdout
    listed = columns(store / "contaminated.parquet")
    call("-q", "select", "store", "--keep-fraction", "0.5")
    reasons = columns(store / "selection.parquet")

    assert key in listed["key"]
    assert f"{len(listed['key'])} of 60 samples lie above" in said
    went = {k for k, reason in zip(reasons["key"], reasons["reason"], strict=True) if reason == "contaminated"}
    assert went == set(listed["key"])


def test_a_selection_and_embeddings_go_out_and_embeddings_come_back_in(store, work, call):
    call("-q", "select", "store", "--keep-fraction", "0.5")
    call("export", "store", "--to", "keys", "-o", "kept.txt")
    call("export", "store", "--to", "mask", "-o", "mask.npy")
    call("export", "store", "--to", "parquet", "-o", "emb.parquet")

    assert set((work / "kept.txt").read_text().splitlines()) == kept(store / "selection.parquet")
    assert np.load(work / "mask.npy").sum() == 30
    call("import-embeddings", "emb.parquet", "shards", "--store", "again", "--executor", "inline")
    call("-q", "select", "again", "--keep-fraction", "0.5")
    assert kept(work / "again" / "selection.parquet") == kept(store / "selection.parquet")
    assert "Known: atlas" in call("export", "store", "--to", "kees", "-o", "x.txt", code=2).output
