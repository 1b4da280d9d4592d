"""What `show` says of one sample: the facts of the store and the selection, and its true neighbours."""

import json
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from sspruning import api
from sspruning.cli_report import show_command
from sspruning.config import load_config
from sspruning.errors import UsageError
from sspruning.stages import streamed
from sspruning.stages.show import show
from sspruning.storage.artifacts import SelectionFile

SYNTHETIC = runpy.run_path(str(Path(__file__).parent / "synthetic_store.py"))


@pytest.fixture(scope="module")
def rows():
    return SYNTHETIC["planted"](60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("show") / "store"
    keys = SYNTHETIC["keys_of"](60)
    defects = {"s00": np.array([5] + [0] * 19), "s01": np.zeros(40)}
    SYNTHETIC["make_store"](path, SYNTHETIC["split"](keys, rows, [20, 40]), defects=defects)
    api.select(path, config=load_config(None, ["cluster.n_clusters=3", "execution.executor=inline"]))
    return path


def test_it_says_what_the_selection_says(folder):
    file = SelectionFile.open(folder / "selection.parquet")
    found = show(folder, "k00031")
    at = file.column("key").tolist().index("k00031")
    chosen = found.choosing
    assert (found.shard, found.row) == ("s01", int(file.column("row")[at]))
    assert chosen.score == file.column("score")[at]
    assert (chosen.rank, chosen.kept, chosen.reason) == tuple(file.column(n)[at] for n in ("rank", "kept", "reason"))
    assert (chosen.n_kept, chosen.n_embedded) == (48, 60)
    assert show(folder, "k00000").defects == ["blank", "warned"]


def test_neighbours_are_those_of_plain_cosines(folder, rows):
    wide = rows.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    for own in (3, 45):
        cosines = wide @ wide[own]
        cosines[own] = -2
        best = np.argsort(-cosines, kind="stable")[:5]
        found = show(folder, f"k{own:05d}", neighbours=5).neighbours
        assert [one.key for one in found] == [f"k{at:05d}" for at in best]
        assert np.allclose([one.cosine for one in found], cosines[best])
    assert show(folder, "k00003", neighbours=0).neighbours == []


def test_without_a_selection_the_store_is_told(tmp_path, rows):
    SYNTHETIC["make_store"](tmp_path / "s", {"a": (SYNTHETIC["keys_of"](9), rows[:9])})
    found = show(tmp_path / "s", "k00001")
    assert found.choosing is None
    assert {one.kept for one in found.neighbours} == {None}
    assert len(found.neighbours) == 8


def test_a_skipped_sample_and_an_unknown_key(store, tmp_path, small):
    small.shard(tmp_path / "shards" / "x.tar", {"bad": {"jpg": b"no"}})
    api.embed(str(tmp_path / "shards"), store.path)
    assert show(store.path, "bad").skipped == "not_an_image"
    with pytest.raises(UsageError, match=r"no sample has the key 'no\\x07pe'; keys look like 'part.0/s0-0000'"):
        show(store.path, "no\x07pe")


def test_without_ranks_everything_else_is_told(folder, monkeypatch):
    before = show(folder, "k00031").choosing
    monkeypatch.setattr(streamed, "STREAM_ABOVE", 0)
    api.select(folder, keep_fractions=[0.8])
    app = typer.Typer()
    app.command()(show_command)
    path = str(folder / "selection-0.8.parquet")
    assert show(path, "k00031").choosing == replace(before, rank=None)
    told = CliRunner().invoke(app, [path, "k00031"])
    assert "rank" not in told.output
    assert before.reason in told.output or before.kept


def test_the_command_speaks_to_people_and_to_machines(folder):
    app = typer.Typer()
    app.command()(show_command)
    told = CliRunner().invoke(app, [str(folder), "k00031", "--neighbours", "2"])
    assert told.exit_code == 0, told.output
    assert "rank " in told.output
    assert told.output.count("(s0") == 2
    machine = CliRunner().invoke(app, [str(folder), "k00031", "--json"])
    found = json.loads(machine.output)
    assert found["key"] == "k00031"
    assert len(found["neighbours"]) == 8
