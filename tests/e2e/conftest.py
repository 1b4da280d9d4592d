"""What end-to-end tests share: a folder to work in, tiny corpora, and the command line in this process."""

import runpy
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from sspruning.cli import app

SMALL = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "small_corpora.py")))


@pytest.fixture(scope="session")
def small():
    """Helpers of small_corpora.py."""
    return SMALL


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty current folder that holds tiny.yaml."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(SMALL.CONFIG)
    return tmp_path


@pytest.fixture
def corpus(work):
    """``{key: {suffix: bytes}}`` of 3 shards of 20 samples in shards/."""
    return SMALL.corpus(work / "shards")


@pytest.fixture
def call():
    """Return ``call(*args)``: the command line in this process; only what it raises on purpose may end it."""
    before = signal.getsignal(signal.SIGTERM)

    def run(*args, code=0):
        result = CliRunner().invoke(app, [str(arg) for arg in args])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    yield run
    signal.signal(signal.SIGTERM, before)
