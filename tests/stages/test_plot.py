"""Figures are drawn from the same numbers as the report, and equal data give equal bytes."""

import runpy
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from sspruning import api
from sspruning.config import load_config
from sspruning.errors import UsageError
from sspruning.stages import streamed
from sspruning.stages.plot import KINDS, plot

SYNTHETIC = runpy.run_path(str(Path(__file__).parent / "synthetic_store.py"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("plot") / "store"
    rows = SYNTHETIC["planted"](80)
    SYNTHETIC["make_store"](path, {"a": (SYNTHETIC["keys_of"](80), rows)})
    given = ["cluster.n_clusters=4", "execution.executor=inline"]
    api.select(path, keep_fractions=[0.5], config=load_config(None, [*given, "select.keep=coverage"]))
    api.select(path, config=load_config(None, given))
    return path


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_figure_is_drawn_and_is_the_same_again(folder, tmp_path, kind):
    first, second = (plot(folder, kind, tmp_path / name).read_bytes() for name in ("1.svg", "2.svg"))
    assert ET.fromstring(first).tag.endswith("svg")  # noqa: S314 - our own file
    assert first == second


def test_formats_go_by_the_ending(folder, tmp_path):
    assert plot(folder, "hist", tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert plot(folder, "hist", tmp_path / "x.pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(UsageError, match=r"\.svg, \.pdf or \.png"):
        plot(folder, "hist", tmp_path / "x.gif")


def test_what_cannot_be_drawn_is_refused(folder, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="known: hist, clusters, map, sweep"):
        plot(folder, "pie", tmp_path / "x.svg")
    with pytest.raises(UsageError, match="not nested"):
        plot(folder / "selection-0.5.parquet", "sweep", tmp_path / "x.svg")
    monkeypatch.setattr(streamed, "STREAM_ABOVE", 0)
    api.select(folder, keep_fractions=[0.6])
    with pytest.raises(UsageError, match="without ranks"):
        plot(folder / "selection-0.6.parquet", "sweep", tmp_path / "x.svg")
    SYNTHETIC["make_store"](tmp_path / "s", {"a": (SYNTHETIC["keys_of"](3), SYNTHETIC["planted"](3))})
    with pytest.raises(UsageError, match="nothing is selected"):
        plot(tmp_path / "s", "hist", tmp_path / "x.svg")
