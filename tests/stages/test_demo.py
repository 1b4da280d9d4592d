"""The demo shows what it promises, without a network."""

import json
import socket

import pytest

from sspruning.errors import UsageError
from sspruning.stages import demo as stage

pytest.importorskip("sklearn")


def test_an_unknown_data_set_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(UsageError, match="digits, cifar10, fashion-mnist"):
        stage.demo(tmp_path / "demo", dataset="imagenet")
    assert not (tmp_path / "demo").exists()


@pytest.fixture
def small_digits(monkeypatch):
    """The demo with the first 300 digits and two short trainings."""
    whole = stage._digits()
    data = stage._Data(whole.train[:300], whole.train_labels[:300], whole.test[:100], whole.test_labels[:100])
    monkeypatch.setattr(stage, "_digits", lambda: data)
    monkeypatch.setattr(stage, "SEEDS", 2)
    return data


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("the demo opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_it_packs_prunes_probes_and_draws(small_digits, no_network, tmp_path):
    result = stage.demo(tmp_path / "demo", workers=1)
    assert (result.packed.n_samples, result.run.embedded.n_embedded, result.run.manifest.n_kept) == (300, 300, 210)
    assert [(probe.name, probe.n_train) for probe in result.probes] == [("all", 300), ("kept", 210), ("random", 210)]
    assert all(0 < probe.mean <= 1 and probe.spread >= 0 for probe in result.probes)
    assert len(set(result.typical) | set(result.rare)) == 10
    assert result.picture.read_bytes().startswith(b"\x89PNG")
    listed = json.loads((tmp_path / "demo" / "probe.json").read_text())
    assert [entry["name"] for entry in listed] == ["all", "kept", "random"]
    for name in ("images", "shards", "run/store/store.json", "run/selection.parquet", "pruned/shard-000000.tar"):
        assert (tmp_path / "demo" / name).exists()


@pytest.mark.slow
def test_the_command_prints_three_accuracies_and_repeats_itself(tmp_path):
    import runpy
    from pathlib import Path
    from types import SimpleNamespace

    small = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent.parent / "e2e" / "small_corpora.py")))
    first = small.cli("demo", "--dir", "demo", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    lines = [line for line in first.stdout.splitlines() if "accuracy" in line]
    assert [line.split()[0] for line in lines] == ["all", "kept", "random"]
    assert small.cli("verify", "demo/pruned", cwd=tmp_path).returncode == 0
    again = small.cli("demo", "--dir", "demo", cwd=tmp_path)
    assert [line for line in again.stdout.splitlines() if "accuracy" in line] == lines
